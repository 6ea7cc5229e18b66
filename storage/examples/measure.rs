//! Measures the log and the partition store on this machine:
//! `cargo run --release -p forebay-storage --example measure [DIR [PART]]`,
//! with PART one of log, lives, puts, drain, many.
//!
//! Quote ratios, not absolute numbers: disks differ.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::{
    error::Error,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_engine::partition::{apply::apply, state::PartitionState, store::Tables};
use forebay_messages::{
    AttemptToken, EntryId, Epoch, Outcome, PartitionId, PartitionKey, Record, Timestamp,
    VQueueName,
    actor::{CancelRefill, RefillId, RefillRequest},
    command::{Command, Complete, Decision, Enqueue, NewEntry, SchedulerDecisions},
};
use forebay_storage::{
    Medium,
    log::{Append, LocalLog, LogStore},
    partition::{PartitionStore, Store, TryRefill},
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

const P: PartitionId = PartitionId(1);
const PAYLOAD_BYTES: usize = 256;

fn entry_id(n: u64) -> EntryId {
    let mut uuid = [7; 16];
    uuid[..8].copy_from_slice(&n.to_be_bytes());
    EntryId { partition_key: PartitionKey(n / 1_000), uuid }
}

fn record(command: Command) -> Arc<Record> {
    Arc::new(Record {
        keys: None,
        producer: None,
        created_at: Timestamp(1),
        command: Some(command),
    })
}

fn enqueue(n: u64, vqueue: VQueueName) -> Arc<Record> {
    let mut id = entry_id(n);
    id.partition_key = PartitionKey(vqueue.service.len() as u64);
    let payload = Bytes::from(vec![n as u8; PAYLOAD_BYTES]);
    let entry = NewEntry {
        id,
        vqueue,
        payload,
        run_at: None,
        idempotency_key: None,
        retry: None,
        retention_ms: Some(0),
        is_fresh: true,
        payload_hash: None,
    };
    record(Command::Enqueue(Enqueue { entry }))
}

fn per_second(count: u64, spent: Duration) -> f64 {
    count as f64 / spent.as_secs_f64()
}

fn appends(dir: &Path, group: usize) -> Done {
    let log = LocalLog::open(&dir.join(format!("log-{group}")), &Medium::disk())?;
    let records: Vec<_> = (0..group).map(|n| enqueue(n as u64, name(1))).collect();
    let append = Append { partition: P, epoch: Epoch(1), records: &records };
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(3) {
        let call = Instant::now();
        log.append(&[append])?;
        longest = longest.max(call.elapsed());
    }
    let stats = log.stats();
    let spent = start.elapsed();
    println!(
        "log append, groups of {group:4}: {:9.0} records/s, {:6.0} fsyncs/s, longest {longest:.1?}",
        per_second(stats.records, spent),
        per_second(stats.fsyncs, spent)
    );
    Ok(())
}

/// The limit of the disk: the same bytes appended to a plain file, each synced.
fn plain_file(dir: &Path) -> Done {
    let mut file = std::fs::File::create(dir.join("plain"))?;
    let bytes = [7; PAYLOAD_BYTES + 100];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        file.write_all(&bytes)?;
        file.sync_data()?;
        count += 1;
    }
    println!("plain file, one record each:  {:9.0} fsyncs/s", per_second(count, start.elapsed()));
    Ok(())
}

fn name(n: u64) -> VQueueName {
    VQueueName::service("resize").with_scope(&format!("tenant-{n}"))
}

