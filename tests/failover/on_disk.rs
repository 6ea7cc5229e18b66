//! Several runtimes over one log on disk: they take over from each other and all restart, also
//! after a torn write; a runtime that lacks trimmed records copies the rows of another one; rows of
//! another log are refused.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use forebay::{
    Candidacy, Drain, EntryHandle, EntryId, ErrorKind, Runtime, RuntimeError, SharedLog, TrimLog,
};
use forebay_actors::error::NodeError;
use forebay_storage::fault;

use super::{P, Ran, member_on, role, same_rows, until, work};

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> SharedLog {
        SharedLog::open(self.0.path().join("log"), TrimLog::Flushed).unwrap()
    }

    fn rows(&self, index: usize) -> PathBuf {
        self.0.path().join(format!("rows-{index}"))
    }

    async fn start(&self, log: &SharedLog, index: usize) -> Result<Runtime, RuntimeError> {
        let ran = Arc::new(Ran::default());
        member_on(log, Some(&self.rows(index)), index, &ran, Candidacy::First).await
    }
}

async fn all_end(runtime: &Runtime, entries: &[EntryId]) {
    for id in entries {
        let entry = runtime.attach(*id);
        let ended = tokio::time::timeout(super::TIMEOUT, entry.result::<u64>()).await;
        ended.expect("its end is reported").unwrap();
    }
}

/// All report the same outcomes and have the same rows; then they shut down.
async fn all_agree_and_go(runtimes: [Runtime; 3], entries: &[EntryId]) {
    for runtime in &runtimes {
        all_end(runtime, entries).await;
    }
    let [first, second, third] = &runtimes;
    until("equal replicas", || same_rows(first, second) && same_rows(second, third)).await;
    for runtime in &runtimes {
        runtime.shutdown(Drain::now()).await.unwrap();
    }
}

async fn some(runtime: &Runtime, count: u64) -> Vec<EntryId> {
    let entries = (0..count).map(|n| work(n % 5)).collect();
    let stored = runtime.enqueue_batch(entries).await.unwrap();
    stored.iter().map(EntryHandle::id).collect()
}

