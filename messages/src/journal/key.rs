//! The key of a row: branch path, name, occurrence within the branch.
//!
//! Must always hold: equal parts have equal bytes and different parts have different bytes: every
//! part has a fixed length or is preceded by its length. Keys are ordered by their bytes; the order
//! has no other meaning.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use thiserror::Error;

use super::{BRANCH_DEPTH_MAX, BRANCH_KEY_LEN_MAX, NAME_LEN_MAX};

/// The kind of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BranchKind {
    /// A member of a join.
    Join = 1,
    /// A member of a select.
    Select = 2,
    /// A branch with a key that the handler gave.
    Branch = 3,
}

/// One element of the path of a branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchElement {
    /// The kind of branch.
    pub kind: BranchKind,
    /// Which join, select or branch of its parent, from 0.
    pub occurrence: u32,
    /// Its member: the position (4 bytes, big-endian), or the given key.
    pub member: Bytes,
}

impl BranchElement {
    /// The member at a position of a join or select.
    #[must_use]
    pub fn at(kind: BranchKind, occurrence: u32, position: u32) -> Self {
        Self { kind, occurrence, member: Bytes::copy_from_slice(&position.to_be_bytes()) }
    }

    /// A branch with a key.
    #[must_use]
    pub fn keyed(occurrence: u32, key: &str) -> Self {
        let member = Bytes::copy_from_slice(key.as_bytes());
        Self { kind: BranchKind::Branch, occurrence, member }
    }
}

/// The parts of a [`JournalKey`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyParts {
    /// From the handler's own future inwards; empty outside of branches.
    pub branch: Vec<BranchElement>,
    /// The operation's name.
    pub name: ByteString,
    /// Which operation of this name in its branch, from 0.
    pub occurrence: u32,
}

/// Why parts or bytes are not a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The name is empty.
    #[error("the name of a step, call, sleep or promise is empty; it needs 1 to 128 bytes")]
    NameEmpty,
    /// The name is too long.
    #[error("the name of a step, call, sleep or promise has {len} bytes; 128 are allowed")]
    NameTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// Too many branches within branches.
    #[error("branches are nested {depth} deep; 16 are allowed")]
    TooDeep {
        /// The depth.
        depth: usize,
    },
    /// The key given to a branch is too long.
    #[error("the key of a branch has {len} bytes; 128 are allowed")]
    BranchKeyTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// The bytes do not decode.
    #[error("a journal key is damaged")]
    Damaged,
}

/// The position of a row in the journal of its entry, as bytes: the number of path elements (1),
/// each as kind (1), occurrence (4), length of the member (2) and the member; then the length of
/// the name (2), the name, and the occurrence (4). Numbers are big-endian.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalKey(Bytes);

impl KeyParts {
    /// The parts of an operation outside of branches.
    #[must_use]
    pub fn named(name: &str, occurrence: u32) -> Self {
        Self { branch: Vec::new(), name: ByteString::from(name), occurrence }
    }

    /// As bytes.
    ///
    /// # Errors
    /// [`KeyError`] with the part that exceeds its limit.
    pub fn key(&self) -> Result<JournalKey, KeyError> {
        let (depth, len) = (self.branch.len(), self.name.len());
        if depth > BRANCH_DEPTH_MAX {
            return Err(KeyError::TooDeep { depth });
        }
        if self.name.is_empty() {
            return Err(KeyError::NameEmpty);
        }
        if len > NAME_LEN_MAX {
            return Err(KeyError::NameTooLong { len });
        }
        let mut bytes = Vec::with_capacity(16 + len + 16 * depth);
        bytes.push(u8::try_from(depth).map_err(|_| KeyError::TooDeep { depth })?);
        for BranchElement { kind, occurrence, member } in &self.branch {
            let len = member.len();
            if len > BRANCH_KEY_LEN_MAX {
                return Err(KeyError::BranchKeyTooLong { len });
            }
            bytes.push(*kind as u8);
            bytes.extend_from_slice(&occurrence.to_be_bytes());
            put_part(&mut bytes, member);
        }
        put_part(&mut bytes, self.name.as_bytes());
        bytes.extend_from_slice(&self.occurrence.to_be_bytes());
        Ok(JournalKey(bytes.into()))
    }
}

fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    let len = u16::try_from(part.len()).expect("a bounded part is short");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(part);
}

/// The rest of bytes that are read from the front.
struct Reader(Bytes);

impl Reader {
    fn take(&mut self, len: usize) -> Option<Bytes> {
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        bytes.as_ref().try_into().ok().map(u32::from_be_bytes)
    }

    fn part(&mut self) -> Option<Bytes> {
        let len = self.take(2)?;
        let len = len.as_ref().try_into().ok().map(u16::from_be_bytes)?;
        self.take(usize::from(len))
    }

    fn element(&mut self) -> Option<BranchElement> {
        let kind = match self.byte()? {
            1 => BranchKind::Join,
            2 => BranchKind::Select,
            3 => BranchKind::Branch,
            _ => return None,
        };
        Some(BranchElement { kind, occurrence: self.number()?, member: self.part()? })
    }

    fn parts(mut self) -> Option<KeyParts> {
        let depth = self.byte()?;
        let branch = (0..depth).map(|_| self.element()).collect::<Option<_>>()?;
        let name = ByteString::try_from(self.part()?).ok()?;
        let occurrence = self.number()?;
        self.0.is_empty().then_some(KeyParts { branch, name, occurrence })
    }
}

impl JournalKey {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The inverse of [`Self::as_bytes`].
    ///
    /// # Errors
    /// [`KeyError`] when these are not the bytes of a key.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, KeyError> {
        let parts = Reader(bytes.clone()).parts().ok_or(KeyError::Damaged)?;
        let key = parts.key()?;
        if key.0 == bytes { Ok(key) } else { Err(KeyError::Damaged) }
    }

    /// Its parts. Those of a default key, which stands for no key, are empty.
    #[must_use]
    pub fn parts(&self) -> KeyParts {
        Reader(self.0.clone()).parts().unwrap_or_default()
    }

    /// The operation's name.
    #[must_use]
    pub fn name(&self) -> ByteString {
        self.parts().name
    }
}

/// Display form: `join.0[1]/charge.2`; an occurrence 0 of the name is left out.
impl fmt::Display for JournalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyParts { branch, name, occurrence } = self.parts();
        for BranchElement { kind, occurrence, member } in branch {
            let position = <[u8; 4]>::try_from(member.as_ref()).map(u32::from_be_bytes);
            match (kind, position) {
                (BranchKind::Join, Ok(position)) => write!(f, "join.{occurrence}[{position}]/")?,
                (BranchKind::Select, Ok(position)) => {
                    write!(f, "select.{occurrence}[{position}]/")?;
                }
                _ => {
                    let key = String::from_utf8_lossy(&member);
                    write!(f, "branch.{occurrence}[{key}]/")?;
                }
            }
        }
        f.write_str(&name)?;
        if occurrence > 0 { write!(f, ".{occurrence}") } else { Ok(()) }
    }
}

impl fmt::Debug for JournalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JournalKey({self})")
    }
}

impl bilrost::encoding::Proxiable for JournalKey {
    type Proxy = Bytes;

    fn encode_proxy(&self) -> Bytes {
        self.0.clone()
    }

    fn decode_proxy(&mut self, proxy: Bytes) -> Result<(), bilrost::DecodeErrorKind> {
        *self = match proxy.is_empty() {
            true => Self::default(),
            false => {
                let key = Self::from_bytes(proxy);
                key.map_err(|_| bilrost::DecodeErrorKind::InvalidValue)?
            }
        };
        Ok(())
    }
}

impl bilrost::encoding::ForOverwrite<(), JournalKey> for () {
    fn for_overwrite() -> JournalKey {
        JournalKey::default()
    }
}

impl bilrost::encoding::EmptyState<(), JournalKey> for () {
    fn is_empty(value: &JournalKey) -> bool {
        value.0.is_empty()
    }

    fn clear(value: &mut JournalKey) {
        *value = JournalKey::default();
    }
}

bilrost::delegate_proxied_encoding!(
    use encoding (bilrost::encoding::General)
    to encode proxied type (JournalKey)
    with general encodings
);
