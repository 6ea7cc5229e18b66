//! The faults, one function each.

mod flush;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use forebay::{
    Context, Drain, Entry, EntryId, HandlerError, Json, Runtime, RuntimeError, SharedLog, TrimLog,
    snapshot,
    testkit::{FaultLog, LogFault, MemoryLog, MemoryMetadata, StoreFault, StoreFaults},
};
use forebay_messages::{
    Epoch, PartitionId, Record, Timestamp,
    command::{Command, VersionBarrier},
};
use forebay_storage::{
    DataDir, Medium, fault,
    log::{Append, LocalLog, LogStore},
    metadata::{BlockingMetadata, LocalMetadata, MetaKey, Precondition},
};

use super::{Row, settled};

const P: PartitionId = PartitionId(0);
/// Number of entries acknowledged before a snapshot is taken, and again after it.
const ENTRIES: u64 = 60;

/// How long to wait for the lock of a directory that is not in use.
const LOCK_WAIT: Duration = Duration::from_secs(5);

const KEPT: &str = "everything acknowledged is there";

/// The directory of one case.
struct Site {
    dir: tempfile::TempDir,
    acknowledged: Vec<EntryId>,
}

fn builder() -> forebay::Builder {
    Runtime::builder().partitions(1).trim_log(TrimLog::Never).handler(
        "echo",
        |_: Context, Json(n): Json<u64>| async move { Ok::<_, HandlerError>(Json(n)) },
    )
}

fn entry(n: u64) -> Entry {
    // Large enough that files contain more than headers.
    Entry::to("echo").key(&"x".repeat(300)).json(&n).unwrap()
}

async fn fill(runtime: &Runtime, first: u64) -> Vec<EntryId> {
    let mut acknowledged = Vec::new();
    for n in first..first + ENTRIES {
        let stored = runtime.enqueue(entry(n)).await.unwrap();
        acknowledged.push(stored.id());
    }
    for id in &acknowledged {
        runtime.attach(*id).result::<u64>().await.unwrap();
    }
    acknowledged
}

/// Fails unless all entries exist with their results.
async fn check(runtime: &Runtime, acknowledged: &[EntryId]) {
    for (n, id) in (0..).zip(acknowledged) {
        let result = runtime.attach(*id).result::<u64>().await;
        assert_eq!(result.unwrap_or_else(|error| panic!("{id}: {error}")), n);
    }
}

impl Site {
    /// A directory as left by kill -9 (`crashed`), or by a clean shutdown.
    async fn new(crashed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let runtime = builder().data_dir(&live).start().await.unwrap();
        let mut acknowledged = fill(&runtime, 0).await;
        runtime.snapshot(dir.path().join("snapshot")).await.unwrap();
        acknowledged.extend(fill(&runtime, ENTRIES).await);
        if crashed {
            fault::copy_dir(&live, &dir.path().join("data")).unwrap();
        }
        runtime.shutdown(Drain::now()).await.unwrap();
        drop(runtime);
        if !crashed {
            fs::rename(&live, dir.path().join("data")).unwrap();
        }
        Self { dir, acknowledged }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Waits for the lock: a process that another test forks holds it until it runs its program.
    fn open(&self) -> DataDir {
        DataDir::open_within(self.data(), LOCK_WAIT).unwrap()
    }

    async fn start(&self, path: &Path) -> Result<Runtime, RuntimeError> {
        builder().data_dir(path).start().await
    }

    /// The error of a start that must fail.
    async fn refused(&self) -> String {
        let error = self.start(&self.data()).await.err().expect("it must not start");
        settled(&error.to_string(), self.dir.path())
    }

    /// Restores from the snapshot (and the log of the directory), and checks that all entries are
    /// there.
    async fn restored(&self, with_log: bool) {
        let (from, to) = (self.dir.path().join("snapshot"), self.dir.path().join("new"));
        let data = self.data();
        snapshot::restore(&from, &to, with_log.then_some(data.as_path())).unwrap();
        let runtime = self.start(&to).await.unwrap();
        let before = usize::try_from(ENTRIES).unwrap();
        let known = if with_log { &self.acknowledged[..] } else { &self.acknowledged[..before] };
        check(&runtime, known).await;
        runtime.shutdown(Drain::now()).await.unwrap();
    }

    async fn recovers(&self) {
        let runtime = self.start(&self.data()).await.unwrap();
        check(&runtime, &self.acknowledged).await;
        let more = runtime.enqueue(entry(7)).await.unwrap();
        assert_eq!(more.result::<u64>().await.unwrap(), 7);
        runtime.shutdown(Drain::now()).await.unwrap();
    }

    /// The largest file of a database with this ending.
    fn file(&self, database: &str, ending: &str) -> PathBuf {
        let files = fs::read_dir(self.data().join(database)).unwrap();
        files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == ending))
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .unwrap_or_else(|| panic!("{database} has no .{ending} file"))
    }

    fn flip(path: &Path, share: f64) {
        let mut bytes = fs::read(path).unwrap();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a small file"
        )]
        let at = (bytes.len() as f64 * share) as usize;
        bytes[at] ^= 0x04;
        // A new file, because a snapshot may share the old one.
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub(super) async fn all() -> Vec<Row> {
    vec![
        failed_append(LogFault::Fail, "an append to the log fails, nothing was written").await,
        failed_append(LogFault::FailAfterWrite, "an append fails after it was written").await,
        failed_append(LogFault::Torn { appends: 0 }, "an append is torn").await,
        failed_commit().await,
        flush::while_running("store", "a flush of the rows fails").await,
        flush::while_running("log", "a flush of the log fails").await,
        flush::at_the_end().await,
        flush::for_a_snapshot().await,
        killed().await,
        torn_tail().await,
        log_bit().await,
        log_file_bit().await,
        log_lost().await,
        rows_bit().await,
        rows_lost().await,
        rows_lost_and_log_trimmed().await,
        metadata_bit().await,
        snapshot_bit().await,
        newer_directory().await,
        version_barrier().await,
        damaged_rule_book().await,
        full_disk().await,
    ]
}

