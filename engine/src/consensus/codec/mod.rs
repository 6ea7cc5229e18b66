//! Bytes of envelopes, rows and writes.
//!
//! Must always hold: encoded values decode to the same value; any other bytes are an error, never a
//! panic, and never allocate more than their own size. A decoded block is not copied: it is a slice
//! of the message. The first byte is the format version.

mod paxos;
mod reader;
mod value;

use bytes::Bytes;

use super::chain::{ChainHash, StorageId};
use super::input::Write;
use super::message::{Body, Envelope, Heartbeat, Hello, Row, Session};

pub(crate) use reader::Reader;
pub(crate) use value::{Put, put_segment, read_segment};

/// Format version that is written, and the newest one that can be read.
pub const FORMAT: u8 = 1;

/// Why bytes do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the bytes end early")]
    Truncated,
    /// Bytes are left after the value.
    #[error("{0} bytes are left")]
    Trailing(usize),
    /// A kind that this version does not know.
    #[error("{what} has no kind {tag}")]
    UnknownKind {
        /// The type.
        what: &'static str,
        /// The byte.
        tag: u8,
    },
    /// A name is not UTF-8.
    #[error("a name is not text")]
    NotText,
    /// Written by a newer version.
    #[error("format {0} is newer than this version; use a newer forebay")]
    NewerFormat(u8),
}

impl Envelope {
    /// Appends the encoded envelope.
    ///
    /// # Panics
    /// On a message of an unused part of the crate: a group never sends one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        out.put_u128(self.cluster);
        out.put_u32(self.incarnation);
        out.put_u32(self.group);
        out.put_u128(self.segment.0);
        out.put_u128(self.from.0);
        out.put_u128(self.to.0);
        out.put_u64(self.session.0);
        put_body(out, &self.body);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let envelope = Self {
            cluster: reader.u128()?,
            incarnation: reader.u32()?,
            group: reader.u32()?,
            segment: ChainHash(reader.u128()?),
            from: StorageId(reader.u128()?),
            to: StorageId(reader.u128()?),
            session: Session(reader.u64()?),
            body: read_body(&mut reader)?,
        };
        reader.end()?;
        Ok(envelope)
    }
}

fn put_body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Hello(hello) => {
            out.put_u8(1);
            value::put_member(out, &hello.member);
            out.put_u64(hello.boot);
            out.put_u64(hello.nonce);
            value::put_standing(out, hello.standing);
            out.put_u64(hello.decided);
        }
        Body::Welcome => out.put_u8(2),
        Body::Heartbeat(heartbeat) => {
            out.put_u8(3);
            paxos::put_heartbeat(out, &heartbeat.message);
            value::put_standing(out, heartbeat.standing);
        }
        Body::Paxos(message) => {
            out.put_u8(4);
            paxos::put_message(out, message);
        }
        Body::Behind { decided } => {
            out.put_u8(5);
            out.put_u64(*decided);
        }
        Body::Copy { from, durable } => {
            out.put_u8(6);
            out.put_u64(*from);
            out.put_u64(*durable);
        }
        Body::Rows { first, rows, decided } => {
            out.put_u8(7);
            out.put_u64(*first);
            out.put_u64(*decided);
            out.put_count(rows.len());
            rows.iter().for_each(|row| value::put_row(out, row));
        }
        Body::TooOld { oldest } => {
            out.put_u8(8);
            out.put_u64(*oldest);
        }
        Body::TakeOver => out.put_u8(9),
    }
}

fn read_body(reader: &mut Reader) -> Result<Body, DecodeError> {
    Ok(match reader.u8()? {
        1 => Body::Hello(Hello {
            member: value::read_member(reader)?,
            boot: reader.u64()?,
            nonce: reader.u64()?,
            standing: value::read_standing(reader)?,
            decided: reader.u64()?,
        }),
        2 => Body::Welcome,
        3 => Body::Heartbeat(Heartbeat {
            message: paxos::read_heartbeat(reader)?,
            standing: value::read_standing(reader)?,
        }),
        4 => Body::Paxos(paxos::read_message(reader)?),
        5 => Body::Behind { decided: reader.u64()? },
        6 => Body::Copy { from: reader.u64()?, durable: reader.u64()? },
        7 => {
            let (first, decided) = (reader.u64()?, reader.u64()?);
            let rows = reader.list(value::ROW_BYTES_MIN, value::read_row)?;
            Body::Rows { first, rows, decided }
        }
        8 => Body::TooOld { oldest: reader.u64()? },
        9 => Body::TakeOver,
        tag => return Err(DecodeError::UnknownKind { what: "a message", tag }),
    })
}

impl Row {
    /// Appends the encoded row, in the format of a stored row.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        value::put_row(out, self);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let row = value::read_row(&mut reader)?;
        reader.end()?;
        Ok(row)
    }
}

impl Write {
    /// Appends writes that must be applied together, as one record of a journal.
    pub fn encode_all(writes: &[Self], out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        out.put_count(writes.len());
        writes.iter().for_each(|write| value::put_write(out, write));
    }

    /// The inverse of [`Self::encode_all`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode_all(bytes: Bytes) -> Result<Vec<Self>, DecodeError> {
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let writes = reader.list(1, value::read_write)?;
        reader.end()?;
        Ok(writes)
    }

    /// Appends the encoded value: the data of a group in addition to its rows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        value::put_write(out, self);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let write = value::read_write(&mut reader)?;
        reader.end()?;
        Ok(write)
    }
}
