//! A million vqueues with one entry each, one vqueue with a million entries, and a million
//! suspended entries, on one node, on disk, synced:
//!
//! ```sh
//! make bench-million                                   # a million of each
//! cargo bench --bench million -- 100000 [all|many|one|later|suspended] [DIR]
//! ```
//!
//! `many`: enqueue while nothing may start, kill -9, start (measures the time until the first
//! handler runs), stop cleanly, start again, run everything. `one`: the same number of entries in
//! one vqueue, run to the end: the cost of the first and the last 1,000. `later`: a million vqueues
//! whose entry is due tomorrow. `suspended`: a million vqueues whose entry has started, waits for a
//! promise and holds its key; kill -9, start, wake one entry and then 1,000 others, one at a time.
//! Each phase is a separate process, so that its memory and start time are its own.
//!
//! Handled entries are counted by number: an entry that is lost, or handled twice in a phase
//! without a kill, ends the program with an error.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use forebay::{Context, Drain, Entry, EntryId, HandlerError, HandlerOptions, Runtime};
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Number of entries under plain `cargo bench`.
const COUNT_DEFAULT: u64 = 100_000;
/// Number of scopes of the vqueues.
const SCOPES: u64 = 1_000;
/// Entries per batch, and batches in flight.
const BATCH: u64 = 1_000;
const BATCHES_IN_FLIGHT: usize = 4;
/// Maximum number of running handlers: those running while the gate is closed, and the window of
/// `one`.
const RUNNING_MAX: u32 = 256;
/// Number of dequeues compared.
const WINDOW: u64 = 1_000;
/// Number of suspended entries that are woken after a start.
const WOKEN: u64 = 1_000;
/// The promise that a suspended entry waits for.
const PROMISE: &str = "go";
/// How long an entry waits before it is suspended.
const SUSPEND_AFTER: Duration = Duration::from_millis(1);
/// Maximum time of a phase without progress.
const STUCK: Duration = Duration::from_secs(120);
/// Printed by a child when its part is done; it then waits until its standard input is closed.
const READY: &str = "ready";

/// Observations and counts of the handlers.
struct Work {
    start: Instant,
    is_open: AtomicBool,
    opened: Notify,
    /// One more was handled.
    one_handled: Notify,
    first: AtomicU64,
    handled: AtomicU64,
    times: Vec<AtomicU8>,
    /// Nanoseconds from the start until the nth entry was handled.
    at: Vec<AtomicU64>,
    /// CPU time at that moment, in nanoseconds (only around the windows).
    cpu: Vec<AtomicU64>,
}

impl Work {
    fn new(count: u64, is_open: bool) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            is_open: AtomicBool::new(is_open),
            opened: Notify::new(),
            one_handled: Notify::new(),
            first: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            times: (0..count).map(|_| AtomicU8::new(0)).collect(),
            at: (0..=count / WINDOW).map(|_| AtomicU64::new(0)).collect(),
            cpu: (0..=count / WINDOW).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    async fn handle(&self, payload: &[u8]) -> Result<(), HandlerError> {
        let _ = self.first.compare_exchange(0, self.nanos(), Ordering::AcqRel, Ordering::Acquire);
        while !self.is_open.load(Ordering::Acquire) {
            self.opened.notified().await;
        }
        self.count(payload)
    }

    /// Waits for a promise, which nothing resolves before the entry is woken.
    async fn wait(&self, context: Context, payload: &[u8]) -> Result<(), HandlerError> {
        context.promise::<()>(PROMISE).await?;
        self.count(payload)
    }

    fn count(&self, payload: &[u8]) -> Result<(), HandlerError> {
        let number = payload.try_into().map(u64::from_le_bytes).map_err(HandlerError::terminal)?;
        let index = usize::try_from(number).map_err(HandlerError::terminal)?;
        self.times[index].fetch_add(1, Ordering::AcqRel);
        let before = self.handled.fetch_add(1, Ordering::AcqRel);
        if before.is_multiple_of(WINDOW) {
            let window = usize::try_from(before / WINDOW).map_err(HandlerError::terminal)?;
            self.at[window].store(self.nanos(), Ordering::Release);
            self.cpu[window].store(cpu_nanos(), Ordering::Release);
        }
        self.one_handled.notify_one();
        Ok(())
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.opened.notify_waiters();
    }
}

