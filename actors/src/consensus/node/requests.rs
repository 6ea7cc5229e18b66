//! Requests of people about the cluster: through the control socket, or from another machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_api::{ClusterRequest, ClusterResponse, KeyView};
use forebay_engine::metadata::{Change, Expected, Row};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::consensus::MetadataCallError;
use crate::consensus::client::Metadata;

use super::life::Command;
use super::shared::Shared;
use super::upkeep;

/// The name of the metadata among the logs.
const METADATA_LOG: &str = "metadata";
/// Interval between checks for a known leader.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait of one request for something new; it is asked for again.
const WATCH_TIME_MAX: Duration = Duration::from_secs(30);

fn usage(message: String) -> ClusterResponse {
    ClusterResponse::Error { message, usage: true }
}

fn failed(error: &MetadataCallError) -> ClusterResponse {
    ClusterResponse::Error { message: error.to_string(), usage: false }
}

/// Answers a request that came as JSON: about the cluster, or about entries.
pub(super) async fn answer_json(shared: &Arc<Shared>, json: Bytes) -> Bytes {
    let response = match serde_json::from_slice(&json) {
        Ok(request) => answer(shared, request).await,
        Err(error) => match shared.entries() {
            Some(front) => return front(json).await,
            None => usage(format!(
                "the node runs no entries, or does not understand the request: {error}"
            )),
        },
    };
    let json = serde_json::to_vec(&response).unwrap_or_else(|error| error.to_string().into_bytes());
    json.into()
}

/// Answers a request.
pub(super) async fn answer(shared: &Arc<Shared>, request: ClusterRequest) -> ClusterResponse {
    let metadata = Metadata::new(Arc::clone(shared));
    match request {
        ClusterRequest::Status => {
            ClusterResponse::ClusterStatus { status: Box::new(shared.status().await) }
        }
        ClusterRequest::Provision { absent } => provision(shared, absent).await,
        ClusterRequest::Events { after, within_ms } => {
            let within = Duration::from_millis(within_ms).min(WATCH_TIME_MAX);
            ClusterResponse::Events { events: shared.events.wait_after(after, within).await }
        }
        ClusterRequest::Remove { .. }
        | ClusterRequest::Transfer { .. }
        | ClusterRequest::Drain { .. }
        | ClusterRequest::Finalize { .. } => change_nodes(shared, &metadata, request).await,
        ClusterRequest::Get { key, within_ms } => {
            let found = metadata.get(&key, Duration::from_millis(within_ms)).await;
            let found =
                found.map(|row| ClusterResponse::Key { key: row.map(|row| view(key, row)) });
            found.unwrap_or_else(|error| failed(&error))
        }
        ClusterRequest::Watch { key, after, within_ms } => {
            let within = Duration::from_millis(within_ms).min(WATCH_TIME_MAX);
            let newer = metadata.wait_newer(&key, after, within).await;
            let newer =
                newer.map(|row| ClusterResponse::Key { key: row.map(|row| view(key, row)) });
            newer.unwrap_or_else(|error| failed(&error))
        }
        ClusterRequest::List { prefix, after, within_ms } => {
            let within = Duration::from_millis(within_ms);
            let listed = metadata.list(&prefix, after.as_deref(), within).await;
            let listed = listed.map(|listed| ClusterResponse::Keys {
                keys: listed.rows.into_iter().map(|(key, row)| view(key, row)).collect(),
                more: listed.more,
            });
            listed.unwrap_or_else(|error| failed(&error))
        }
        ClusterRequest::Put { key, value, if_version, within_ms } => {
            let within = Duration::from_millis(within_ms);
            let put = put(&metadata, key, value, if_version, within).await;
            put.unwrap_or_else(|error| failed(&error))
        }
    }
}

/// Requests that change nodes or the leadership.
async fn change_nodes(
    shared: &Arc<Shared>,
    metadata: &Metadata,
    request: ClusterRequest,
) -> ClusterResponse {
    let done = match request {
        ClusterRequest::Remove { node, within_ms } => {
            upkeep::remove(shared, &node, Duration::from_millis(within_ms)).await
        }
        ClusterRequest::Drain { node, on, within_ms } => {
            upkeep::drain(shared, &node, on, Duration::from_millis(within_ms)).await
        }
        ClusterRequest::Finalize { within_ms } => {
            let within = Duration::from_millis(within_ms);
            return match upkeep::finalize(shared, within).await {
                Ok(format) => ClusterResponse::Finalized { format },
                Err(error) => usage(error.to_string()),
            };
        }
        ClusterRequest::Transfer { log, node, within_ms } => {
            let within = Duration::from_millis(within_ms);
            return transfer(shared, metadata, &log, &node, within).await;
        }
        other => return usage(format!("not a change of nodes: {other:?}")),
    };
    match done {
        Ok(()) => ClusterResponse::Done,
        Err(error) => usage(error.to_string()),
    }
}

async fn provision(shared: &Arc<Shared>, absent: Vec<String>) -> ClusterResponse {
    let (reply, made) = oneshot::channel();
    let stops = || usage("the node is shut down".to_owned());
    if shared.send_command(Command::Provision { absent, reply }).await.is_err() {
        return stops();
    }
    match made.await {
        Ok(Ok(cluster)) => ClusterResponse::Provisioned { cluster: format!("{cluster:032x}") },
        Ok(Err(error)) => usage(error.to_string()),
        Err(_) => stops(),
    }
}

/// Lets a member lead, and waits until it does.
async fn transfer(
    shared: &Arc<Shared>,
    metadata: &Metadata,
    log: &str,
    node: &str,
    within: Duration,
) -> ClusterResponse {
    if log != METADATA_LOG {
        return usage(format!("there is no log `{log}`: the one there is, is `{METADATA_LOG}`"));
    }
    let deadline = Instant::now() + within;
    if let Err(error) = metadata.hand_over(node, within).await {
        return usage(error.to_string());
    }
    loop {
        let view = shared.view().await;
        if view.is_some_and(|view| view.leader.as_deref() == Some(node)) {
            return ClusterResponse::Done;
        }
        if Instant::now() >= deadline {
            return usage(format!("{node} does not lead yet: look at the status"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn put(
    metadata: &Metadata,
    key: String,
    value: Option<String>,
    if_version: Option<u64>,
    within: Duration,
) -> Result<ClusterResponse, MetadataCallError> {
    let expected = match if_version {
        None => Expected::Anything,
        Some(0) => Expected::Absent,
        Some(version) => Expected::Version(version),
    };
    let value = value.map(Bytes::from);
    let change = Change { key: key.into(), value, expected };
    let versions = metadata.put_all(vec![change], within).await?;
    Ok(ClusterResponse::Written { version: versions.first().copied().unwrap_or_default() })
}

fn view(key: String, row: Row) -> KeyView {
    let bytes = row.value.as_ref().map(|value| value.len() as u64);
    let value = row.value.and_then(|value| String::from_utf8(value.to_vec()).ok());
    KeyView { key, version: row.version, value, bytes }
}
