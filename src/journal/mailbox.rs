//! Notifications from a partition to an attempt about its journal, until the attempt reads them.
//!
//! Must always hold: notifications are read in the order in which they were added; adding one wakes
//! the attempt. Must not know: what they mean.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use forebay_messages::{
    Timestamp,
    journal::{JournalKey, JournalKind, JournalOutcome},
};

/// What happened to an operation, or to a request of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Notification {
    /// An operation finished.
    Finished {
        /// The operation.
        key: JournalKey,
        /// Its position in the order in which operations finished.
        sequence: u64,
        /// The time of the record.
        finished_at: Timestamp,
        /// Its outcome.
        outcome: JournalOutcome,
    },
    /// A write was refused: the journal has this key with another fingerprint.
    Refused {
        /// The operation.
        key: JournalKey,
        /// The operation that the journal has there.
        found: JournalKind,
    },
    /// The attempt was not suspended: an operation that it waits for had finished.
    NotSuspended,
}

#[derive(Default)]
struct Mail {
    notifications: Vec<Notification>,
    waker: Option<Waker>,
}

/// The notifications of one attempt.
#[derive(Default)]
pub(crate) struct Mailbox(Mutex<Mail>);

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a notification and wakes the attempt.
    pub(crate) fn push(&self, notification: Notification) {
        let waker = {
            let mut mail = self.mail();
            mail.notifications.push(notification);
            mail.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes all notifications.
    pub(super) fn take(&self) -> Vec<Notification> {
        std::mem::take(&mut self.mail().notifications)
    }

    /// Sets the waker for the next notification; `false` if there are some already.
    pub(super) fn wake_by(&self, waker: &Waker) -> bool {
        let mut mail = self.mail();
        if !mail.notifications.is_empty() {
            return false;
        }
        match &mut mail.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }
}
