//! Items that are not stored yet, because a rule limits how many may wait.
//!
//! Must always hold: items are stored in the order of the input; refused ones are retried until
//! there is room. Must not know: how items are stored.

use std::{collections::VecDeque, time::Duration};

use bilrost::Message;
use forebay_messages::EntryId;
use tokio::time::Instant;

use super::item::Prepared;

/// Maximum number of items per append.
pub(super) const STORE_LEN_MAX: usize = 256;
/// Maximum bytes per append (a record of the log has 64 MiB at most). A single larger item is
/// stored anyway.
const STORE_BYTES_MAX: usize = 8 << 20;
/// Delay after an item ended: the next one of its key starts, and makes room.
const AFTER_END: Duration = Duration::from_millis(5);
/// First and longest delay after a refusal, if no item ends: others may make room too.
const AGAIN_FIRST: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// Items that are not stored yet, with the times of retries.
pub(super) struct Room {
    held: VecDeque<Prepared>,
    /// Number of items tried at once: fewer after a refusal, more after a success.
    batch_len: usize,
    /// Number of items at the front that were in a batch before.
    tried: usize,
    /// When to try again; absent if nothing was refused.
    again_at: Option<Instant>,
    wait: Duration,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            held: VecDeque::new(),
            batch_len: STORE_LEN_MAX,
            tried: 0,
            again_at: None,
            wait: AGAIN_FIRST,
        }
    }

    pub(super) fn hold(&mut self, item: Prepared) {
        self.held.push_back(item);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The items to try next.
    pub(super) fn batch(&self) -> impl ExactSizeIterator<Item = &Prepared> {
        let most = self.held.range(..self.batch_len.min(self.held.len()));
        let mut bytes = 0;
        let fits = |item: &&Prepared| {
            bytes += item.job.encoded_len();
            bytes <= STORE_BYTES_MAX
        };
        let len = most.take_while(fits).count().max(1);
        self.held.range(..len.min(self.held.len()))
    }

    /// The ones of them that were in no batch before.
    pub(super) fn fresh(&mut self) -> impl ExactSizeIterator<Item = EntryId> {
        let len = self.batch().len();
        let tried = self.tried.min(len);
        self.tried = self.tried.max(len);
        self.held.range(tried..len).map(|item| item.id)
    }

    /// The first items, this many, were stored.
    pub(super) fn stored(&mut self, count: usize) -> Vec<Prepared> {
        self.batch_len = (count * 2).clamp(1, STORE_LEN_MAX);
        (self.again_at, self.wait) = (None, AGAIN_FIRST);
        self.tried = self.tried.saturating_sub(count);
        self.held.drain(..count).collect()
    }

    /// The first items, this many, were refused; whether fewer may be tried at once.
    pub(super) fn refused(&mut self, count: usize) -> bool {
        if count > 1 {
            self.batch_len = count / 2;
            return true;
        }
        self.again_at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(AGAIN_MAX);
        false
    }

    /// Removes the first item, which can never be stored.
    pub(super) fn drop_first(&mut self) -> Option<Prepared> {
        self.tried = self.tried.saturating_sub(1);
        self.held.pop_front()
    }

    /// An item ended.
    pub(super) fn may_have_come(&mut self) {
        if let Some(at) = &mut self.again_at {
            *at = (*at).min(Instant::now() + AFTER_END);
            self.wait = AGAIN_FIRST;
        }
    }

    /// When to try again; absent if nothing is held back.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }
}
