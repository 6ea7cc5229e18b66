//! Maintains a connection of one class to one peer while it is wanted.
//!
//! Of two nodes with links, the one with the lower name dials, for heartbeats and consensus.
//! Without a connection, the other one knocks: a short connection that announces its address.
//! Requests and bulk reads are dialled by the requesting node.
//!
//! Must always hold: there is a pause after a failure and after a connection that ended. It doubles
//! up to a limit, and is cut short only when an address is new or the peer connects.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connection;
use crate::handshake::{self, HandshakeError, Stream};
use crate::identity::Identity;
use crate::lane::Lane;
use crate::lane::request_client::RequestError;
use crate::peer::Peer;
use crate::wire::hello::{Class, Refusal};

use super::Shared;

pub(super) async fn keep(shared: Arc<Shared>, peer: Arc<Peer>, class: Class) {
    let gone = peer.gone.clone();
    let task = Keeper { shared, peer, class, attempts: 0, pause: Duration::ZERO };
    tokio::select! {
        biased;
        () = gone.cancelled() => {}
        () = task.run() => {}
    }
}

struct Keeper {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    class: Class,
    attempts: usize,
    pause: Duration,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            if !self.is_wanted() {
                self.peer.wait_for_notice(self.class).await;
                continue;
            }
            let addresses = self.peer.addresses();
            if addresses.is_empty() {
                self.fail("its address is not known".to_owned());
                self.peer.wait_for_notice(self.class).await;
                self.peer.set_failed(self.class, None);
                continue;
            }
            let address = addresses[self.attempts % addresses.len()].clone();
            self.attempts += 1;
            if self.dials() {
                self.connect(address).await
            } else {
                self.knock(address).await
            }
            self.wait().await;
        }
    }

    /// Whether this node, having the lower name, makes the connections of links.
    fn dials(&self) -> bool {
        let is_of_links = matches!(self.class, Class::Heartbeats | Class::Consensus);
        !is_of_links || self.shared.identity.name < self.peer.name
    }

    fn is_wanted(&self) -> bool {
        let has_links = || self.peer.links.change(|links| links.is_wanted());
        match self.class {
            Class::Consensus if !self.dials() => !self.peer.links.is_connected() && has_links(),
            // One knock serves both classes.
            Class::Heartbeats if !self.dials() => false,
            Class::Consensus => !self.peer.links.is_connected() && has_links(),
            Class::Heartbeats => !self.peer.heartbeats.is_connected() && has_links(),
            Class::Requests => self.peer.requests.change(|requests| requests.is_wanted()),
            Class::Bulk => self.peer.bulk.change(|bulk| bulk.is_wanted()),
            Class::Knock => false,
        }
    }

    fn lane(&self) -> Arc<dyn Lane> {
        match self.class {
            Class::Heartbeats => Arc::clone(&self.peer.heartbeats) as Arc<dyn Lane>,
            Class::Consensus | Class::Knock => Arc::clone(&self.peer.links) as Arc<dyn Lane>,
            Class::Requests => Arc::clone(&self.peer.requests) as Arc<dyn Lane>,
            Class::Bulk => Arc::clone(&self.peer.bulk) as Arc<dyn Lane>,
        }
    }

    async fn connect(&mut self, address: String) {
        let (stream, identity) = match self.shared.reach(&self.peer, &address, self.class).await {
            Ok(reached) => reached,
            Err(error) => {
                self.shared.report_dial_error(&self.peer, &address, &error);
                self.fail(format!("{address}: {error}"));
                return;
            }
        };
        let kind = (self.class, false);
        let (live, stop) = match self.peer.register(kind, &identity) {
            Ok(registered) => registered,
            Err(refusal) => return self.fail(format!("{address}: {refusal}")),
        };
        self.peer.set_announced(identity.address.as_ref());
        let began = Instant::now();
        let lane = self.lane();
        drive(stream, &*lane, self.class, &self.shared, &self.peer, &stop).await;
        self.peer.unregister(kind, live);
        if began.elapsed() >= self.shared.limits.backoff_reset {
            self.pause = Duration::ZERO;
        }
    }

    async fn knock(&mut self, address: String) {
        match self.shared.reach(&self.peer, &address, Class::Knock).await {
            Ok((_, identity)) => {
                self.peer.set_failed(self.class, None);
                self.peer.set_announced(identity.address.as_ref());
            }
            Err(error) => {
                self.shared.report_dial_error(&self.peer, &address, &error);
                self.fail(format!("{address}: {error}"));
            }
        }
    }

    fn fail(&self, why: String) {
        self.peer.set_failed(self.class, Some(why.clone()));
        let error = RequestError::Unreachable(why);
        match self.class {
            Class::Requests => self.peer.requests.change(|lane| lane.fail_waiting(&error)),
            Class::Bulk => self.peer.bulk.change(|lane| lane.fail_waiting(&error)),
            Class::Heartbeats | Class::Consensus | Class::Knock => {}
        }
    }

    async fn wait(&mut self) {
        let limits = &self.shared.limits;
        self.pause = (self.pause * 2).clamp(limits.backoff_min, limits.backoff_max);
        let pause = self.shared.with_jitter(self.pause);
        // Biased, here and elsewhere: a seeded run must not draw from another random source.
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = self.peer.wait_for_hurry(self.class) => self.pause = Duration::ZERO,
        }
        self.peer.set_failed(self.class, None);
    }
}

