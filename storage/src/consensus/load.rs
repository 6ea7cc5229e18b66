//! Reads the rows of groups.
//!
//! Must always hold: every row is checked against its key and the row before it; a missing or
//! inconsistent row is an error that names it, and none is skipped.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_engine::consensus::{PeerMemory, Recovered, Row, RunningHash, Segment, Write};
use rocksdb::ReadOptions;

use crate::log::Database;

use super::{
    ConsensusError,
    group::Group,
    keys::{self, Kind},
};

const ACTION: &str = "read consensus rows";

/// Calls `each` with the rows in a range of keys until it returns that it has enough.
fn scan(
    database: &Database,
    first: Vec<u8>,
    end: Vec<u8>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, ConsensusError>,
) -> Result<(), ConsensusError> {
    let mut options = ReadOptions::default();
    options.set_iterate_range(first..end);
    options.fill_cache(false);
    let mut rows = database.db().raw_iterator_opt(options);
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        if !each(key, value)? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(|error| database.fault(ACTION, error).into())
}

fn decode(group: u32, row: impl Fn() -> String, value: &[u8]) -> Result<Write, ConsensusError> {
    Write::decode(Bytes::copy_from_slice(value))
        .map_err(|error| ConsensusError::from_decode(group, row(), error))
}

/// The single row of a kind and group, if it exists.
fn one(database: &Database, kind: Kind, group: u32) -> Result<Option<Write>, ConsensusError> {
    let value = database.db().get(keys::of_group(kind, group));
    let value = value.map_err(|error| database.fault(ACTION, error))?;
    value.map(|value| decode(group, || name_of(kind), &value)).transpose()
}

fn name_of(kind: Kind) -> String {
    match kind {
        Kind::Adopted => "the count of copies taken over",
        Kind::Decided => "the decided index",
        Kind::Entry => "an entry",
        Kind::Memory => "the data about a peer",
        Kind::Promise => "the promise",
        Kind::Round => "the ballot of the last accept",
        Kind::Segment => "the record of a segment",
    }
    .to_owned()
}

fn other_kind(group: u32, kind: Kind) -> ConsensusError {
    ConsensusError::damaged(group, name_of(kind), "it is a row of another kind")
}

/// The state of every group.
pub(super) fn groups(database: &Database) -> Result<BTreeMap<u32, Group>, ConsensusError> {
    let mut found: BTreeMap<u32, (Vec<Segment>, bool)> = BTreeMap::new();
    let (first, end) = (keys::of_group(Kind::Segment, 0), keys::end_of(Kind::Segment));
    scan(database, first, end, |key, value| {
        let (group, number) = (keys::group_in(key), keys::number_in(Kind::Segment, key));
        let (Some(group), Some(number)) = (group, number) else {
            let group = group.unwrap_or_default();
            return Err(ConsensusError::damaged(group, name_of(Kind::Segment), "its key is wrong"));
        };
        let row = || format!("the record of segment {number}");
        let Write::Segment { segment, votes } = decode(group, row, value)? else {
            return Err(other_kind(group, Kind::Segment));
        };
        let (segments, last_votes) = found.entry(group).or_default();
        check_segment(group, number, segments.last(), &segment)?;
        segments.push(*segment);
        *last_votes = votes;
        Ok(true)
    })?;
    let stand = |(number, (segments, votes))| {
        let group = stand(database, number, segments, votes)?;
        Ok((number, group))
    };
    found.into_iter().map(stand).collect()
}

fn check_segment(
    group: u32,
    number: u64,
    before: Option<&Segment>,
    segment: &Segment,
) -> Result<(), ConsensusError> {
    let damaged = |reason| {
        Err(ConsensusError::damaged(group, format!("the record of segment {number}"), reason))
    };
    if segment.number != number {
        return damaged("it is the record of another one");
    }
    if segment.members.is_empty() {
        return damaged("it has no members");
    }
    match before {
        Some(before) if before.number.checked_add(1) != Some(number) => {
            damaged("the one before it is missing")
        }
        Some(before) if before.base > segment.base => damaged("it begins before the last one"),
        _ => Ok(()),
    }
}

/// The state of a group with these segments.
fn stand(
    database: &Database,
    number: u32,
    segments: Vec<Segment>,
    votes: bool,
) -> Result<Group, ConsensusError> {
    let Some(base) = segments.last().map(|segment| segment.base) else {
        return Err(ConsensusError::NoGroup { group: number });
    };
    let decided = match one(database, Kind::Decided, number)? {
        Some(Write::Decided(index)) => index,
        Some(_) => return Err(other_kind(number, Kind::Decided)),
        None => {
            let row = name_of(Kind::Decided);
            return Err(ConsensusError::damaged(number, row, "it is missing"));
        }
    };
    let mut rows = database.db().raw_iterator();
    rows.seek_for_prev(keys::end_of_group(Kind::Entry, number));
    rows.status().map_err(|error| database.fault(ACTION, error))?;
    let last = rows.key().filter(|key| keys::group_in(key) == Some(number));
    let last = last.and_then(|key| keys::number_in(Kind::Entry, key));
    let end = last.map_or(base, |last| last.saturating_add(1).max(base));
    Ok(Group::new(number, segments, votes, decided, end))
}

