//! The identity of a node: its name, its data directory, and the number of this start.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format |
//! | 16 | the data directory |
//! | 8 | number of starts |
//! | 8 | the nonce of the last start |
//! | the rest | name of the node, UTF-8 |
//!
//! Numbers are big-endian. Must always hold: golden tests pin these bytes; a data directory never
//! changes its id or its node.

use bytestring::ByteString;
use forebay_engine::consensus::{Identity, Member, StorageId};

use crate::log::Database;

use super::{ConsensusError, keys};

const FORMAT: u8 = 1;
const NAME_AT: usize = 33;

/// Longest name of a node, in bytes.
const NAME_LEN_MAX: usize = 255;

/// Input for a start of a node.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// A random number: becomes the id of the data directory if it has none yet.
    pub fresh_storage: StorageId,
    /// Random number of this start.
    pub nonce: u64,
}

/// A node in one of its starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: ByteString,
    /// Its data directory.
    pub storage: StorageId,
    /// Number of its starts with this data directory, from 1.
    pub boot: u64,
    /// Random number of this start.
    pub nonce: u64,
}

impl Node {
    /// The node as a member of groups.
    #[must_use]
    pub fn member(&self) -> Member {
        Member { name: self.name.clone(), storage: self.storage }
    }

    /// The node as a member of one group.
    #[must_use]
    pub fn identity(&self, cluster: u128, incarnation: u32, group: u32) -> Identity {
        let (me, boot, nonce) = (self.member(), self.boot, self.nonce);
        Identity { cluster, incarnation, group, me, boot, nonce }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.storage.0.to_be_bytes());
        bytes.extend(self.boot.to_be_bytes());
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(self.name.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ConsensusError> {
        let damaged = |reason: &str| ConsensusError::DamagedIdentity { reason: reason.to_owned() };
        match bytes.first() {
            Some(&FORMAT) => {}
            None | Some(0) => return Err(damaged("it has no format")),
            Some(newer) => {
                let row = "the identity of the data directory".to_owned();
                return Err(ConsensusError::Newer { row, found: *newer });
            }
        }
        let short = || damaged("it is too short");
        let field = |from, to| bytes.get(from..to).ok_or_else(short);
        let number = |from| -> Result<u64, ConsensusError> {
            let bytes = field(from, from + 8)?.try_into().map_err(|_| short())?;
            Ok(u64::from_be_bytes(bytes))
        };
        let storage = field(1, 17)?.try_into().map_err(|_| short())?;
        let name = bytes.get(NAME_AT..).ok_or_else(short)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged("the name is not text"))?;
        check_name(name).map_err(|_| damaged("the name has a wrong length"))?;
        let storage = StorageId(u128::from_be_bytes(storage));
        Ok(Self { name: name.into(), storage, boot: number(17)?, nonce: number(25)? })
    }
}

fn check_name(name: &str) -> Result<(), ConsensusError> {
    let (len, max) = (name.len(), NAME_LEN_MAX);
    let is_fine = (1..=max).contains(&len);
    is_fine.then_some(()).ok_or(ConsensusError::BadName { len, max })
}

/// The next start of the node that owns this database. Writes nothing.
pub(super) fn next(database: &Database, start: &Start<'_>) -> Result<Node, ConsensusError> {
    check_name(start.name)?;
    let row = database.db().get(keys::IDENTITY);
    let row = row.map_err(|error| database.fault("read the identity of the node", error))?;
    let Some(row) = row else {
        let (storage, nonce) = (start.fresh_storage, start.nonce);
        return Ok(Node { name: start.name.into(), storage, boot: 1, nonce });
    };
    let known = Node::decode(&row)?;
    if known.name != start.name {
        let (of, name) = (known.name.to_string(), start.name.to_owned());
        return Err(ConsensusError::AnotherNode { of, name });
    }
    let boot = known.boot.checked_add(1).ok_or_else(|| ConsensusError::DamagedIdentity {
        reason: "its count of starts is at the maximum".to_owned(),
    })?;
    Ok(Node { boot, nonce: start.nonce, ..known })
}
