//! The environment of a journal: the partition and the clocks.

use std::{future::Future, pin::Pin, time::Duration};

use forebay_messages::{Timestamp, command::JournalWrite, journal::JournalKey};

/// Takes the operations of one attempt, and measures its time. Answers are sent to the attempt's
/// [`Mailbox`](super::Mailbox).
pub(crate) trait Port: Send + Sync {
    /// Hands operations to the partition, in this order.
    fn write(&self, writes: Vec<JournalWrite>);

    /// Requests a suspension until one of these finishes. The attempt's future is dropped when the
    /// suspension is applied; if it is void, the mailbox gets a notification.
    fn suspend(&self, waits: Vec<JournalKey>, releases_key: bool);

    /// How long an attempt waits for calls, promises and sleeps before it requests a suspension;
    /// `None`: it never does.
    fn suspend_after(&self) -> Option<Duration>;

    /// Waits until the handler should stop.
    fn canceled(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Whether the attempt only waits for calls, promises and sleeps: it needs no heartbeat then.
    fn rest(&self, is_resting: bool);

    /// Waits for this long.
    fn delay(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// The time, for the end of a sleep. It may be read from a clock, because the end is stored.
    fn now(&self) -> Timestamp;

    /// A random number, for the jitter of a backoff.
    fn random(&self) -> u32;
}
