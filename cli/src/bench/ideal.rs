//! The ideal queue: the best that a durable queue on this machine could do.
//!
//! Memory, and one preallocated file with two synced records per job, one when it is enqueued and
//! one when it is completed; one thread writes everything that waited during the last sync. It has
//! as many producers and consumers, and as large batches, as the run it is compared with: jobs are
//! enqueued and waited for batch by batch, and consumed and completed one by one. No keys, no
//! limits, no retries, no recovery.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

use super::{BenchError, Shape, histogram::Histogram};

/// The file is overwritten from its start when it is full.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of a record in addition to its payload: kind, length, number.
const HEADER_LEN: usize = 16;
/// Bytes written at a time when the file is created.
const FILL_BYTES: usize = 1 << 20;

/// Jobs that were enqueued together, and the waiter for the last of their ends.
struct Batch {
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<()>>>,
}

impl Batch {
    fn one_ended(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The waiter may be gone.
            let _ = done.send(());
        }
    }
}

struct Job {
    number: u64,
    payload: Vec<u8>,
    batch: Arc<Batch>,
}

/// A message to the writer.
enum Record {
    /// Write these; then they may be consumed.
    Enqueue(Vec<Job>, oneshot::Sender<()>),
    /// Write that this one is done; then report it.
    Complete { number: u64, batch: Arc<Batch> },
    /// The last message.
    Stop,
}

/// The queue of the writer.
#[derive(Default)]
struct Inlet {
    waiting: Mutex<Vec<Record>>,
    came: Condvar,
}

impl Inlet {
    fn send(&self, record: Record) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = waiting.is_empty();
        waiting.push(record);
        drop(waiting);
        if is_first {
            self.came.notify_one();
        }
    }

    fn take(&self, into: &mut Vec<Record>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.is_empty() {
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut *waiting, into);
    }
}

/// Jobs in memory, ready to be consumed.
struct Ready {
    jobs: Mutex<VecDeque<Job>>,
    count: Semaphore,
}

/// The queue, its file and its writer.
pub(super) struct Ideal {
    shape: Shape,
    inlet: Arc<Inlet>,
    ready: Arc<Ready>,
    writer: Option<JoinHandle<io::Result<()>>>,
    next: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
    is_window: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    /// From the call to the durable end.
    pub(super) life: Arc<Histogram>,
}

impl Ideal {
    /// Creates the file and starts the writer.
    pub(super) fn start(path: &Path, shape: Shape) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Directory { path: path.to_owned(), source };
        let file = preallocated(path).map_err(failed)?;
        let inlet = Arc::new(Inlet::default());
        let ready = Arc::new(Ready { jobs: Mutex::default(), count: Semaphore::new(0) });
        let writer = Writer { file, at: 0, inlet: Arc::clone(&inlet), ready: Arc::clone(&ready) };
        let writer = std::thread::Builder::new()
            .name("ideal-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(failed)?;
        Ok(Self {
            shape,
            inlet,
            ready,
            writer: Some(writer),
            next: Arc::default(),
            ended: Arc::default(),
            is_window: Arc::default(),
            is_over: Arc::default(),
            life: Arc::default(),
        })
    }

