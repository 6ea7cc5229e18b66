//! Messages between actors, one file per receiver. Effects of machines that are messages to another
//! actor contain these types.

mod executor;
mod limiter;
mod refill;
mod vqueue;

pub use executor::AttemptEnd;
pub use limiter::{
    Acquire, Granted, LimiterMessage, LockWish, Permits, Release, Seed, SeedRunning, SlotChange,
};
pub use refill::{CancelRefill, RefillDone, RefillFailed, RefillId, RefillRequest};
pub use vqueue::{InboxChange, VQueueMessage};

use crate::{Epoch, Generation};

/// A message and the receiver's incarnation. The shell drops (and counts) messages to another
/// incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<M> {
    /// Leader epoch of the sender.
    pub epoch: Epoch,
    /// Incarnation of the receiver known to the sender.
    pub generation: Generation,
    /// The message.
    pub message: M,
}
