//! What actors tell each other, one file per receiver. Effects of machines that are
//! messages to another actor carry these types.

mod executor;
mod limiter;
mod refill;
mod vqueue;

pub use executor::AttemptEnd;
pub use limiter::{
    Acquire, Granted, LimiterMessage, LockWish, Permits, Release, Seed, SeedRunning,
};
pub use refill::{CancelRefill, RefillDone, RefillFailed, RefillId, RefillRequest};
pub use vqueue::{InboxChange, VQueueMessage};

use crate::{Epoch, Generation};

/// A message with the incarnation it is meant for. The shell drops (and counts) one
/// of another incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<M> {
    /// Leader epoch under which the sender acted.
    pub epoch: Epoch,
    /// Incarnation of the receiver that the sender knew.
    pub generation: Generation,
    /// The message.
    pub message: M,
}