/// The log fails under a running leader: the leader stops and reports this to all callers, and a
/// restart finds every acknowledged entry.
async fn failed_append(fault: LogFault, name: &'static str) -> Row {
    let inner = Arc::new(FaultLog::new(MemoryLog::new()));
    let metadata = Arc::new(MemoryMetadata::new());
    let start = async || {
        let log = SharedLog::over(inner.clone(), metadata.clone(), TrimLog::Never).unwrap();
        builder().shared_log(&log).in_memory().start().await.unwrap()
    };
    let runtime = start().await;
    let acknowledged = fill(&runtime, 0).await;
    inner.plan(1, fault);
    let doubtful = entry(99).uuid([9; 16]);
    let error = runtime.enqueue(doubtful.clone()).await.expect_err("it must fail");
    let message = settled(&error.to_string(), Path::new("/"));
    let later = runtime.enqueue(entry(1)).await.expect_err("it has stopped");
    let is_clear = later.to_string();
    assert!(is_clear.contains("stopped") || is_clear.contains("storage failed"), "{later}");
    drop(runtime.shutdown(Drain::now()).await);
    drop(runtime);
    let runtime = start().await;
    check(&runtime, &acknowledged).await;
    // The same id stores it once, whatever the outcome of the first call was.
    let again = runtime.enqueue(doubtful.clone()).await.unwrap();
    assert_eq!(again.result::<u64>().await.unwrap(), 99);
    assert!(runtime.enqueue(doubtful).await.unwrap().was_existing());
    runtime.shutdown(Drain::now()).await.unwrap();
    let after = "after a restart everything acknowledged is there; the entry in doubt is stored \
                 once when it is enqueued again";
    Row { fault: name, message, after }
}

/// The rows cannot be written, but the log can.
async fn failed_commit() -> Row {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let runtime = builder().data_dir(&data).start().await.unwrap();
    let acknowledged = fill(&runtime, 0).await;
    let faults = Arc::new(StoreFaults::new());
    runtime.node().set_store_faults(Arc::clone(&faults));
    faults.plan(1, StoreFault::Fail);
    let doubtful = entry(99).uuid([9; 16]);
    let error = runtime.enqueue(doubtful.clone()).await.expect_err("it must fail");
    let message = settled(&error.to_string(), dir.path());
    drop(runtime.shutdown(Drain::now()).await);
    drop(runtime);
    let runtime = builder().data_dir(&data).start().await.unwrap();
    check(&runtime, &acknowledged).await;
    let again = runtime.enqueue(doubtful).await.unwrap();
    assert!(again.was_existing(), "its record is in the log");
    runtime.shutdown(Drain::now()).await.unwrap();
    let after = "after a restart everything acknowledged is there; the entry in doubt is stored \
                 once when it is enqueued again";
    Row { fault: "a commit of the rows fails", message, after }
}

async fn killed() -> Row {
    let site = Site::new(true).await;
    site.recovers().await;
    Row { fault: "kill -9", message: "nothing".to_owned(), after: KEPT }
}

