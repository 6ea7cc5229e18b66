//! Encoding of the crate's messages that a group uses.

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::ballot_leader_election::{HeartbeatMsg, HeartbeatReply, HeartbeatRequest};
use omnipaxos::messages::sequence_paxos::{
    AcceptDecide, AcceptSync, Accepted, Decide, NotAccepted, PaxosMsg, Prepare, PrepareReq, Promise,
};
use omnipaxos::util::{LogSync, SequenceNumber};

use crate::consensus::entry::Entry;

use super::DecodeError;
use super::reader::Reader;
use super::value::{ENTRY_BYTES_MIN, Put, put_entry, read_entry};

pub(super) fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.put_u32(ballot.config_id);
    out.put_u32(ballot.n);
    out.put_u32(ballot.priority);
    out.put_u64(ballot.pid);
}

pub(super) fn read_ballot(reader: &mut Reader) -> Result<Ballot, DecodeError> {
    let (config_id, n, priority) = (reader.u32()?, reader.u32()?, reader.u32()?);
    Ok(Ballot { config_id, n, priority, pid: reader.u64()? })
}

pub(super) fn put_heartbeat(out: &mut Vec<u8>, message: &HeartbeatMsg) {
    match message {
        HeartbeatMsg::Request(request) => {
            out.put_u8(1);
            out.put_u32(request.round);
        }
        HeartbeatMsg::Reply(reply) => {
            out.put_u8(if reply.happy { 3 } else { 2 });
            out.put_u32(reply.round);
            put_ballot(out, reply.ballot);
            put_ballot(out, reply.leader);
        }
    }
}

pub(super) fn read_heartbeat(reader: &mut Reader) -> Result<HeartbeatMsg, DecodeError> {
    Ok(match reader.u8()? {
        1 => HeartbeatMsg::Request(HeartbeatRequest { round: reader.u32()? }),
        kind @ 2..=3 => HeartbeatMsg::Reply(HeartbeatReply {
            round: reader.u32()?,
            ballot: read_ballot(reader)?,
            leader: read_ballot(reader)?,
            happy: kind == 3,
        }),
        tag => return Err(DecodeError::UnknownKind { what: "a heartbeat", tag }),
    })
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    out.put_count(entries.len());
    entries.iter().for_each(|entry| put_entry(out, entry));
}

fn read_entries(reader: &mut Reader) -> Result<Vec<Entry>, DecodeError> {
    reader.list(ENTRY_BYTES_MIN, read_entry)
}

fn put_sync(out: &mut Vec<u8>, sync: &LogSync<Entry>) {
    out.put_u64(sync.sync_idx as u64);
    put_entries(out, &sync.suffix);
}

fn read_sync(reader: &mut Reader) -> Result<LogSync<Entry>, DecodeError> {
    let sync_idx = reader.index()?;
    let suffix = read_entries(reader)?;
    Ok(LogSync { decided_snapshot: None, suffix, sync_idx, stopsign: None })
}

fn put_sequence(out: &mut Vec<u8>, number: SequenceNumber) {
    out.put_u64(number.session);
    out.put_u64(number.counter);
}

fn read_sequence(reader: &mut Reader) -> Result<SequenceNumber, DecodeError> {
    Ok(SequenceNumber { session: reader.u64()?, counter: reader.u64()? })
}

pub(super) fn put_message(out: &mut Vec<u8>, message: &PaxosMsg<Entry>) {
    match message {
        PaxosMsg::PrepareReq(message) => {
            out.put_u8(1);
            put_ballot(out, message.n);
        }
        PaxosMsg::Prepare(message) => {
            out.put_u8(2);
            put_ballot(out, message.n);
            out.put_u64(message.decided_idx as u64);
            put_ballot(out, message.n_accepted);
            out.put_u64(message.accepted_idx as u64);
        }
        PaxosMsg::Promise(message) => {
            out.put_u8(if message.log_sync.is_some() { 4 } else { 3 });
            put_ballot(out, message.n);
            put_ballot(out, message.n_accepted);
            out.put_u64(message.decided_idx as u64);
            out.put_u64(message.accepted_idx as u64);
            if let Some(sync) = &message.log_sync {
                put_sync(out, sync);
            }
        }
        PaxosMsg::AcceptSync(message) => {
            out.put_u8(5);
            put_ballot(out, message.n);
            put_sequence(out, message.seq_num);
            out.put_u64(message.decided_idx as u64);
            put_sync(out, &message.log_sync);
        }
        PaxosMsg::AcceptDecide(message) => {
            out.put_u8(6);
            put_ballot(out, message.n);
            put_sequence(out, message.seq_num);
            out.put_u64(message.decided_idx as u64);
            put_entries(out, &message.entries);
        }
        PaxosMsg::Accepted(message) => {
            out.put_u8(7);
            put_ballot(out, message.n);
            out.put_u64(message.accepted_idx as u64);
        }
        PaxosMsg::NotAccepted(message) => {
            out.put_u8(8);
            put_ballot(out, message.n);
        }
        PaxosMsg::Decide(message) => {
            out.put_u8(9);
            put_ballot(out, message.n);
            put_sequence(out, message.seq_num);
            out.put_u64(message.decided_idx as u64);
        }
        PaxosMsg::ProposalForward(_)
        | PaxosMsg::Compaction(_)
        | PaxosMsg::AcceptStopSign(_)
        | PaxosMsg::ForwardStopSign(_) => panic!("never sent: {message:?}"),
    }
}

pub(super) fn read_message(reader: &mut Reader) -> Result<PaxosMsg<Entry>, DecodeError> {
    Ok(match reader.u8()? {
        1 => PaxosMsg::PrepareReq(PrepareReq { n: read_ballot(reader)? }),
        2 => PaxosMsg::Prepare(Prepare {
            n: read_ballot(reader)?,
            decided_idx: reader.index()?,
            n_accepted: read_ballot(reader)?,
            accepted_idx: reader.index()?,
        }),
        kind @ 3..=4 => PaxosMsg::Promise(Promise {
            n: read_ballot(reader)?,
            n_accepted: read_ballot(reader)?,
            decided_idx: reader.index()?,
            accepted_idx: reader.index()?,
            log_sync: if kind == 4 { Some(read_sync(reader)?) } else { None },
        }),
        5 => PaxosMsg::AcceptSync(AcceptSync {
            n: read_ballot(reader)?,
            seq_num: read_sequence(reader)?,
            decided_idx: reader.index()?,
            log_sync: read_sync(reader)?,
        }),
        6 => PaxosMsg::AcceptDecide(AcceptDecide {
            n: read_ballot(reader)?,
            seq_num: read_sequence(reader)?,
            decided_idx: reader.index()?,
            entries: read_entries(reader)?,
        }),
        7 => {
            PaxosMsg::Accepted(Accepted { n: read_ballot(reader)?, accepted_idx: reader.index()? })
        }
        8 => PaxosMsg::NotAccepted(NotAccepted { n: read_ballot(reader)? }),
        9 => PaxosMsg::Decide(Decide {
            n: read_ballot(reader)?,
            seq_num: read_sequence(reader)?,
            decided_idx: reader.index()?,
        }),
        tag => return Err(DecodeError::UnknownKind { what: "a message of the crate", tag }),
    })
}
