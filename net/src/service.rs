//! The application's answers to other nodes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::identity::Identity;

/// The future of an answer.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Answers requests and bulk reads of other nodes.
///
/// A future is dropped when its request is cancelled, its deadline passes, or its connection ends.
pub trait Service: Send + Sync + 'static {
    /// Whether the node may connect. Called after the network's own checks; the reason is sent to
    /// the other node.
    ///
    /// # Errors
    ///
    /// The reason for a refusal, to be read by the operator.
    fn admit(&self, _peer: &Identity) -> Result<(), String> {
        Ok(())
    }

    /// Answers a request. An error is sent to the other side as text.
    fn request(&self, peer: Arc<Identity>, body: Bytes) -> Answer;

    /// Reads at most `len_max` bytes of a source from `offset` on; an empty result is the end.
    fn read(&self, peer: Arc<Identity>, source: Bytes, offset: u64, len_max: usize) -> Answer;
}
