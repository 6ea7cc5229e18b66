//! Connections.
//!
//! Must always hold: the number of connections, the size and time of headers, and the time without
//! progress of a client that reads nothing are bounded; a refusal costs no memory. Must not know:
//! requests.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Maximum number of connections (default: 4,096); further ones wait to be accepted.
    pub connections_max: usize,
    /// Maximum time for the headers of a request, also of the next one on the same connection
    /// (default: 30 s).
    pub header_time_max: Duration,
    /// Maximum length of the headers, in bytes (default: 32 KiB).
    pub header_len_max: usize,
    /// Maximum number of headers (default: 64).
    pub headers_max: usize,
    /// Maximum time without progress of a client that does not read its answer (default: 60 s).
    pub write_time_max: Duration,
    /// Time for answers in progress when the server ends (default: 5 s).
    pub drain: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            header_time_max: Duration::from_secs(30),
            header_len_max: 32 << 10,
            headers_max: 64,
            write_time_max: Duration::from_secs(60),
            drain: Duration::from_secs(5),
        }
    }
}

/// Pause before the next accept after the system has refused one.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Serves a router until `end` is ready.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    end: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
    let (closing, closed) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut end => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let serving = connection(stream, router.clone(), options, closed.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the server cannot accept a connection");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Unfinished answers are dropped with the set.
    let _ = timeout(options.drain, ended).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(
    stream: TcpStream,
    router: Router,
    options: ServeOptions,
    mut closing: watch::Receiver<bool>,
) {
    let io = TokioIo::new(Patient { stream, write_time_max: options.write_time_max, stuck: None });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_time_max)
        .max_buf_size(options.header_len_max.max(8_192))
        .max_headers(options.headers_max);
    let service = TowerToHyperService::new(router);
    let mut serving = pin!(builder.serve_connection(io, service));
    let served = tokio::select! {
        served = &mut serving => served,
        _ = closing.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

pin_project! {
    /// A stream that fails when the other side reads nothing for too long.
    struct Patient {
        #[pin]
        stream: TcpStream,
        write_time_max: Duration,
        // Runs while a write waits.
        stuck: Option<Pin<Box<Sleep>>>,
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(cx, buffer)
    }
}

impl Patient {
    /// Passes on the result of a write, or fails if writes have waited for too long.
    fn judge<T>(
        stuck: &mut Option<Pin<Box<Sleep>>>,
        write_time_max: Duration,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            *stuck = None;
            return written;
        }
        let sleep = stuck.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(Instant::now() + write_time_max))
        });
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.stream.poll_write(cx, bytes);
        Self::judge(this.stuck, *this.write_time_max, written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.stream.poll_write_vectored(cx, buffers);
        Self::judge(this.stuck, *this.write_time_max, written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.stream.poll_flush(cx);
        Self::judge(this.stuck, *this.write_time_max, flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }
}
