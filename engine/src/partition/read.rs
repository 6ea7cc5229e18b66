//! The reads of a leader: the seed of a limiter, the request of a vqueue without an actor, entries
//! that are gone.
//!
//! Owns: the rules that derive these answers from rows; the partition's shell and the models share
//! this code. Must not know: how effects are performed, where rows are stored.

use std::{collections::BTreeMap, sync::Arc};

use bilrost::OwnedMessage as _;
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Incarnation, RecordSeq, Run, Timestamp, VQueueHandle,
    VQueueId, VQueueName,
    actor::{Acquire, LimiterMessage, LockWish, SeedRunning},
    command::{CheckedTable, OutboxMessage},
    journal::JournalKey,
};

use crate::{
    machine::{Map, Set},
    shuffle::Routes,
    vqueue::{Rest, wish},
};

use super::{
    machine::{EntryState, KnownAttempt, OutboxCount},
    rows::{FsmSlot, JournalRow},
    state::JOURNAL_FORMAT,
    store::{JournalRows, Read, Rows, SeedRows, TablesError, fsm_number},
};

/// Number of rows read at a time.
const PAGE_LEN: usize = 1_024;
/// Maximum number of locks in the seed of a limiter.
pub const LOCKS_SEEDED_MAX: usize = 16_384;
/// Number of messages read at a time: each may be as large as a payload.
const OUTBOX_PAGE_LEN: usize = 32;
/// Once the messages read have this many bytes, no more are read at once.
pub const OUTBOX_BYTES_MAX: usize = 4 << 20;

/// The initial state of a limiter, according to the rows.
#[derive(Debug, Default)]
pub struct SeedRead {
    /// Locks held by entries.
    pub locks: Vec<(VQueueId, EntryId)>,
    /// There are too many of them: `locks` has those of running entries, and each request of a
    /// vqueue with a lock is preceded by [`lock_of`].
    pub are_locks_partial: bool,
    /// Attempts that run according to their rows or to proposed decisions.
    pub running: Vec<KnownAttempt>,
    /// Attempts that are over but whose handlers have not stopped, each with the holder of its
    /// vqueue's lock.
    pub stopping: Vec<(KnownAttempt, Option<EntryId>)>,
    /// Everything that needs a permit: `running`, then `stopping`.
    pub holders: Vec<SeedRunning>,
}

