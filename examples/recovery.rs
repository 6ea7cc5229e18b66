//! Measures how long a start takes after kill -9, with many entries in the inbox and a long log:
//! `cargo run --release --example recovery -- DIR`. Needs about 6 GiB in DIR.
//!
//! The process starts itself again in order to be killed; every measurement runs in its own
//! process, from opening the directory until commands are accepted.

use std::{
    error::Error,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use forebay::{Drain, Entry, Runtime, TrimLog, snapshot};

const ENTRIES: usize = 1_000_000;
const PAYLOAD_BYTES: usize = 900;
const BATCH: usize = 5_000;

type Failure = Box<dyn Error + Send + Sync>;

fn builder(data: &Path) -> forebay::Builder {
    Runtime::builder().data_dir(data).partitions(1).trim_log(TrimLog::Never)
}

/// Fills a directory, reports it, and waits until it is killed.
async fn fill(dir: &Path) -> Result<(), Failure> {
    let runtime = builder(&dir.join("data")).start().await?;
    runtime.snapshot(dir.join("snapshot")).await?;
    let later = SystemTime::now() + Duration::from_secs(1_000_000);
    for first in (0..ENTRIES).step_by(BATCH) {
        let entry = |n: usize| {
            let key = format!("key-{}", n % 10_000);
            Entry::to("work").key(&key).payload(noise(n as u64)).run_at(later)
        };
        runtime.enqueue_batch((first..first + BATCH).map(entry).collect()).await?;
    }
    print("filled")?;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    Ok(())
}

/// Incompressible bytes, so that the log has its full size on disk (`SplitMix64`).
fn noise(seed: u64) -> Vec<u8> {
    let word = |n: usize| {
        let mut z = seed.wrapping_mul(1 << 20).wrapping_add(n as u64 + 1);
        z = z.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..PAYLOAD_BYTES.div_ceil(8)).flat_map(|n| word(n).to_le_bytes()).collect()
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Starts on a directory and prints how long it took.
async fn open(data: &Path, what: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let runtime = builder(data).start().await?;
    let took = begun.elapsed();
    let view = runtime.partitions().views().await?.remove(0);
    print(&format!(
        "{what}: {took:?} until commands are accepted ({} entries in the inbox, log {}..{})",
        view.inbox, view.log_first, view.log_end
    ))?;
    runtime.shutdown(Drain::now()).await?;
    Ok(())
}

fn child(arguments: &[&str]) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

fn measure(dir: &Path) -> Result<(), Failure> {
    let text = dir.to_str().ok_or("the directory's name is not text")?;
    let mut filling = child(&["fill", text])?.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let out = filling.stdout.take().ok_or("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    filling.kill()?;
    filling.wait()?;
    if line.trim() != "filled" {
        return Err("the directory was not filled".into());
    }
    let log = bytes(&dir.join("data/log"))?;
    print(&format!("the log has {} MiB", log >> 20))?;
    let open = |data: &str, what: &str| -> Result<(), Failure> {
        let data = dir.join(data);
        let data = data.to_str().ok_or("the directory's name is not text")?;
        child(&["open", data, what])?.status()?;
        Ok(())
    };
    open("data", "after kill -9")?;
    open("data", "after a clean shutdown")?;
    let begun = Instant::now();
    snapshot::restore(&dir.join("snapshot"), &dir.join("new"), Some(&dir.join("data")))?;
    print(&format!("restored in {:?}", begun.elapsed()))?;
    open("new", "with the whole log to be replayed")
}

fn bytes(dir: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["fill", dir] => fill(Path::new(dir)).await,
        ["open", data, what] => open(Path::new(data), what).await,
        [dir] => {
            let dir = PathBuf::from(dir);
            tokio::task::spawn_blocking(move || measure(&dir)).await?
        }
        _ => Err("name a directory with 6 GiB of free space".into()),
    }
}