/// See [`super::Groups::recover`].
pub(super) fn recover(
    database: &Database,
    number: u32,
    group: &Group,
) -> Result<Recovered, ConsensusError> {
    let current = group.current();
    let promise = match one(database, Kind::Promise, number)? {
        None => None,
        Some(Write::Promise(ballot)) => Some(ballot),
        Some(_) => return Err(other_kind(number, Kind::Promise)),
    };
    let round = match one(database, Kind::Round, number)? {
        None => None,
        Some(Write::Round(ballot)) => Some(ballot),
        Some(_) => return Err(other_kind(number, Kind::Round)),
    };
    let adopted = match one(database, Kind::Adopted, number)? {
        None => 0,
        Some(Write::Adopted(count)) => count,
        Some(_) => return Err(other_kind(number, Kind::Adopted)),
    };
    Ok(Recovered {
        segments: group.segments.to_vec(),
        votes: group.votes,
        promise,
        round,
        adopted,
        decided: group.decided,
        rows: rows(database, number, group, current.base, group.end, usize::MAX)?,
        peers: memories(database, number)?,
    })
}

fn memories(database: &Database, number: u32) -> Result<Vec<PeerMemory>, ConsensusError> {
    let mut found = Vec::new();
    let (first, end) =
        (keys::of_group(Kind::Memory, number), keys::end_of_group(Kind::Memory, number));
    scan(database, first, end, |key, value| {
        let Write::Peer(memory) = decode(number, || name_of(Kind::Memory), value)? else {
            return Err(other_kind(number, Kind::Memory));
        };
        if keys::storage_in(key) != Some(memory.storage) {
            let row = name_of(Kind::Memory);
            return Err(ConsensusError::damaged(number, row, "its key is another peer's"));
        }
        found.push(memory);
        Ok(true)
    })?;
    Ok(found)
}

/// See [`super::Groups::read`].
pub(super) fn rows(
    database: &Database,
    number: u32,
    group: &Group,
    first: u64,
    end: u64,
    bytes_max: usize,
) -> Result<Vec<Row>, ConsensusError> {
    let (oldest, end) = (group.base(), end.min(group.end));
    if first < oldest {
        return Err(ConsensusError::Gone { group: number, index: first, oldest });
    }
    let mut found = Vec::new();
    if first >= end {
        return Ok(found);
    }
    // If no segment begins at `first`, the row before it has the running hash.
    let mut hash = group.base_hash_at(first);
    let mut index = if hash.is_some() { first } else { first - 1 };
    let mut bytes = 0;
    let (from, to) =
        (keys::numbered(Kind::Entry, number, index), keys::numbered(Kind::Entry, number, end));
    let mut is_full = false;
    scan(database, from, to, |key, value| {
        if keys::number_in(Kind::Entry, key) != Some(index) {
            return Ok(false);
        }
        let row = row_at(number, index, value, hash)?;
        hash = Some(row.hash);
        index += 1;
        if index > first {
            let is_first = found.is_empty();
            bytes += row.entry.weight();
            is_full = !is_first && bytes > bytes_max;
            if !is_full {
                found.push(row);
            }
        }
        Ok(!is_full)
    })?;
    if !is_full && index < end {
        return Err(ConsensusError::damaged(number, format!("entry {index}"), "it is missing"));
    }
    Ok(found)
}

/// The row at an index; it must continue the running hash `before`, if that is known.
fn row_at(
    group: u32,
    index: u64,
    value: &[u8],
    before: Option<RunningHash>,
) -> Result<Row, ConsensusError> {
    let row = Row::decode(Bytes::copy_from_slice(value))
        .map_err(|error| ConsensusError::from_decode(group, format!("entry {index}"), error))?;
    if before.is_some_and(|before| before.after(&row.entry) != row.hash) {
        let reason = "it does not continue the one before it";
        return Err(ConsensusError::damaged(group, format!("entry {index}"), reason));
    }
    Ok(row)
}

/// Deletes files that hold only dropped rows; compaction removes the other rows.
pub(super) fn drop_files(
    database: &Database,
    first: &[u8],
    end: &[u8],
) -> Result<(), ConsensusError> {
    // The tombstone is durable in the journal; it must be in the database before the files are
    // deleted.
    database.finish_writes()?;
    // Both ends of this range are inclusive, and the first kept row must stay.
    let Some(last) = before(end) else { return Ok(()) };
    database
        .db()
        .delete_file_in_range(first, &last)
        .map_err(|error| database.fault("drop files of consensus rows", error).into())
}

/// The key of the entry before this one.
fn before(key: &[u8]) -> Option<Vec<u8>> {
    let (group, index) = (keys::group_in(key)?, keys::number_in(Kind::Entry, key)?);
    Some(keys::numbered(Kind::Entry, group, index.checked_sub(1)?))
}