/// Reads the initial state of a new limiter: lock rows, running rows, decisions that are proposed
/// but not applied, handlers that have not stopped. `name_of` returns the names of running
/// handlers: a vqueue whose handler stops may have no row left. With more than `locks_max` locks
/// (for example of suspended entries) each is looked up when a vqueue requests it, so that a leader
/// starts as fast as without them.
///
/// # Errors
/// If the rows cannot be read.
pub fn seed(
    rows: &impl SeedRows,
    proposed: Vec<KnownAttempt>,
    stopping: &[KnownAttempt],
    locks_max: usize,
    name_of: impl Fn(EntryId, AttemptToken) -> Option<Arc<VQueueName>>,
) -> Read<SeedRead> {
    let mut read = SeedRead { running: proposed, ..SeedRead::default() };
    let mut after = None;
    loop {
        let page = rows.running_after(after, PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for ((vqueue, entry), row) in page {
            read.running.push(KnownAttempt { vqueue, entry, token: row.token });
        }
    }
    let mut after = None;
    loop {
        let page = rows.locks_after(after, PAGE_LEN)?;
        let Some((vqueue, _)) = page.last() else { break };
        after = Some(*vqueue);
        read.locks.extend(page);
        if read.locks.len() > locks_max {
            read.locks.clear();
            read.are_locks_partial = true;
            break;
        }
    }
    let known: Set<_> = match stopping {
        [] => Set::default(),
        _ => read.running.iter().map(|known| known.token).collect(),
    };
    for attempt in stopping.iter().filter(|attempt| !known.contains(&attempt.token)) {
        read.stopping.push((*attempt, rows.lock(attempt.vqueue)?));
    }
    let mut names: Map<VQueueId, Arc<VQueueName>> = Map::default();
    let holders = read.running.iter().chain(read.stopping.iter().map(|(known, _)| known));
    for KnownAttempt { vqueue, entry, token } in holders {
        let name = match names.get(vqueue) {
            Some(name) => Arc::clone(name),
            None => {
                let meta = rows.look_at_vqueue(*vqueue, |meta| Arc::clone(&meta.name))?;
                let name = meta.or_else(|| name_of(*entry, *token)).unwrap_or_default();
                names.insert(*vqueue, Arc::clone(&name));
                name
            }
        };
        if read.are_locks_partial && name.has_lock() {
            read.locks.extend(rows.lock(*vqueue)?.map(|holder| (*vqueue, holder)));
        }
        read.holders.push(SeedRunning { entry: *entry, vqueue: *vqueue, name });
    }
    Ok(read)
}

/// The lock that a request is about, if an entry holds it: for a limiter that was not seeded with
/// all locks. To be sent right before the request, which must follow from the same rows.
///
/// # Errors
/// If the rows cannot be read.
pub fn lock_of(rows: &impl Rows, vqueue: VQueueId, wish: LockWish) -> Read<Option<LimiterMessage>> {
    let holder = match wish {
        LockWish::None => None,
        LockWish::Held(entry) => Some(entry),
        LockWish::Take => rows.lock(vqueue)?,
    };
    Ok(holder.map(|entry| LimiterMessage::LockHeld { vqueue, entry }))
}

/// The request of a vqueue without an actor to the limiter, or why there is none.
/// `head` is the row it was found with; unless `is_known`, another one may be first.
///
/// # Errors
/// If the rows cannot be read.
pub fn acquire(
    rows: &impl Rows,
    handle: VQueueHandle,
    vqueue: VQueueId,
    (head, is_known): (EntryKey, bool),
    is_served: impl FnOnce(&VQueueName) -> bool,
) -> Read<Result<Acquire, Rest>> {
    let meta = rows.look_at_vqueue(vqueue, |meta| (meta.is_paused, Arc::clone(&meta.name)))?;
    let name = match meta {
        None => return Ok(Err(Rest::Empty)),
        Some((true, _)) => return Ok(Err(Rest::Paused)),
        Some((false, name)) => name,
    };
    if !is_served(&name) {
        return Ok(Err(Rest::NotServed));
    }
    let holder = head.has_lock.then_some(head.entry);
    if !is_known && name.has_lock() && rows.lock(vqueue)? != holder {
        // The head is another entry: the one that keeps the lock, or one after the former holder.
        return Ok(Err(Rest::Until(Timestamp::default())));
    }
    let lock = wish(name.has_lock(), head);
    Ok(Ok(Acquire { handle, vqueue, name, count: 1, lock }))
}

/// The entries among these that are not live, with their state.
///
/// # Errors
/// If the rows cannot be read.
pub fn gone(rows: &impl Rows, entries: &[EntryId]) -> Read<Vec<(EntryId, EntryState)>> {
    let mut gone = Vec::new();
    for entry in entries {
        if rows.look_at_entry(*entry, |_| ())?.is_some() {
            continue;
        }
        let finished = rows.finished(*entry)?;
        let known = finished.map(|row| EntryState::Finished(row.outcome()));
        gone.push((*entry, known.unwrap_or(EntryState::Unknown)));
    }
    Ok(gone)
}

/// The incarnation of the outbox.
///
/// # Errors
/// If the row cannot be read.
pub fn incarnation(rows: &impl Rows) -> Read<Incarnation> {
    fsm_number(rows, FsmSlot::Incarnation).map(Incarnation)
}

/// The routing table that all calls of the partition were last checked against; `None` if it never
/// had journals.
///
/// # Errors
/// If the rows cannot be read.
pub fn checked_table(rows: &impl Rows) -> Read<Option<CheckedTable>> {
    if fsm_number(rows, FsmSlot::MinVersion)? < JOURNAL_FORMAT {
        return Ok(None);
    }
    let bytes = rows.fsm(FsmSlot::CheckedTable)?.unwrap_or_default();
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let next = u32::try_from(number(8)).unwrap_or(0);
    Ok(Some(CheckedTable { hash: number(0), next }))
}

/// Messages of the outbox after an index, in order, and whether there is none after them: at most
/// `limit`, and no more once they have [`OUTBOX_BYTES_MAX`].
///
/// # Errors
/// If the rows cannot be read or do not decode.
pub fn outbox(
    rows: &impl JournalRows,
    mut after: RecordSeq,
    limit: usize,
) -> Read<(Vec<Arc<OutboxMessage>>, bool)> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    while messages.len() < limit && bytes < OUTBOX_BYTES_MAX {
        let count = OUTBOX_PAGE_LEN.min(limit - messages.len());
        let page = rows.outbox_after(Some(after), count)?;
        let is_end = page.len() < count;
        for (index, encoded) in page {
            bytes += encoded.len();
            after = index;
            let message = OutboxMessage::decode(encoded)
                .map_err(|error| TablesError { table: "outbox", source: Box::new(error) })?;
            messages.push(Arc::new(message));
        }
        if is_end {
            return Ok((messages, true));
        }
    }
    Ok((messages, false))
}

/// Counts the messages of an outbox by the partition that owns their destination.
///
/// # Errors
/// If the rows cannot be read or do not decode.
pub fn count_outbox(rows: &impl JournalRows, routes: Routes) -> Read<OutboxCount> {
    let (mut counts, mut after) = (BTreeMap::<_, usize>::new(), None);
    loop {
        let page = rows.outbox_after(after, OUTBOX_PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (_, encoded) in page {
            let to = OutboxMessage::destination(&encoded);
            if let Some(owner) = to.and_then(|to| routes.owner(to)) {
                *counts.entry(owner).or_default() += 1;
            }
        }
    }
    Ok(OutboxCount { routes, messages: counts.into_iter().collect() })
}

/// The journal of an entry whose handler starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRead {
    /// Its run.
    pub run: Run,
    /// The handler's "now" before any operation has finished; the default before the first
    /// operation was written.
    pub first_at: Timestamp,
    /// Bytes of its keys and results.
    pub bytes: u64,
    /// Its operations: finished ones in the order in which they finished, then the others.
    pub operations: Vec<(JournalKey, JournalRow)>,
}

/// Reads the journal of an entry that has not ended; `None` if it has none, which costs one read of
/// its row.
///
/// # Errors
/// If the rows cannot be read.
pub fn journal(rows: &(impl Rows + JournalRows), entry: EntryId) -> Read<Option<JournalRead>> {
    let look = rows.look_at_entry(entry, |row| {
        row.journal().map(|journal| (journal.run, journal.first_at, journal.bytes, journal.rows))
    })?;
    let Some((run, first_at, bytes, count)) = look.flatten() else { return Ok(None) };
    let mut operations = match count {
        0 => Vec::new(),
        count => rows.journal_after(entry, None, count as usize)?,
    };
    operations.sort_by_key(|(_, row)| (!row.is_finished(), row.sequence));
    Ok(Some(JournalRead { run, first_at, bytes, operations }))
}
