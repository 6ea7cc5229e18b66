//! The client of the metadata: calls that find the leader, with deadlines and retries.
//!
//! Must always hold: a repeated change keeps its number, so it is made at most once; an error says
//! whether it may have been made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_engine::cluster::{ListedRow, NodeAnswer, NodeRequest};
use forebay_engine::metadata::{Change, ClientId, Command, Expected, Outcome, Row};
use forebay_net::{NodeName, RequestError};
use tokio::time::Instant;

use super::MetadataCallError;
use super::node::Shared;
use super::watches::MetadataWatch;

/// Maximum wait for the answer of one node; then the request is sent to another one.
const ATTEMPT_TIME_MAX: Duration = Duration::from_millis(500);
/// Pause after an attempt that found no leader.
const PAUSE: Duration = Duration::from_millis(20);

/// Keys with their rows, and whether there are more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// In the order of their keys; deleted ones are left out.
    pub rows: Vec<(String, Row)>,
    /// There are more after the last one.
    pub more: bool,
}

/// The identity of a client and the number of its next request. A new client replaces it when the
/// cluster has forgotten it.
pub(super) struct Client {
    id: ClientId,
    since: u64,
    next: AtomicU64,
}

impl Client {
    pub(super) fn new(since: u64) -> Self {
        Self { id: ClientId(super::node::random()), since, next: AtomicU64::new(1) }
    }
}

/// A node's access to the metadata of its cluster. Cheap to clone.
///
/// Reads are linearizable. Dropping a future stops waiting; a change may be made anyway.
#[derive(Clone)]
pub struct Metadata {
    shared: Arc<Shared>,
}

impl Metadata {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The row of a key; a deleted key has a version and no value.
    ///
    /// # Errors
    /// [`MetadataCallError`].
    pub async fn get(&self, key: &str, within: Duration) -> Result<Option<Row>, MetadataCallError> {
        let request = NodeRequest::Get { key: key.into() };
        let (rows, _) = self.read(&request, within).await?;
        Ok(rows.into_iter().next().map(|(_, row)| row))
    }

    /// The rows of several keys, in their order, as of one moment.
    ///
    /// # Errors
    /// [`MetadataCallError`].
    pub async fn get_all(
        &self,
        keys: &[&str],
        within: Duration,
    ) -> Result<Vec<Option<Row>>, MetadataCallError> {
        let asked = keys.iter().map(|key| (*key).into()).collect();
        let (rows, _) = self.read(&NodeRequest::GetAll { keys: asked }, within).await?;
        let mut rows: BTreeMap<_, _> = rows.into_iter().collect();
        Ok(keys.iter().map(|key| rows.remove(*key)).collect())
    }

    /// The row of a key as this node has applied it: it may be old. Needs no majority.
    ///
    /// # Errors
    /// [`MetadataCallError::NotProvisioned`], [`MetadataCallError::Unavailable`] while the node
    /// starts or ends.
    pub async fn get_applied(&self, key: &str) -> Result<Option<Row>, MetadataCallError> {
        if !self.shared.is_provisioned() {
            return Err(MetadataCallError::NotProvisioned);
        }
        let unavailable = || MetadataCallError::Unavailable("the group begins, or ends".to_owned());
        self.shared.applied(key).await.ok_or_else(unavailable)
    }

