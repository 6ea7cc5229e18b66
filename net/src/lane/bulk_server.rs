//! Bulk reads of one peer from this node, over one connection.
//!
//! Must always hold: for each read, at most its credit and at most one window wait to be sent;
//! reads take turns, one chunk each; a read stops when it is cancelled and when the connection
//! ends.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tokio::task::AbortHandle;

use crate::identity::Identity;
use crate::lane::{LaneState, Slot};
use crate::limits::Limits;
use crate::service::Service;
use crate::wire::frame::{BadFrame, Frame};

struct Stream {
    source: Bytes,
    offset: u64,
    credit: usize,
    /// A call of the service in progress.
    reading: Option<AbortHandle>,
    /// A chunk that was read and not yet sent.
    chunk: Option<Bytes>,
    end: Option<Frame>,
}

/// Bulk reads of one peer.
pub(crate) struct BulkServer {
    me: Weak<Slot<Self>>,
    peer: Arc<Identity>,
    service: Arc<dyn Service>,
    limits: Arc<Limits>,
    connection: u64,
    streams: BTreeMap<u64, Stream>,
    turns: VecDeque<u64>,
    refused: VecDeque<Frame>,
}

impl BulkServer {
    pub(crate) fn slot(
        peer: Arc<Identity>,
        service: Arc<dyn Service>,
        limits: Arc<Limits>,
    ) -> Arc<Slot<Self>> {
        Arc::new_cyclic(|me| {
            Slot::new(Self {
                me: Weak::clone(me),
                peer,
                service,
                limits,
                connection: 0,
                streams: BTreeMap::new(),
                turns: VecDeque::new(),
                refused: VecDeque::new(),
            })
        })
    }

    /// Reads one chunk ahead, so that disk and network work in parallel.
    fn read_on(&mut self, id: u64) {
        let frame_max = self.limits.frame_bytes_max;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_idle = stream.reading.is_none() && stream.chunk.is_none() && stream.end.is_none();
        let len_max = stream.credit.min(frame_max);
        if !is_idle || len_max == 0 {
            return;
        }
        let (me, connection) = (Weak::clone(&self.me), self.connection);
        let (service, peer) = (Arc::clone(&self.service), Arc::clone(&self.peer));
        let (source, offset) = (stream.source.clone(), stream.offset);
        let reading = tokio::spawn(async move {
            let read = async { service.read(peer, source, offset, len_max).await };
            let read = AssertUnwindSafe(read).catch_unwind().await;
            let read = read.unwrap_or_else(|_| Err("the source panicked".to_owned()));
            if let Some(slot) = me.upgrade() {
                slot.change_for(connection, |server| server.was_read(id, len_max, read));
            }
        });
        stream.reading = Some(reading.abort_handle());
    }

    fn was_read(&mut self, id: u64, len_max: usize, read: Result<Bytes, String>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.reading = None;
        match read {
            Ok(chunk) if chunk.is_empty() => stream.end = Some(Frame::End { id }),
            Ok(chunk) if chunk.len() <= len_max => {
                stream.offset += chunk.len() as u64;
                stream.credit -= chunk.len();
                stream.chunk = Some(chunk);
            }
            Ok(_) => stream.end = Some(fail(id, "the source returned too many bytes")),
            Err(text) => stream.end = Some(fail(id, &text)),
        }
        self.turns.push_back(id);
    }

    fn open(&mut self, id: u64, offset: u64, window: u32, source: Bytes) -> Result<(), BadFrame> {
        if self.streams.contains_key(&id) {
            return Err(BadFrame("two bulk reads have the same number"));
        }
        if source.len() > self.limits.bulk_source_bytes_max {
            return Err(BadFrame("the name of a bulk source is too long"));
        }
        if self.streams.len() >= self.limits.bulk_streams_max {
            if self.refused.len() > 2 * self.limits.bulk_streams_max {
                return Err(BadFrame("too many bulk reads, and their answers are not read"));
            }
            self.refused.push_back(fail(id, "too many bulk reads are in progress"));
            return Ok(());
        }
        let credit = (window as usize).min(self.limits.bulk_window_bytes);
        // The name is kept for long: copy it, to release the buffer that it arrived in.
        let source = Bytes::copy_from_slice(&source);
        let stream = Stream { source, offset, credit, reading: None, chunk: None, end: None };
        self.streams.insert(id, stream);
        self.read_on(id);
        Ok(())
    }

    fn forget(&mut self, id: u64) {
        if let Some(Stream { reading: Some(reading), .. }) = self.streams.remove(&id) {
            reading.abort();
        }
    }
}

fn fail(id: u64, text: &str) -> Frame {
    let end = text.floor_char_boundary(1024);
    Frame::Fail { id, body: Bytes::copy_from_slice(&text.as_bytes()[..end]) }
}

impl LaneState for BulkServer {
    fn connected(&mut self, connection: u64) {
        self.connection = connection;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame> {
        match frame {
            Frame::Read { id, offset, window, source } => self.open(id, offset, window, source)?,
            Frame::Credit { id, bytes } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.credit = stream.credit.saturating_add(bytes as usize);
                }
                self.read_on(id);
            }
            Frame::Cancel { id } => self.forget(id),
            _ => return Err(BadFrame("it belongs to another class of connections")),
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut BytesMut, room: usize) {
        while let Some(frame) = self.refused.pop_front() {
            frame.encode(out);
        }
        while out.len() < room
            && let Some(id) = self.turns.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if let Some(body) = stream.chunk.take() {
                Frame::Chunk { id, body }.encode(out);
                self.read_on(id);
            } else if let Some(end) = stream.end.take() {
                end.encode(out);
                self.forget(id);
            }
        }
    }

    fn has_frames(&self) -> bool {
        !self.turns.is_empty() || !self.refused.is_empty()
    }

    fn closed(&mut self) {
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.forget(id);
        }
        self.turns.clear();
        self.refused.clear();
    }
}