/// An append in progress during a power failure, which was never acknowledged. Half of its changes
/// in the journal were written.
async fn torn_tail() -> Row {
    let site = Site::new(true).await;
    let live = site.dir.path().join("torn");
    let runtime = site.start(&site.data()).await.unwrap();
    fault::copy_dir(&site.data(), &live).unwrap();
    let files = || ["0", "1"].map(|file| fs::read(site.data().join("log/journal").join(file)));
    let before = files();
    let torn_entry = Entry::to("unserved").payload(vec![7; 50_000]);
    let torn_entry = runtime.enqueue(torn_entry).await.unwrap().id();
    let after = files();
    drop(runtime.shutdown(Drain::now()).await);
    drop(runtime);
    fs::remove_dir_all(site.data()).unwrap();
    fs::rename(live, site.data()).unwrap();
    // A sector contains the number of its write and that write's number of sectors.
    let number =
        |sector: &[u8], at: usize| u32::from_be_bytes(*sector[at..].first_chunk().unwrap());
    let (of, len) = (|sector: &[u8]| number(sector, 8), |sector: &[u8]| number(sector, 16));
    let mut torn_sectors = 0;
    for (file, (before, after)) in before.into_iter().zip(after).enumerate() {
        let (mut torn, after) = (before.unwrap(), after.unwrap());
        torn.resize(after.len(), 0);
        let sectors = || after.chunks_exact(512);
        let Some(write) = sectors().find(|sector| len(sector) > 90).map(of) else { continue };
        for (torn, after) in torn.chunks_exact_mut(512).zip(sectors()) {
            let is_torn = of(after) == write;
            torn_sectors += usize::from(is_torn);
            if of(after) < write || is_torn && torn_sectors % 2 == 0 {
                torn.copy_from_slice(after);
            }
        }
        fs::write(site.data().join("log/journal").join(file.to_string()), torn).unwrap();
    }
    assert!(torn_sectors > 90, "the record is written there: {torn_sectors} sectors");
    let runtime = site.start(&site.data()).await.unwrap();
    assert!(runtime.explain(torn_entry).await.unwrap().is_none(), "it is cut");
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    site.recovers().await;
    let after = "the torn record, which was never acknowledged, is cut; everything acknowledged \
                 is there";
    Row { fault: "a torn tail of the log's journal", message: "nothing".to_owned(), after }
}

async fn log_bit() -> Row {
    let site = Site::new(true).await;
    Site::flip(&site.data().join("log/journal/0"), 0.000_2);
    let message = site.refused().await;
    site.restored(false).await;
    let after = "restored from a snapshot, as of the snapshot";
    Row { fault: "a flipped bit in the log's journal", message, after }
}

async fn log_file_bit() -> Row {
    let site = Site::new(false).await;
    let dir = site.open();
    LocalLog::open(&dir.log(), &Medium::disk()).unwrap().flush().unwrap();
    drop(dir);
    Site::flip(&site.file("log", "sst"), 0.2);
    // Removes the rows, so that the log must be read.
    fs::remove_dir_all(site.data().join("store")).unwrap();
    let message = site.refused().await;
    site.restored(false).await;
    let after = "restored from a snapshot, as of the snapshot";
    Row { fault: "a flipped bit in a file of the log", message, after }
}

async fn log_lost() -> Row {
    let site = Site::new(false).await;
    fs::remove_dir_all(site.data().join("log")).unwrap();
    let message = site.refused().await;
    site.restored(false).await;
    let after = "restored from a snapshot, as of the snapshot";
    Row { fault: "the log is lost", message, after }
}

async fn rows_bit() -> Row {
    let site = Site::new(false).await;
    Site::flip(&site.file("store", "sst"), 0.02);
    let message = match site.start(&site.data()).await {
        Err(error) => error.to_string(),
        Ok(runtime) => {
            let error =
                runtime.node().inspect().digest(P).expect_err("the rows are damaged").to_string();
            drop(runtime.shutdown(Drain::now()).await);
            error
        }
    };
    let message = settled(&message, site.dir.path());
    site.restored(true).await;
    let after = "restored from a snapshot and the log: everything acknowledged is there";
    Row { fault: "a flipped bit in a file of the rows", message, after }
}

async fn rows_lost() -> Row {
    let site = Site::new(false).await;
    fs::remove_dir_all(site.data().join("store")).unwrap();
    site.recovers().await;
    let fault = "the rows are lost, the log was never trimmed";
    Row {
        fault,
        message: "nothing".to_owned(),
        after: "the log is replayed; everything acknowledged is there",
    }
}

async fn rows_lost_and_log_trimmed() -> Row {
    let site = Site::new(false).await;
    let dir = site.open();
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let manifest = snapshot::verify(&site.dir.path().join("snapshot")).unwrap();
    log.trim(P, forebay_messages::Lsn(manifest.partitions[0].applied)).unwrap();
    drop((log, dir));
    fs::remove_dir_all(site.data().join("store")).unwrap();
    let message = site.refused().await;
    site.restored(true).await;
    let after = "restored from a snapshot and the log: everything acknowledged is there";
    Row { fault: "the rows are lost, the log was trimmed up to a snapshot", message, after }
}

