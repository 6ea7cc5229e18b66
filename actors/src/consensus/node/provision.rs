//! Provisioning: a cluster is made of one node, and the others join it.
//!
//! Must always hold: every peer was asked, and none of them is part of a cluster; the nodes are
//! in the first snapshot, so nothing else ever creates them. So are the partition table and, of a
//! directory that ran alone, its rules and aliases.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_engine::cluster::{
    CLUSTER_FORMAT, NODES_KEY, NodeAnswer, NodeEntry, NodeRequest, NodesConfig,
};
use forebay_engine::consensus::{Segment, StorageId};
use forebay_engine::metadata::{Change, ClientId, Command, Expected, Outcome, Snapshot, State};
use forebay_net::{NodeName, RequestError};
use forebay_storage::metadata::MetaKey;
use tokio::time::Instant;

use crate::consensus::{ClusterError, METADATA_GROUP};

use super::alone;
use super::copy;
use super::shared::Shared;

const ASK_WITHIN: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(50);

/// Makes a cluster; returns its id.
pub(super) async fn provision(
    shared: &Arc<Shared>,
    absent: &[String],
) -> Result<u128, ClusterError> {
    let refused = |text: String| Err(ClusterError::Refused(text));
    let provision = shared.provision;
    shared.reserve(provision).map_err(ClusterError::Refused)?;
    let is_peer = |name: &&String| shared.peers.iter().any(|(peer, _)| peer.as_str() == **name);
    if let Some(unknown) = absent.iter().find(|name| !is_peer(name)) {
        return refused(format!("no peer is called {unknown}: name it with --peer as well"));
    }
    for (peer, address) in &shared.peers {
        if absent.iter().any(|name| name == peer.as_str()) {
            continue;
        }
        match reserve(shared, peer).await {
            Ok(NodeAnswer::Done) => {}
            Ok(NodeAnswer::Refused(why)) => {
                return refused(format!("nothing was provisioned: {why}"));
            }
            Ok(other) => {
                return refused(format!("{peer}: an answer to another request: {other:?}"));
            }
            Err(error) => {
                return refused(format!(
                    "nothing was provisioned: {peer} at {address} is not reached ({error}): start \
                     it, or name it with --peer-absent"
                ));
            }
        }
    }
    let cluster = super::random().max(1);
    let me = shared.disk.groups.node().member();
    let segment = Segment::first(cluster, METADATA_GROUP, vec![me]);
    let keys = alone::first_keys(shared.disk.alone.as_ref(), shared.config.partitions)?;
    let is_imported = shared.disk.alone.is_some();
    let state = first_state(shared, provision, keys)?;
    copy::begin(shared, Snapshot { cluster, incarnation: 1, segment, state }).await?;
    let with =
        if is_imported { ", with what its data directory had from running alone" } else { "" };
    shared.events.note("provisioned", Some(1), format!("cluster {cluster:032x} is made{with}"));
    Ok(cluster)
}

/// Asks a peer to take part. One that is not reached is tried again: it may just have started.
async fn reserve(shared: &Shared, peer: &NodeName) -> Result<NodeAnswer, RequestError> {
    let deadline = Instant::now() + ASK_WITHIN;
    let request = NodeRequest::Reserve { provision: shared.provision };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match shared.ask_peer(peer, &request, left).await {
            Err(RequestError::Unreachable(_)) if !left.is_zero() => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// The state with the configuration of the nodes and the first keys.
fn first_state(
    shared: &Shared,
    provision: u128,
    keys: Vec<(MetaKey, Bytes)>,
) -> Result<State, ClusterError> {
    let node = |name: &str, storage, address: &str| NodeEntry {
        name: name.into(),
        storage,
        address: address.into(),
        is_removed: false,
        is_drained: false,
    };
    let address = shared.net().and_then(|net| net.identity().address.clone());
    let me = shared.disk.groups.node();
    let mut nodes = vec![node(&me.name, me.storage, &address.unwrap_or_default())];
    let peers = shared.peers.iter();
    nodes.extend(peers.map(|(peer, address)| node(peer.as_str(), StorageId(0), address)));
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let config = NodesConfig { format: CLUSTER_FORMAT, wanted: nodes.len() as u32, nodes };
    let change = |key: &str, value| Change {
        key: key.into(),
        value: Some(value),
        expected: Expected::Absent,
    };
    let mut changes = vec![change(NODES_KEY, config.encode())];
    changes.extend(keys.into_iter().map(|(key, value)| change(key.as_str(), value)));
    let client = ClientId(provision);
    let command = Command { client, since: 0, request: 1, changes };
    let mut state = State::default();
    match state.apply(0, &command, &mut Vec::new()) {
        Outcome::Changed { .. } => Ok(state),
        other => Err(ClusterError::Refused(format!(
            "nothing was provisioned: the rules of this data directory do not fit into the \
             metadata of a cluster ({other:?})"
        ))),
    }
}
