//! The data that the group is opened with: the snapshot, and the sealed segments after it.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::consensus::{Entry, Identity, Limits, Recovered};
use forebay_engine::metadata::{Snapshot, State, decode_block};
use forebay_storage::consensus::Groups;

use crate::consensus::{ClusterError, METADATA_GROUP};

/// Bytes of entries that are read at a time.
const READ_BYTES: usize = 4 << 20;
/// A segment of the metadata: a snapshot is written for each.
const SEGMENT_BYTES_MAX: usize = 4 << 20;

/// The data that a group is opened with.
pub(in crate::consensus) struct Opened {
    pub(super) cluster: u128,
    pub(super) incarnation: u32,
    pub(super) identity: Identity,
    pub(super) limits: Limits,
    pub(super) recovered: Recovered,
    /// Everything below is in the state.
    pub(super) applied: u64,
    pub(super) state: State,
}

impl Opened {
    /// Everything below is in the state.
    pub(in crate::consensus) fn applied(&self) -> u64 {
        self.applied
    }
}

/// Reads the rows after a snapshot. A snapshot that is newer than the rows was copied from a peer
/// just before the node stopped: the group begins with it. Blocks.
pub(in crate::consensus) fn open(
    groups: &Arc<Groups>,
    snapshot: Snapshot,
) -> Result<Opened, ClusterError> {
    let Snapshot { cluster, incarnation, segment, mut state } = snapshot;
    let node = groups.node();
    let is_known = groups.groups().contains(&METADATA_GROUP);
    let newest = if is_known {
        groups.recover(METADATA_GROUP)?.segments.last().map_or(0, |last| last.number)
    } else {
        0
    };
    if newest < segment.number {
        let votes = segment.pid_of(&node.member()).is_some();
        groups.begin_group(METADATA_GROUP, segment.clone(), votes)?;
    }
    let recovered = groups.recover(METADATA_GROUP)?;
    let end = recovered.segments.last().map_or(segment.base, |last| last.base);
    let mut applied = segment.base;
    while applied < end {
        for row in groups.read(METADATA_GROUP, applied, end, READ_BYTES)? {
            if let Entry::Block(block) = row.entry {
                apply_block(&mut state, applied, block)?;
            }
            applied += 1;
        }
    }
    let limits = Limits { segment_bytes_max: SEGMENT_BYTES_MAX, ..Limits::default() };
    let identity = node.identity(cluster, incarnation, METADATA_GROUP);
    Ok(Opened { cluster, incarnation, identity, limits, recovered, applied, state })
}

/// Applies a block without watches or answers.
fn apply_block(state: &mut State, index: u64, block: Bytes) -> Result<(), ClusterError> {
    let commands = decode_block(block)
        .map_err(|error| ClusterError::Block { index, reason: error.to_string() })?;
    for command in &commands {
        state.apply(index, command, &mut Vec::new());
    }
    Ok(())
}
