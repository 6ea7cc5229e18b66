//! After a lost majority: one member continues alone with everything that it accepted.

use std::path::Path;
use std::sync::Arc;

use forebay_engine::consensus::StorageId;
use forebay_storage::consensus::{Bases, Groups, Start};
use forebay_storage::log::LocalLog;
use forebay_storage::{DataDir, Medium};

use super::{ClusterError, METADATA_GROUP, node};

/// How far a member is: of all that survive, the one with the greatest round, and among those
/// the greatest accepted index, is to be recovered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The cluster.
    pub cluster: u128,
    /// Its incarnation; one more after a recovery.
    pub incarnation: u32,
    /// Number of the segment.
    pub segment: u64,
    /// The ballot of the last acceptance: number, priority, pid.
    pub round: (u32, u32, u64),
    /// The end of the accepted entries.
    pub accepted: u64,
    /// The end of the entries that are known as decided.
    pub decided: u64,
    /// The members.
    pub members: Vec<String>,
    /// It was recovered now.
    pub is_done: bool,
}

/// Inspects a member that is not running, and with `accepts_loss` makes it continue alone. Entries
/// that others decided beyond its accepted ones are lost. Blocks.
///
/// # Errors
/// [`ClusterError`]; then nothing was changed, or the call can be repeated.
pub fn recover(path: &Path, name: &str, accepts_loss: bool) -> Result<Recovery, ClusterError> {
    let dir = DataDir::open_existing(path)?;
    let log = LocalLog::open(&dir.log(), &Medium::disk())?;
    let (fresh_storage, nonce) = (StorageId(node::random()), node::random() as u64);
    let groups = Arc::new(Groups::start(&dir, &log, &Start { name, fresh_storage, nonce })?);
    let bases = Bases::of(&dir);
    let is_member = groups.groups().contains(&METADATA_GROUP);
    let Some((mut snapshot, _)) = bases.newest()?.filter(|_| is_member) else {
        let text = format!("{name} is part of no cluster: there is nothing to recover");
        return Err(ClusterError::Refused(text));
    };
    let recovered = groups.recover(METADATA_GROUP)?;
    let last = recovered.segments.last().ok_or_else(|| no_segment(name))?;
    let round = recovered.round.map_or((0, 0, 0), |ballot| (ballot.n, ballot.priority, ballot.pid));
    let mut recovery = Recovery {
        cluster: snapshot.cluster,
        incarnation: snapshot.incarnation,
        segment: last.number,
        round,
        accepted: last.base + recovered.rows.len() as u64,
        decided: recovered.decided,
        members: last.members.iter().map(|member| member.name.to_string()).collect(),
        is_done: false,
    };
    if accepts_loss {
        // First the incarnation: from here on old members are strangers.
        snapshot.incarnation += 1;
        bases.write(&snapshot)?;
        groups.continue_alone(METADATA_GROUP)?;
        recovery.incarnation = snapshot.incarnation;
        recovery.is_done = true;
    }
    Ok(recovery)
}

fn no_segment(name: &str) -> ClusterError {
    ClusterError::Refused(format!("{name} has no segment: there is nothing to recover"))
}
