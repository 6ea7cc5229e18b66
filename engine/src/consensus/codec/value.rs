//! Members, entries, rows and writes.

use crate::consensus::chain::{ChainHash, Member, Segment, StorageId};
use crate::consensus::entry::{Barrier, Entry, RunningHash, Seal};
use crate::consensus::input::Write;
use crate::consensus::message::{BallotNumber, PeerMemory, Row, Standing};

use super::DecodeError;
use super::paxos::{put_ballot, read_ballot};
use super::reader::Reader;

/// The shortest row: an empty block, and the hash.
pub(super) const ROW_BYTES_MIN: usize = ENTRY_BYTES_MIN + 16;

/// The shortest entry: its kind, and the length of an empty block.
pub(super) const ENTRY_BYTES_MIN: usize = 5;

/// The shortest member: an empty name.
const MEMBER_BYTES_MIN: usize = 20;

/// Appending numbers, big-endian.
pub(crate) trait Put {
    fn put_u8(&mut self, value: u8);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_u128(&mut self, value: u128);
    fn put_slice(&mut self, bytes: &[u8]);

    fn put_count(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).expect("lists and blocks have limits below 4 Gi"));
    }
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u32(&mut self, value: u32) {
        self.extend(value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend(value.to_be_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.extend(value.to_be_bytes());
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.extend_from_slice(bytes);
    }
}

pub(super) fn put_member(out: &mut Vec<u8>, member: &Member) {
    out.put_slice(member.name.as_bytes());
    out.put_u128(member.storage.0);
}

pub(super) fn read_member(reader: &mut Reader) -> Result<Member, DecodeError> {
    Ok(Member { name: reader.text()?, storage: StorageId(reader.u128()?) })
}

fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    out.put_count(members.len());
    members.iter().for_each(|member| put_member(out, member));
}

fn read_members(reader: &mut Reader) -> Result<Vec<Member>, DecodeError> {
    reader.list(MEMBER_BYTES_MIN, read_member)
}

pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::Block(block) => {
            out.put_u8(1);
            out.put_slice(block);
        }
        Entry::Barrier(barrier) => {
            out.put_u8(2);
            out.put_u64(barrier.boot);
            out.put_u64(barrier.nonce);
            out.put_u64(barrier.number);
        }
        Entry::Seal(seal) => {
            out.put_u8(3);
            out.put_u64(seal.version);
            put_members(out, &seal.members);
        }
    }
}

pub(super) fn read_entry(reader: &mut Reader) -> Result<Entry, DecodeError> {
    Ok(match reader.u8()? {
        1 => Entry::Block(reader.bytes()?),
        2 => Entry::Barrier(Barrier {
            boot: reader.u64()?,
            nonce: reader.u64()?,
            number: reader.u64()?,
        }),
        3 => {
            let version = reader.u64()?;
            Entry::Seal(Seal { members: read_members(reader)?, version })
        }
        tag => return Err(DecodeError::UnknownKind { what: "an entry", tag }),
    })
}

pub(super) fn put_row(out: &mut Vec<u8>, row: &Row) {
    put_entry(out, &row.entry);
    out.put_u128(row.hash.0);
}

pub(super) fn read_row(reader: &mut Reader) -> Result<Row, DecodeError> {
    Ok(Row { entry: read_entry(reader)?, hash: RunningHash(reader.u128()?) })
}

fn put_number(out: &mut Vec<u8>, (n, priority, pid): BallotNumber) {
    out.put_u32(n);
    out.put_u32(priority);
    out.put_u64(pid);
}

fn read_number(reader: &mut Reader) -> Result<BallotNumber, DecodeError> {
    Ok((reader.u32()?, reader.u32()?, reader.u64()?))
}

pub(super) fn put_standing(out: &mut Vec<u8>, standing: Standing) {
    out.put_u64(standing.segment);
    put_number(out, standing.promised);
    out.put_u64(standing.adopted);
    put_number(out, standing.round);
    out.put_u64(standing.accepted);
}

pub(super) fn read_standing(reader: &mut Reader) -> Result<Standing, DecodeError> {
    Ok(Standing {
        segment: reader.u64()?,
        promised: read_number(reader)?,
        adopted: reader.u64()?,
        round: read_number(reader)?,
        accepted: reader.u64()?,
    })
}

pub(crate) fn put_segment(out: &mut Vec<u8>, segment: &Segment) {
    out.put_u64(segment.number);
    out.put_u128(segment.hash.0);
    out.put_u64(segment.base);
    out.put_u128(segment.base_hash.0);
    out.put_u64(segment.version);
    put_members(out, &segment.members);
}

pub(crate) fn read_segment(reader: &mut Reader) -> Result<Segment, DecodeError> {
    Ok(Segment {
        number: reader.u64()?,
        hash: ChainHash(reader.u128()?),
        base: reader.u64()?,
        base_hash: RunningHash(reader.u128()?),
        version: reader.u64()?,
        members: read_members(reader)?,
    })
}

pub(super) fn put_write(out: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Segment { segment, votes } => {
            out.put_u8(if *votes { 2 } else { 1 });
            put_segment(out, segment);
        }
        Write::Promise(ballot) => {
            out.put_u8(3);
            put_ballot(out, *ballot);
        }
        Write::Round(ballot) => {
            out.put_u8(4);
            put_ballot(out, *ballot);
        }
        Write::Adopted(count) => {
            out.put_u8(5);
            out.put_u64(*count);
        }
        Write::Decided(index) => {
            out.put_u8(6);
            out.put_u64(*index);
        }
        Write::Append { index, row } => {
            out.put_u8(7);
            out.put_u64(*index);
            put_row(out, row);
        }
        Write::Truncate { from } => {
            out.put_u8(8);
            out.put_u64(*from);
        }
        Write::Peer(memory) => {
            out.put_u8(9);
            out.put_u128(memory.storage.0);
            out.put_u64(memory.boot);
            out.put_u64(memory.nonce);
            put_standing(out, memory.standing);
        }
        Write::Drop { below } => {
            out.put_u8(10);
            out.put_u64(*below);
        }
        Write::Forget(storage) => {
            out.put_u8(11);
            out.put_u128(storage.0);
        }
    }
}

pub(super) fn read_write(reader: &mut Reader) -> Result<Write, DecodeError> {
    Ok(match reader.u8()? {
        votes @ 1..=2 => {
            Write::Segment { segment: Box::new(read_segment(reader)?), votes: votes == 2 }
        }
        3 => Write::Promise(read_ballot(reader)?),
        4 => Write::Round(read_ballot(reader)?),
        5 => Write::Adopted(reader.u64()?),
        6 => Write::Decided(reader.u64()?),
        7 => Write::Append { index: reader.u64()?, row: read_row(reader)? },
        8 => Write::Truncate { from: reader.u64()? },
        9 => Write::Peer(PeerMemory {
            storage: StorageId(reader.u128()?),
            boot: reader.u64()?,
            nonce: reader.u64()?,
            standing: read_standing(reader)?,
        }),
        10 => Write::Drop { below: reader.u64()? },
        11 => Write::Forget(StorageId(reader.u128()?)),
        tag => return Err(DecodeError::UnknownKind { what: "a write", tag }),
    })
}
