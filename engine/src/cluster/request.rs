//! Requests of nodes to each other, and the answers: a closed set.
//!
//! | tag | request | answers |
//! |---|---|---|
//! | 1 | probe | probed |
//! | 2 | reserve | done, refused |
//! | 3 | join | joined, refused |
//! | 4 | change | outcome, not leader, unavailable |
//! | 5 | get, 6 list | rows, not leader, unavailable |
//! | 7 | refused | done |
//! | 8 | status | status |
//! | 9 | base | base |
//! | 10 | get of several keys | rows, not leader, unavailable |
//! | 11 | hand over | done, not leader, refused, unavailable |
//! | 12 | clock | clock |
//! | 13 | control | control |
//!
//! The first byte is the format. Numbers are big-endian.

use bytes::Bytes;
use bytestring::ByteString;

use crate::consensus::{DecodeError, Put, Reader, StorageId};
use crate::metadata::{Command, Outcome, Row, decode_block, encode_block};

const FORMAT: u8 = 1;
const KEY_BYTES_MIN: usize = 4;
const RELAY: u8 = 16;
const PEER_BYTES_MIN: usize = 8;
const ROW_BYTES_MIN: usize = 13;

/// A request to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeRequest {
    /// Who are you, and are you part of a cluster?
    Probe,
    /// Take part in no other provisioning than this one for some seconds.
    Reserve {
        /// Random number of the provisioning.
        provision: u128,
    },
    /// The sender is part of no cluster and wants to be part of the receiver's.
    Join {
        /// Its name.
        name: ByteString,
        /// Its data directory.
        storage: StorageId,
        /// The address at which it is reached.
        address: ByteString,
    },
    /// To the leader: propose this command.
    Change(Command),
    /// To the leader: a linearizable read of a key.
    Get {
        /// The key.
        key: ByteString,
    },
    /// To the leader: a linearizable read of the keys that begin with a prefix.
    List {
        /// The prefix.
        prefix: ByteString,
        /// Only keys after this one; empty for all.
        after: ByteString,
    },
    /// The sender refuses the receiver, for this reason.
    Refused {
        /// For display.
        reason: ByteString,
    },
    /// The receiver's status.
    Status,
    /// Which snapshot the receiver has.
    Base,
    /// To the leader: a linearizable read of several keys, as of one moment.
    GetAll {
        /// The keys.
        keys: Vec<ByteString>,
    },
    /// A request to the leader, which the sender does not reach: to be passed on, once.
    Relay(Box<Self>),
    /// To the leader: let this member lead.
    HandOver {
        /// Its name.
        to: ByteString,
    },
    /// What time is it?
    Clock,
    /// A request of a person, as JSON, as the control socket takes it.
    Control(Bytes),
}

/// A node and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: ByteString,
    /// Its address; empty if it is not known.
    pub address: ByteString,
}

/// A snapshot that a node can copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Number of its segment.
    pub segment: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A key and its row.
pub type ListedRow = (ByteString, Row);

/// An answer of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAnswer {
    /// Done; there is nothing to return.
    Done,
    /// Nothing was done, and trying again does not help.
    Refused(ByteString),
    /// Nothing was done; it may succeed later, or at another node.
    Unavailable(ByteString),
    /// Nothing was done: the receiver does not lead.
    NotLeader {
        /// The leader, if it is known.
        leader: Option<ByteString>,
    },
    /// It may have been done, now or later.
    Unknown,
    /// To a probe.
    Probed {
        /// The cluster; 0 for none.
        cluster: u128,
        /// Its incarnation.
        incarnation: u32,
    },
    /// To a join.
    Joined {
        /// The cluster.
        cluster: u128,
        /// The nodes.
        peers: Vec<Peer>,
        /// The snapshot to copy.
        base: Base,
    },
    /// To a change.
    Outcome(Outcome),
    /// To a read.
    Rows {
        /// In order.
        rows: Vec<ListedRow>,
        /// There are more after the last one.
        more: bool,
    },
    /// To a status: JSON.
    Status(Bytes),
    /// To a base.
    Base(Base),
    /// To a question about the time.
    Clock {
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// To a request of a person, as JSON.
    Control(Bytes),
}

impl NodeRequest {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        match self {
            Self::Probe => out.put_u8(1),
            Self::Reserve { provision } => {
                out.put_u8(2);
                out.put_u128(*provision);
            }
            Self::Join { name, storage, address } => {
                out.put_u8(3);
                out.put_slice(name.as_bytes());
                out.put_u128(storage.0);
                out.put_slice(address.as_bytes());
            }
            Self::Change(command) => {
                out.put_u8(4);
                out.put_slice(&encode_block(std::slice::from_ref(command)));
            }
            Self::Get { key } => {
                out.put_u8(5);
                out.put_slice(key.as_bytes());
            }
            Self::List { prefix, after } => {
                out.put_u8(6);
                out.put_slice(prefix.as_bytes());
                out.put_slice(after.as_bytes());
            }
            Self::Refused { reason } => {
                out.put_u8(7);
                out.put_slice(reason.as_bytes());
            }
            Self::Status => out.put_u8(8),
            Self::Base => out.put_u8(9),
            Self::GetAll { keys } => {
                out.put_u8(10);
                out.put_count(keys.len());
                keys.iter().for_each(|key| out.put_slice(key.as_bytes()));
            }
            Self::Relay(request) => {
                out.put_u8(RELAY);
                out.put_slice(&request.encode());
            }
            Self::HandOver { to } => {
                out.put_u8(11);
                out.put_slice(to.as_bytes());
            }
            Self::Clock => out.put_u8(12),
            Self::Control(json) => {
                out.put_u8(13);
                out.put_slice(json);
            }
        }
        out.into()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let request = match reader.u8()? {
            1 => Self::Probe,
            2 => Self::Reserve { provision: reader.u128()? },
            3 => Self::Join {
                name: reader.text()?,
                storage: StorageId(reader.u128()?),
                address: reader.text()?,
            },
            4 => {
                let mut commands = decode_block(reader.bytes()?)?;
                match (commands.pop(), commands.is_empty()) {
                    (Some(command), true) => Self::Change(command),
                    _ => return Err(DecodeError::Truncated),
                }
            }
            5 => Self::Get { key: reader.text()? },
            6 => Self::List { prefix: reader.text()?, after: reader.text()? },
            7 => Self::Refused { reason: reader.text()? },
            8 => Self::Status,
            9 => Self::Base,
            10 => Self::GetAll { keys: reader.list(KEY_BYTES_MIN, Reader::text)? },
            RELAY => match Self::decode_plain(reader.bytes()?)? {
                Some(request) => Self::Relay(Box::new(request)),
                None => {
                    return Err(DecodeError::UnknownKind { what: "a relayed request", tag: RELAY });
                }
            },
            11 => Self::HandOver { to: reader.text()? },
            12 => Self::Clock,
            13 => Self::Control(reader.bytes()?),
            tag => return Err(DecodeError::UnknownKind { what: "a request", tag }),
        };
        reader.end()?;
        Ok(request)
    }
}