    /// Keys that begin with a prefix, after a key.
    ///
    /// # Errors
    /// [`MetadataCallError`].
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        within: Duration,
    ) -> Result<Listed, MetadataCallError> {
        let after = after.unwrap_or_default().into();
        let request = NodeRequest::List { prefix: prefix.into(), after };
        let (rows, more) = self.read(&request, within).await?;
        let rows = rows.into_iter().map(|(key, row)| (key.to_string(), row)).collect();
        Ok(Listed { rows, more })
    }

    /// Writes a value and returns its version.
    ///
    /// # Errors
    /// [`MetadataCallError`]; all but [`MetadataCallError::OutcomeUnknown`] mean that nothing was
    /// changed.
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        within: Duration,
    ) -> Result<u64, MetadataCallError> {
        let change = Change { key: key.into(), value: Some(value), expected };
        let versions = self.put_all(vec![change], within).await?;
        Ok(versions.first().copied().unwrap_or_default())
    }

    /// Deletes a value.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(
        &self,
        key: &str,
        expected: Expected,
        within: Duration,
    ) -> Result<(), MetadataCallError> {
        let change = Change { key: key.into(), value: None, expected };
        self.put_all(vec![change], within).await.map(drop)
    }

    /// Makes all of these changes or none. Returns the versions, in their order.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_all(
        &self,
        changes: Vec<Change>,
        within: Duration,
    ) -> Result<Vec<u64>, MetadataCallError> {
        let deadline = Instant::now() + within;
        loop {
            let client = self.shared.client().ok_or(MetadataCallError::NotProvisioned)?;
            let request = client.next.fetch_add(1, Ordering::Relaxed);
            let (id, since) = (client.id, client.since);
            let command = Command { client: id, since, request, changes: changes.clone() };
            command.check()?;
            let call = self.call(&NodeRequest::Change(command), deadline).await?;
            match call.answer {
                NodeAnswer::Outcome(Outcome::Changed { versions }) => return Ok(versions),
                NodeAnswer::Outcome(Outcome::Conflict { at, found }) => {
                    let key = changes.get(at as usize).map(|change| change.key.to_string());
                    return Err(MetadataCallError::Conflict {
                        key: key.unwrap_or_default(),
                        found,
                    });
                }
                NodeAnswer::Outcome(Outcome::Full) => return Err(MetadataCallError::Full),
                NodeAnswer::Outcome(Outcome::TooOld { oldest }) => {
                    // Sent by a new client, unless an earlier attempt may have been applied.
                    self.shared.renew_client(&client, oldest);
                    if call.may_be_done {
                        return Err(MetadataCallError::OutcomeUnknown);
                    }
                }
                other => return Err(refused(other)),
            }
        }
    }

    /// Calls `on_change` with the key's present row, if it was ever written, and with later ones,
    /// in the order of their versions, as this node applies them. It runs on the thread of the
    /// group: it must be short and must not wait for the metadata.
    pub fn watch(&self, key: &str, on_change: impl FnMut(&Row) + Send + 'static) -> MetadataWatch {
        self.shared.watch(key, Box::new(on_change)).0
    }

    /// As [`Self::watch`]; returns when the present row was reported.
    pub(super) async fn watch_now(
        &self,
        key: &str,
        on_change: impl FnMut(&Row) + Send + 'static,
    ) -> Result<MetadataWatch, MetadataCallError> {
        let (watch, reported) = self.shared.watch(key, Box::new(on_change));
        let reported = match reported {
            None => None,
            Some(reported) => reported.await.ok(),
        };
        match reported {
            Some(()) => Ok(watch),
            None => Err(MetadataCallError::Unavailable("the group begins, or ends".to_owned())),
        }
    }

    /// Waits until a key has a newer version than `after` here, or this time is over; returns its
    /// row then.
    ///
    /// # Errors
    /// As [`Self::get_applied`].
    pub async fn wait_newer(
        &self,
        key: &str,
        after: u64,
        within: Duration,
    ) -> Result<Option<Row>, MetadataCallError> {
        let (sender, mut rows) = tokio::sync::watch::channel(None);
        let on_change = move |row: &Row| drop(sender.send_replace(Some(row.clone())));
        let _watch = self.watch_now(key, on_change).await?;
        let is_newer = |row: &Option<Row>| row.as_ref().is_some_and(|row| row.version > after);
        let waiting = rows.wait_for(is_newer);
        if let Ok(Ok(row)) = tokio::time::timeout(within, waiting).await {
            return Ok(row.clone());
        }
        Ok(None)
    }

    /// Asks the leader to let a member lead.
    pub(super) async fn hand_over(
        &self,
        to: &str,
        within: Duration,
    ) -> Result<(), MetadataCallError> {
        let request = NodeRequest::HandOver { to: to.into() };
        match self.call(&request, Instant::now() + within).await?.answer {
            NodeAnswer::Done => Ok(()),
            other => Err(refused(other)),
        }
    }

    async fn read(
        &self,
        request: &NodeRequest,
        within: Duration,
    ) -> Result<(Vec<ListedRow>, bool), MetadataCallError> {
        match self.call(request, Instant::now() + within).await?.answer {
            NodeAnswer::Rows { rows, more } => Ok((rows, more)),
            other => Err(refused(other)),
        }
    }

    /// Asks the known leader or this node, then the leader that it names, until one answers. A
    /// leader that this node does not reach is asked through another one.
    async fn call(
        &self,
        request: &NodeRequest,
        deadline: Instant,
    ) -> Result<Call, MetadataCallError> {
        let is_change = matches!(request, NodeRequest::Change(_));
        let (mut may_be_done, mut target, mut turn) = (false, self.first(), 0);
        let mut last = "no leader is known".to_owned();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match may_be_done {
                    true => MetadataCallError::OutcomeUnknown,
                    false => MetadataCallError::Unavailable(last),
                });
            }
            if !self.shared.is_provisioned() {
                return Err(MetadataCallError::NotProvisioned);
            }
            let asked = std::mem::replace(&mut target, Target::Here);
            match self.ask(&asked, request, left.min(ATTEMPT_TIME_MAX)).await {
                NodeAnswer::NotLeader { leader: Some(leader) } => {
                    turn += 1;
                    target = self.towards(&leader, &asked, turn);
                    if !matches!(target, Target::Here) {
                        continue;
                    }
                }
                NodeAnswer::NotLeader { leader: None } => {
                    // This node may be cut off: the others are asked in turn.
                    turn += 1;
                    target = self.shared.other(turn).map_or(Target::Here, Target::Node);
                }
                NodeAnswer::Unavailable(why) => last = why.to_string(),
                NodeAnswer::Unknown => may_be_done |= is_change,
                answer => return Ok(Call { answer, may_be_done }),
            }
            tokio::time::sleep_until((Instant::now() + PAUSE).min(deadline)).await;
        }
    }

    /// Where to ask first. This node's group would only name the known leader.
    pub(super) fn first(&self) -> Target {
        match self.shared.leader() {
            Some(leader) => self.towards(leader.as_str(), &Target::Here, 0),
            None => Target::Here,
        }
    }

    async fn ask(&self, target: &Target, request: &NodeRequest, within: Duration) -> NodeAnswer {
        match target {
            Target::Here => self.shared.ask_here(request, within).await,
            Target::Node(peer) => {
                let (answer, is_reached) =
                    Self::ask_node(&self.shared, peer, request, within).await;
                if !is_reached {
                    self.shared.set_unreached(peer);
                }
                answer
            }
            Target::Relay(peer) => {
                let relayed = NodeRequest::Relay(Box::new(request.clone()));
                Self::ask_node(&self.shared, peer, &relayed, within).await.0
            }
        }
    }

    /// Where to ask next when a leader was named.
    fn towards(&self, leader: &str, asked: &Target, turn: usize) -> Target {
        let Ok(leader) = leader.parse::<NodeName>() else { return Target::Here };
        // An answer that names the asked node or this one does not show the leader.
        let is_known = match asked {
            Target::Here => leader != *self.shared.name(),
            Target::Node(peer) => leader != *self.shared.name() && leader != *peer,
            Target::Relay(_) => false,
        };
        if !is_known {
            return Target::Here;
        }
        match self.shared.relay_to(&leader, turn) {
            Some(through) => Target::Relay(through),
            None => Target::Node(leader),
        }
    }

    /// Asks another node; also returns whether it was reached.
    pub(super) async fn ask_node(
        shared: &Shared,
        peer: &NodeName,
        request: &NodeRequest,
        within: Duration,
    ) -> (NodeAnswer, bool) {
        match shared.ask_peer(peer, request, within).await {
            Ok(answer) => (answer, true),
            Err(RequestError::Lost | RequestError::Deadline { was_sent: true }) => {
                (NodeAnswer::Unknown, false)
            }
            Err(error) => {
                let is_unreached =
                    matches!(error, RequestError::Unreachable(_) | RequestError::Deadline { .. });
                (NodeAnswer::Unavailable(format!("{peer}: {error}").into()), !is_unreached)
            }
        }
    }
}

/// Where a request is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Here,
    /// The leader, or a node that may know it.
    Node(NodeName),
    /// A node that may reach the leader.
    Relay(NodeName),
}

/// An answer, and whether an earlier attempt may have been done.
struct Call {
    answer: NodeAnswer,
    may_be_done: bool,
}

fn refused(answer: NodeAnswer) -> MetadataCallError {
    match answer {
        NodeAnswer::Refused(why) => MetadataCallError::Refused(why.to_string()),
        other => MetadataCallError::Refused(format!("an answer to another request: {other:?}")),
    }
}
