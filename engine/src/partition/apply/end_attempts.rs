//! `EndAttempts`: several attempts ended, each applied as if alone.

use forebay_messages::command::EndAttempts;

use super::{super::store::Tables, ApplyError, Context, Reply, complete, retry};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &EndAttempts,
) -> Result<Reply, ApplyError> {
    let mut changed = 0;
    for complete in &command.completed {
        let reply = complete::apply(context, complete)?;
        changed += u64::from(matches!(reply, Reply::Changed(_)));
    }
    for retried in &command.retried {
        let reply = retry::apply(context, retried)?;
        changed += u64::from(matches!(reply, Reply::Changed(_)));
    }
    Ok(Reply::Changed(changed))
}