/// Runs a lane over a connection until either ends.
pub(super) async fn drive(
    stream: Stream,
    lane: &dyn Lane,
    class: Class,
    shared: &Shared,
    peer: &Peer,
    stop: &CancellationToken,
) {
    if stop.is_cancelled() {
        return;
    }
    let number = lane.attach();
    tracing::debug!(node = %shared.identity.name, peer = %peer.name, ?class, "connected");
    let detach = Detach { lane, number };
    let ended = connection::run(stream, lane, number, class, &shared.limits, stop).await;
    drop(detach);
    tracing::debug!(node = %shared.identity.name, peer = %peer.name, ?class, "closed: {ended}");
    peer.notice();
}

/// The task may be dropped while a connection is attached: detach it then too.
struct Detach<'a> {
    lane: &'a dyn Lane,
    number: u64,
}

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        self.lane.detach(self.number);
    }
}

impl Shared {
    async fn reach(
        &self,
        peer: &Peer,
        address: &str,
        class: Class,
    ) -> Result<(Stream, Identity), HandshakeError> {
        let (limits, identity) = (&self.limits, &self.identity);
        let dialled = self.transport.dial(address.to_owned());
        let stream = tokio::time::timeout(limits.dial_time_max, dialled)
            .await
            .map_err(|_| HandshakeError::TimedOut)??;
        let tls = self.certificates.as_ref().map(|certificates| certificates.current());
        let check = |other: &Identity| {
            self.check_other(other)?;
            peer.check(other)?;
            self.service.admit(other).map_err(Refusal::NotAdmitted)
        };
        let outcome = handshake::dial(stream, tls, class, identity, &peer.name, check);
        tokio::time::timeout(limits.handshake_time_max, outcome)
            .await
            .unwrap_or(Err(HandshakeError::TimedOut))
    }

    pub(super) fn check_other(&self, other: &Identity) -> Result<(), Refusal> {
        let me = &self.identity;
        if other.name != me.name {
            return Ok(());
        }
        let is_me = (other.storage, other.boot, other.nonce) == (me.storage, me.boot, me.nonce);
        Err(if is_me { Refusal::Myself } else { Refusal::SameName(me.name.to_string()) })
    }

    fn report_dial_error(&self, peer: &Peer, address: &str, error: &HandshakeError) {
        // A node that is down is not logged as a refusal; the status shows it.
        let is_down = matches!(
            error,
            HandshakeError::Io(_) | HandshakeError::TimedOut | HandshakeError::Closed
        );
        if is_down {
            tracing::debug!(peer = %peer.name, address, "not reached: {error}");
        } else {
            self.record_refused(format!("{} at {address}", peer.name), error.to_string());
        }
    }
}
