//! The messages for one target: which are in memory, which are in flight.
//!
//! Must always hold: they are in the order of their indexes, with the ones in flight first.

use std::{collections::VecDeque, sync::Arc};

use bilrost::Message as _;
use forebay_messages::{
    RecordSeq, Timestamp, command::OutboxMessage, journal::MESSAGES_PER_RECORD_MAX,
};

use super::{DELIVER_BYTES_MAX, HELD_PER_TARGET_MAX};

/// Once messages for one target have this many bytes, no more are kept in memory.
pub const HELD_BYTES_PER_TARGET_MAX: usize = 4 * DELIVER_BYTES_MAX;
/// First delay before a command is sent again, in milliseconds; doubles up to the maximum.
pub const BACKOFF_FIRST_MS: u64 = 100;
/// Maximum delay before a command is sent again, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 5_000;

/// What to do about a command whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Send it again.
    Again,
    /// Its messages may have other targets now.
    Rerouted,
}

/// The state of one target.
#[derive(Debug)]
pub(super) struct Target {
    /// All messages for this target up to this index were taken.
    pub(super) through: RecordSeq,
    /// A message of the current section was left out, because there was no room.
    pub(super) is_cut: bool,
    /// Messages in flight, then waiting ones, each with its length.
    messages: VecDeque<(Arc<OutboxMessage>, usize)>,
    bytes: usize,
    in_flight: usize,
    /// The routes changed after the command in flight was created.
    is_rerouted: bool,
    retry_at: Option<Timestamp>,
    failures: u32,
}

impl Target {
    pub(super) fn new(through: RecordSeq) -> Self {
        Self {
            through,
            is_cut: false,
            messages: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            is_rerouted: false,
            retry_at: None,
            failures: 0,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.messages.len()
    }

    /// Whether a read is worthwhile: the target has less than half of its limit in memory.
    pub(super) fn has_room(&self) -> bool {
        self.messages.len() <= HELD_PER_TARGET_MAX / 2
            && self.bytes <= HELD_BYTES_PER_TARGET_MAX / 2
    }

    /// Whether this message is in flight; the outbox may be read again from its beginning
    /// meanwhile.
    pub(super) fn is_in_flight(&self, index: RecordSeq) -> bool {
        self.is_rerouted
            && self.messages.iter().take(self.in_flight).any(|(message, _)| message.index == index)
    }

    /// Takes the next message, if there is room.
    pub(super) fn take(&mut self, message: Arc<OutboxMessage>) {
        let is_full =
            self.messages.len() >= HELD_PER_TARGET_MAX || self.bytes >= HELD_BYTES_PER_TARGET_MAX;
        if is_full {
            self.is_cut = true;
            return;
        }
        self.through = message.index;
        let len = message.encoded_len();
        self.bytes += len;
        self.messages.push_back((message, len));
    }

    /// The messages to send now.
    pub(super) fn next_batch(
        &mut self,
        now: Timestamp,
        bytes_max: usize,
    ) -> Option<Vec<Arc<OutboxMessage>>> {
        let may_go = self.in_flight == 0 && self.retry_at.is_none_or(|at| at <= now);
        if !may_go || self.messages.is_empty() {
            return None;
        }
        self.retry_at = None;
        let mut len = 0;
        let fits = |(_, message): &&(Arc<OutboxMessage>, usize)| {
            let is_first = len == 0;
            len += message;
            is_first || len <= bytes_max
        };
        let batch = self.messages.iter().take(MESSAGES_PER_RECORD_MAX).take_while(fits);
        let batch: Vec<_> = batch.map(|(message, _)| Arc::clone(message)).collect();
        self.in_flight = batch.len();
        Some(batch)
    }

    /// The messages in flight were applied.
    pub(super) fn delivered(&mut self) -> impl Iterator<Item = Arc<OutboxMessage>> {
        (self.failures, self.is_rerouted) = (0, false);
        let count = std::mem::take(&mut self.in_flight);
        let gone = self.messages.drain(..count);
        let bytes = &mut self.bytes;
        gone.map(|(message, len)| {
            *bytes -= len;
            message
        })
    }

    /// The messages in flight may have been applied or not.
    pub(super) fn not_delivered(&mut self, now: Timestamp) -> Unclear {
        self.in_flight = 0;
        let wait = (BACKOFF_FIRST_MS << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Timestamp(now.0.saturating_add(wait)));
        match std::mem::take(&mut self.is_rerouted) {
            true => Unclear::Rerouted,
            false => Unclear::Again,
        }
    }

    /// Drops the messages that are not in flight; returns whether any are left. The messages in
    /// flight are the first that are not known to be applied, so reading continues after them.
    pub(super) fn begin_again(&mut self) -> bool {
        self.messages.truncate(self.in_flight);
        self.bytes = self.messages.iter().map(|(_, len)| len).sum();
        self.through = self.messages.back().map_or(RecordSeq(0), |(last, _)| last.index);
        self.is_rerouted = true;
        self.in_flight > 0
    }

    /// Time of the next attempt.
    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at.filter(|_| self.in_flight == 0 && !self.messages.is_empty())
    }

    pub(super) fn check(&self) {
        let indexes = self.messages.iter().map(|(message, _)| message.index);
        assert!(indexes.is_sorted_by(|a, b| a < b), "S1: messages out of order");
        assert!(self.in_flight <= self.messages.len(), "more in flight than there is");
        assert!(self.messages.len() <= HELD_PER_TARGET_MAX, "S4: too many messages held");
    }
}
