//! What the journal of an attempt needs of the world.

use std::{future::Future, pin::Pin, time::Duration};

use forebay_messages::{Timestamp, command::JournalWrite, journal::JournalKey};

/// Where the operations of one attempt go, and what measures its time. Answers are sent to
/// the attempt's [`Mailbox`](super::Mailbox).
pub(crate) trait Port: Send + Sync {
    /// Hands operations to the partition, in this order.
    fn write(&self, writes: Vec<JournalWrite>);

    /// Asks to be suspended until one of these finishes. The attempt's future is dropped
    /// when that was applied; when it was void, the mailbox is told.
    fn suspend(&self, waits: Vec<JournalKey>, releases_key: bool);

    /// How long an attempt waits for what lasts before it asks to be suspended; `None`
    /// means that it never does.
    fn suspend_after(&self) -> Option<Duration>;

    /// Waits until the handler should stop.
    fn canceled(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Whether the attempt only waits for what lasts: it needs no heartbeat then.
    fn rest(&self, is_resting: bool);

    /// Waits for this long.
    fn delay(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// The time, for the end of a sleep: what is written is remembered, so it may be read from
    /// a clock.
    fn now(&self) -> Timestamp;

    /// An arbitrary number, for the jitter of a backoff.
    fn random(&self) -> u32;
}