impl NodeRequest {
    /// A request that is relayed no further: nesting has no depth.
    fn decode_plain(bytes: Bytes) -> Result<Option<Self>, DecodeError> {
        let is_relay = bytes.get(1) == Some(&RELAY);
        if is_relay { Ok(None) } else { Self::decode(bytes).map(Some) }
    }
}

fn put_base(out: &mut Vec<u8>, base: Base) {
    out.put_u64(base.segment);
    out.put_u64(base.bytes);
}

fn read_base(reader: &mut Reader) -> Result<Base, DecodeError> {
    Ok(Base { segment: reader.u64()?, bytes: reader.u64()? })
}

fn put_row(out: &mut Vec<u8>, (key, row): &ListedRow) {
    out.put_slice(key.as_bytes());
    out.put_u64(row.version);
    out.put_u8(u8::from(row.value.is_some()));
    if let Some(value) = &row.value {
        out.put_slice(value);
    }
}

fn read_row(reader: &mut Reader) -> Result<ListedRow, DecodeError> {
    let (key, version) = (reader.text()?, reader.u64()?);
    let value = match reader.u8()? {
        0 => None,
        _ => Some(reader.bytes()?),
    };
    Ok((key, Row { version, value }))
}

impl NodeAnswer {
    /// Its bytes.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one arm per request")]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        match self {
            Self::Done => out.put_u8(1),
            Self::Refused(reason) => {
                out.put_u8(2);
                out.put_slice(reason.as_bytes());
            }
            Self::Unavailable(reason) => {
                out.put_u8(3);
                out.put_slice(reason.as_bytes());
            }
            Self::NotLeader { leader } => {
                out.put_u8(4);
                out.put_slice(leader.as_ref().map_or(&[], |leader| leader.as_bytes()));
            }
            Self::Unknown => out.put_u8(5),
            Self::Probed { cluster, incarnation } => {
                out.put_u8(6);
                out.put_u128(*cluster);
                out.put_u32(*incarnation);
            }
            Self::Joined { cluster, peers, base } => {
                out.put_u8(7);
                out.put_u128(*cluster);
                put_base(&mut out, *base);
                out.put_count(peers.len());
                for Peer { name, address } in peers {
                    out.put_slice(name.as_bytes());
                    out.put_slice(address.as_bytes());
                }
            }
            Self::Outcome(outcome) => {
                out.put_u8(8);
                let mut bytes = Vec::new();
                outcome.encode(&mut bytes);
                out.put_slice(&bytes);
            }
            Self::Rows { rows, more } => {
                out.put_u8(9);
                out.put_u8(u8::from(*more));
                out.put_count(rows.len());
                rows.iter().for_each(|row| put_row(&mut out, row));
            }
            Self::Status(json) => {
                out.put_u8(10);
                out.put_slice(json);
            }
            Self::Base(base) => {
                out.put_u8(11);
                put_base(&mut out, *base);
            }
            Self::Clock { unix_ms } => {
                out.put_u8(12);
                out.put_u64(*unix_ms);
            }
            Self::Control(json) => {
                out.put_u8(13);
                out.put_slice(json);
            }
        }
        out.into()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let answer = match reader.u8()? {
            1 => Self::Done,
            2 => Self::Refused(reader.text()?),
            3 => Self::Unavailable(reader.text()?),
            4 => {
                let leader = reader.text()?;
                Self::NotLeader { leader: (!leader.is_empty()).then_some(leader) }
            }
            5 => Self::Unknown,
            6 => Self::Probed { cluster: reader.u128()?, incarnation: reader.u32()? },
            7 => Self::Joined {
                cluster: reader.u128()?,
                base: read_base(&mut reader)?,
                peers: reader.list(PEER_BYTES_MIN, |reader| {
                    Ok(Peer { name: reader.text()?, address: reader.text()? })
                })?,
            },
            8 => Self::Outcome(Outcome::decode(reader.bytes()?)?),
            9 => {
                let more = reader.u8()? != 0;
                Self::Rows { rows: reader.list(ROW_BYTES_MIN, read_row)?, more }
            }
            10 => Self::Status(reader.bytes()?),
            11 => Self::Base(read_base(&mut reader)?),
            12 => Self::Clock { unix_ms: reader.u64()? },
            13 => Self::Control(reader.bytes()?),
            tag => return Err(DecodeError::UnknownKind { what: "an answer", tag }),
        };
        reader.end()?;
        Ok(answer)
    }
}