async fn metadata_bit() -> Row {
    let site = Site::new(true).await;
    Site::flip(&site.file("metadata", "log"), 0.5);
    let message = site.refused().await;
    site.restored(false).await;
    let after = "restored from a snapshot, as of the snapshot";
    Row { fault: "a flipped bit in the metadata's journal", message, after }
}

async fn snapshot_bit() -> Row {
    let site = Site::new(false).await;
    let from = site.dir.path().join("snapshot");
    let file = snapshot::verify(&from).unwrap().files[0].path.clone();
    Site::flip(&from.join(file), 0.5);
    let error = snapshot::restore(&from, &site.dir.path().join("new"), None).unwrap_err();
    let message = settled(&error.to_string(), site.dir.path());
    assert!(
        site.start(&site.dir.path().join("new")).await.is_err(),
        "an incomplete copy does not open"
    );
    site.recovers().await;
    Row { fault: "a flipped bit in a snapshot", message, after: "nothing is restored" }
}

async fn newer_directory() -> Row {
    let site = Site::new(false).await;
    let format = site.data().join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("version 1", "version 3")).unwrap();
    let message = site.refused().await;
    fs::write(&format, text).unwrap();
    site.recovers().await;
    Row { fault: "a data directory of a newer forebay", message, after: "nothing was changed" }
}

/// A newer forebay continued to write after a barrier.
async fn version_barrier() -> Row {
    let site = Site::new(false).await;
    let dir = site.open();
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let command = Command::VersionBarrier(VersionBarrier { format_min: 99 });
    let created_at = Timestamp(1);
    let record = Record { keys: None, producer: None, created_at, command: Some(command) };
    let records = [Arc::new(record)];
    let epoch = Epoch(log.fenced(P).0 + 1);
    log.append(&[Append { partition: P, epoch, records: &records }]).unwrap();
    drop((log, dir));
    let message = site.refused().await;
    assert_eq!(message, site.refused().await, "again, and not misread");
    Row { fault: "a log that a newer forebay wrote on", message, after: "nothing was changed" }
}

async fn damaged_rule_book() -> Row {
    let site = Site::new(false).await;
    let dir = site.open();
    let metadata = LocalMetadata::open(&dir.metadata(), &Medium::disk()).unwrap();
    let garbage = Bytes::from_static(b"\xff\xff\xff no rule book");
    metadata.put(&MetaKey::rule_book(), garbage, Precondition::None).unwrap();
    drop((metadata, dir));
    let message = match site.start(&site.data()).await {
        Err(error) => error.to_string(),
        Ok(runtime) => {
            check(&runtime, &site.acknowledged).await;
            let error = runtime.rules().book().await.expect_err("it does not decode").to_string();
            runtime.shutdown(Drain::now()).await.unwrap();
            error
        }
    };
    let message = settled(&message, site.dir.path());
    let after = "the rules that the partitions know stay in force";
    Row { fault: "a stored rule book that does not decode", message, after }
}

/// Needs permission to mount a file system. Without it, the row is assumed and a note is printed.
async fn full_disk() -> Row {
    // Whether the log or the rows hit the limit first varies between runs.
    const DISK_FULL: &str = "no space is left on the disk; free some and start again, nothing that was \
                        acknowledged is lost";
    let dir = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str]| {
        let ran = std::process::Command::new("mount").args(arguments).arg(dir.path()).output();
        ran.is_ok_and(|output| output.status.success())
    };
    let fault = "the disk is full";
    let after = "after room was made and a restart everything acknowledged is there";
    if !mount(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"]) {
        crate::place::say("skipped: a full disk (no permission to mount a file system)");
        return Row { fault, message: DISK_FULL.to_owned(), after };
    }
    let data = dir.path().join("data");
    let runtime = builder().data_dir(&data).start().await.unwrap();
    let acknowledged = fill(&runtime, 0).await;
    let mut bulky = Vec::new();
    let error = loop {
        let bulk = Entry::to("unserved").payload(vec![7; 256 << 10]);
        match runtime.enqueue(bulk).await {
            Ok(stored) => bulky.push(stored.id()),
            Err(error) => break error.to_string(),
        }
        assert!(bulky.len() < 1_000, "24 MiB take more than 250 MB");
    };
    drop(runtime.shutdown(Drain::now()).await);
    drop(runtime);
    assert!(error.contains(DISK_FULL), "{error}");
    assert!(mount(&["-o", "remount,size=256m"]));
    let runtime = builder().data_dir(&data).start().await.unwrap();
    check(&runtime, &acknowledged).await;
    for id in bulky {
        assert!(runtime.explain(id).await.unwrap().is_some(), "{id} was acknowledged");
    }
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    drop(std::process::Command::new("umount").arg("--lazy").arg(dir.path()).output());
    Row { fault, message: DISK_FULL.to_owned(), after }
}