/// A line of `/proc/self/status`, in KiB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let number = found.and_then(|text| text.trim().split(' ').next()?.parse().ok());
    number.unwrap_or_default()
}

/// CPU time of this process so far, summed over its threads.
fn cpu_nanos() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let nanos = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(nanos).sum()
}

fn report(what: &str, bytes_of: u64, count: u64) {
    let (now, peak) = (memory("VmRSS"), memory("VmHWM"));
    let each = now.saturating_sub(bytes_of) * 1024 / count.max(1);
    println!(
        "  {what}: {} MiB now, {} MiB at most, {each} bytes per entry",
        now / 1024,
        peak / 1024
    );
}

async fn start(dir: &Path, work: &Arc<Work>) -> Done<Runtime> {
    let (work, waiting) = (Arc::clone(work), Arc::clone(work));
    let options =
        HandlerOptions { suspend_after: Some(SUSPEND_AFTER), ..HandlerOptions::default() };
    Ok(Runtime::builder()
        .data_dir(dir)
        .partitions(1)
        .max_running(RUNNING_MAX)
        .handler("work", move |_, payload: bytes::Bytes| {
            let work = Arc::clone(&work);
            async move { work.handle(&payload).await }
        })
        .handler_with("wait", options, move |context, payload: bytes::Bytes| {
            let work = Arc::clone(&waiting);
            async move { work.wait(context, &payload).await }
        })
        .start()
        .await?)
}

fn entry(kind: &str, number: u64) -> Entry {
    let service = if kind == "suspended" { "wait" } else { "work" };
    let entry = Entry::to(service).payload(number.to_le_bytes().to_vec()).retention(Duration::ZERO);
    match kind {
        "one" => entry.scope("one"),
        _ => entry.scope(&format!("s{}", number % SCOPES)).key(&number.to_string()),
    }
}

fn tomorrow() -> SystemTime {
    SystemTime::now() + Duration::from_secs(86_400)
}

/// Enqueues everything; returns the ids of about [`WOKEN`] entries.
async fn enqueue(runtime: &Runtime, kind: &str, count: u64) -> Done<Vec<EntryId>> {
    let before = memory("VmRSS");
    let begun = Instant::now();
    let batches = (0..count).step_by(usize::try_from(BATCH)?).map(|first| {
        let numbers = first..(first + BATCH).min(count);
        let entries: Vec<_> = numbers
            .map(|number| {
                let entry = entry(kind, number);
                if kind == "later" { entry.run_at(tomorrow()) } else { entry }
            })
            .collect();
        runtime.enqueue_batch(entries)
    });
    let mut stored = stream::iter(batches).buffered(BATCHES_IN_FLIGHT);
    let (mut ids, mut number) = (Vec::new(), 0);
    while let Some(handles) = stored.next().await {
        for handle in handles? {
            if number % count.div_ceil(WOKEN) == 0 {
                ids.push(handle.id());
            }
            number += 1;
        }
    }
    let each = begun.elapsed().as_secs_f64();
    println!("  enqueued {count} in {each:.1} s: {:.0}/s", count as f64 / each);
    if kind == "suspended" {
        all_suspended(runtime, count).await?;
        println!("  all are suspended after {:.1} s", begun.elapsed().as_secs_f64());
    }
    wait_until_stable(runtime).await;
    report("memory with everything enqueued", before, count);
    Ok(ids)
}

/// Number of suspended entries.
async fn suspended(runtime: &Runtime) -> Done<u64> {
    let partitions = runtime.node().inspect().list_partitions().await?;
    Ok(partitions.iter().map(|partition| partition.parked).sum())
}

/// Waits until this many entries are suspended.
async fn all_suspended(runtime: &Runtime, count: u64) -> Done {
    let (mut known, mut since) = (0, Instant::now());
    while known < count {
        let asked = Instant::now();
        let now = suspended(runtime).await?;
        // It reads a row of every vqueue, which must not take most of the machine.
        let pause = 4 * asked.elapsed();
        if now != known {
            (known, since) = (now, Instant::now());
        }
        if since.elapsed() > STUCK {
            return Err(format!("stuck with {known} of {count} entries suspended").into());
        }
        tokio::time::sleep(pause.max(Duration::from_millis(20))).await;
    }
    Ok(())
}

