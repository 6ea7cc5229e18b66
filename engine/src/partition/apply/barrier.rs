//! `VersionBarrier`: binaries that know only older formats stop here.

use forebay_messages::command::VersionBarrier;

use super::{
    super::{
        rows::FsmSlot,
        store::{Tables, put_fsm_number},
    },
    ApplyError, Context, FORMAT_VERSION, Reply,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: VersionBarrier,
) -> Result<Reply, ApplyError> {
    let needed = u64::from(command.format_min);
    if needed > FORMAT_VERSION {
        return Err(ApplyError::TooNew { needed });
    }
    context.state.min_version = context.state.min_version.max(needed);
    put_fsm_number(context.tables, FsmSlot::MinVersion, context.state.min_version);
    Ok(Reply::Changed(0))
}
