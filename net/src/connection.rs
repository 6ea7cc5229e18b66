//! Drives a lane over a connection until either ends.
//!
//! Must always hold: reading never waits for writing or for the application; a connection ends when
//! it receives nothing, or the peer accepts nothing, for longer than `silence_max`.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use crate::handshake::Stream;
use crate::lane::Lane;
use crate::limits::Limits;
use crate::wire::frame::{BadFrame, Frame, HEAD_BYTES_MAX};
use crate::wire::hello::Class;

/// Maximum number of bytes per write.
const WRITE_BYTES: usize = 128 << 10;
/// Size of the read buffer.
const READ_BYTES: usize = 64 << 10;
/// How often a connection is checked within `silence_max`.
const SILENCE_CHECKS: u32 = 4;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("this side closed it")]
    Stopped,
    #[error("the other side closed it")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    BadFrame(#[from] BadFrame),
    #[error("the other side sent nothing for too long")]
    Silent,
    #[error("the other side accepted no bytes for too long")]
    Stuck,
}

/// Runs until the connection ends or `stop` is cancelled. Attaches the lane, and detaches it at the
/// end.
pub(crate) async fn run(
    stream: Stream,
    lane: &dyn Lane,
    number: u64,
    class: Class,
    limits: &Limits,
    stop: &CancellationToken,
) -> Ended {
    let is_urgent = matches!(class, Class::Heartbeats | Class::Consensus);
    if is_urgent && let Err(error) = stream.set_user_timeout(2 * limits.election_timeout) {
        tracing::debug!("cannot set the timeout of unacknowledged bytes: {error}");
    }
    let traffic = Traffic::default();
    let (read, write) = tokio::io::split(Counted { stream, traffic: &traffic });
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ended::Stopped,
        ended = read_all(read, lane, number, limits) => ended,
        ended = write_all(write, lane, number, limits, &traffic) => ended,
        ended = watch(&traffic, limits) => ended,
    };
    lane.detach(number);
    // This connection may have consumed the notification that was meant for the next one.
    lane.wake().notify_one();
    ended
}

async fn read_all(
    read: impl AsyncRead + Unpin,
    lane: &dyn Lane,
    number: u64,
    limits: &Limits,
) -> Ended {
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(limits.frame_bytes_max + HEAD_BYTES_MAX)
        .new_codec();
    let mut frames = FramedRead::with_capacity(read, codec, READ_BYTES);
    while let Some(bytes) = frames.next().await {
        let frame = match bytes {
            Ok(bytes) => Frame::decode(bytes.freeze()),
            Err(error) => return error.into(),
        };
        let received = match frame {
            Ok(Frame::Ping) => Ok(()),
            Ok(frame) => lane.receive(number, frame),
            Err(error) => Err(error),
        };
        if let Err(error) = received {
            return error.into();
        }
    }
    Ended::Closed
}

async fn write_all(
    mut write: impl AsyncWrite + Unpin,
    lane: &dyn Lane,
    number: u64,
    limits: &Limits,
    traffic: &Traffic,
) -> Ended {
    let mut out = BytesMut::new();
    let mut ping_at = Instant::now() + limits.ping_interval;
    loop {
        out.clear();
        lane.fill(number, &mut out, WRITE_BYTES);
        if out.is_empty() && Instant::now() < ping_at {
            // Idle connections keep no buffer.
            out = BytesMut::new();
            tokio::select! {
                biased;
                // Received frames also wake it: they must not postpone the ping.
                () = lane.wake().notified() => {}
                () = tokio::time::sleep_until(ping_at) => {}
            }
            continue;
        }
        if out.is_empty() {
            Frame::Ping.encode(&mut out);
        }
        ping_at = Instant::now() + limits.ping_interval;
        traffic.is_writing.store(true, Ordering::Relaxed);
        if let Err(error) = write.write_all(&out).await {
            return error.into();
        }
        if let Err(error) = write.flush().await {
            return error.into();
        }
        traffic.is_writing.store(false, Ordering::Relaxed);
    }
}

async fn watch(traffic: &Traffic, limits: &Limits) -> Ended {
    let (mut read, mut written) = (StallCheck::default(), StallCheck::default());
    loop {
        tokio::time::sleep(limits.silence_max / SILENCE_CHECKS).await;
        if read.is_over(traffic.read.load(Ordering::Relaxed)) {
            return Ended::Silent;
        }
        let is_writing = traffic.is_writing.load(Ordering::Relaxed);
        let is_over = written.is_over(traffic.written.load(Ordering::Relaxed));
        if is_writing && is_over {
            return Ended::Stuck;
        }
    }
}

/// A byte count that did not change for a number of checks.
#[derive(Default)]
struct StallCheck {
    count: u64,
    checks: u32,
}

impl StallCheck {
    fn is_over(&mut self, count: u64) -> bool {
        self.checks = if count == self.count { self.checks + 1 } else { 0 };
        self.count = count;
        self.checks > SILENCE_CHECKS
    }
}

/// Bytes read and written so far.
#[derive(Default)]
struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
    is_writing: AtomicBool,
}

struct Counted<'a> {
    stream: Stream,
    traffic: &'a Traffic,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        this.traffic.read.fetch_add(bytes as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &polled {
            this.traffic.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
