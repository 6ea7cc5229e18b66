//! State of another node: its lanes, addresses and connections.
//!
//! Must always hold: all open connections belong to one identity (data directory, boot and nonce);
//! there is one of each kind, and a newer one closes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::identity::{Identity, NodeName};
use crate::lane::Slot;
use crate::lane::bulk_client::BulkClient;
use crate::lane::heartbeats::Heartbeats;
use crate::lane::links::Links;
use crate::lane::request_client::RequestClient;
use crate::limits::Limits;
use crate::wire::hello::{Class, Refusal};

/// The kind of a connection: its class, and whether it serves the peer's requests.
pub(crate) type Kind = (Class, bool);

/// The status of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its name.
    pub name: NodeName,
    /// Addresses to dial: the configured one, then the one that it announced.
    pub addresses: Vec<String>,
    /// Identity of the node that is connected, or was last.
    pub identity: Option<Identity>,
    /// Classes with an open connection.
    pub connected: Vec<Class>,
    /// Why it could not be reached, until it is.
    pub error: Option<String>,
}

/// Another node.
pub(crate) struct Peer {
    pub(crate) name: NodeName,
    pub(crate) links: Arc<Slot<Links>>,
    pub(crate) heartbeats: Arc<Slot<Heartbeats>>,
    pub(crate) requests: Arc<Slot<RequestClient>>,
    pub(crate) bulk: Arc<Slot<BulkClient>>,
    /// Ends all tasks of this peer.
    pub(crate) gone: CancellationToken,
    /// Notifies the dialling tasks that a connection may be wanted.
    wanted: BTreeMap<Class, Notify>,
    /// Notifies them to end their pause.
    urgent: BTreeMap<Class, Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    configured: Option<String>,
    hint: Option<String>,
    is_added: bool,
    identity: Option<Identity>,
    live: BTreeMap<Kind, (u64, CancellationToken)>,
    connections: u64,
    /// For a class that waits for its next attempt, why the last one failed.
    failed: BTreeMap<Class, String>,
}

