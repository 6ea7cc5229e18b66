//! The journal with a database that keeps only flushed data.

use std::{fs, path::PathBuf, sync::Mutex};

use proptest::prelude::*;

use super::{
    cell::{CELL_LEN, DATA_LEN},
    *,
};
use crate::FaultKind;

const SMALL: Sizes = Sizes { first: 2_048, growth: 2, max: 8_192 };

/// Blocks that a database received, and how many of them are in files.
#[derive(Clone, Default)]
struct TestRows {
    blocks: Vec<Vec<u8>>,
    mark: Option<u64>,
    /// The flushed rows: number of blocks, and their mark.
    flushed: (usize, Option<u64>),
}

#[derive(Clone, Default)]
struct Database(Arc<Mutex<TestRows>>);

impl Database {
    fn rows(&self) -> std::sync::MutexGuard<'_, TestRows> {
        self.0.lock().unwrap()
    }

    fn flush(&self) {
        let mut rows = self.rows();
        rows.flushed = (rows.blocks.len(), rows.mark);
    }

    /// The state after a crash.
    fn crashed(&self) -> Self {
        let mut rows = self.rows().clone();
        let (len, mark) = rows.flushed;
        rows.blocks.truncate(len);
        rows.mark = mark;
        Self(Arc::new(Mutex::new(rows)))
    }
}

impl Replay for &Database {
    fn replay(&mut self, block: &[u8]) -> Result<(), Fault> {
        self.rows().blocks.push(block.to_vec());
        Ok(())
    }

    fn finish(&mut self, mark: u64) -> Result<(), Fault> {
        self.rows().mark = Some(mark);
        self.flush();
        Ok(())
    }
}

/// A journal with its database.
struct Site {
    dir: tempfile::TempDir,
    database: Database,
    journal: Journal,
}

fn open(path: &Path, database: &Database) -> Result<Journal, Fault> {
    let (mark, flushing) = (database.rows().mark, database.clone());
    let flush = move || {
        flushing.flush();
        Ok(())
    };
    recover(&path.join("journal"), SMALL, mark, Arc::new(flush), &mut &*database)
}

impl Site {
    fn new() -> Self {
        let (dir, database) = (tempfile::tempdir().unwrap(), Database::default());
        let journal = open(dir.path(), &database).unwrap();
        Self { dir, database, journal }
    }

    fn append(&mut self, block: &[u8]) {
        let seq = self.journal.next();
        self.journal.append(block).unwrap();
        let mut rows = self.database.rows();
        rows.blocks.push(block.to_vec());
        rows.mark = Some(seq);
    }

    /// Waits until the other file is free.
    fn settle(&mut self) {
        let free = self.journal.other.take().unwrap().join().unwrap();
        self.journal.other = Some(std::thread::spawn(|| free));
    }

    fn blocks(&self) -> Vec<Vec<u8>> {
        self.database.rows().blocks.clone()
    }

    fn files(&self) -> [PathBuf; 2] {
        FILES.map(|name| self.dir.path().join("journal").join(name))
    }

    fn bytes(&self) -> [Vec<u8>; 2] {
        self.files().map(|path| fs::read(path).unwrap())
    }

    /// The same after a crash that left these bytes in the files.
    fn crashed_with(&self, bytes: &[Vec<u8>; 2]) -> Result<Self, Fault> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("journal")).unwrap();
        for (name, bytes) in FILES.iter().zip(bytes) {
            fs::write(dir.path().join("journal").join(name), bytes).unwrap();
        }
        let database = self.database.crashed();
        let journal = open(dir.path(), &database)?;
        Ok(Self { dir, database, journal })
    }

    /// Like [`Self::crashed_with`], with the files as they are.
    fn crashed(&self) -> Self {
        // The database first, because a flush may be in progress.
        let database = self.database.crashed();
        let mut crashed = Self { database, ..Self::new() };
        let copy = crashed.dir.path();
        fs::create_dir_all(copy.join("journal")).unwrap();
        for path in self.files().iter().filter(|path| path.exists()) {
            fs::copy(path, copy.join("journal").join(path.file_name().unwrap())).unwrap();
        }
        crashed.journal = open(copy, &crashed.database).unwrap();
        crashed
    }
}

fn block(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + n * 7 + 1) as u8).collect()
}

