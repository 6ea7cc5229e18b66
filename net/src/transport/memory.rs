//! An in-memory network for tests: delays, slow links, one-way cuts, broken connections.
//!
//! It replaces TCP only: handshakes, frames, sessions, limits and reconnects are the code that runs
//! over TCP. The address of a node is its name. With tokio's paused clock a run takes no time, and
//! a seed has the same faults in every run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, ReadHalf,
    WriteHalf,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Accepted, BoxFuture, Duplex, Listener, Transport};
use crate::net::{Config, Net, StartError};

/// Bytes that are delivered together.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks in flight per direction.
const CHUNKS_MAX: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// Delay and speed from one node to another.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Delay of a chunk.
    pub delay: RangeInclusive<Duration>,
    /// Maximum number of bytes per second.
    pub bytes_per_second: Option<u64>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { delay: Duration::ZERO..=Duration::ZERO, bytes_per_second: None }
    }
}

/// A network in memory.
#[derive(Clone)]
pub struct MemoryNet {
    world: Arc<World>,
}

struct World {
    state: Mutex<State>,
    changed: Notify,
}

type Direction = (String, String);

struct State {
    random: fastrand::Rng,
    listeners: BTreeMap<String, mpsc::Sender<Accepted>>,
    cuts: BTreeSet<Direction>,
    everywhere: Conditions,
    by_direction: BTreeMap<Direction, Conditions>,
    breaks_after: Option<Duration>,
    connections: BTreeMap<u64, (Direction, CancellationToken)>,
    next: u64,
}

