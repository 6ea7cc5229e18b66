//! The reader's end of a bulk read.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::lane::request_client::RequestError;
use crate::peer::Peer;

/// Reads a source of a peer. Dropping it ends the read at the peer too.
pub struct BulkRead {
    peer: Arc<Peer>,
    id: u64,
    wake: Arc<Notify>,
    offset: u64,
}

impl BulkRead {
    pub(super) fn start(peer: Arc<Peer>, source: Bytes, offset: u64) -> Result<Self, RequestError> {
        let (id, wake) = peer.bulk.change(|bulk| bulk.start(source, offset))?;
        peer.notice();
        Ok(Self { peer, id, wake, offset })
    }

    /// Offset of the next chunk: another read continues here after an error.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next chunk; `None` at the end. Cancel safe. The peer sends at most one window more than
    /// was taken.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; every later call returns it again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let notified = self.wake.notified();
            match self.peer.bulk.change(|bulk| bulk.take(self.id)) {
                Some(Ok(chunk)) if chunk.is_empty() => return Ok(None),
                Some(Ok(chunk)) => {
                    self.offset += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Some(Err(error)) => return Err(error),
                None => notified.await,
            }
        }
    }
}

impl Drop for BulkRead {
    fn drop(&mut self) {
        self.peer.bulk.change(|bulk| bulk.cancel(self.id));
    }
}
