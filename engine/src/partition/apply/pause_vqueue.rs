//! `PauseVQueue` and `ResumeVQueue`: a paused vqueue starts nothing; running entries continue.

use forebay_messages::command::VQueueSelector;

use super::{super::store::Tables, Acted, Applied, ApplyError, Context, Skip, VQueueId};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &VQueueSelector,
    paused: bool,
) -> Result<Acted<VQueueId>, ApplyError> {
    context.each_vqueue(selector, |context, vqueue, mut meta| {
        if meta.is_paused == paused {
            return Err(if paused { Skip::AlreadyPaused } else { Skip::NotPaused });
        }
        meta.is_paused = paused;
        context.put_meta(vqueue, meta);
        context.applied.push(Applied::VQueuePaused { vqueue, paused });
        Ok(())
    })
}
