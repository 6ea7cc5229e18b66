//! What a partition tells an attempt about its journal, until the attempt reads it.
//!
//! Must always hold: news are read in the order in which they were told; telling one wakes
//! the attempt. Must not know: what they mean.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use bytestring::ByteString;
use forebay_messages::{
    Timestamp,
    journal::{JournalKey, JournalOutcome},
};

/// What happened to an operation, or to a request of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// An operation finished.
    Finished {
        /// Which.
        key: JournalKey,
        /// Its place in the order in which operations finished.
        sequence: u64,
        /// The time of the record.
        finished_at: Timestamp,
        /// How.
        outcome: JournalOutcome,
    },
    /// A write was refused: the journal has this key with another fingerprint.
    Refused {
        /// Which.
        key: JournalKey,
        /// What the journal has there.
        found: ByteString,
    },
    /// The attempt was not suspended: something that it waits for had finished.
    NotSuspended,
}

#[derive(Default)]
struct Mail {
    news: Vec<News>,
    waker: Option<Waker>,
}

/// The news of one attempt.
#[derive(Default)]
pub(crate) struct Mailbox(Mutex<Mail>);

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds news and wakes the attempt.
    pub(crate) fn tell(&self, news: News) {
        let waker = {
            let mut mail = self.mail();
            mail.news.push(news);
            mail.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what is there.
    pub(super) fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.mail().news)
    }

    /// Wakes this at the next news. `false` when there are some already.
    pub(super) fn wake_by(&self, waker: &Waker) -> bool {
        let mut mail = self.mail();
        if !mail.news.is_empty() {
            return false;
        }
        match &mut mail.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }
}