/// Wakes these entries, one at a time: the first one as soon as possible after the start.
async fn wake(runtime: &Runtime, work: &Work, ids: &[EntryId], count: u64) -> Done {
    let mut latencies = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let begun = Instant::now();
        runtime.resolve(*id, PROMISE, &()).await?;
        tokio::time::timeout(STUCK, work.one_handled.notified()).await?;
        latencies.push(begun.elapsed());
        if at == 0 {
            let (start, wake) = (work.start.elapsed(), begun.elapsed());
            println!("  the first woken entry ran {start:.0?} after the start, {wake:.1?} after");
            println!("  its promise was resolved");
        }
    }
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() * share / 100).min(latencies.len() - 1)];
    println!(
        "  {} woken, one at a time, from resolve to handler: p50 {:.1?}, p99 {:.1?}, at most {:.1?}",
        ids.len(),
        at(50),
        at(99),
        at(100)
    );
    let most = work.times.iter().map(|times| times.load(Ordering::Acquire)).max();
    let (handled, woken) = (work.handled.load(Ordering::Acquire), ids.len() as u64);
    if most != Some(1) || handled != woken {
        return Err(format!("{handled} handled, {woken} woken, one {most:?} times").into());
    }
    all_suspended(runtime, count - woken).await?;
    match suspended(runtime).await? {
        left if left == count - woken => Ok(()),
        left => Err(format!("{left} entries are suspended, {woken} of {count} were woken").into()),
    }
}

/// The number of vqueues with an actor, and of those waiting for a permit without one.
fn vqueues(runtime: &Runtime) -> (usize, usize) {
    let all = runtime.node().inspect().status().into_iter().flatten();
    all.fold((0, 0), |(active, waiting), partition| {
        (active + partition.active_vqueues, waiting + partition.waiting_vqueues)
    })
}