impl Peer {
    pub(crate) fn new(name: NodeName, limits: &Arc<Limits>, gone: CancellationToken) -> Self {
        let limits = || Arc::clone(limits);
        let notices = || Class::LASTING.map(|class| (class, Notify::new())).into_iter().collect();
        Self {
            links: Arc::new(Slot::new(Links::new(name.clone(), limits()))),
            heartbeats: Arc::new(Slot::new(Heartbeats::new(name.clone(), limits()))),
            requests: Arc::new(Slot::new(RequestClient::new(limits()))),
            bulk: Arc::new(Slot::new(BulkClient::new(limits()))),
            name,
            gone,
            wanted: notices(),
            urgent: notices(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application added the peer.
    pub(crate) fn add(&self, address: Option<String>) {
        let mut state = self.lock();
        state.is_added = true;
        let is_new = address.is_some() && state.configured != address;
        if is_new {
            state.configured = address;
            state.failed.clear();
        }
        drop(state);
        if is_new {
            self.skip_pause();
        }
    }

    /// The peer announced an address.
    pub(crate) fn set_announced(&self, address: Option<&String>) {
        let mut state = self.lock();
        if address.is_some() && state.hint.as_ref() != address {
            state.hint = address.cloned();
            state.failed.clear();
            drop(state);
            self.skip_pause();
        }
    }

    pub(crate) fn is_added(&self) -> bool {
        self.lock().is_added
    }

    /// Whether it is neither added by the application nor connected.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.is_added && state.live.is_empty()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let state = self.lock();
        let mut all: Vec<_> = state.configured.iter().chain(&state.hint).cloned().collect();
        all.dedup();
        all
    }

    /// A connection may be wanted.
    pub(crate) fn notice(&self) {
        self.wanted.values().for_each(Notify::notify_one);
    }

    /// Ends the pauses: attempts are made at once.
    pub(crate) fn skip_pause(&self) {
        self.urgent.values().for_each(Notify::notify_one);
        self.notice();
    }

    pub(crate) async fn wait_for_notice(&self, class: Class) {
        self.wanted[&class].notified().await;
    }

    pub(crate) async fn wait_for_hurry(&self, class: Class) {
        self.urgent[&class].notified().await;
    }

    pub(crate) fn set_failed(&self, class: Class, why: Option<String>) {
        let mut state = self.lock();
        match why {
            Some(why) => state.failed.insert(class, why),
            None => state.failed.remove(&class),
        };
    }

    pub(crate) fn failed(&self, class: Class) -> Option<String> {
        self.lock().failed.get(&class).cloned()
    }

    /// Whether a connection of this identity is allowed.
    pub(crate) fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        self.lock().check(identity)
    }

    /// Registers a connection, which must end when the token is cancelled.
    pub(crate) fn register(
        &self,
        kind: Kind,
        identity: &Identity,
    ) -> Result<(u64, CancellationToken), Refusal> {
        let mut state = self.lock();
        state.check(identity)?;
        let is_restarted = state
            .identity
            .as_ref()
            .is_some_and(|known| (known.storage, known.boot) != (identity.storage, identity.boot));
        if is_restarted {
            for (_, token) in std::mem::take(&mut state.live).into_values() {
                token.cancel();
            }
        }
        state.identity = Some(identity.clone());
        state.connections += 1;
        let number = state.connections;
        let token = self.gone.child_token();
        if let Some((_, before)) = state.live.insert(kind, (number, token.clone())) {
            before.cancel();
        }
        state.failed.remove(&kind.0);
        Ok((number, token))
    }

    pub(crate) fn unregister(&self, kind: Kind, number: u64) {
        let mut state = self.lock();
        if state.live.get(&kind).is_some_and(|(live, _)| *live == number) {
            state.live.remove(&kind);
        }
    }

    pub(crate) fn view(&self) -> PeerView {
        let addresses = self.addresses();
        let state = self.lock();
        let mut connected: Vec<_> = state.live.keys().map(|(class, _)| *class).collect();
        connected.dedup();
        PeerView {
            name: self.name.clone(),
            addresses,
            identity: state.identity.clone(),
            connected,
            error: state.failed.values().next().cloned(),
        }
    }
}

impl State {
    fn check(&self, new: &Identity) -> Result<(), Refusal> {
        let Some(known) = &self.identity else { return Ok(()) };
        if known.storage != new.storage {
            return if self.live.is_empty() {
                Ok(())
            } else {
                Err(Refusal::NameTaken(new.name.to_string()))
            };
        }
        match new.boot.cmp(&known.boot) {
            std::cmp::Ordering::Less => Err(Refusal::OlderBoot),
            std::cmp::Ordering::Equal if new.nonce != known.nonce => Err(Refusal::Copied),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(storage: u128, boot: u64, nonce: u64) -> Identity {
        let name = "a".parse().unwrap();
        Identity { cluster: 1, name, storage, boot, nonce, address: None }
    }

    fn peer() -> Peer {
        let limits = Arc::new(Limits::default());
        Peer::new("a".parse().unwrap(), &limits, CancellationToken::new())
    }

    #[test]
    fn one_identity_lives_at_a_time() {
        let (peer, kind) = (peer(), (Class::Requests, true));
        let (number, first) = peer.register(kind, &identity(1, 1, 7)).unwrap();
        let refused = |one: Identity| peer.check(&one).unwrap_err();
        assert_eq!(refused(identity(2, 1, 7)), Refusal::NameTaken("a".to_owned()));
        assert_eq!(refused(identity(1, 0, 7)), Refusal::OlderBoot);
        assert_eq!(refused(identity(1, 1, 8)), Refusal::Copied);

        let (_, other) = peer.register((Class::Bulk, true), &identity(1, 1, 7)).unwrap();
        assert!(!first.is_cancelled());
        let (newer, _) = peer.register(kind, &identity(1, 2, 9)).unwrap();
        assert!(first.is_cancelled() && other.is_cancelled(), "those of the earlier start end");
        peer.unregister(kind, number);
        assert!(peer.check(&identity(2, 1, 7)).is_err(), "an old connection unregisters itself");
        peer.unregister(kind, newer);
        peer.check(&identity(2, 1, 7)).unwrap();
    }
}