/// Enqueue, decide, complete of every entry, in batches of `batch` records.
fn lives(dir: &Path, batch: usize, vqueues: u64) -> Done {
    let store = Store::open(&dir.join(format!("lives-{batch}-{vqueues}")), &Medium::disk())?;
    let store = store.partition(P)?;
    let mut state = PartitionState::load(&store.begin()?)?;
    let (mut lives, mut rows, mut bytes) = (0, 0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let records: Vec<_> =
            (lives..lives + batch as u64).map(|n| enqueue(n, name(n % vqueues))).collect();
        let mut commit = |records: &[Arc<Record>]| -> Done<Vec<_>> {
            let mut txn = store.begin()?;
            let mut applied = Vec::new();
            for record in records {
                let lsn = state.applied_lsn.next();
                apply(&mut state, &mut txn, lsn, record, &mut applied)?;
            }
            let committed = txn.commit(state.applied_lsn)?;
            rows += committed.rows;
            bytes += committed.bytes;
            Ok(applied)
        };
        let token = AttemptToken { epoch: Epoch(1), seq: lives };
        let decisions: Vec<_> = commit(&records)?
            .into_iter()
            .filter_map(|applied| match applied {
                forebay_engine::partition::apply::Applied::InboxAdded { vqueue, key } => {
                    Some(Decision { vqueue, key, token, executor: None })
                }
                _ => None,
            })
            .collect();
        let ended: Vec<_> = decisions
            .iter()
            .map(|decision| {
                let outcome = Some(Outcome::Success(Bytes::new()).into());
                record(Command::Complete(Complete {
                    entry: decision.key.entry,
                    token,
                    outcome,
                    heeds_cancel: false,
                }))
            })
            .collect();
        commit(&[record(Command::SchedulerDecisions(SchedulerDecisions { decisions }))])?;
        commit(&ended)?;
        lives += batch as u64;
    }
    println!(
        "apply enqueue + decide + complete, batches of {batch:4}, {vqueues:6} vqueues: \
         {:8.0} lives/s, {:4.1} rows and {:5.0} bytes each",
        per_second(lives, start.elapsed()),
        rows as f64 / lives as f64,
        bytes as f64 / lives as f64
    );
    Ok(())
}

/// Puts and deletes of inbox rows only, through the overlay.
fn puts(dir: &Path, batch: u64) -> Done {
    let store = Store::open(&dir.join(format!("puts-{batch}")), &Medium::disk())?.partition(P)?;
    let vqueue = name(1).id(PartitionKey(1));
    let mut lsn = forebay_messages::Lsn(0);
    let mut n = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let mut txn = store.begin()?;
        for _ in 0..batch {
            n += 1;
            let seq = forebay_messages::InboxSeq(n);
            let key = forebay_messages::EntryKey { seq, entry: entry_id(n), ..Default::default() };
            txn.put_inbox(vqueue, key);
        }
        lsn = lsn.next();
        txn.commit(lsn)?;
    }
    println!(
        "puts through the overlay, batches of {batch:4}: {:.0}/s",
        per_second(n, start.elapsed())
    );
    Ok(())
}

/// Drains one vqueue of a million entries, 24 at a time. Each refill continues at the anchor, as a
/// live vqueue does; after every 100,000 entries one starts at the very front, as a new incarnation
/// does, and must skip the tombstones.
fn drain(dir: &Path) -> Done {
    const ENTRIES: u64 = 1_000_000;
    let store = Store::open(&dir.join("drain"), &Medium::disk())?.partition(P)?;
    let mut state = PartitionState::load(&store.begin()?)?;
    let start = Instant::now();
    for chunk in 0..ENTRIES / 1_000 {
        let mut txn = store.begin()?;
        for n in chunk * 1_000..(chunk + 1) * 1_000 {
            let lsn = state.applied_lsn.next();
            apply(&mut state, &mut txn, lsn, &enqueue(n, name(1)), &mut Vec::new())?;
        }
        txn.commit(state.applied_lsn)?;
    }
    println!("fill one vqueue: {:.0} entries/s", per_second(ENTRIES, start.elapsed()));
    let vqueue = name(1).id(PartitionKey(6));
    let request = |after| RefillRequest {
        id: RefillId(1),
        vqueue,
        after,
        limit: 24,
        cancel: CancelRefill::default(),
    };
    let (mut taken, mut spent, mut blocked, mut slowest) = (0, Duration::ZERO, 0, Duration::ZERO);
    let mut anchor = None;
    loop {
        let call = Instant::now();
        let found = match store.try_refill(&request(anchor))? {
            TryRefill::Done(done) => Some(done),
            TryRefill::WouldBlock => {
                blocked += 1;
                store.refill(&request(anchor))?
            }
        };
        let rows = found.map(|done| done.rows).unwrap_or_default();
        spent += call.elapsed();
        slowest = slowest.max(call.elapsed());
        let mut txn = store.begin()?;
        rows.iter().for_each(|key| txn.delete_inbox(vqueue, *key));
        txn.commit(state.applied_lsn)?;
        anchor = rows.last().copied().or(anchor);
        let before = taken;
        taken += rows.len() as u64;
        if before / 100_000 != taken / 100_000 || rows.is_empty() {
            let call = Instant::now();
            store.refill(&request(None))?;
            println!(
                "refills up to dequeue {taken:7}: {:5.0} ns per entry, slowest call {slowest:.0?}, \
                 {blocked} would have blocked; one from the front {:.1?}",
                spent.as_nanos() as f64 / 100_000.0,
                call.elapsed(),
            );
            (spent, blocked, slowest) = (Duration::ZERO, 0, Duration::ZERO);
        }
        if rows.is_empty() {
            return Ok(());
        }
    }
}

