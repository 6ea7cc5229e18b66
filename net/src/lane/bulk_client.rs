//! Bulk reads by this node from one peer.
//!
//! Must always hold: received bytes that the reader has not taken never exceed the window of the
//! read; a read that ended early returns the offset at which to continue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::lane::LaneState;
use crate::lane::request_client::RequestError;
use crate::limits::Limits;
use crate::wire::frame::{BadFrame, Frame};

struct Stream {
    source: Bytes,
    /// Offset of the next chunk.
    offset: u64,
    is_opened: bool,
    chunks: VecDeque<Bytes>,
    /// Bytes taken by the reader and not yet granted again.
    taken: usize,
    /// Bytes granted and not yet received.
    window: usize,
    end: Option<Result<(), RequestError>>,
    wake: Arc<Notify>,
}

/// Bulk reads from one peer.
pub(crate) struct BulkClient {
    limits: Arc<Limits>,
    is_connected: bool,
    is_stopped: bool,
    next_id: u64,
    streams: BTreeMap<u64, Stream>,
    cancels: VecDeque<u64>,
}

impl BulkClient {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        let (streams, cancels) = (BTreeMap::new(), VecDeque::new());
        Self { limits, is_connected: false, is_stopped: false, next_id: 1, streams, cancels }
    }

    /// Whether a read waits for a connection or for bytes.
    pub(crate) fn is_wanted(&self) -> bool {
        self.streams.values().any(|stream| stream.end.is_none())
    }

    pub(crate) fn start(
        &mut self,
        source: Bytes,
        offset: u64,
    ) -> Result<(u64, Arc<Notify>), RequestError> {
        if self.is_stopped {
            return Err(RequestError::Stopped);
        }
        if source.len() > self.limits.bulk_source_bytes_max {
            return Err(RequestError::TooLong);
        }
        if self.streams.len() >= self.limits.bulk_streams_max {
            return Err(RequestError::Busy);
        }
        let id = self.next_id;
        self.next_id += 1;
        let wake = Arc::new(Notify::new());
        let stream = Stream {
            source,
            offset,
            is_opened: false,
            chunks: VecDeque::new(),
            taken: 0,
            window: self.limits.bulk_window_bytes,
            end: None,
            wake: Arc::clone(&wake),
        };
        self.streams.insert(id, stream);
        Ok((id, wake))
    }

    /// The next chunk; `None` if there is none yet. An empty chunk is the end.
    pub(crate) fn take(&mut self, id: u64) -> Option<Result<Bytes, RequestError>> {
        let stream = self.streams.get_mut(&id)?;
        if let Some(chunk) = stream.chunks.pop_front() {
            stream.taken += chunk.len();
            return Some(Ok(chunk));
        }
        match &stream.end {
            None => None,
            Some(Ok(())) => Some(Ok(Bytes::new())),
            Some(Err(error)) => Some(Err(error.clone())),
        }
    }

    /// The reader was dropped.
    pub(crate) fn cancel(&mut self, id: u64) {
        if let Some(stream) = self.streams.remove(&id)
            && stream.is_opened
            && stream.end.is_none()
        {
            self.cancels.push_back(id);
        }
    }

    pub(crate) fn fail_waiting(&mut self, error: &RequestError) {
        for stream in self.streams.values_mut() {
            end(stream, Err(error.clone()));
        }
    }

    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
        self.fail_waiting(&RequestError::Stopped);
    }
}

fn end(stream: &mut Stream, how: Result<(), RequestError>) {
    stream.end.get_or_insert(how);
    stream.wake.notify_one();
}

impl LaneState for BulkClient {
    fn connected(&mut self, _connection: u64) {
        self.is_connected = true;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame> {
        match frame {
            Frame::Chunk { id, body } => {
                let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
                if body.len() > stream.window || stream.end.is_some() || !stream.is_opened {
                    return Err(BadFrame("more bytes than were requested"));
                }
                if body.is_empty() {
                    return Err(BadFrame("a chunk is empty"));
                }
                stream.window -= body.len();
                stream.offset += body.len() as u64;
                stream.chunks.push_back(body);
                stream.wake.notify_one();
            }
            Frame::End { id } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    end(stream, Ok(()));
                }
            }
            Frame::Fail { id, body } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    end(stream, Err(RequestError::Failed(text)));
                }
            }
            _ => return Err(BadFrame("it belongs to another class of connections")),
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut BytesMut, _room: usize) {
        while let Some(id) = self.cancels.pop_front() {
            Frame::Cancel { id }.encode(out);
        }
        let grant_min = self.limits.bulk_window_bytes / 2;
        for (id, stream) in &mut self.streams {
            if stream.end.is_some() {
                continue;
            }
            if !stream.is_opened {
                stream.is_opened = true;
                let window = u32::try_from(stream.window).unwrap_or(u32::MAX);
                let source = stream.source.clone();
                Frame::Read { id: *id, offset: stream.offset, window, source }.encode(out);
            } else if stream.taken > 0 && stream.taken >= grant_min {
                let bytes = u32::try_from(stream.taken).unwrap_or(u32::MAX);
                stream.taken -= bytes as usize;
                stream.window += bytes as usize;
                Frame::Credit { id: *id, bytes }.encode(out);
            }
        }
    }

    fn has_frames(&self) -> bool {
        // A reader that took bytes may grant new ones.
        !self.streams.is_empty() || !self.cancels.is_empty()
    }

    fn closed(&mut self) {
        self.is_connected = false;
        self.cancels.clear();
        for stream in self.streams.values_mut().filter(|stream| stream.is_opened) {
            end(stream, Err(RequestError::Lost));
        }
    }
}
