//! A node's end of the network: its parts, and the calls of the application.
//!
//! Must always hold: every spawned task ends with [`Net::stop`], or when the last [`Net`] is
//! dropped.

mod accept;
mod bulk_read;
mod dial;
mod handle;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use bulk_read::BulkRead;
pub use handle::{Group, GroupError};

use crate::group::GroupQueue;
use crate::identity::{Identity, NodeName};
use crate::lane::request_client::RequestError;
use crate::limits::Limits;
use crate::peer::{Peer, PeerView};
use crate::service::Service;
use crate::tls::{CertificateStatus, Certificates, TlsError, TlsFiles};
use crate::transport::tcp::{NotLoopback, Tcp};
use crate::transport::{Listener, Transport};
use crate::wire::hello::{Class, Refusal};

/// Number of refused connections that are remembered.
const REFUSED_MAX: usize = 32;

/// Configuration of a node.
pub struct Config {
    /// Identity of the node. If it has no address, peers get the one it listens on.
    pub identity: Identity,
    /// Host and port to listen on. `None`: the node only dials.
    pub listen: Option<String>,
    /// Certificate of the node. `None`: no TLS, and loopback addresses only.
    pub tls: Option<TlsFiles>,
    /// Limits; must be the same on all nodes.
    pub limits: Limits,
    /// Answers requests and bulk reads.
    pub service: Arc<dyn Service>,
    /// Seeds the jitter of the pauses. `None`: a random seed.
    pub seed: Option<u64>,
}

/// Why the network was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address that other machines can reach was given without TLS.
    #[error(transparent)]
    NotLoopback(NotLoopback),
    /// The address cannot be listened on.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        #[source]
        error: io::Error,
    },
}

/// A refused connection: this node or the other one refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The address it came from, or the node that was dialled.
    pub who: String,
    /// The reason, and what to do.
    pub why: String,
    /// Number of times in a row.
    pub count: u64,
}

struct Shared {
    identity: Identity,
    limits: Arc<Limits>,
    service: Arc<dyn Service>,
    certificates: Option<Certificates>,
    transport: Arc<dyn Transport>,
    stop: CancellationToken,
    tasks: TaskTracker,
    peers: Mutex<BTreeMap<NodeName, Arc<Peer>>>,
    groups: Mutex<BTreeMap<u32, Arc<GroupQueue>>>,
    refused: Mutex<VecDeque<Refused>>,
    random: Mutex<fastrand::Rng>,
}

/// A node's end of the network. Cheap to clone.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
    /// Ends the tasks when the last clone is dropped.
    _owner: Arc<Owner>,
}

