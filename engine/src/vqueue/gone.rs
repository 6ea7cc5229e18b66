//! Rows whose removal was told while a scan ran: so that builds with assertions notice
//! when what the scan had read of them is believed.
//!
//! Must always hold: without assertions it is nothing and costs nothing. Must not know:
//! why a row went.

use forebay_messages::EntryKey;

use crate::inbox::Inbox;

/// How many are remembered; later ones are not.
#[cfg(debug_assertions)]
const GONE_MAX: usize = 256;

/// What went since the scan that runs was started.
#[derive(Debug, Default)]
pub(super) struct Gone {
    #[cfg(debug_assertions)]
    keys: Vec<EntryKey>,
}

#[cfg(debug_assertions)]
impl Gone {
    pub(super) fn add(&mut self, key: EntryKey, inbox: &Inbox) {
        if inbox.is_refill_in_flight() && self.keys.len() < GONE_MAX {
            self.keys.push(key);
        }
    }

    /// The row was put again: an entry that is resumed comes back to its place.
    pub(super) fn forget(&mut self, key: EntryKey) {
        self.keys.retain(|gone| *gone != key);
    }

    /// The scan is over, and the inbox has taken what it read.
    pub(super) fn end_scan(&mut self, inbox: &Inbox) {
        for key in std::mem::take(&mut self.keys) {
            let is_cached = inbox.items().any(|cached| *cached == key);
            assert!(!is_cached, "{key:?} is cached and its removal was told");
        }
    }

    /// Another scan is started.
    pub(super) fn start_scan(&mut self) {
        self.keys.clear();
    }
}

#[cfg(not(debug_assertions))]
#[expect(clippy::unused_self, reason = "the same calls in both builds")]
impl Gone {
    pub(super) fn add(&mut self, _: EntryKey, _: &Inbox) {}

    pub(super) fn forget(&mut self, _: EntryKey) {}

    pub(super) fn end_scan(&mut self, _: &Inbox) {}

    pub(super) fn start_scan(&mut self) {}
}
