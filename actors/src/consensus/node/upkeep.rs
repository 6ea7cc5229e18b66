//! Changes of the configuration of the nodes: joining, removing, other addresses.

use std::sync::Arc;
use std::time::Duration;

use forebay_api::ClusterView;
use forebay_engine::cluster::{
    CLUSTER_FORMAT, NODES_KEY, NodeAnswer, NodeEntry, NodeRequest, NodesConfig,
};
use forebay_engine::consensus::StorageId;
use forebay_engine::metadata::Expected;
use forebay_net::NodeName;
use tokio::time::Instant;

use crate::consensus::client::Metadata;
use crate::consensus::{ClusterError, MetadataCallError};

use super::shared::Shared;

/// Pause between two looks at this node's own entry.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// The first format with drained nodes.
const DRAIN_FORMAT: u8 = 2;
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Changes the configuration by compare-and-swap. `change` says whether anything is to be
/// written.
pub(super) async fn change_nodes(
    shared: &Arc<Shared>,
    within: Duration,
    mut change: impl FnMut(&mut NodesConfig) -> Result<bool, String>,
) -> Result<NodesConfig, ClusterError> {
    let metadata = Metadata::new(Arc::clone(shared));
    let deadline = Instant::now() + within;
    let refused = |error: MetadataCallError| ClusterError::Refused(error.to_string());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let row = metadata.get(NODES_KEY, left).await.map_err(refused)?;
        let (version, value) = row.map_or((0, None), |row| (row.version, row.value));
        let nodes = value.map(NodesConfig::decode).transpose();
        let mut nodes = match nodes {
            Ok(nodes) => nodes.unwrap_or_default(),
            Err(error) => return Err(ClusterError::Refused(error.to_string())),
        };
        if !change(&mut nodes).map_err(ClusterError::Refused)? {
            return Ok(nodes);
        }
        let expected = if version == 0 { Expected::Absent } else { Expected::Version(version) };
        let left = deadline.saturating_duration_since(Instant::now());
        match metadata.put(NODES_KEY, nodes.encode(), expected, left).await {
            Ok(_) => return Ok(nodes),
            Err(MetadataCallError::Conflict { .. }) => {}
            Err(error) => return Err(refused(error)),
        }
    }
}

/// Removes a node and waits until it is no member.
pub(super) async fn remove(
    shared: &Arc<Shared>,
    name: &str,
    within: Duration,
) -> Result<(), ClusterError> {
    let deadline = Instant::now() + within;
    change_nodes(shared, within, |nodes| {
        let others = nodes.nodes.iter().filter(|node| node.name != name && !node.is_removed);
        let is_last = others.count() == 0;
        let names: Vec<_> = nodes.nodes.iter().map(|node| node.name.to_string()).collect();
        let Some(node) = nodes.nodes.iter_mut().find(|node| node.name == name) else {
            return Err(format!("there is no node {name}: the nodes are {}", names.join(", ")));
        };
        if is_last {
            return Err(format!("{name} is the last node: it cannot be removed"));
        }
        Ok(!std::mem::replace(&mut node.is_removed, true))
    })
    .await?;
    loop {
        if let Some(view) = shared.view().await
            && view.members.iter().all(|member| member.name != name)
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ClusterError::Refused(format!(
                "{name} is marked as removed and is still a member: a majority of the other \
                 members must be connected; it leaves as soon as they are"
            )));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Marks a node as drained, or not, and waits until it does not lead.
pub(super) async fn drain(
    shared: &Arc<Shared>,
    name: &str,
    on: bool,
    within: Duration,
) -> Result<(), ClusterError> {
    let deadline = Instant::now() + within;
    let nodes = change_nodes(shared, within, |nodes| {
        if nodes.format < DRAIN_FORMAT {
            return Err(format!(
                "the cluster has format {}, and drained nodes need format {DRAIN_FORMAT}: run \
                 `forebay cluster finalize` when all nodes know it",
                nodes.format
            ));
        }
        let names: Vec<_> = nodes.nodes.iter().map(|node| node.name.to_string()).collect();
        match nodes.nodes.iter_mut().find(|node| node.name == name) {
            Some(node) => Ok(std::mem::replace(&mut node.is_drained, on) != on),
            None => Err(format!("there is no node {name}: the nodes are {}", names.join(", "))),
        }
    })
    .await?;
    let is_other = |node: &NodeEntry| !node.is_drained && !node.is_removed && node.name != name;
    loop {
        let view = shared.view().await;
        if !on || view.is_some_and(|view| view.leader.as_deref() != Some(name)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = match nodes.nodes.iter().any(is_other) {
                true => "no other member is connected and has everything",
                false => "all other nodes are drained",
            };
            return Err(ClusterError::Refused(format!(
                "{name} is drained and leads until another member can: {why}"
            )));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Raises the format of the cluster to the newest one, if all nodes know it. Returns the format.
pub(super) async fn finalize(shared: &Arc<Shared>, within: Duration) -> Result<u32, ClusterError> {
    let nodes = change_nodes(shared, within, |_| Ok(false)).await?;
    let me = shared.disk.groups.node().storage;
    let is_asked = |node: &&NodeEntry| node.storage != StorageId(0) && node.storage != me;
    for node in nodes.nodes.iter().filter(is_asked) {
        let name = node.name.parse::<NodeName>()?;
        let answer = shared.ask_peer(&name, &NodeRequest::Status, CHANGE_WITHIN).await;
        let known = match answer {
            Ok(NodeAnswer::Status(json)) => serde_json::from_slice::<ClusterView>(&json)
                .map(|status| status.format_max)
                .map_err(|error| error.to_string()),
            Ok(other) => Err(format!("an answer that does not fit: {other:?}")),
            Err(error) => Err(error.to_string()),
        };
        match known {
            Ok(known) if known >= u32::from(CLUSTER_FORMAT) => {}
            Ok(known) => {
                return Err(ClusterError::Refused(format!(
                    "nothing was changed: {name} knows formats up to {known}, not \
                     {CLUSTER_FORMAT}: use a newer forebay there"
                )));
            }
            Err(why) => {
                return Err(ClusterError::Refused(format!(
                    "nothing was changed: which formats {name} knows cannot be asked ({why}): \
                     start it, or remove it"
                )));
            }
        }
    }
    let changed = change_nodes(shared, within, |nodes| {
        let is_older = nodes.format < CLUSTER_FORMAT;
        nodes.format = nodes.format.max(CLUSTER_FORMAT);
        Ok(is_older)
    });
    Ok(u32::from(changed.await?.format))
}

/// Keeps this node's address in the configuration.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(address) = shared.net().and_then(|net| net.identity().address.clone()) else {
            continue;
        };
        let (name, storage) = (shared.name().to_string(), shared.disk.groups.node().storage);
        let Some(view) = shared.view().await else { continue };
        let is_mine = |node: &NodeEntry| {
            node.name == name && node.storage == storage && node.address != address
        };
        if !view.nodes.iter().any(|node| is_mine(&node.entry)) {
            continue;
        }
        let changed = change_nodes(&shared, CHANGE_WITHIN, |nodes| {
            let mine = nodes.nodes.iter_mut().find(|node| is_mine(node));
            let is_other = mine.is_some();
            mine.into_iter().for_each(|node| node.address = address.clone().into());
            Ok(is_other)
        });
        match changed.await {
            Ok(_) => {
                let text = format!("this node is reached at {address} now");
                shared.events.note("address", None, text);
            }
            Err(error) => tracing::debug!(node = name, %error, "the address was not written"),
        }
    }
}
