//! Which points of the key space a leader's record concerns.

use forebay_messages::{RecordKeys, command::Command};

/// The points of the key space that a command concerns; `None` for commands about the partition as
/// a whole.
pub(super) fn record_keys(command: &Command) -> Option<RecordKeys> {
    match command {
        Command::Enqueue(command) => Some(RecordKeys::Single(command.entry.id.partition_key)),
        Command::Complete(command) => Some(RecordKeys::Single(command.entry.partition_key)),
        Command::Retry(command) => Some(RecordKeys::Single(command.entry.partition_key)),
        Command::AnnounceLeader(command) => {
            Some(RecordKeys::Range((command.key_first, command.key_last)))
        }
        Command::UpsertRuleBook(command) => {
            Some(RecordKeys::Range((command.key_first, command.key_last)))
        }
        _ => None,
    }
}
