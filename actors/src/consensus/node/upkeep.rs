//! Changes of the configuration of the nodes: joining, removing, other addresses.

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::cluster::{NODES_KEY, NodesConfig};
use forebay_engine::metadata::Expected;
use tokio::time::Instant;

use crate::consensus::client::Metadata;
use crate::consensus::{ClusterError, MetadataCallError};

use super::shared::Shared;

/// Pause between two looks at this node's own entry.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
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

/// Keeps this node's address in the configuration.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(address) = shared.net().and_then(|net| net.identity().address.clone()) else {
            continue;
        };
        let (name, storage) = (shared.name().to_string(), shared.disk.groups.node().storage);
        let Some(view) = shared.view().await else { continue };
        let is_mine = |node: &forebay_engine::cluster::NodeEntry| {
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
            Ok(_) => tracing::info!(node = name, address, "the address of this node is new"),
            Err(error) => tracing::debug!(node = name, %error, "the address was not written"),
        }
    }
}
