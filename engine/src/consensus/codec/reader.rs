//! Reading numbers, bytes and lists.

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::DecodeError;

pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// A reader of bytes that begin with this format.
    pub(crate) fn of_format(bytes: Bytes, format: u8) -> Result<Self, DecodeError> {
        match Self::up_to_format(bytes, format)? {
            (reader, found) if found == format => Ok(reader),
            (_, other) => Err(DecodeError::NewerFormat(other)),
        }
    }

    /// As [`Self::of_format`], of this format or an earlier one. Also returns which.
    pub(crate) fn up_to_format(bytes: Bytes, newest: u8) -> Result<(Self, u8), DecodeError> {
        let mut reader = Self(bytes);
        match reader.u8()? {
            0 => Err(DecodeError::UnknownKind { what: "the format", tag: 0 }),
            found if found <= newest => Ok((reader, found)),
            newer => Err(DecodeError::NewerFormat(newer)),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.0.try_get_u64().map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.0.try_get_u128().map_err(|_| DecodeError::Truncated)
    }

    /// An index as the crate counts them (`usize`).
    pub(crate) fn index(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.u64()?).map_err(|_| DecodeError::Truncated)
    }

    /// A slice of the message.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn text(&mut self) -> Result<ByteString, DecodeError> {
        ByteString::try_from(self.bytes()?).map_err(|_| DecodeError::NotText)
    }

    /// A list whose items have at least `bytes_min` bytes each.
    pub(crate) fn list<T>(
        &mut self,
        bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / bytes_min {
            return Err(DecodeError::Truncated);
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}
