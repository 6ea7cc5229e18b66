//! Accepts incoming connections.
//!
//! Must always hold: at most `handshakes_max` connections are in their handshake. Above that the
//! oldest one is closed: the handshake of a node takes milliseconds, that of an unknown client may
//! never end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::handshake::{self, HandshakeError, Stream};
use crate::identity::Identity;
use crate::lane::Lane;
use crate::lane::bulk_server::BulkServer;
use crate::lane::request_server::RequestServer;
use crate::transport::{Duplex, Listener};
use crate::wire::hello::{Class, Refusal};

use super::{Shared, dial};

/// Pause after an error of the listener, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn accept_all(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                handshakes.retain(|one| !one.is_finished());
                if handshakes.len() >= shared.limits.handshakes_max
                    && let Some(oldest) = handshakes.pop_front()
                {
                    oldest.abort();
                }
                let task = shared.tasks.spawn(accept_stream(Arc::clone(&shared), stream, from));
                handshakes.push_back(task.abort_handle());
            }
            Err(error) => {
                tracing::warn!(node = %shared.identity.name, "cannot accept: {error}");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn accept_stream(shared: Arc<Shared>, stream: Box<dyn Duplex>, from: String) {
    let tls = shared.certificates.as_ref().map(|certificates| certificates.current());
    let check = |other: &Identity, class| shared.check_accepted(other, class);
    let outcome = handshake::accept(stream, tls, &shared.identity, check);
    let limit = shared.limits.handshake_time_max;
    let outcome = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        outcome = tokio::time::timeout(limit, outcome) => outcome,
    };
    match outcome.unwrap_or(Err(HandshakeError::TimedOut)) {
        Ok((stream, class, other)) => {
            let serving = serve(Arc::clone(&shared), stream, class, other);
            shared.tasks.spawn(serving);
        }
        Err(error) => shared.report_accept_error(&from, &error),
    }
}

async fn serve(shared: Arc<Shared>, stream: Stream, class: Class, other: Identity) {
    let Ok(peer) = shared.peer(&other.name) else { return };
    peer.set_announced(other.address.as_ref());
    if class == Class::Knock {
        peer.skip_pause();
        return;
    }
    let is_served = matches!(class, Class::Requests | Class::Bulk);
    let kind = (class, is_served);
    // The identity was checked before, but another connection under this name may have registered
    // since.
    let Ok((live, stop)) = peer.register(kind, &other) else { return };
    let other = Arc::new(other);
    let (service, limits) = (Arc::clone(&shared.service), Arc::clone(&shared.limits));
    let lane: Arc<dyn Lane> = match class {
        Class::Heartbeats => Arc::clone(&peer.heartbeats) as Arc<dyn Lane>,
        Class::Consensus | Class::Knock => Arc::clone(&peer.links) as Arc<dyn Lane>,
        Class::Requests => RequestServer::slot(other, service, limits),
        Class::Bulk => BulkServer::slot(other, service, limits),
    };
    dial::drive(stream, &*lane, class, &shared, &peer, &stop).await;
    peer.unregister(kind, live);
}

impl Shared {
    fn check_accepted(self: &Arc<Self>, other: &Identity, class: Class) -> Result<(), Refusal> {
        self.check_other(other)?;
        self.service.admit(other).map_err(Refusal::NotAdmitted)?;
        let peer = self.peer(&other.name)?;
        peer.check(other)?;
        let is_of_links = matches!(class, Class::Heartbeats | Class::Consensus);
        if is_of_links && !peer.is_added() { Err(Refusal::NotKnown) } else { Ok(()) }
    }

    fn report_accept_error(&self, from: &str, error: &HandshakeError) {
        match error {
            // Unknown clients could fill the log.
            HandshakeError::Io(_)
            | HandshakeError::TimedOut
            | HandshakeError::Closed
            | HandshakeError::NotForebay
            | HandshakeError::NoCertificate
            | HandshakeError::Tls(_) => {
                tracing::debug!(node = %self.identity.name, from, "no handshake: {error}");
            }
            _ => {
                // Each connection comes from another port: log the host only.
                let host = from.rsplit_once(':').map_or(from, |(host, _)| host);
                self.record_refused(host.to_owned(), error.to_string());
            }
        }
    }
}