    /// Jobs that ended within windows.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn set_window(&self, is_open: bool) {
        self.is_window.store(is_open, Ordering::Release);
    }

    /// Starts producers and consumers, as many as a run has.
    pub(super) fn go(&self) -> JoinSet<()> {
        self.is_over.store(false, Ordering::Release);
        let mut tasks = JoinSet::new();
        for _ in (0..self.shape.in_flight).step_by(self.shape.batch) {
            tasks.spawn(self.producer());
            tasks.spawn(consumer(Arc::clone(&self.inlet), Arc::clone(&self.ready)));
        }
        tasks
    }

    /// Stops the producers, then the consumers.
    pub(super) async fn stop(&self, mut tasks: JoinSet<()>) {
        self.is_over.store(true, Ordering::Release);
        for _ in (0..self.shape.in_flight).step_by(self.shape.batch) {
            tasks.join_next().await;
        }
        // Only consumers are left, without work.
        tasks.shutdown().await;
    }

    fn producer(&self) -> impl Future<Output = ()> + use<> {
        let (inlet, shape) = (Arc::clone(&self.inlet), self.shape);
        let (next, ended, life) =
            (Arc::clone(&self.next), Arc::clone(&self.ended), Arc::clone(&self.life));
        let (is_window, is_over) = (Arc::clone(&self.is_window), Arc::clone(&self.is_over));
        async move {
            while !is_over.load(Ordering::Acquire) {
                let first = next.fetch_add(shape.batch as u64, Ordering::Relaxed);
                let (done, is_done) = oneshot::channel();
                let left = AtomicUsize::new(shape.batch);
                let batch = Arc::new(Batch { left, done: Mutex::new(Some(done)) });
                let job = |number| {
                    let payload = vec![0x5a; shape.payload];
                    Job { number, payload, batch: Arc::clone(&batch) }
                };
                let jobs = (first..first + shape.batch as u64).map(job).collect();
                let (stored, is_stored) = oneshot::channel();
                let called = Instant::now();
                inlet.send(Record::Enqueue(jobs, stored));
                if is_stored.await.is_err() || is_done.await.is_err() {
                    return; // The writer failed; `join` returns its error.
                }
                if is_window.load(Ordering::Acquire) {
                    ended.fetch_add(shape.batch as u64, Ordering::AcqRel);
                    let took = u64::try_from(called.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    (0..shape.batch).for_each(|_| life.record(took));
                }
            }
        }
    }

    /// Ends the writer.
    ///
    /// # Errors
    /// When the file could not be written.
    pub(super) fn join(mut self, path: &Path) -> Result<(), BenchError> {
        self.inlet.send(Record::Stop);
        let Some(writer) = self.writer.take() else { return Ok(()) };
        match writer.join() {
            Ok(written) => {
                written.map_err(|source| BenchError::Directory { path: path.to_owned(), source })
            }
            Err(_) => Err(BenchError::Broken("the ideal queue's writer panicked".to_owned())),
        }
    }
}

async fn consumer(inlet: Arc<Inlet>, ready: Arc<Ready>) {
    while let Ok(permit) = ready.count.acquire().await {
        permit.forget();
        let job = ready.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(Job { number, payload, batch }) = job else { continue };
        // The work itself: reads the payload once.
        std::hint::black_box(payload[0]);
        inlet.send(Record::Complete { number, batch });
    }
}

struct Writer {
    file: File,
    at: u64,
    inlet: Arc<Inlet>,
    ready: Arc<Ready>,
}

impl Writer {
    fn run(mut self) -> io::Result<()> {
        let (mut taken, mut bytes) = (Vec::new(), Vec::new());
        loop {
            self.inlet.take(&mut taken);
            let mut is_last = false;
            for record in &taken {
                match record {
                    Record::Enqueue(jobs, _) => {
                        for Job { number, payload, .. } in jobs {
                            put(&mut bytes, 1, *number, payload);
                        }
                    }
                    Record::Complete { number, .. } => put(&mut bytes, 2, *number, &[]),
                    Record::Stop => is_last = true,
                }
            }
            self.write(&bytes)?;
            bytes.clear();
            self.report_written(&mut taken);
            if is_last {
                return Ok(());
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.file.sync_data()
    }

    fn report_written(&self, taken: &mut Vec<Record>) {
        let mut stored = Vec::new();
        for record in taken.drain(..) {
            match record {
                Record::Enqueue(jobs, done) => {
                    stored.extend(jobs);
                    // The waiter may be gone.
                    let _ = done.send(());
                }
                Record::Complete { batch, .. } => batch.one_ended(),
                Record::Stop => {}
            }
        }
        let count = stored.len();
        self.ready.jobs.lock().unwrap_or_else(PoisonError::into_inner).extend(stored);
        self.ready.count.add_permits(count);
    }
}

fn put(bytes: &mut Vec<u8>, kind: u32, number: u64, payload: &[u8]) {
    debug_assert_eq!(HEADER_LEN, 4 + 4 + 8);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// A file with all blocks allocated: overwriting changes no metadata.
fn preallocated(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
    let zeros = vec![0; FILL_BYTES];
    for _ in 0..FILE_BYTES / FILL_BYTES as u64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}
