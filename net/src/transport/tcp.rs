//! TCP. Without TLS, only loopback addresses are bound and dialled.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::{Accepted, BoxFuture, Duplex, Listener, Transport};

/// Why an address is refused without TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not an address of this machine alone: without TLS only loopback addresses are \
     used; make certificates (init_tls) and name their files"
)]
pub struct NotLoopback(pub String);

/// TCP, with or without TLS above it.
pub(crate) struct Tcp {
    pub(crate) has_tls: bool,
}

impl Tcp {
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = lookup_host(address).await?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        // Check all of them: otherwise the result would depend on their order.
        if !self.has_tls && found.iter().any(|one| !one.ip().is_loopback()) {
            return Err(io::Error::other(NotLoopback(address.to_owned())));
        }
        Ok(found)
    }
}

impl Transport for Tcp {
    fn listen(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(&self.resolve(&address).await?[..]).await?;
            Ok(Box::new(TcpAccept { listener }) as Box<dyn Listener>)
        })
    }

    fn dial(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(&self.resolve(&address).await?[..]).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

struct TcpAccept {
    listener: TcpListener,
}

impl Listener for TcpAccept {
    fn address(&self) -> String {
        self.listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async {
            let (stream, from) = self.listener.accept().await?;
            // Fails only if the connection has already ended.
            let _ = stream.set_nodelay(true);
            Ok((Box::new(stream) as Box<dyn Duplex>, from.to_string()))
        })
    }
}

impl Duplex for TcpStream {
    #[cfg(target_os = "linux")]
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        SockRef::from(self).set_tcp_user_timeout(Some(timeout))
    }

    #[cfg(not(target_os = "linux"))]
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        // Other systems have no user timeout: use keep-alive probes.
        let probes = socket2::TcpKeepalive::new().with_time(timeout).with_interval(timeout);
        SockRef::from(self).set_tcp_keepalive(&probes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_tls_only_loopback_is_bound_or_dialled() {
        let plain = Tcp { has_tls: false };
        let listener = plain.listen("127.0.0.1:0".to_owned()).await.unwrap();
        plain.dial(listener.address()).await.unwrap();
        for address in ["0.0.0.0:0", "192.0.2.1:7", "[::]:0"] {
            let bound = plain.listen(address.to_owned()).await.err().unwrap();
            let dialled = plain.dial(address.to_owned()).await.err().unwrap();
            for error in [bound, dialled] {
                assert!(error.to_string().contains("without TLS only loopback"), "{error}");
            }
        }
        Tcp { has_tls: true }.listen("0.0.0.0:0".to_owned()).await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_user_timeout_reaches_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.set_user_timeout(Duration::from_millis(300)).unwrap();
        let set = SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(set, Some(Duration::from_millis(300)));
    }
}
