//! The format byte, common to all values of this machine.

use bytes::Bytes;

use crate::consensus::{DecodeError, Reader};

use super::command::FORMAT;

pub(super) fn begin(bytes: Bytes) -> Result<Reader, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        FORMAT => Ok(reader),
        0 => Err(DecodeError::UnknownKind { what: "the format", tag: 0 }),
        newer => Err(DecodeError::NewerFormat(newer)),
    }
}
