//! The handshake of a connection: TLS, then the identities of the nodes and the purpose of the
//! connection.
//!
//! Must always hold: a client without a certificate of a known authority, or whose bytes are not a
//! hello, gets no answer but the end of the connection. The longest message is
//! [`HANDSHAKE_BYTES_MAX`]; the caller limits the time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::identity::{Identity, NodeName};
use crate::tls::{self, Configs};
use crate::transport::Duplex;
use crate::transport::tcp::NotLoopback;
use crate::wire::hello::{Class, HANDSHAKE_BYTES_MAX, Hello, PROTOCOL, Refusal, Reply};

/// How long a connection stays open after a refusal, so that the other side can read it.
const LINGER: Duration = Duration::from_millis(500);
/// Maximum number of bytes read and discarded during that time.
const LINGER_BYTES_MAX: u64 = 64 << 10;

/// Why a connection was not established. Each text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// An error of the operating system.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// An address that other machines can reach was given without TLS.
    #[error(transparent)]
    NotLoopback(NotLoopback),
    /// The time limit passed.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The other side closed the connection without an answer.
    #[error(
        "the other side closed the connection without an answer: it is not a forebay node, or \
         uses TLS where this node does not; its log says why"
    )]
    Closed,
    /// The other side does not speak the handshake protocol.
    #[error("the other side speaks another protocol: check the address, and TLS at both nodes")]
    NotForebay,
    /// The other side's certificate was issued by an unknown authority.
    #[error(
        "the certificate of the other side was not issued by an authority that this node \
         knows: use certificates of one authority"
    )]
    OtherAuthority,
    /// The other side's certificate is for another name.
    #[error("the certificate at that address is not for the node {0}: check the address")]
    OtherName(NodeName),
    /// The other side's certificate has expired, or is not valid yet.
    #[error("the certificate of the other side is not valid at this time: {0}")]
    CertificateTime(String),
    /// The other side presented no certificate.
    #[error("the other side presented no certificate")]
    NoCertificate,
    /// The other side does not accept this node's certificate.
    #[error(
        "the other side does not accept this node's certificate ({0}): check that both are of \
         one authority and that it has not expired"
    )]
    CertificateRefused(String),
    /// Another TLS error.
    #[error("TLS: {0}")]
    Tls(String),
    /// This node refused the other one.
    #[error("refused the other node: {0}")]
    Refused(Refusal),
    /// The other node refused this one.
    #[error("the other node refuses this one: {0}")]
    RefusedByPeer(Refusal),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(inner) = error.get_ref() {
            if let Some(inner) = inner.downcast_ref::<rustls::Error>() {
                return of_tls(inner);
            }
            if let Some(inner) = inner.downcast_ref::<NotLoopback>() {
                return Self::NotLoopback(inner.clone());
            }
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

fn of_tls(error: &rustls::Error) -> HandshakeError {
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                HandshakeError::OtherAuthority
            }
            _ if tls::is_about_time(reason) => HandshakeError::CertificateTime(error.to_string()),
            _ => HandshakeError::Tls(error.to_string()),
        },
        rustls::Error::NoCertificatesPresented => HandshakeError::NoCertificate,
        rustls::Error::AlertReceived(alert) => {
            HandshakeError::CertificateRefused(format!("{alert:?}"))
        }
        rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => HandshakeError::NotForebay,
        _ => HandshakeError::Tls(error.to_string()),
    }
}

/// A connection, with or without TLS.
pub(crate) enum Stream {
    Plain(Box<dyn Duplex>),
    Tls(Box<TlsStream<Box<dyn Duplex>>>),
}

impl Stream {
    fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    pub(crate) fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.set_user_timeout(timeout),
            Self::Tls(stream) => stream.get_ref().0.set_user_timeout(timeout),
        }
    }

    async fn send(&mut self, message: Bytes) -> Result<(), HandshakeError> {
        let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let mut out = BytesMut::from(&len.to_be_bytes()[..]);
        out.extend_from_slice(&message);
        self.write_all(&out).await?;
        Ok(self.flush().await?)
    }

    async fn receive(&mut self) -> Result<Bytes, HandshakeError> {
        let mut len = [0; 4];
        self.read_exact(&mut len).await?;
        let len = u32::from_be_bytes(len) as usize;
        if len > HANDSHAKE_BYTES_MAX {
            return Err(HandshakeError::NotForebay);
        }
        let mut message = vec![0; len];
        self.read_exact(&mut message).await?;
        Ok(message.into())
    }

    async fn receive_reply(&mut self) -> Result<Reply, HandshakeError> {
        Reply::decode(self.receive().await?).ok_or(HandshakeError::NotForebay)
    }

    /// Sends a refusal, and gives the other side a moment to read it.
    async fn refuse(mut self, refusal: Refusal) -> HandshakeError {
        let sent = self.send(Reply::Refused(refusal.clone()).encode()).await;
        if sent.is_ok() {
            linger(self).await;
        }
        HandshakeError::Refused(refusal)
    }
}

