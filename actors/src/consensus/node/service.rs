//! The answers of a node to other nodes.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use forebay_engine::cluster::{NodeAnswer, NodeRequest, Peer};
use forebay_engine::consensus::StorageId;
use forebay_net::{Answer, Identity, NodeName, Service};

use crate::consensus::client::Metadata;

use super::life::blocking;
use super::shared::Shared;
use super::{clock, copy, requests, upkeep};

/// Longest time that a request to the group takes; its deadline is earlier.
const ASK_WITHIN: Duration = Duration::from_secs(60);
/// Time of the leader for a request that is passed on: less than the asking node waits.
const RELAY_WITHIN: Duration = Duration::from_millis(400);
/// Time for the entry of a node that joins.
const JOIN_WITHIN: Duration = Duration::from_secs(4);

/// The answers. It does not keep the node alive.
pub(super) struct Front(Weak<Shared>);

impl Front {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

impl Service for Front {
    fn request(&self, peer: Arc<Identity>, body: Bytes) -> Answer {
        let shared = self.0.upgrade();
        Box::pin(async move {
            let shared = shared.ok_or("the node stops")?;
            let request = NodeRequest::decode(body).map_err(|error| error.to_string())?;
            Ok(answer(&shared, &peer, request).await.encode())
        })
    }

    fn read(&self, _peer: Arc<Identity>, source: Bytes, offset: u64, len_max: usize) -> Answer {
        let shared = self.0.upgrade();
        Box::pin(async move {
            let shared = shared.ok_or("the node stops")?;
            let segment = copy::segment_of(&source).ok_or("there is no such source")?;
            let read = move || Ok(shared.disk.bases.read(segment, offset, len_max)?);
            blocking(read).await.map_err(|error| error.to_string())
        })
    }
}

async fn answer(shared: &Arc<Shared>, peer: &Identity, request: NodeRequest) -> NodeAnswer {
    match request {
        NodeRequest::Probe => {
            let (cluster, incarnation) = shared.cluster().unwrap_or_default();
            NodeAnswer::Probed { cluster, incarnation }
        }
        NodeRequest::Reserve { provision } => match shared.reserve(provision) {
            Ok(()) => NodeAnswer::Done,
            Err(why) => NodeAnswer::Refused(why.into()),
        },
        NodeRequest::Join { name, storage, address } => {
            if (name.as_ref(), storage) != (peer.name.as_str(), StorageId(peer.storage)) {
                return NodeAnswer::Refused("a node joins for itself only".into());
            }
            join(shared, peer, &address).await
        }
        NodeRequest::Change(_)
        | NodeRequest::Get { .. }
        | NodeRequest::GetAll { .. }
        | NodeRequest::HandOver { .. }
        | NodeRequest::List { .. } => {
            if peer.cluster == 0 {
                return NodeAnswer::Refused("only nodes of the cluster have its metadata".into());
            }
            shared.ask_here(&request, ASK_WITHIN).await
        }
        NodeRequest::Relay(request) => {
            if peer.cluster == 0 {
                return NodeAnswer::Refused("only nodes of the cluster have its metadata".into());
            }
            relay(shared, &request).await
        }
        NodeRequest::Refused { reason } => {
            shared.set_refusal(peer.name.as_str(), &reason);
            NodeAnswer::Done
        }
        NodeRequest::Status => match serde_json::to_vec(&shared.status().await) {
            Ok(json) => NodeAnswer::Status(json.into()),
            Err(error) => NodeAnswer::Unavailable(error.to_string().into()),
        },
        NodeRequest::Clock => NodeAnswer::Clock { unix_ms: clock::now_ms(shared) },
        NodeRequest::Control(json) => {
            NodeAnswer::Control(requests::answer_json(shared, json).await)
        }
        NodeRequest::Base => match shared.is_provisioned() {
            true => NodeAnswer::Base(*shared.base.lock().unwrap_or_else(PoisonError::into_inner)),
            false => no_cluster(shared),
        },
    }
}

/// Answers a request to the metadata, or passes it on to the leader that this node knows.
async fn relay(shared: &Shared, request: &NodeRequest) -> NodeAnswer {
    let answer = shared.ask_here(request, RELAY_WITHIN).await;
    let NodeAnswer::NotLeader { leader: Some(leader) } = &answer else { return answer };
    match leader.parse::<NodeName>() {
        Ok(leader) if leader != *shared.name() => {
            Metadata::ask_node(shared, &leader, request, RELAY_WITHIN).await.0
        }
        _ => answer,
    }
}

fn no_cluster(shared: &Shared) -> NodeAnswer {
    NodeAnswer::Unavailable(format!("{} is part of no cluster yet", shared.name()).into())
}

/// Enters the node into the configuration, then answers with the snapshot to copy.
async fn join(shared: &Arc<Shared>, peer: &Identity, address: &str) -> NodeAnswer {
    let Some((cluster, _)) = shared.cluster() else { return no_cluster(shared) };
    let (name, storage) = (peer.name.to_string().into(), StorageId(peer.storage));
    let address = address.into();
    let joined = upkeep::change_nodes(shared, JOIN_WITHIN, |nodes| {
        nodes.join(&name, storage, &address).map_err(|error| error.to_string())
    });
    match joined.await {
        Ok(nodes) => {
            let peers = nodes.nodes.into_iter();
            let peers = peers.map(|node| Peer { name: node.name, address: node.address }).collect();
            let base = *shared.base.lock().unwrap_or_else(PoisonError::into_inner);
            NodeAnswer::Joined { cluster, peers, base }
        }
        Err(why) => NodeAnswer::Refused(why.to_string().into()),
    }
}
