//! The part of a partition's state that is kept in memory in addition to its rows.
//!
//! Must always hold: it equals the result of [`PartitionState::load`] over the committed rows,
//! which are the source of truth.

use std::sync::Arc;

use bytes::Bytes;
use forebay_messages::{
    EntryKey, Epoch, InboxSeq, Incarnation, Lsn, RecordSeq, Timestamp, rule::RuleUpdate,
};

use crate::rules::RuleBook;

use super::{
    apply::ApplyError,
    backlog::Backlog,
    rows::{DedupKey, DedupRow, FsmSlot},
    store::{Rows, Tables, TablesError, fsm_number, put_fsm_number},
};

/// The format that has journals: older binaries must not open a partition that has them.
pub(super) const JOURNAL_FORMAT: u64 = 3;
/// The format in which messages have incarnations.
pub(super) const INCARNATION_FORMAT: u64 = 4;

/// Counters and the rule book of a partition.
#[derive(Debug)]
pub struct PartitionState {
    /// LSN of the last applied record.
    pub applied_lsn: Lsn,
    /// Epoch of the current leader.
    pub leader_epoch: Epoch,
    /// Highest applied own proposal.
    pub(super) leader_dedup: DedupRow,
    /// Last assigned inbox sequence.
    pub(super) inbox_seq: InboxSeq,
    /// Last index given in the outbox.
    pub(super) outbox_seq: RecordSeq,
    /// Incarnation of the outbox.
    pub(super) incarnation: Incarnation,
    /// Lowest format that may read this partition.
    pub(super) min_version: u64,
    /// Greatest assigned default `run_at`.
    pub(super) last_run_at: Timestamp,
    /// Greatest time of an applied record.
    pub(super) latest_record_at: Timestamp,
    /// The current rule book.
    pub(super) rule_book: Arc<RuleBook>,
    /// Number of waiting entries by key; only while a rule limits it.
    pub(super) backlog: Option<Backlog>,
}

impl PartitionState {
    /// Reads the state of a partition from its rows; a new partition has none.
    ///
    /// # Errors
    /// When a row cannot be read, or was written by a newer format.
    pub fn load(tables: &impl Rows) -> Result<Self, ApplyError> {
        let needed = fsm_number(tables, FsmSlot::MinVersion)?;
        if needed > super::apply::FORMAT_VERSION {
            return Err(ApplyError::TooNew { needed });
        }
        let rule_book = match tables.fsm(FsmSlot::RuleBook)? {
            None => RuleBook::default(),
            Some(bytes) => RuleBook::decode(&bytes).map_err(|error| ApplyError::Inconsistent {
                what: format!("the stored rule book does not decode: {error}"),
            })?,
        };
        let mut state = Self {
            applied_lsn: Lsn(fsm_number(tables, FsmSlot::AppliedLsn)?),
            leader_epoch: Epoch(fsm_number(tables, FsmSlot::LeaderEpoch)?),
            leader_dedup: tables.dedup(DedupKey::Leader)?.unwrap_or_default(),
            inbox_seq: InboxSeq(fsm_number(tables, FsmSlot::InboxSeq)?),
            outbox_seq: RecordSeq(fsm_number(tables, FsmSlot::OutboxSeq)?),
            incarnation: Incarnation(fsm_number(tables, FsmSlot::Incarnation)?),
            min_version: needed,
            last_run_at: Timestamp(fsm_number(tables, FsmSlot::LastRunAt)?),
            latest_record_at: Timestamp(fsm_number(tables, FsmSlot::LatestRecordAt)?),
            rule_book: Arc::new(RuleBook::default()),
            backlog: None,
        };
        state.replace_rule_book(rule_book, tables)?;
        Ok(state)
    }

    /// The last assigned inbox sequence.
    #[must_use]
    pub fn inbox_seq(&self) -> InboxSeq {
        self.inbox_seq
    }

    /// The current rule book.
    #[must_use]
    pub fn rule_book(&self) -> &Arc<RuleBook> {
        &self.rule_book
    }

    /// Puts another rule book in force; returns the difference. Reads every vqueue when a backlog
    /// is limited for the first time.
    pub(super) fn replace_rule_book(
        &mut self,
        book: RuleBook,
        tables: &impl Rows,
    ) -> Result<Vec<RuleUpdate>, TablesError> {
        let updates = book.diff(&self.rule_book);
        self.backlog = Backlog::under(&book, self.backlog.take(), tables)?;
        self.rule_book = Arc::new(book);
        Ok(updates)
    }

    /// Whether this partition has ever had journals.
    #[must_use]
    pub fn has_journals(&self) -> bool {
        self.min_version >= JOURNAL_FORMAT
    }

    /// The next place in an inbox. `run_at` absent means "now", made monotonic so that a clock that
    /// steps back cannot reorder a queue.
    pub(super) fn next_key(&mut self, now: Timestamp, template: NewKey) -> EntryKey {
        self.inbox_seq = self.inbox_seq.next();
        let run_at = template.run_at.unwrap_or_else(|| self.default_run_at(now));
        EntryKey { has_lock: template.has_lock, run_at, seq: self.inbox_seq, entry: template.entry }
    }

    /// "Now" as a place in an inbox: made monotonic.
    pub(super) fn default_run_at(&mut self, now: Timestamp) -> Timestamp {
        self.last_run_at = self.last_run_at.max(now);
        self.last_run_at
    }

    /// The latest time that a leader gave to a record or to a place in an inbox. The partition's
    /// time is never earlier.
    #[must_use]
    pub fn latest_time(&self) -> Timestamp {
        self.latest_record_at.max(self.last_run_at)
    }

    /// Records the time of a record.
    pub(super) fn put_record_time(&mut self, at: Timestamp, tables: &mut impl Tables) {
        if at > self.latest_record_at {
            self.latest_record_at = at;
            put_fsm_number(tables, FsmSlot::LatestRecordAt, at.0);
        }
    }

    /// The counters of places.
    pub(super) fn places(&self) -> Places {
        let Self { inbox_seq, outbox_seq, last_run_at, .. } = *self;
        Places { inbox_seq, outbox_seq, last_run_at }
    }

    /// Writes the counters that a record changed, once for all of its entries.
    pub(super) fn put_places(&self, before: Places, tables: &mut impl Tables) {
        if self.inbox_seq != before.inbox_seq {
            put_fsm_number(tables, FsmSlot::InboxSeq, self.inbox_seq.0);
        }
        if self.outbox_seq != before.outbox_seq {
            put_fsm_number(tables, FsmSlot::OutboxSeq, self.outbox_seq.0);
        }
        if self.last_run_at != before.last_run_at {
            put_fsm_number(tables, FsmSlot::LastRunAt, self.last_run_at.0);
        }
    }
}

/// The counters from which places in inboxes are assigned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    inbox_seq: InboxSeq,
    outbox_seq: RecordSeq,
    last_run_at: Timestamp,
}

/// The parts of a new place in an inbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewKey {
    pub(super) entry: forebay_messages::EntryId,
    pub(super) run_at: Option<Timestamp>,
    pub(super) has_lock: bool,
}

/// The stored form of an epoch in the fsm table.
pub(super) fn epoch_bytes(epoch: Epoch) -> Bytes {
    Bytes::copy_from_slice(&epoch.0.to_be_bytes())
}
