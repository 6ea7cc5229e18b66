//! Rows whose removal was reported while a scan ran: builds with assertions detect when a stale row
//! of such a scan is used.
//!
//! Must always hold: without assertions this is empty and free. Must not know: why a row was
//! removed.

use forebay_messages::EntryKey;

use crate::inbox::Inbox;

/// Maximum number of keys remembered; further ones are dropped.
#[cfg(debug_assertions)]
const GONE_MAX: usize = 256;

/// Keys removed since the running scan started.
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

    /// The row was stored again: a resumed entry returns to its place.
    pub(super) fn forget(&mut self, key: EntryKey) {
        self.keys.retain(|gone| *gone != key);
    }

    /// The scan is over, and the inbox has merged its rows.
    pub(super) fn end_scan(&mut self, inbox: &Inbox) {
        for key in std::mem::take(&mut self.keys) {
            let is_cached = inbox.items().any(|cached| *cached == key);
            assert!(!is_cached, "{key:?} is cached and its removal was reported");
        }
    }

    /// A new scan starts.
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