/// Reads and discards input before closing: TCP drops sent data when a socket is closed with unread
/// bytes.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = tokio::time::timeout(LINGER, async {
        let _ = stream.shutdown().await;
        let mut rest = stream.take(LINGER_BYTES_MAX);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    })
    .await;
}

/// Whether a connection of this class may be between these nodes.
fn may_meet(one: &Identity, other: &Identity, class: Class) -> bool {
    let is_none = one.cluster == 0 || other.cluster == 0;
    let is_of_links = matches!(class, Class::Heartbeats | Class::Consensus);
    one.cluster == other.cluster || (is_none && !is_of_links)
}

/// The dialling side. `check` checks the identity of the node that answered.
pub(crate) async fn dial(
    stream: Box<dyn Duplex>,
    tls: Option<Arc<Configs>>,
    class: Class,
    me: &Identity,
    peer: &NodeName,
    check: impl FnOnce(&Identity) -> Result<(), Refusal>,
) -> Result<(Stream, Identity), HandshakeError> {
    let mut stream = match tls {
        None => Stream::Plain(stream),
        Some(configs) => {
            let connector = TlsConnector::from(Arc::clone(&configs.client));
            let connected = connector.connect(tls::server_name(peer), stream).await;
            Stream::Tls(Box::new(connected.map_err(|error| of_dialled(error, peer))?.into()))
        }
    };
    stream.send(Hello::encode(class, me)).await?;
    match stream.receive_reply().await? {
        Reply::Welcome(identity) => {
            let checked = if identity.name != *peer {
                Err(Refusal::OtherNode(identity.name.to_string()))
            } else if !may_meet(&identity, me, class) {
                Err(Refusal::OtherCluster)
            } else {
                check(&identity)
            };
            match checked {
                Ok(()) => {
                    stream.send(Reply::Ready.encode()).await?;
                    Ok((stream, identity))
                }
                Err(refusal) => Err(stream.refuse(refusal).await),
            }
        }
        Reply::Refused(refusal) => Err(HandshakeError::RefusedByPeer(refusal)),
        Reply::Ready => Err(HandshakeError::NotForebay),
    }
}

fn of_dialled(error: io::Error, peer: &NodeName) -> HandshakeError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_other_name = matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ))
    );
    if is_other_name { HandshakeError::OtherName(peer.clone()) } else { error.into() }
}

/// The accepting side. `check` checks the identity of the node that dialled.
pub(crate) async fn accept(
    stream: Box<dyn Duplex>,
    tls: Option<Arc<Configs>>,
    me: &Identity,
    check: impl FnOnce(&Identity, Class) -> Result<(), Refusal>,
) -> Result<(Stream, Class, Identity), HandshakeError> {
    let mut stream = match tls {
        None => Stream::Plain(stream),
        Some(configs) => {
            let acceptor = TlsAcceptor::from(Arc::clone(&configs.server));
            match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => Stream::Tls(Box::new(stream.into())),
                Err((error, stream)) => {
                    linger(stream).await;
                    return Err(error.into());
                }
            }
        }
    };
    let hello = Hello::decode(stream.receive().await?).ok_or(HandshakeError::NotForebay)?;
    let Some((class, identity)) = hello.body else {
        // The answer carries the protocols of this side, the error those of the other side.
        stream.refuse(Refusal::Protocol { oldest: PROTOCOL, newest: PROTOCOL }).await;
        let (oldest, newest) = (hello.oldest, hello.newest);
        return Err(HandshakeError::Refused(Refusal::Protocol { oldest, newest }));
    };
    let other = stream.certificate().is_some_and(|one| !tls::is_for(one, &identity.name));
    let checked = if !may_meet(&identity, me, class) {
        Err(Refusal::OtherCluster)
    } else if other {
        Err(Refusal::OtherCertificate(identity.name.to_string()))
    } else {
        check(&identity, class)
    };
    if let Err(refusal) = checked {
        return Err(stream.refuse(refusal).await);
    }
    stream.send(Reply::Welcome(me.clone()).encode()).await?;
    match stream.receive_reply().await? {
        Reply::Ready => Ok((stream, class, identity)),
        Reply::Refused(refusal) => Err(HandshakeError::RefusedByPeer(refusal)),
        Reply::Welcome(_) => Err(HandshakeError::NotForebay),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_no_cluster_asks_and_copies_and_has_no_links() {
        let of = |cluster| Identity {
            cluster,
            name: "a".parse().unwrap(),
            storage: 1,
            boot: 1,
            nonce: 1,
            address: None,
        };
        let meet = |one, other, class| may_meet(&of(one), &of(other), class);
        for class in [Class::Requests, Class::Bulk, Class::Knock] {
            assert!(meet(0, 7, class) && meet(7, 0, class) && meet(7, 7, class));
            assert!(!meet(7, 8, class));
        }
        for class in [Class::Heartbeats, Class::Consensus] {
            assert!(!meet(0, 7, class) && !meet(7, 0, class) && meet(7, 7, class));
        }
    }
}
