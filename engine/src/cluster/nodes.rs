//! The configuration of the nodes, and the members that should be.
//!
//! Must always hold: one entry per name; members change by one at a time, except from one to
//! three; only nodes that are ready are added.

use bytes::Bytes;
use bytestring::ByteString;

use crate::consensus::{DecodeError, Member, Put, Reader, Segment, StorageId};

/// The key of the configuration in the metadata.
pub const NODES_KEY: &str = "nodes";
/// Most nodes of a cluster: the members track this many copying nodes.
pub const NODES_MAX: usize = 16;
/// Nodes become members by themselves up to this number.
pub const MEMBERS_MAX: usize = 5;

/// The newest format of everything that the nodes share. It is raised by `finalize`, when all
/// nodes know it; until then nothing is written that an older node cannot read.
///
/// | format | adds |
/// |---|---|
/// | 1 | |
/// | 2 | drained nodes |
pub const CLUSTER_FORMAT: u8 = 2;
/// The format of a configuration that does not name it.
const FIRST_FORMAT: u8 = 1;
const ENTRY_BYTES_MIN: usize = 25;
/// Flags of a node.
const REMOVED: u8 = 1;
const DRAINED: u8 = 2;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name.
    pub name: ByteString,
    /// Its data directory. 0 until it joins.
    pub storage: StorageId,
    /// Where it is reached; empty if it only dials.
    pub address: ByteString,
    /// It was removed: it follows and is no member.
    pub is_removed: bool,
    /// It leads only if no other member can.
    pub is_drained: bool,
}

/// The nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodesConfig {
    /// The format of what the nodes share, at most [`CLUSTER_FORMAT`].
    pub format: u8,
    /// Members that were asked for when the cluster was provisioned.
    pub wanted: u32,
    /// By name.
    pub nodes: Vec<NodeEntry>,
}

impl Default for NodesConfig {
    fn default() -> Self {
        Self { format: FIRST_FORMAT, wanted: 0, nodes: Vec::new() }
    }
}

/// Why a node may not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It was removed.
    #[error(
        "the node `{0}` was removed from the cluster: to let it join again, empty its data \
         directory and start it"
    )]
    Removed(ByteString),
    /// There are too many.
    #[error("the cluster has {NODES_MAX} nodes, which is the most: remove one that is gone")]
    TooMany,
}

impl NodesConfig {
    /// The entry of a node.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Enters a node, its data directory and its address. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`JoinError`]; nothing is changed.
    pub fn join(
        &mut self,
        name: &ByteString,
        storage: StorageId,
        address: &ByteString,
    ) -> Result<bool, JoinError> {
        let fresh = NodeEntry {
            name: name.clone(),
            storage,
            address: address.clone(),
            is_removed: false,
            is_drained: self.find(name).is_some_and(|node| node.is_drained),
        };
        let Some(at) = self.nodes.iter().position(|node| node.name == *name) else {
            if self.nodes.len() >= NODES_MAX {
                return Err(JoinError::TooMany);
            }
            self.nodes.push(fresh);
            self.nodes.sort_by(|one, other| one.name.cmp(&other.name));
            return Ok(true);
        };
        let node = &mut self.nodes[at];
        if node.is_removed && node.storage == storage {
            return Err(JoinError::Removed(name.clone()));
        }
        let is_new = *node != fresh;
        *node = fresh;
        Ok(is_new)
    }

    fn member(node: &NodeEntry) -> Member {
        Member { name: node.name.clone(), storage: node.storage }
    }

    /// The members of the next segment, if they should differ from the ones of `segment`.
    /// `is_ready` says which nodes have nearly everything and are reachable, `is_dead` which have
    /// not been reached for long: another node that is ready takes the place of such a member.
    #[must_use]
    pub fn next_members(
        &self,
        segment: &Segment,
        is_ready: impl Fn(StorageId) -> bool,
        is_dead: impl Fn(StorageId) -> bool,
    ) -> Option<Vec<Member>> {
        let members = &segment.members;
        let current = |node: &&NodeEntry| members.contains(&Self::member(node));
        let spare: Vec<Member> = self
            .nodes
            .iter()
            .filter(|node| !node.is_removed && !current(node) && is_ready(node.storage))
            .map(Self::member)
            .collect();
        for (at, member) in members.iter().enumerate() {
            let Some(entry) = self.find(&member.name) else { continue };
            let mut next = members.clone();
            if entry.storage != member.storage {
                // It has lost its disk: the new one takes its place when it is ready.
                if let Some(new) = spare.iter().find(|new| new.name == member.name) {
                    next[at] = new.clone();
                    return Some(next);
                }
            } else if entry.is_removed && members.len() > 1 {
                next.remove(at);
                return Some(next);
            }
        }
        // A node whose name is a member's takes that place only.
        let is_other = |new: &&Member| members.iter().all(|member| member.name != new.name);
        let spare: Vec<&Member> = spare.iter().filter(is_other).collect();
        let dead = members.iter().position(|member| is_dead(member.storage));
        if let (Some(at), Some(new)) = (dead, spare.first()) {
            let mut next = members.clone();
            next[at] = (*new).clone();
            return Some(next);
        }
        let added = self.added(members.len(), spare.len());
        let next = members.iter().chain(spare.into_iter().take(added));
        (added > 0).then(|| next.cloned().collect())
    }

    /// How many of the spare nodes become members: up to the number that was asked for, then to
    /// the next odd one.
    fn added(&self, members: usize, spare: usize) -> usize {
        let wanted = self.wanted as usize;
        match (members, spare) {
            (_, 0) => 0,
            (1, 1) => usize::from(wanted == 2),
            (1, _) => 2,
            _ if members < wanted => 1,
            _ if members >= MEMBERS_MAX => 0,
            // An even number that was not asked for becomes odd.
            _ if members.is_multiple_of(2) => usize::from(members != wanted),
            (_, 1) => 0,
            _ => 1,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![self.format];
        out.put_u32(self.wanted);
        out.put_count(self.nodes.len());
        for node in &self.nodes {
            out.put_slice(node.name.as_bytes());
            out.put_u128(node.storage.0);
            out.put_slice(node.address.as_bytes());
            let mut flags = 0;
            if node.is_removed {
                flags |= REMOVED;
            }
            if node.is_drained && self.format > FIRST_FORMAT {
                flags |= DRAINED;
            }
            out.put_u8(flags);
        }
        out.into()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let (mut reader, format) = Reader::up_to_format(bytes, CLUSTER_FORMAT)?;
        let wanted = reader.u32()?;
        let nodes = reader.list(ENTRY_BYTES_MIN, |reader| {
            let (name, storage) = (reader.text()?, StorageId(reader.u128()?));
            let (address, flags) = (reader.text()?, reader.u8()?);
            let is_removed = flags & REMOVED != 0;
            Ok(NodeEntry { name, storage, address, is_removed, is_drained: flags & DRAINED != 0 })
        })?;
        reader.end()?;
        Ok(Self { format, wanted, nodes })
    }
}