struct Owner(CancellationToken);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Net {
    /// Starts over TCP, on the tokio runtime of the caller.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let has_tls = config.tls.is_some();
        Self::start_over(config, Arc::new(Tcp { has_tls })).await
    }

    /// Starts over the given transport.
    pub(crate) async fn start_over(
        config: Config,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let Config { mut identity, listen, tls, limits, service, seed } = config;
        let certificates =
            tls.map(|files| Certificates::load(files, identity.name.clone())).transpose()?;
        let listener = match listen {
            None => None,
            Some(address) => Some(bind(&*transport, address).await?),
        };
        if let Some(listener) = &listener
            && identity.address.is_none()
        {
            let address = listener.address();
            let is_for_others = !address.starts_with("0.0.0.0:") && !address.starts_with("[::]:");
            identity.address = is_for_others.then_some(address);
        }
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let shared = Arc::new(Shared {
            identity,
            limits: Arc::new(limits),
            service,
            certificates,
            transport,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            peers: Mutex::default(),
            groups: Mutex::default(),
            refused: Mutex::default(),
            random: Mutex::new(random),
        });
        if let Some(listener) = listener {
            shared.tasks.spawn(accept::accept_all(Arc::clone(&shared), listener));
        }
        if shared.certificates.is_some() {
            shared.tasks.spawn(watch_certificates(Arc::clone(&shared)));
        }
        let owner = Arc::new(Owner(shared.stop.clone()));
        Ok(Self { shared, _owner: owner })
    }

    /// The identity of this node, with the address that peers get.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Ends all connections and tasks. Waiting requests are answered with
    /// [`RequestError::Stopped`].
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        for peer in self.shared.all_peers() {
            peer.requests.change(crate::lane::request_client::RequestClient::stop);
            peer.bulk.change(crate::lane::bulk_client::BulkClient::stop);
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Adds a peer, or changes its address. A peer without an address is reached once it announces
    /// one itself.
    ///
    /// # Errors
    ///
    /// [`Refusal::SameName`] for this node's own name, [`Refusal::TooManyPeers`].
    pub fn add_peer(&self, name: &NodeName, address: Option<&str>) -> Result<(), Refusal> {
        let peer = self.shared.peer(name)?;
        peer.add(address.map(str::to_owned));
        Ok(())
    }

    /// Removes a peer: its connections, requests and links end. A group that still wants it must
    /// add it again.
    pub fn remove_peer(&self, name: &NodeName) {
        let removed = self.shared.lock_peers().remove(name);
        if let Some(peer) = removed {
            peer.gone.cancel();
            peer.links.disconnect();
            peer.heartbeats.disconnect();
            peer.requests.disconnect();
            peer.bulk.disconnect();
            let error = RequestError::UnknownPeer(name.to_string());
            peer.requests.change(|requests| requests.fail_waiting(&error));
            peer.bulk.change(|bulk| bulk.fail_waiting(&error));
        }
    }

    /// The known state of the peers, for a status.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        self.shared.all_peers().iter().map(|peer| peer.view()).collect()
    }

    /// The identity of the node that is connected under that name, or was last.
    #[must_use]
    pub fn identity_of(&self, peer: &NodeName) -> Option<Identity> {
        self.shared.find(peer)?.view().identity
    }

    /// Recently refused connections, the latest last.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        self.shared.lock_refused().iter().cloned().collect()
    }

    /// Validity of the certificate; `None` without TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateStatus> {
        self.shared.certificates.as_ref().map(Certificates::status)
    }

    /// Reads the certificate files now instead of at the next check. New connections use them;
    /// existing ones continue.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the certificates in use stay in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        match &self.shared.certificates {
            Some(certificates) => certificates.reload().map(drop),
            None => Ok(()),
        }
    }

    /// Opens a group. [`Group::add_peer`] makes links to peers.
    ///
    /// # Errors
    ///
    /// [`GroupError`].
    pub fn group(&self, id: u32) -> Result<Group, GroupError> {
        Group::open(self, id)
    }

    /// Sends a request to a peer and waits for the answer. Dropping the future cancels the request,
    /// at the peer too. A request is never sent twice.
    ///
    /// # Errors
    ///
    /// [`RequestError`], which says whether the peer may have handled the request.
    pub async fn request(
        &self,
        peer: &NodeName,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, RequestError> {
        let peer = self.shared.known(peer)?;
        let deadline = Instant::now() + within.min(self.shared.limits.request_time_max);
        let (reply, mut answer) = oneshot::channel();
        self.check_reachable(&peer, Class::Requests, peer.requests.is_connected())?;
        let id = peer.requests.change(|requests| requests.start(body, deadline, reply))?;
        let guard = CancelOnDrop { peer: Arc::clone(&peer), id };
        peer.notice();
        match tokio::time::timeout_at(deadline, &mut answer).await {
            Ok(answer) => answer.unwrap_or(Err(RequestError::Stopped)),
            // It may have been answered meanwhile.
            Err(_) => answer
                .try_recv()
                .unwrap_or_else(|_| Err(RequestError::Deadline { was_sent: guard.cancel() })),
        }
    }

    /// Reads a source of a peer from `offset` on.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub fn read(
        &self,
        peer: &NodeName,
        source: Bytes,
        offset: u64,
    ) -> Result<BulkRead, RequestError> {
        let peer = self.shared.known(peer)?;
        self.check_reachable(&peer, Class::Bulk, peer.bulk.is_connected())?;
        BulkRead::start(peer, source, offset)
    }

    fn check_reachable(
        &self,
        peer: &Peer,
        class: Class,
        is_connected: bool,
    ) -> Result<(), RequestError> {
        if self.shared.stop.is_cancelled() {
            return Err(RequestError::Stopped);
        }
        match peer.failed(class) {
            Some(why) if !is_connected => Err(RequestError::Unreachable(why)),
            _ => Ok(()),
        }
    }
}