#[test]
fn files_are_written_in_turn_and_grow() {
    let mut site = Site::new();
    assert!(!site.files()[0].exists(), "no write, no file");
    for n in 0..200 {
        site.append(&block(n, 300));
    }
    let journal = &mut site.journal;
    journal.other.take().unwrap().join().unwrap().unwrap();
    assert_eq!(site.bytes().map(|bytes| bytes.len() as u64), [SMALL.max; 2]);
    assert!(site.database.rows().flushed.0 >= 200 - 32, "all but two files of blocks");
}

#[test]
fn an_oversized_block_extends_its_file() {
    let mut site = Site::new();
    for (n, len) in [10, 40_000, 3, 90_000, 7].into_iter().enumerate() {
        site.append(&block(n, len));
        assert_eq!(site.crashed().blocks(), site.blocks());
    }
    for n in 0..200 {
        site.append(&block(n, 300));
    }
    let journal = &mut site.journal;
    journal.other.take().unwrap().join().unwrap().unwrap();
    assert_eq!(site.bytes().map(|bytes| bytes.len() as u64), [SMALL.max; 2], "truncated again");
}

/// All ways to tear the last of some blocks: each of its cells is new or unchanged.
fn torn(lens: &[usize], last: usize) {
    let mut site = Site::new();
    for (n, len) in lens.iter().enumerate() {
        site.append(&block(n, *len));
    }
    let acknowledged = site.blocks();
    if let Some(other) = site.journal.other.take() {
        let file = other.join().unwrap();
        site.journal.other = Some(std::thread::spawn(|| file));
    }
    let before = site.bytes();
    let crashed = Site { database: site.database.crashed(), ..Site::new() };
    site.append(&block(lens.len(), last));
    let mut whole = acknowledged.clone();
    whole.push(block(lens.len(), last));
    let after = site.bytes();
    let zeros = [0; CELL_LEN];
    let cells: Vec<(usize, usize)> = (0..2)
        .flat_map(|file| (0..after[file].len() / CELL_LEN).map(move |cell| (file, cell)))
        .filter(|(file, cell)| {
            let range = cell * CELL_LEN..(cell + 1) * CELL_LEN;
            // The full file may have grown meanwhile.
            *before[*file].get(range.clone()).unwrap_or(&zeros) != after[*file][range]
        })
        .collect();
    assert_eq!(cells.len(), last.div_ceil(DATA_LEN));
    for subset in 0..1_u32 << cells.len() {
        let mut bytes = before.clone();
        for (n, (file, cell)) in cells.iter().enumerate() {
            if subset & (1 << n) != 0 {
                let range = cell * CELL_LEN..(cell + 1) * CELL_LEN;
                bytes[*file][range.clone()].copy_from_slice(&after[*file][range]);
            }
        }
        let mut crashed = crashed.crashed_with(&bytes).unwrap_or_else(|error| {
            panic!("{lens:?} and {last}, cells {subset:b} of {}: {error}", cells.len())
        });
        let found = crashed.blocks();
        let is_whole = subset.count_ones() as usize == cells.len();
        assert_eq!(found, if is_whole { whole.clone() } else { acknowledged.clone() });
        // Its remains are never mistaken for a part of a later one.
        for n in 0..4 {
            crashed.append(&block(90 + n, 600));
            assert_eq!(crashed.crashed().blocks(), crashed.blocks());
        }
    }
}

#[test]
fn a_torn_block_is_cut_whatever_its_cells_held_before() {
    // In a new file, over zeros; as the first of the other file; over older blocks.
    torn(&[300], 2_000);
    torn(&[300, 1_000, 400], 1_500);
    torn(&[300; 4], 2_500);
    torn(&[400; 40], 1_900);
    torn(&[400; 47], 1_900);
    torn(&[900; 33], 3_100);
}

impl Site {
    /// The same after a crash in the middle of an append that wrote these cells of it (one bit
    /// each) and left the others unchanged.
    fn torn(mut self, block: &[u8], cells: u32) -> Self {
        let crashed = Self { database: self.database.crashed(), ..Self::new() };
        let before = self.bytes();
        self.append(block);
        self.journal.other.take().unwrap().join().unwrap().unwrap();
        let (mut bytes, after) = (before.clone(), self.bytes());
        let mut changed = 0;
        for file in 0..2 {
            for at in (0..before[file].len()).step_by(CELL_LEN) {
                let range = at..at + CELL_LEN;
                if before[file][range.clone()] != after[file][range.clone()] {
                    if cells & (1 << changed) != 0 {
                        bytes[file][range.clone()].copy_from_slice(&after[file][range]);
                    }
                    changed += 1;
                }
            }
        }
        assert_eq!(changed, block.len().div_ceil(DATA_LEN));
        crashed.crashed_with(&bytes).unwrap()
    }
}

