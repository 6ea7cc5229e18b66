//! The unfinished items, in the order of the input, and waiting for their ends.
//!
//! A million of them cost a few bytes each: only the first of them, and the ones whose last attempt
//! is over, are waited for individually.
//!
//! Must always hold: an item is waited for once; the first items are always waited for, so that an
//! item ended by another process is noticed. Must not know: what happens after an end.

use std::collections::VecDeque;

use forebay::{EntryHandle, Outcome, ResultError};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use crate::exec::runs::items::{ATTACHED, ENDED, ItemIndex, Items, STORED};

/// Number of first items that are waited for.
const FIRST_MAX: usize = 1024;

/// The end of one item.
pub(super) struct ItemEnd {
    pub(super) place: ItemIndex,
    pub(super) outcome: Result<Outcome, ResultError>,
}

/// The unfinished items, and the waits for their ends.
#[derive(Default)]
pub(super) struct Waits {
    /// In the order of the input; ended items are removed when they reach the front.
    order: VecDeque<ItemIndex>,
    /// Number of items at the front that were checked.
    checked: usize,
    open: u64,
    ends: FuturesUnordered<BoxFuture<'static, ItemEnd>>,
}

impl Waits {
    /// Adds an item, the last of the input so far.
    pub(super) fn push(&mut self, place: ItemIndex) {
        self.order.push_back(place);
        self.open += 1;
    }

    /// Number of unfinished items.
    pub(super) fn open(&self) -> u64 {
        self.open
    }

    /// An item ended.
    pub(super) fn ended(&mut self, items: &mut Items, place: ItemIndex) {
        if items.set(place, ENDED) {
            self.open -= 1;
        }
    }

    /// Removes the first item, if it has ended; the next one becomes the first.
    pub(super) fn pop_ended(&mut self, items: &Items) -> Option<ItemIndex> {
        let first = *self.order.front()?;
        if !items.has(first, ENDED) {
            return None;
        }
        self.order.pop_front();
        self.checked = self.checked.saturating_sub(1);
        Some(first)
    }

    /// Waits for the first stored items.
    pub(super) fn fill(
        &mut self,
        items: &mut Items,
        attach: impl Fn(ItemIndex, &Items) -> EntryHandle,
    ) {
        while self.ends.len() < FIRST_MAX
            && let Some(place) = self.order.get(self.checked).copied()
        {
            if !items.has(place, STORED | ENDED) {
                return;
            }
            self.checked += 1;
            self.wait_for(items, place, &attach);
        }
    }

    /// Waits for an item, unless it is waited for already.
    pub(super) fn wait_for(
        &mut self,
        items: &mut Items,
        place: ItemIndex,
        attach: impl Fn(ItemIndex, &Items) -> EntryHandle,
    ) {
        if items.has(place, ENDED) || !items.set(place, ATTACHED) {
            return;
        }
        let handle = attach(place, items);
        self.ends.push(Box::pin(async move {
            let outcome = handle.outcome().await;
            ItemEnd { place, outcome }
        }));
    }

    /// The next end; pending while nothing is waited for. Cancel-safe.
    pub(super) async fn next(&mut self) -> ItemEnd {
        match self.ends.next().await {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }

    /// Whether nothing is waited for.
    pub(super) fn is_idle(&self) -> bool {
        self.ends.is_empty()
    }
}
