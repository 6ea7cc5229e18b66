//! Copying a snapshot from a peer, and beginning with one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forebay_engine::cluster::{Base, NodeAnswer, NodeRequest};
use forebay_engine::metadata::Snapshot;
use forebay_net::NodeName;

use crate::consensus::{ClusterError, METADATA_GROUP};

use super::life::blocking;
use super::shared::Shared;

/// Longest snapshot that is copied: the largest state, its requests, and room.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// Failures after which a copy begins again with another snapshot.
const FAILURES_MAX: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// The name of a snapshot as a source of a bulk read.
pub(super) fn source(segment: u64) -> Bytes {
    format!("metadata/{segment}").into()
}

/// The inverse of [`source`].
pub(super) fn segment_of(source: &[u8]) -> Option<u64> {
    std::str::from_utf8(source).ok()?.strip_prefix("metadata/")?.parse().ok()
}

/// Reads a snapshot of a peer, from the place where a failed attempt ended.
pub(super) async fn fetch(
    shared: &Shared,
    peer: &NodeName,
    base: Base,
) -> Result<Snapshot, String> {
    if base.bytes > SNAPSHOT_BYTES_MAX {
        return Err(format!("{peer} has a snapshot of {} bytes, which is too long", base.bytes));
    }
    let mut bytes = BytesMut::new();
    let mut failures = 0;
    while (bytes.len() as u64) < base.bytes {
        let Err(error) = fetch_more(shared, peer, base, &mut bytes).await else { continue };
        failures += 1;
        if failures == FAILURES_MAX {
            return Err(format!("the snapshot of {peer} cannot be copied: {error}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Snapshot::decode(bytes.freeze()).map_err(|error| format!("the snapshot of {peer}: {error}"))
}

async fn fetch_more(
    shared: &Shared,
    peer: &NodeName,
    base: Base,
    bytes: &mut BytesMut,
) -> Result<(), String> {
    let net = shared.net().ok_or("the network ends")?;
    let offset = bytes.len() as u64;
    let reading = net.read(peer, source(base.segment), offset);
    let mut reading = reading.map_err(|error| error.to_string())?;
    while (bytes.len() as u64) < base.bytes {
        match reading.next().await.map_err(|error| error.to_string())? {
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => return Err("it ends early".to_owned()),
        }
    }
    Ok(())
}

/// Takes over the snapshot of a peer, when this node lacks entries that were dropped there.
pub(super) async fn copy_newer(shared: &Arc<Shared>, peer: &NodeName) -> Result<(), String> {
    let answer = shared.ask_peer(peer, &NodeRequest::Base, ASK_WITHIN).await;
    let base = match answer.map_err(|error| error.to_string())? {
        NodeAnswer::Base(base) => base,
        other => return Err(format!("an answer to another request: {other:?}")),
    };
    let newest = {
        let shared = Arc::clone(shared);
        let read = move || Ok(shared.disk.groups.recover(METADATA_GROUP)?);
        let recovered = blocking(read).await.map_err(|error| error.to_string())?;
        recovered.segments.last().map_or(0, |segment| segment.number)
    };
    if base.segment <= newest {
        return Err(format!("{peer} has no newer snapshot"));
    }
    let snapshot = fetch(shared, peer, base).await?;
    if Some((snapshot.cluster, snapshot.incarnation)) != shared.cluster() {
        return Err(format!("{peer} has a snapshot of another cluster"));
    }
    let text = format!("a snapshot was copied from {peer}");
    shared.events.note("copied", Some(base.segment), text);
    let shared = Arc::clone(shared);
    let write = move || Ok(shared.disk.bases.write(&snapshot).map(drop)?);
    blocking(write).await.map_err(|error| error.to_string())
}

/// Only one snapshot makes a node part of a cluster.
static BEGINNING: Mutex<()> = Mutex::new(());

/// Makes this node part of a cluster, durably: first the snapshot, then the group.
pub(super) async fn begin(shared: &Arc<Shared>, snapshot: Snapshot) -> Result<(), ClusterError> {
    let shared = Arc::clone(shared);
    blocking(move || {
        let _one = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = &shared.disk;
        if disk.groups.groups().contains(&METADATA_GROUP) {
            let text = "the node became part of a cluster meanwhile".to_owned();
            return Err(ClusterError::Refused(text));
        }
        let votes = snapshot.segment.pid_of(&disk.groups.node().member()).is_some();
        disk.bases.write(&snapshot)?;
        disk.groups.begin_group(METADATA_GROUP, snapshot.segment, votes)?;
        Ok(())
    })
    .await
}
