//! `SettlePromise`: a promise of an entry is resolved or rejected, once. Operations that wait for
//! it finish; without any, the result is kept.

use bytes::Bytes;
use forebay_messages::{command::SettlePromise, journal::JournalOutcome};

use super::{
    super::{rows::PromiseRow, store::Tables},
    ApplyError, Context, Reply, Stale,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &SettlePromise,
) -> Result<Reply, ApplyError> {
    let SettlePromise { entry, ref name, .. } = *command;
    if context.tables.look_at_entry(entry, |_| ())?.is_none() {
        let has_ended = context.tables.finished(entry)?.is_some();
        return Ok(Reply::Stale(if has_ended { Stale::Finished } else { Stale::Unknown }));
    }
    let known = context.tables.promise(entry, name)?;
    if known.as_ref().is_some_and(|promise| promise.is_settled) {
        return Ok(Reply::Stale(Stale::AlreadySettled));
    }
    if known.is_none() && !context.count_promise(entry)? {
        return Ok(Reply::Stale(Stale::TooManyPromises));
    }
    context.need_journals();
    let nothing = || JournalOutcome::Success(Bytes::new());
    let outcome = command.outcome.clone().unwrap_or_else(nothing);
    let row = PromiseRow {
        is_settled: true,
        settled_at: context.now,
        waiting: Vec::new(),
        outcome: Some(outcome.clone()),
    };
    context.tables.put_promise(entry, name.clone(), row);
    let mut finished = 0;
    for key in known.unwrap_or_default().waiting {
        finished += u64::from(context.finish(entry, &key, |_| true, outcome.clone())?);
    }
    Ok(Reply::Changed(finished))
}
