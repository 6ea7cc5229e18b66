//! Reading numbers, bytes and lists.

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::DecodeError;

pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.0.try_get_u64().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.0.try_get_u128().map_err(|_| DecodeError::Truncated)
    }

    /// An index as the crate counts them (`usize`).
    pub(super) fn index(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.u64()?).map_err(|_| DecodeError::Truncated)
    }

    /// A slice of the message.
    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn text(&mut self) -> Result<ByteString, DecodeError> {
        ByteString::try_from(self.bytes()?).map_err(|_| DecodeError::NotText)
    }

    /// A list whose items have at least `bytes_min` bytes each.
    pub(super) fn list<T>(
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

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}
