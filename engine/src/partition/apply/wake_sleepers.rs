//! `WakeSleepers`: ends the sleeps that are over by the time the leader names.

use bytes::Bytes;
use forebay_messages::{
    command::WakeSleepers,
    journal::{JournalOutcome, SLEEPERS_PER_RECORD_MAX},
};

use super::{super::store::Tables, Applied, ApplyError, Context, Reply};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &WakeSleepers,
) -> Result<Reply, ApplyError> {
    let limit = match command.count_max as usize {
        0 => SLEEPERS_PER_RECORD_MAX,
        count => count.min(SLEEPERS_PER_RECORD_MAX),
    };
    let due = context.tables.sleeps_until(command.until, limit)?;
    let count = due.len() as u64;
    for (until, entry, key) in due {
        context.tables.delete_sleep((until, entry, key.clone()));
        let over = JournalOutcome::Success(Bytes::new());
        let was_there = context.finish(entry, &key, |row| row.until == until, over)?;
        if !was_there {
            return Err(ApplyError::Inconsistent {
                what: format!("{entry} sleeps until {} but not in {key}", until.0),
            });
        }
    }
    context.applied.push(Applied::SleepersWoken);
    Ok(Reply::Changed(count))
}
