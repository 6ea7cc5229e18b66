//! How bytes reach another node: TCP, or in tests a network in memory.
//!
//! Must always hold: everything above this port is the same code for both.

#[cfg(feature = "testkit")]
pub(crate) mod memory;
pub(crate) mod tcp;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection that carries bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Bytes that the other side does not acknowledge for so long end the connection.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()>;
}

/// A connection and the address that it came from.
pub(crate) type Accepted = (Box<dyn Duplex>, String);

/// Connections that come.
pub(crate) trait Listener: Send {
    /// The address, with the port that was chosen.
    fn address(&self) -> String;

    /// The next connection. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;
}

/// Makes connections.
pub(crate) trait Transport: Send + Sync {
    /// Waits for connections at an address.
    fn listen(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;

    /// Connects to an address.
    fn dial(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Duplex>>>;
}
