//! How bytes reach another node: TCP, or an in-memory network in tests.
//!
//! Must always hold: all code above this port is the same for both.

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
    /// Ends the connection when the other side does not acknowledge bytes for this long.
    ///
    /// # Errors
    ///
    /// An error of the operating system.
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()>;
}

/// A connection, and the address it came from.
pub(crate) type Accepted = (Box<dyn Duplex>, String);

/// Accepts incoming connections.
pub(crate) trait Listener: Send {
    /// The address, with the port that was assigned.
    fn address(&self) -> String;

    /// The next connection. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;
}

/// Makes connections.
pub(crate) trait Transport: Send + Sync {
    /// Starts listening at an address.
    fn listen(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;

    /// Connects to an address.
    fn dial(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Duplex>>>;
}
