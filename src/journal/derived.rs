//! Time, random numbers and ids that are the same in a replay.
//!
//! They are derived from the entry, its run and the place in the handler, so nothing is written for
//! them.

use bytestring::ByteString;
use forebay_messages::Timestamp;

use super::{Journal, OperationError};

/// Draws are counted under this name, like the operations of a name. No operation of a handler has
/// a name with such a character by accident.
const DRAW: ByteString = ByteString::from_static("\u{0}random");

impl Journal {
    /// The time of the record with the last delivered outcome.
    pub(crate) fn now(&self) -> Timestamp {
        self.state().now()
    }

    fn draw(&self) -> Result<[u8; 16], OperationError> {
        let branch = self.branch("random")?;
        let key = self.state().next_key(branch, &DRAW)?;
        Ok(self.step_id(key, None).hash())
    }

    /// A random number.
    pub(crate) fn random(&self) -> Result<u64, OperationError> {
        let [a, b, c, d, e, f, g, h, ..] = self.draw()?;
        Ok(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// A UUID of version 8 (RFC 9562: its bits are the application's).
    pub(crate) fn uuid(&self) -> Result<[u8; 16], OperationError> {
        let mut bytes = self.draw()?;
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(bytes)
    }
}