struct CancelOnDrop {
    peer: Arc<Peer>,
    id: u64,
}

impl CancelOnDrop {
    fn cancel(&self) -> bool {
        self.peer.requests.change(|requests| requests.cancel(self.id))
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.cancel();
    }
}

async fn bind(transport: &dyn Transport, address: String) -> Result<Box<dyn Listener>, StartError> {
    transport.listen(address.clone()).await.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NotLoopback>());
        match inner {
            Some(inner) => StartError::NotLoopback(inner.clone()),
            None => StartError::Listen { address, error },
        }
    })
}

async fn watch_certificates(shared: Arc<Shared>) {
    let Some(certificates) = &shared.certificates else { return };
    let mut warned = None;
    loop {
        let days = certificates.status().days_left;
        if days <= shared.limits.certificate_warn_days && warned != Some(days) {
            warned = Some(days);
            tracing::warn!(node = %shared.identity.name, "the certificate expires in {days} days");
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(shared.limits.certificate_check_interval) => {}
        }
        // The status and the log have the error.
        let _ = certificates.reload();
    }
}

impl Shared {
    fn lock_peers(&self) -> MutexGuard<'_, BTreeMap<NodeName, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_groups(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<GroupQueue>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_refused(&self) -> MutexGuard<'_, VecDeque<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_peers(&self) -> Vec<Arc<Peer>> {
        self.lock_peers().values().map(Arc::clone).collect()
    }

    fn find(&self, name: &NodeName) -> Option<Arc<Peer>> {
        self.lock_peers().get(name).map(Arc::clone)
    }

    fn known(&self, name: &NodeName) -> Result<Arc<Peer>, RequestError> {
        self.find(name).ok_or_else(|| RequestError::UnknownPeer(name.to_string()))
    }

    /// The peer of that name, added if it is unknown.
    fn peer(self: &Arc<Self>, name: &NodeName) -> Result<Arc<Peer>, Refusal> {
        if *name == self.identity.name {
            return Err(Refusal::SameName(name.to_string()));
        }
        let mut peers = self.lock_peers();
        if let Some(peer) = peers.get(name) {
            return Ok(Arc::clone(peer));
        }
        if peers.len() >= self.limits.peers_max {
            let idle = peers.values().find(|peer| peer.is_idle());
            let idle = idle.map(|peer| peer.name.clone()).ok_or(Refusal::TooManyPeers)?;
            if let Some(peer) = peers.remove(&idle) {
                peer.gone.cancel();
            }
        }
        let gone = self.stop.child_token();
        let peer = Arc::new(Peer::new(name.clone(), &self.limits, gone));
        peers.insert(name.clone(), Arc::clone(&peer));
        drop(peers);
        for class in Class::LASTING {
            self.tasks.spawn(dial::keep(Arc::clone(self), Arc::clone(&peer), class));
        }
        Ok(peer)
    }

    /// Records a refused connection, and logs it once.
    fn record_refused(&self, who: String, why: String) {
        let mut refused = self.lock_refused();
        let same = refused.iter().position(|one| one.who == who && one.why == why);
        let count = same.and_then(|at| refused.remove(at)).map_or(0, |one| one.count);
        if count == 0 {
            tracing::warn!(node = %self.identity.name, "no connection to {who}: {why}");
            if refused.len() >= REFUSED_MAX {
                refused.pop_front();
            }
        }
        refused.push_back(Refused { who, why, count: count + 1 });
    }

    /// A pause, shortened randomly by up to a half, so that nodes do not dial in step.
    fn with_jitter(&self, pause: Duration) -> Duration {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        pause.mul_f64(0.5 + random.f64() / 2.0)
    }
}