/// Two consecutive crashes, each in the middle of a block at the same position: if the second block
/// reused the first one's sequence, cells of both would make one whole block.
#[test]
fn two_torn_blocks_at_one_position_do_not_merge() {
    const CELLS: u32 = 3;
    let mut site = Site::new();
    for n in 0..200 {
        site.append(&block(n, 300));
    }
    site.settle();
    // From here on both files have their maximum size: blocks begin in the same one.
    let site = site.crashed();
    let acknowledged = site.blocks();
    let len = CELLS as usize * DATA_LEN;
    for first in 1..(1 << CELLS) - 1 {
        for second in 0..(1 << CELLS) - 1 {
            let torn = site.crashed().torn(&block(91, len), first).torn(&block(92, len), second);
            assert_eq!(torn.blocks(), acknowledged, "cells {first:b}, then {second:b}");
        }
    }
}

/// A flipped bit never makes an acknowledged block vanish, not even the last one, however many
/// blocks the database has in files. Regression: with a flipped bit in a block that the database
/// had, the only later block was taken for an incomplete one.
#[test]
fn a_flipped_bit_is_found() {
    for (count, step) in [(3, 53), (9, 53), (40, 211)] {
        let mut site = Site::new();
        for n in 0..count {
            site.append(&block(n, 200 + 400 * (n % 3)));
        }
        site.settle();
        let (bytes, expected) = (site.bytes(), site.blocks());
        let (mut refused, mut whole) = (0, 0);
        let flushed = site.database.rows().flushed.0;
        for known in flushed..=count {
            // The flush of the last full file may be later than blocks after it.
            site.database.rows().flushed = (known, Some(known as u64));
            for file in 0..2 {
                for at in (0..bytes[file].len()).step_by(step) {
                    let mut flipped = bytes.clone();
                    flipped[file][at] ^= 1 << (at % 8);
                    match site.crashed_with(&flipped) {
                        Err(fault) => {
                            assert_eq!(fault.kind, FaultKind::Corrupt, "{fault}");
                            refused += 1;
                        }
                        Ok(found) => {
                            let place = format!("{known} of {count} flushed, file {file}, {at}");
                            assert!(found.blocks() == expected, "{place}");
                            whole += 1;
                        }
                    }
                }
            }
        }
        assert!(refused > 10 && whole > 10, "{count}: refused {refused}, whole {whole}");
    }
}

#[test]
fn a_missing_file_is_found() {
    let mut site = Site::new();
    for n in 0..30 {
        site.append(&block(n, 300));
    }
    assert!(site.database.rows().flushed.1.is_some());
    for (n, path) in site.files().into_iter().enumerate() {
        let database = site.database.crashed();
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let Err(fault) = open(site.dir.path(), &database) else { panic!("file {n} was lost") };
        assert_eq!(fault.kind, FaultKind::Corrupt, "{fault}");
        assert!(fault.to_string().contains("the file is missing"), "{fault}");
        fs::write(&path, kept).unwrap();
    }
    open(site.dir.path(), &site.database.crashed()).unwrap();
}

#[test]
fn an_empty_journal_beside_a_copy_opens() {
    let (dir, database) = (tempfile::tempdir().unwrap(), Database::default());
    database.rows().mark = Some(7);
    leave_empty(&dir.path().join("journal")).unwrap();
    let journal = open(dir.path(), &database).unwrap();
    assert_eq!(journal.next(), 8);
}

/// Steps of the model test.
#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Crash,
    Reopen,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// However often it is reopened, each acknowledged block is present once and in order.
    #[test]
    fn every_acknowledged_block_survives(
        steps in proptest::collection::vec(
            prop_oneof![
                8 => (0..3_000_usize).prop_map(Step::Append),
                1 => Just(Step::Crash),
                1 => Just(Step::Reopen),
            ],
            1..80,
        )
    ) {
        let mut site = Site::new();
        let mut acknowledged = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(len) => {
                    site.append(&block(n, len));
                    acknowledged.push(block(n, len));
                }
                Step::Crash => site = site.crashed(),
                Step::Reopen => {
                    site.database.flush();
                    let database = site.database.clone();
                    drop(std::mem::replace(&mut site.journal, open(
                        tempfile::tempdir().unwrap().path(), &Database::default(),
                    ).unwrap()));
                    site.journal = open(site.dir.path(), &database).unwrap();
                }
            }
            prop_assert_eq!(site.blocks(), acknowledged.clone());
        }
    }
}
