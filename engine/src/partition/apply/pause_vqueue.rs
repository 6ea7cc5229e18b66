//! `PauseVQueue` and `ResumeVQueue`: while paused, a vqueue starts nothing; what runs
//! goes on.

use forebay_messages::command::VQueueSelector;

use super::{super::store::Tables, Applied, ApplyError, Context, Reply};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &VQueueSelector,
    paused: bool,
) -> Result<Reply, ApplyError> {
    let mut changed = 0;
    for vqueue in context.select_vqueues(selector)? {
        let Some(mut meta) = context.tables.vqueue_meta(vqueue)? else {
            continue;
        };
        if meta.is_paused == paused {
            continue;
        }
        meta.is_paused = paused;
        context.put_meta(vqueue, meta);
        context.applied.push(Applied::VQueuePaused { vqueue, paused });
        changed += 1;
    }
    Ok(Reply::Changed(changed))
}
