//! Flushes that fail: rows in memory cannot be written to files. Caused by moving a database's
//! directory away, so that RocksDB cannot create a new file while open ones continue to work.

use std::{fs, path::PathBuf, time::Duration};

use forebay::{Drain, Entry, EntryId, ErrorKind, Runtime};

use super::{Row, builder, check, fill, settled};

/// An entry of this size has no handler: it stays and uses memory.
const BULK_BYTES: usize = 256 << 10;
/// This many entries exceed the memory of either database.
const BULKS_MAX: usize = 1_200;

/// A runtime, one of whose databases has lost its directory.
struct Site {
    dir: tempfile::TempDir,
    database: &'static str,
    runtime: Runtime,
    acknowledged: Vec<EntryId>,
}

impl Site {
    async fn new(database: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = builder().data_dir(dir.path().join("data")).start().await.unwrap();
        let acknowledged = fill(&runtime, 0).await;
        let site = Self { dir, database, runtime, acknowledged };
        fs::rename(site.place(), site.away()).unwrap();
        site
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("data").join(self.database)
    }

    fn away(&self) -> PathBuf {
        self.dir.path().join("away")
    }

    fn settled(&self, error: &dyn std::fmt::Display) -> String {
        let text = settled(&error.to_string(), self.dir.path());
        // Which file could not be created varies between runs.
        text.split(" (IO error").next().unwrap_or_default().to_owned()
    }

    /// Shuts down, restores the directory and starts again: every acknowledged entry is there.
    async fn recovers(self, bulky: &[EntryId]) {
        drop(self.runtime.shutdown(Drain::now()).await);
        let (place, away) = (self.place(), self.away());
        drop(self.runtime);
        fs::rename(away, place).unwrap();
        let runtime = builder().data_dir(self.dir.path().join("data")).start().await.unwrap();
        check(&runtime, &self.acknowledged).await;
        for id in bulky {
            assert!(runtime.explain(*id).await.unwrap().is_some(), "{id} was acknowledged");
        }
        runtime.shutdown(Drain::now()).await.unwrap();
    }
}

/// Stores entries until one fails and the partition has stopped; returns the acknowledged ones and
/// the final error. Which write fails first varies: one whose outcome is then unknown, or one of
/// the partition's own.
async fn store_until_it_stops(runtime: &Runtime) -> (Vec<EntryId>, String) {
    let mut bulky = Vec::new();
    for _ in 0..BULKS_MAX {
        match runtime.enqueue(Entry::to("unserved").payload(vec![7; BULK_BYTES])).await {
            Ok(stored) => bulky.push(stored.id()),
            Err(error) if error.kind() == ErrorKind::Stopped => {
                return (bulky, error.to_string());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("300 MiB are kept in memory, or the partition did not stop")
}

/// No flush was requested: memory is full.
pub(super) async fn while_running(database: &'static str, fault: &'static str) -> Row {
    let site = Site::new(database).await;
    let (bulky, error) = store_until_it_stops(&site.runtime).await;
    let message = site.settled(&error);
    // The message says whether it happened during an apply or in between.
    let at = message.find("cannot").unwrap_or_else(|| panic!("it says what it cannot: {message}"));
    let message = format!("partition N stopped: {}", &message[at..]);
    site.recovers(&bulky).await;
    Row { fault, message, after: "after a restart everything acknowledged is there" }
}

pub(super) async fn at_the_end() -> Row {
    let site = Site::new("store").await;
    let error = site.runtime.shutdown(Drain::now()).await.expect_err("rows cannot be flushed");
    let message = site.settled(&error);
    site.recovers(&[]).await;
    let after = "the next start replays the log; everything acknowledged is there";
    Row { fault: "the flush at a shutdown fails", message, after }
}

/// After this the database accepts no more rows: the next write stops the partition.
pub(super) async fn for_a_snapshot() -> Row {
    let site = Site::new("store").await;
    let to = site.dir.path().join("snapshot");
    let error = site.runtime.snapshot(&to).await.expect_err("rows cannot be flushed");
    let message = site.settled(&error);
    assert!(forebay::snapshot::verify(&to).is_err(), "it is not a snapshot");
    let (bulky, _) = store_until_it_stops(&site.runtime).await;
    site.recovers(&bulky).await;
    let after = "there is no snapshot; the partition stops at its next write, and after a \
                 restart everything acknowledged is there";
    Row { fault: "the flush for a snapshot fails", message, after }
}
