//! Joining: a node that is part of no cluster asks its peers until one lets it join.

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::cluster::{NodeAnswer, NodeRequest};
use forebay_net::NodeName;

use crate::consensus::ClusterError;

use super::copy;
use super::shared::{RAN_ALONE, Shared};

/// Pause between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(200);
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// Returns when the node is part of a cluster, durably.
pub(super) async fn join(shared: &Arc<Shared>) -> Result<(), ClusterError> {
    if shared.disk.alone.is_some() {
        shared.events.warn("alone", None, format!("this node {RAN_ALONE}"));
        return std::future::pending().await;
    }
    loop {
        for (peer, _) in &shared.peers {
            match join_at(shared, peer).await {
                Ok(()) => return Ok(()),
                Err(why) => shared.set_error(peer.as_str(), Some(why)),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn join_at(shared: &Arc<Shared>, peer: &NodeName) -> Result<(), String> {
    let address = shared.net().and_then(|net| net.identity().address.clone());
    let request = NodeRequest::Join {
        name: shared.name().to_string().into(),
        storage: shared.disk.groups.node().storage,
        address: address.unwrap_or_default().into(),
    };
    let answer = shared.ask_peer(peer, &request, ASK_WITHIN).await;
    let base = match answer.map_err(|error| error.to_string())? {
        NodeAnswer::Joined { base, .. } => base,
        NodeAnswer::Refused(why) | NodeAnswer::Unavailable(why) => return Err(why.to_string()),
        other => return Err(format!("an answer to another request: {other:?}")),
    };
    let snapshot = copy::fetch(shared, peer, base).await?;
    let segment = base.segment;
    let text = format!("the node joins with a snapshot of {peer}, segment {segment}");
    shared.events.note("joins", Some(segment), text);
    copy::begin(shared, snapshot).await.map_err(|error| error.to_string())
}
