//! `UpsertRuleBook`: a newer rule book takes effect and is persisted in the same batch as the
//! applied LSN.

use forebay_messages::command::UpsertRuleBook;

use crate::rules::RuleBook;

use super::{
    super::{rows::FsmSlot, store::Tables},
    Applied, ApplyError, Context, Reply, Stale,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &UpsertRuleBook,
) -> Result<Reply, ApplyError> {
    let book = match RuleBook::decode(&command.rule_book) {
        Ok(book) => book,
        Err(error) => return Ok(Reply::RuleBookRefused(error.to_string())),
    };
    if book.version() <= context.state.rule_book().version() {
        return Ok(Reply::Stale(Stale::Older));
    }
    context.tables.put_fsm(FsmSlot::RuleBook, command.rule_book.clone());
    let updates = context.state.replace_rule_book(book, context.tables)?;
    let changed = updates.len() as u64;
    if !updates.is_empty() {
        context.applied.push(Applied::RulesUpdated(updates));
    }
    Ok(Reply::Changed(changed))
}
