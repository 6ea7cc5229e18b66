//! What the application answers to other nodes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::identity::Identity;

/// A boxed future of an answer.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Answers requests and bulk reads of other nodes.
///
/// A future is dropped when its request was cancelled, its deadline is over, or its
/// connection is gone.
pub trait Service: Send + Sync + 'static {
    /// Whether the node may connect. Asked after the checks of the network itself; the
    /// reason is sent to the other node.
    ///
    /// # Errors
    ///
    /// The reason for a refusal, for people.
    fn admit(&self, _peer: &Identity) -> Result<(), String> {
        Ok(())
    }

    /// Answers a request. An error is sent to the other side as text.
    fn request(&self, peer: Arc<Identity>, body: Bytes) -> Answer;

    /// Reads at most `len_max` bytes of a source from `offset` on; no bytes mean its end.
    fn read(&self, peer: Arc<Identity>, source: Bytes, offset: u64, len_max: usize) -> Answer;
}
