//! Commands: changes requested by a client, and the blocks in which they are decided.

use std::collections::BTreeSet;

use bytes::Bytes;
use bytestring::ByteString;

use crate::consensus::{DecodeError, Put, Reader};

/// Maximum length of a key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Maximum number of keys that one command changes.
pub const CHANGES_MAX: usize = 64;
/// Maximum number of bytes of the keys and values of a command.
pub const COMMAND_BYTES_MAX: usize = 2 << 20;
/// Maximum number of commands of a block.
pub const BLOCK_COMMANDS_MAX: usize = 256;

/// The format of blocks.
pub(super) const FORMAT: u8 = 1;
/// The shortest change: an empty key, a deletion, no precondition.
const CHANGE_BYTES_MIN: usize = 6;
/// The shortest command.
const COMMAND_BYTES_MIN: usize = 36;

/// Identifies a client: random, drawn when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u128);

/// A condition on a key under which a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No condition.
    Anything,
    /// The key has no value.
    Absent,
    /// The key has a value of exactly this version.
    Version(u64),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: ByteString,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// The precondition.
    pub expected: Expected,
}

/// Changes that are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The client.
    pub client: ClientId,
    /// An index that was applied when the client started: distinguishes a new client from an
    /// evicted one.
    pub since: u64,
    /// Number of the request; the same one when it is sent again.
    pub request: u64,
    /// The changes, of different keys.
    pub changes: Vec<Change>,
}

/// Why a command is refused before it is proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// An invalid key.
    #[error("`{0}` is not a metadata key: 1 to 256 printable ASCII characters without spaces")]
    Key(String),
    /// It contains a key twice.
    #[error("the key `{0}` is changed twice by one command")]
    Twice(String),
    /// No change, or too many.
    #[error("a command changes {0} keys: it must change 1 to 64")]
    Count(usize),
    /// Too many bytes.
    #[error("a command has {0} bytes of keys and values, at most 2 MiB are possible")]
    TooLong(usize),
}

impl Command {
    /// Whether it can be proposed.
    ///
    /// # Errors
    /// [`InvalidCommand`].
    pub fn check(&self) -> Result<(), InvalidCommand> {
        let count = self.changes.len();
        if !(1..=CHANGES_MAX).contains(&count) {
            return Err(InvalidCommand::Count(count));
        }
        let mut keys = BTreeSet::new();
        for Change { key, .. } in &self.changes {
            let is_text = key.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_text || !(1..=KEY_BYTES_MAX).contains(&key.len()) {
                return Err(InvalidCommand::Key(key.to_string()));
            }
            if !keys.insert(key) {
                return Err(InvalidCommand::Twice(key.to_string()));
            }
        }
        match self.weight() {
            bytes if bytes > COMMAND_BYTES_MAX => Err(InvalidCommand::TooLong(bytes)),
            _ => Ok(()),
        }
    }

    /// Bytes of its keys and values.
    #[must_use]
    pub fn weight(&self) -> usize {
        let bytes =
            |change: &Change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
        self.changes.iter().map(bytes).sum()
    }

    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u128(self.client.0);
        out.put_u64(self.since);
        out.put_u64(self.request);
        out.put_count(self.changes.len());
        for change in &self.changes {
            out.put_slice(change.key.as_bytes());
            match change.expected {
                Expected::Anything => out.put_u8(0),
                Expected::Absent => out.put_u8(1),
                Expected::Version(version) => {
                    out.put_u8(2);
                    out.put_u64(version);
                }
            }
            put_value(out, change.value.as_ref());
        }
    }

    /// The inverse of [`Self::encode`].
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            client: ClientId(reader.u128()?),
            since: reader.u64()?,
            request: reader.u64()?,
            changes: reader.list(CHANGE_BYTES_MIN, read_change)?,
        })
    }
}

pub(super) fn put_value(out: &mut Vec<u8>, value: Option<&Bytes>) {
    match value {
        None => out.put_u8(0),
        Some(value) => {
            out.put_u8(1);
            out.put_slice(value);
        }
    }
}

pub(super) fn read_value(reader: &mut Reader) -> Result<Option<Bytes>, DecodeError> {
    match reader.u8()? {
        0 => Ok(None),
        1 => Ok(Some(reader.bytes()?)),
        tag => Err(DecodeError::UnknownKind { what: "a value", tag }),
    }
}

fn read_change(reader: &mut Reader) -> Result<Change, DecodeError> {
    let key = reader.text()?;
    let expected = match reader.u8()? {
        0 => Expected::Anything,
        1 => Expected::Absent,
        2 => Expected::Version(reader.u64()?),
        tag => return Err(DecodeError::UnknownKind { what: "a precondition", tag }),
    };
    Ok(Change { key, value: read_value(reader)?, expected })
}

/// The bytes of a block: commands that are decided together and applied in this order.
#[must_use]
pub fn encode_block(commands: &[Command]) -> Bytes {
    let mut out = vec![FORMAT];
    out.put_count(commands.len());
    commands.iter().for_each(|command| command.encode(&mut out));
    out.into()
}

/// The inverse of [`encode_block`].
///
/// # Errors
/// When the bytes are invalid.
pub fn decode_block(bytes: Bytes) -> Result<Vec<Command>, DecodeError> {
    let mut reader = Reader::of_format(bytes, FORMAT)?;
    let commands = reader.list(COMMAND_BYTES_MIN, Command::read)?;
    reader.end()?;
    Ok(commands)
}