impl MemoryNet {
    /// A network without faults; `seed` determines the faults that are enabled later.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            everywhere: Conditions::default(),
            by_direction: BTreeMap::new(),
            breaks_after: None,
            connections: BTreeMap::new(),
            next: 1,
        };
        Self { world: Arc::new(World { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// Starts a node; its address is its name. TLS works but is not needed.
    ///
    /// # Errors
    ///
    /// [`StartError`]
    pub async fn start(&self, mut config: Config) -> Result<Net, StartError> {
        let host = config.identity.name.to_string();
        config.listen = Some(host.clone());
        let world = Arc::clone(&self.world);
        Net::start_over(config, Arc::new(MemoryTransport { world, host })).await
    }

    /// Delay and speed between all nodes, unless [`Self::set_conditions`] overrides them.
    pub fn set_all_conditions(&self, conditions: Conditions) {
        self.world.lock().everywhere = conditions;
    }

    /// Delay and speed from one node to another.
    pub fn set_conditions(&self, from: &str, to: &str, conditions: Conditions) {
        self.world.lock().by_direction.insert((from.to_owned(), to.to_owned()), conditions);
    }

    /// Connections made from now on break after a time between nothing and twice `mean`.
    pub fn break_after(&self, mean: Option<Duration>) {
        self.world.lock().breaks_after = mean;
    }

    /// Nothing from one node reaches the other any more; the opposite direction works.
    pub fn cut(&self, from: &str, to: &str) {
        self.world.lock().cuts.insert((from.to_owned(), to.to_owned()));
    }

    /// Ends a cut.
    pub fn mend(&self, from: &str, to: &str) {
        self.world.lock().cuts.remove(&(from.to_owned(), to.to_owned()));
        self.world.changed.notify_waiters();
    }

    /// Ends all cuts, delays and speed limits; connections break no more.
    pub fn mend_all(&self) {
        let mut state = self.world.lock();
        state.cuts.clear();
        state.everywhere = Conditions::default();
        state.by_direction.clear();
        state.breaks_after = None;
        drop(state);
        self.world.changed.notify_waiters();
    }

    /// Breaks the connections between two nodes, in either direction.
    pub fn break_connections(&self, one: &str, other: &str) {
        for ((from, to), token) in self.world.lock().connections.values() {
            if (from == one && to == other) || (from == other && to == one) {
                token.cancel();
            }
        }
    }

    /// Connections that live.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.world.lock().connections.len()
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self, direction: &Direction) -> bool {
        self.lock().cuts.contains(direction)
    }

    async fn wait_uncut(&self, direction: &Direction) {
        loop {
            let changed = self.changed.notified();
            if !self.is_cut(direction) {
                return;
            }
            changed.await;
        }
    }

    /// When a chunk that leaves now arrives, and how long it holds up the next one.
    fn travel(&self, direction: &Direction, bytes: usize) -> (Duration, Duration) {
        let mut state = self.lock();
        let between = state.by_direction.get(direction).unwrap_or(&state.everywhere).clone();
        let (least, most) = (between.delay.start().as_nanos(), between.delay.end().as_nanos());
        let delay = state.random.u128(least..=most.max(least));
        let hold = between.bytes_per_second.map_or(0.0, |speed| bytes as f64 / speed.max(1) as f64);
        let delay = Duration::from_nanos(u64::try_from(delay).unwrap_or(u64::MAX));
        (delay, Duration::from_secs_f64(hold))
    }

    /// Makes a connection; returns both ends.
    fn connect(self: &Arc<Self>, from: &str, to: &str) -> (MemoryStream, MemoryStream) {
        let (here, dialler) = tokio::io::duplex(CHUNK_BYTES);
        let (there, acceptor) = tokio::io::duplex(CHUNK_BYTES);
        let token = CancellationToken::new();
        let timeouts = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let (there_direction, back) =
            ((from.to_owned(), to.to_owned()), (to.to_owned(), from.to_owned()));
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, (there_direction.clone(), token.clone()));
        let mean = state.breaks_after;
        let lives = mean.map(|mean| mean.mul_f64(2.0 * state.random.f64()));
        drop(state);

        let (here_read, here_write) = tokio::io::split(here);
        let (there_read, there_write) = tokio::io::split(there);
        let pump = |direction, read, write, timeout: &Arc<AtomicU64>| Pump {
            world: Arc::clone(self),
            direction,
            read,
            write,
            timeout: Arc::clone(timeout),
        };
        let out = pump(there_direction, here_read, there_write, &timeouts[0]);
        let back = pump(back, there_read, here_write, &timeouts[1]);
        let world = Arc::clone(self);
        let broken = token.clone();
        tokio::spawn(async move {
            let break_later = async {
                match lives {
                    Some(lives) => tokio::time::sleep(lives).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = broken.cancelled() => {}
                () = break_later => {}
                _ = async { tokio::try_join!(out.run(), back.run()) } => {}
            }
            world.lock().connections.remove(&number);
        });
        let [dial_timeout, accept_timeout] = timeouts;
        let dialler = MemoryStream { stream: dialler, timeout: dial_timeout };
        (dialler, MemoryStream { stream: acceptor, timeout: accept_timeout })
    }
}

/// One direction of a connection.
struct Pump {
    world: Arc<World>,
    direction: Direction,
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    /// The sender's time-out for bytes that are not acknowledged, in milliseconds.
    timeout: Arc<AtomicU64>,
}

impl Pump {
    /// Ends with `Ok` after the end of the stream, with `Err` when the connection breaks.
    async fn run(self) -> Result<(), ()> {
        let Self { world, direction, mut read, mut write, timeout } = self;
        let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
        let take = async {
            let mut arrives = Instant::now();
            loop {
                let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
                let bytes = read.read_buf(&mut chunk).await.map_err(drop)?;
                let (delay, hold) = world.travel(&direction, bytes);
                tokio::time::sleep(hold).await;
                arrives = arrives.max(Instant::now() + delay);
                sender.send((arrives, chunk.freeze())).await.map_err(drop)?;
                if bytes == 0 {
                    // The sender is dropped with this future.
                    return std::future::pending().await;
                }
            }
        };
        let give = async {
            while let Some((arrives, chunk)) = receiver.recv().await {
                tokio::time::sleep_until(arrives).await;
                let deliver = async {
                    world.wait_uncut(&direction).await;
                    if chunk.is_empty() {
                        write.shutdown().await
                    } else {
                        write.write_all(&chunk).await
                    }
                };
                let limit = match timeout.load(Ordering::Relaxed) {
                    0 => Duration::from_secs(u64::from(u32::MAX)),
                    ms => Duration::from_millis(ms),
                };
                tokio::time::timeout(limit, deliver).await.map_err(drop)?.map_err(drop)?;
                if chunk.is_empty() {
                    return Ok(());
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            given = give => given,
            taken = take => taken,
        }
    }
}

struct MemoryStream {
    stream: DuplexStream,
    timeout: Arc<AtomicU64>,
}

impl Duplex for MemoryStream {
    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.timeout.store(ms, Ordering::Relaxed);
        Ok(())
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

struct MemoryTransport {
    world: Arc<World>,
    host: String,
}

impl Transport for MemoryTransport {
    fn listen(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(BACKLOG);
            let mut state = self.world.lock();
            if state.listeners.get(&address).is_some_and(|sender| !sender.is_closed()) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            state.listeners.insert(address.clone(), sender);
            Ok(Box::new(MemoryListener { address, receiver }) as Box<dyn Listener>)
        })
    }

    fn dial(&self, address: String) -> BoxFuture<'_, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let there = (self.host.clone(), address.clone());
            let back = (address.clone(), self.host.clone());
            let (delay, _) = self.world.travel(&there, 0);
            tokio::time::sleep(2 * delay).await;
            self.world.wait_uncut(&there).await;
            self.world.wait_uncut(&back).await;
            let listener = self.world.lock().listeners.get(&address).cloned();
            let Some(listener) = listener.filter(|listener| !listener.is_closed()) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (dialler, acceptor) = self.world.connect(&self.host, &address);
            let accepted: Accepted = (Box::new(acceptor), self.host.clone());
            let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            listener.try_send(accepted).map_err(refused)?;
            Ok(Box::new(dialler) as Box<dyn Duplex>)
        })
    }
}

struct MemoryListener {
    address: String,
    receiver: mpsc::Receiver<Accepted>,
}

impl Listener for MemoryListener {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async {
            match self.receiver.recv().await {
                Some(accepted) => Ok(accepted),
                None => std::future::pending().await,
            }
        })
    }
}