fn applied(runtime: &Runtime) -> u64 {
    runtime.node().inspect().digest(P).unwrap().applied.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_on_disk_take_over_and_all_start_again() {
    let site = Site::new();
    let log = site.log();
    let ran = Arc::new(Ran::default());
    let start = async |index: usize, candidacy| {
        member_on(&log, Some(&site.rows(index)), index, &ran, candidacy).await.unwrap()
    };
    let first = start(0, Candidacy::First).await;
    let second = start(1, Candidacy::Standby).await;
    let third = start(2, Candidacy::Never).await;
    let mut entries = some(&first, 200).await;
    entries.extend(some(&second, 200).await);
    until("it is running", || ran.by[0].load(Ordering::SeqCst) > 20).await;
    // As in a crash: without notice.
    drop(first);
    until("the standby leads", || role(&second) == "leader").await;
    entries.extend(some(&third, 50).await);
    all_end(&third, &entries).await;
    until("equal replicas", || same_rows(&second, &third)).await;
    // One stops as in a crash, one cleanly.
    drop(second);
    third.shutdown(Drain::now()).await.unwrap();
    drop((third, log));

    let log = site.log();
    // The one that stopped cleanly starts first: the log may lack records that the others need.
    let third = site.start(&log, 2).await.unwrap();
    let first = site.start(&log, 0).await.unwrap();
    let second = site.start(&log, 1).await.unwrap();
    entries.extend(some(&third, 50).await);
    all_agree_and_go([first, second, third], &entries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_of_the_shared_log_is_cut_for_all_replicas() {
    let live = Site::new();
    let log = live.log();
    let (first, second) = (live.start(&log, 0).await.unwrap(), live.start(&log, 1).await.unwrap());
    let entries = some(&second, 100).await;
    all_end(&second, &entries).await;
    until("equal replicas", || same_rows(&first, &second)).await;
    // As left by kill -9 in the middle of a write.
    let site = Site::new();
    fault::copy_dir(live.0.path(), site.0.path()).unwrap();
    drop((first, second, log));
    let journals = fs::read_dir(site.0.path().join("log/log")).unwrap();
    let journal = journals
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == "log"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    // The header of a record with only a part of its contents.
    bytes.extend([0x11, 0x22, 0x33, 0x44, 0x00, 0x10, 0x01, 0xaa, 0xbb]);
    fs::write(&journal, bytes).unwrap();

    let log = site.log();
    let (first, second) = (site.start(&log, 0).await.unwrap(), site.start(&log, 1).await.unwrap());
    let more = some(&first, 10).await;
    for runtime in [&first, &second] {
        all_end(runtime, &entries).await;
        all_end(runtime, &more).await;
    }
    until("equal replicas", || same_rows(&first, &second)).await;
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}

/// Three runs: one of two replicas stays behind, and the log trims records that it lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lacks_trimmed_records_copies_rows() {
    let site = Site::new();
    let log = site.log();
    let (first, second) = (site.start(&log, 0).await.unwrap(), site.start(&log, 1).await.unwrap());
    let mut entries = some(&first, 50).await;
    all_end(&second, &entries).await;
    let known = applied(&second);
    second.shutdown(Drain::now()).await.unwrap();
    entries.extend(some(&first, 100).await);
    all_end(&first, &entries).await;
    // It stops last: the log is trimmed up to what all running replicas have in files.
    first.shutdown(Drain::now()).await.unwrap();
    drop((first, second, log));

    let log = site.log();
    let alone = site.start(&log, 1).await.err().expect("there is no replica to copy from");
    assert_eq!(alone.kind(), ErrorKind::Storage);
    let RuntimeError::Node(error) = &alone else { panic!("{alone}") };
    let NodeError::Gap { applied: found, first, .. } = error.cause() else { panic!("{alone}") };
    assert!(found.0 >= known && first.0 > found.0 + 1, "{alone}");
    assert!(alone.to_string().contains("snapshot restore"), "{alone}");

    let first = site.start(&log, 0).await.unwrap();
    let running = some(&first, 200).await;
    let second = site.start(&log, 1).await.unwrap();
    // A replica with no rows at all.
    let third = site.start(&log, 2).await.unwrap();
    entries.extend(running);
    second.partitions().lead(P).await.unwrap();
    entries.extend(some(&third, 50).await);
    all_agree_and_go([first, second, third], &entries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_not_started_with_another_log_than_theirs() {
    let (site, other) = (Site::new(), Site::new());
    for site in [&site, &other] {
        let log = site.log();
        let runtime = site.start(&log, 0).await.unwrap();
        all_end(&runtime, &some(&runtime, 20).await).await;
        runtime.shutdown(Drain::now()).await.unwrap();
    }
    // Equal numbers of records in both: positions do not distinguish them.
    let log = other.log();
    let error = site.start(&log, 0).await.err().expect("they are of another log");
    let RuntimeError::Node(cause) = &error else { panic!("{error}") };
    let NodeError::OtherLog { path, rows, log: found } = cause.cause() else { panic!("{error}") };
    assert!(path.starts_with(site.0.path()) && rows != found, "{error}");
    assert!(error.to_string().contains("if that is lost"), "{error}");
    let log = site.log();
    let runtime = site.start(&log, 0).await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
}

fn remove(path: &Path) {
    fs::remove_dir_all(path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_rows_are_rebuilt_from_the_log_of_another() {
    let site = Site::new();
    let log = site.log();
    let first = site.start(&log, 0).await.unwrap();
    let entries = some(&first, 20).await;
    all_end(&first, &entries).await;
    first.shutdown(Drain::now()).await.unwrap();
    drop(first);
    let second = site.start(&log, 1).await.err().expect("the log was trimmed");
    assert_eq!(second.kind(), ErrorKind::Storage, "{second}");
    assert!(second.to_string().contains("the records between are gone"), "{second}");
    remove(&site.rows(1));
    let first = site.start(&log, 0).await.unwrap();
    let second = site.start(&log, 1).await.unwrap();
    all_end(&second, &entries).await;
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}
