//! Opening a group over its stored data.

use std::collections::BTreeMap;

use crate::consensus::chain::Segment;
use crate::consensus::input::Leadership;
use crate::consensus::limits::Limits;
use crate::consensus::rows::{Identity, Recovered};
use crate::consensus::store::{Durable, Mirror, Store};

use super::watch::Watch;
use super::{Group, Role};

/// Why a group is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The storage lost entries that were applied.
    #[error(
        "group {group}: entries up to {applied} were applied, but the log ends at {end}: \
         the log lost what it had synced; replace this data directory"
    )]
    LogTooShort {
        /// The group.
        group: u32,
        /// Applied by the driver.
        applied: u64,
        /// End of the durable log.
        end: u64,
    },
    /// A row does not continue the running hash of the previous ones.
    #[error(
        "group {group}: entry {index} does not continue the one before: the log is damaged; \
         replace this data directory"
    )]
    Damaged {
        /// The group.
        group: u32,
        /// Its index.
        index: u64,
    },
    /// There is no segment.
    #[error("group {group} has no segment: it was not made here")]
    NoSegment {
        /// The group.
        group: u32,
    },
}

impl Group {
    /// Opens a group. The driver has applied every entry below `applied`; entries of sealed
    /// segments that it has not applied it first reads from its storage.
    ///
    /// # Errors
    /// When stored data was lost or damaged.
    pub fn open(
        identity: Identity,
        limits: Limits,
        recovered: Recovered,
        applied: u64,
    ) -> Result<Self, OpenError> {
        let group = identity.group;
        let current = recovered.segments.last().ok_or(OpenError::NoSegment { group })?.clone();
        let end = check_rows(&current, &recovered, group)?;
        if applied > end {
            return Err(OpenError::LogTooShort { group, applied, end });
        }
        let segments = recovered.segments.iter().cloned().collect();
        let votes = recovered.votes && current.pid_of(&identity.me).is_some();
        let peers = recovered.peers.iter().map(|peer| (peer.storage, *peer)).collect();
        let mut mirror = Mirror::new(current.base, current.base_hash);
        mirror.restore(recovered);
        let standing = mirror.standing(current.number);
        let is_sealed = mirror.seal().is_some_and(|seal| seal < mirror.decided);
        let mut group = Self {
            identity,
            limits,
            segments,
            seat: Role::Follows,
            store: Store::new(mirror),
            durable: Durable::new(end, standing),
            links: BTreeMap::new(),
            peers,
            now: 0,
            walked: current.base,
            skip_below: applied,
            requests: super::propose::Requests::default(),
            copy: None,
            learners: BTreeMap::new(),
            watch: Watch::default(),
            term: None,
            reported: Leadership::Follows(None),
            is_welcomed: false,
            heartbeat_round: 0,
            fresh_until: None,
            rolling_until: None,
            handing_over_until: None,
            dropped: 0,
            effects: Vec::new(),
            scratch: Vec::new(),
        };
        group.watch.applied(applied, 0);
        // A segment known to be sealed needs no instance.
        if votes && !is_sealed {
            group.seat = group.build();
            group.call(|_| ());
        }
        Ok(group)
    }
}

fn check_rows(current: &Segment, recovered: &Recovered, group: u32) -> Result<u64, OpenError> {
    let mut hash = current.base_hash;
    let mut index = current.base;
    for row in &recovered.rows {
        hash = hash.after(&row.entry);
        if hash != row.hash {
            return Err(OpenError::Damaged { group, index });
        }
        index += 1;
    }
    if recovered.decided > index {
        return Err(OpenError::LogTooShort { group, applied: recovered.decided, end: index });
    }
    Ok(index)
}