/// Waits until the numbers of vqueues are stable.
async fn wait_until_stable(runtime: &Runtime) {
    let begun = Instant::now();
    let (mut before, mut still) = ((0, 0), 0);
    while still < 20 {
        let now = vqueues(runtime);
        still = if now == before { still + 1 } else { 0 };
        before = now;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (active, waiting) = before;
    println!("  {active} vqueues are active, {waiting} wait, after {:.1?}", begun.elapsed());
}

/// Waits until everything was handled.
async fn finish(work: &Work, count: u64) -> Done {
    let (mut known, mut since) = (0, Instant::now());
    loop {
        let handled = work.handled.load(Ordering::Acquire);
        if handled >= count {
            return Ok(());
        }
        if handled != known {
            (known, since) = (handled, Instant::now());
        }
        if since.elapsed() > STUCK {
            return Err(format!("stuck after {handled} of {count} entries").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn check(work: &Work, count: u64) -> Done {
    let wrong = work.times.iter().filter(|times| times.load(Ordering::Acquire) != 1).count();
    match wrong {
        0 => {
            println!("  {count} entries handled, each once");
            Ok(())
        }
        wrong => Err(format!("{wrong} entries were lost or handled twice").into()),
    }
}

/// Cost of the nth window of 1,000 dequeues: wall and CPU time per entry, in microseconds, smoothed
/// over `around` windows.
fn window(work: &Work, from: usize, to: usize) -> (f64, f64) {
    let load = |all: &[AtomicU64], at: usize| all[at].load(Ordering::Acquire) as f64;
    let entries = (to - from) as f64 * WINDOW as f64 * 1_000.0;
    let wall = (load(&work.at, to) - load(&work.at, from)) / entries;
    (wall, (load(&work.cpu, to) - load(&work.cpu, from)) / entries)
}

async fn drained(work: &Work, count: u64) -> Done {
    let begun = Instant::now();
    work.open();
    finish(work, count).await?;
    let spent = begun.elapsed().as_secs_f64();
    println!("  dispatched and completed {count} in {spent:.1} s: {:.0}/s", count as f64 / spent);
    check(work, count)
}

fn compare(work: &Work) {
    let windows = work.at.len() - 2;
    let step = (windows / 10).max(1);
    for from in (0..windows).step_by(step) {
        let (wall, cpu) = window(work, from, (from + step).min(windows));
        println!(
            "  dequeues {:>8}..: {wall:6.2} us each, {cpu:6.2} us of processor",
            from as u64 * WINDOW
        );
    }
    let last = windows.saturating_sub(1);
    let ((first_wall, first_cpu), (last_wall, last_cpu)) =
        (window(work, 0, 1), window(work, last, last + 1));
    println!("  first {WINDOW}: {first_wall:.2} us each, {first_cpu:.2} us of processor");
    println!("  last {WINDOW}: {last_wall:.2} us each, {last_cpu:.2} us of processor");
    println!(
        "  last / first: {:.2} by wall, {:.2} by processor",
        last_wall / first_wall,
        last_cpu / first_cpu
    );
}

async fn first_handled(work: &Work) -> Done<Duration> {
    let begun = Instant::now();
    while work.first.load(Ordering::Acquire) == 0 {
        if begun.elapsed() > STUCK {
            return Err("no handler was started".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(Duration::from_nanos(work.first.load(Ordering::Acquire)))
}

/// The ids of some entries, for the next phase.
fn ids_path(dir: &Path) -> std::path::PathBuf {
    dir.with_extension("ids")
}

async fn phase(phase: &str, kind: &str, count: u64, dir: &Path) -> Done {
    let work = Work::new(count, false);
    let before = memory("VmRSS");
    let runtime = start(dir, &work).await?;
    println!("  started in {:.0?}", work.start.elapsed());
    match phase {
        "enqueue" => {
            let ids = enqueue(&runtime, kind, count).await?;
            std::fs::write(ids_path(dir), serde_json::to_vec(&ids)?)?;
        }
        "look" if kind == "suspended" => {
            let ids: Vec<EntryId> = serde_json::from_slice(&std::fs::read(ids_path(dir))?)?;
            wake(&runtime, &work, &ids, count).await?;
            report("memory when they were woken", before, count);
        }
        "look" => {
            if kind != "later" {
                println!("  first handler after {:.0?}", first_handled(&work).await?);
            }
            wait_until_stable(&runtime).await;
            report("memory with everything found", before, count);
        }
        "drain" => {
            println!("  first handler after {:.0?}", first_handled(&work).await?);
            drained(&work, count).await?;
            if kind == "one" {
                compare(&work);
            }
            report("memory when all is done", before, count);
        }
        other => return Err(format!("no such phase: {other}").into()),
    }
    println!("{READY}");
    std::io::stdout().flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await??;
    let begun = Instant::now();
    runtime.shutdown(Drain::now()).await?;
    println!("  stopped in {:.0?}", begun.elapsed());
    Ok(())
}

/// Starts a phase and prints its output until it is ready.
fn child(name: &str, kind: &str, count: u64, dir: &Path) -> Done<(Child, impl BufRead)> {
    println!("{kind}, {name}:");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["phase", name, kind, &count.to_string()])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(format!("phase {name} failed: {}", child.wait()?).into());
        }
        if line.trim_end() == READY {
            return Ok((child, lines));
        }
        print!("{line}");
    }
}

/// Runs a phase and stops it cleanly.
fn stop((mut child, mut lines): (Child, impl BufRead)) -> Done {
    drop(child.stdin.take());
    let mut rest = String::new();
    lines.read_to_string(&mut rest)?;
    print!("{rest}");
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("a phase failed: {status}").into()),
    }
}

fn kill((mut child, _): (Child, impl BufRead)) -> Done {
    child.kill()?;
    child.wait()?;
    println!("  (kill -9)");
    Ok(())
}

fn run(kind: &str, count: u64, dir: &Path) -> Done {
    let dir = dir.join(kind);
    kill(child("enqueue", kind, count, &dir)?)?;
    stop(child("look", kind, count, &dir)?)?;
    if ["many", "one"].contains(&kind) {
        stop(child("drain", kind, count, &dir)?)?;
    }
    Ok(())
}

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["phase", name, kind, count, dir] = args[..] {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        return tokio.block_on(phase(name, kind, count.parse()?, Path::new(dir)));
    }
    let count = args.first().map_or(Ok(COUNT_DEFAULT), |text| text.parse())?;
    let root = args.get(2).map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(root)?;
    for kind in ["many", "one", "later", "suspended"] {
        if args.get(1).is_none_or(|only| [kind, "all"].contains(only)) {
            run(kind, count, dir.path())?;
        }
    }
    Ok(())
}