fn refill_speed(store: &PartitionStore, vqueues: u64) -> Done {
    // A worker reads the blocks once; then they are in memory.
    for warm in [false, true] {
        refills(store, vqueues, warm)?;
    }
    Ok(())
}

fn refills(store: &PartitionStore, vqueues: u64, warm: bool) -> Done {
    let start = Instant::now();
    let (mut rows, mut blocked) = (0, 0);
    for n in 0..vqueues {
        let vqueue = name(n).id(PartitionKey(6));
        let request = RefillRequest {
            id: RefillId(n),
            vqueue,
            after: None,
            limit: 24,
            cancel: CancelRefill::default(),
        };
        let inline = if warm { store.try_refill(&request)? } else { TryRefill::WouldBlock };
        match inline {
            TryRefill::Done(done) => rows += done.rows.len() as u64,
            TryRefill::WouldBlock => {
                blocked += 1;
                rows += store.refill(&request)?.map_or(0, |done| done.rows.len() as u64);
            }
        }
    }
    println!(
        "refill of {vqueues} vqueues: {:.0} ns per call, {rows} rows, {blocked} by a worker",
        start.elapsed().as_nanos() as f64 / vqueues as f64
    );
    Ok(())
}

/// A million vqueues with one entry each: the start of a node.
fn many_vqueues(dir: &Path) -> Done {
    const VQUEUES: u64 = 1_000_000;
    let path = dir.join("many");
    let store = Store::open(&path, &Medium::disk())?.partition(P)?;
    let mut state = PartitionState::load(&store.begin()?)?;
    let start = Instant::now();
    for chunk in 0..VQUEUES / 1_000 {
        let mut txn = store.begin()?;
        for n in chunk * 1_000..(chunk + 1) * 1_000 {
            let lsn = state.applied_lsn.next();
            apply(&mut state, &mut txn, lsn, &enqueue(n, name(n)), &mut Vec::new())?;
        }
        txn.commit(state.applied_lsn)?;
    }
    println!("fill 1 M vqueues: {:.0} entries/s", per_second(VQUEUES, start.elapsed()));
    store.flush()?;
    refill_speed(&store, 10_000)?;
    drop(store);
    let start = Instant::now();
    let store = Store::open(&path, &Medium::disk())?.partition(P)?;
    println!("open it: {:.1?}", start.elapsed());
    let start = Instant::now();
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = store.vqueues_after(after, 4_096)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        seen += page.len();
    }
    println!("walk {seen} vqueues: {:.1?}", start.elapsed());
    refill_speed(&store, 10_000)
}

fn main() -> Done {
    let root = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let only = std::env::args().nth(2);
    let is_selected = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let dir = tempfile::tempdir_in(root)?;
    if is_selected("log") {
        for group in [1, 64, 1024] {
            plain_file(dir.path())?;
            appends(dir.path(), group)?;
        }
    }
    if is_selected("lives") {
        [1, 64, 1024].into_iter().try_for_each(|batch| lives(dir.path(), batch, 1_000))?;
        lives(dir.path(), 1024, 100_000)?;
    }
    if is_selected("puts") {
        [16, 256].into_iter().try_for_each(|batch| puts(dir.path(), batch))?;
    }
    if is_selected("drain") {
        drain(dir.path())?;
    }
    if is_selected("many") {
        many_vqueues(dir.path())?;
    }
    Ok(())
}
