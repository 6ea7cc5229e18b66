//! The network between the nodes of a cluster.
//!
//! Owns connections, their handshake, and the traffic over them: heartbeats, links with sessions
//! per peer and group, requests, bulk reads. Must not know queues, logs or consensus: groups are
//! numbers, messages are bytes, and node identities are values of the caller.
//!
//! What must always hold:
//! 1. Without TLS, only loopback addresses are bound or dialled.
//! 2. An unauthenticated client gets no answer but the end of the handshake, and costs bounded
//!    memory.
//! 3. A call that sends never waits. Every queue has a limit, in messages and bytes.
//! 4. Within a session of a link, messages arrive in order and without gaps. Both ends know the
//!    session by the same number, and both are informed of its end.
//! 5. A request is answered once; every error says whether the peer may have handled it.

mod connection;
mod group;
mod handshake;
mod identity;
mod lane;
mod limits;
mod net;
mod peer;
mod service;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod wire;

pub use group::Event;
pub use handshake::HandshakeError;
pub use identity::{BadName, Identity, NODE_NAME_LEN_MAX, NodeName};
pub use lane::links::NotSent;
pub use lane::request_client::RequestError;
pub use limits::Limits;
pub use net::{BulkRead, Config, Group, GroupError, Net, Refused, StartError};
pub use peer::PeerView;
pub use service::{Answer, Service};
pub use tls::{AUTHORITY_DAYS, BundleError, CertificateStatus, TlsError, TlsFiles, init_tls};
#[cfg(feature = "testkit")]
pub use transport::memory::{Conditions, MemoryNet};
pub use transport::tcp::NotLoopback;
pub use wire::hello::{Class, PROTOCOL, Refusal};
