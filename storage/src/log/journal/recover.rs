//! Recovery: the contents of a journal's files when it is opened.
//!
//! Must always hold: every block that may have been acknowledged is replayed or known to the
//! database, or damage is reported. At most one block was being written when the process died: the
//! one after the last acknowledged block. So all blocks below the greatest sequence in any cell
//! were acknowledged, and the last block is cut only if it has missing cells and each of them still
//! has its previous contents.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    FILES, FlushDatabase, Journal, Sizes,
    cell::{self, CELL_LEN, Cell},
    file::JournalFile,
};
use crate::{Fault, FaultKind, wal_check::JournalDamage};

/// How a start applies the blocks that the database lacks.
pub(in crate::log) trait Replay {
    /// Applies the next block.
    fn replay(&mut self, block: &[u8]) -> Result<(), Fault>;
    /// Stores that the next block has the sequence after `mark` and flushes the database to its
    /// files.
    fn finish(&mut self, mark: u64) -> Result<(), Fault>;
}

/// Opens the journal in a directory. `mark` is the sequence of the last block that the database has
/// in files, `None` if there was never one.
pub(in crate::log) fn recover(
    dir: &Path,
    sizes: Sizes,
    mark: Option<u64>,
    flush: FlushDatabase,
    replay: &mut dyn Replay,
) -> Result<Journal, Fault> {
    let known = mark.unwrap_or_default();
    let is_there = FILES.iter().any(|name| dir.join(name).exists());
    let mut recovery = Recovery { known, seen: 0 };
    if mark.is_some() || is_there {
        // A journal known to the database has both files; otherwise it was just being created.
        let [one, other] = FILES.map(|name| JournalFile::open(dir.join(name), mark.is_none()));
        recovery.files([one?, other?], replay)?;
    }
    let last = recovery.known.max(recovery.seen);
    let settled = if last == known { Ok(()) } else { replay.finish(last) };
    let refused = match settled {
        // Everything can be read, but the files must not be overwritten.
        Err(fault) if fault.kind == FaultKind::DiskFull => Some(fault),
        settled => settled.map(|()| None)?,
    };
    let mut journal = Journal::new(dir.to_owned(), sizes, flush, last + 1);
    journal.refused = refused;
    Ok(journal)
}

/// Sequence of the first cell of a file.
fn first(file: &JournalFile) -> Result<Option<u64>, Fault> {
    let mut first = [0; CELL_LEN];
    if file.cells > 0 {
        file.read(&mut first)?;
    }
    Ok(match cell::decode(&first) {
        Cell::Part(part) => Some(part.seq),
        Cell::Blank | Cell::Damaged => None,
    })
}

/// A file read into memory.
struct Loaded {
    file: JournalFile,
    bytes: Vec<u8>,
    /// Sequence of the last whole block in an unbroken run from the first cell.
    last: Option<u64>,
    /// The cell after it.
    end: u32,
}

impl Loaded {
    fn new(file: JournalFile) -> Result<Self, Fault> {
        let mut bytes = vec![0; file.cells as usize * CELL_LEN];
        file.read(&mut bytes)?;
        Ok(Self { file, bytes, last: None, end: 0 })
    }

    /// Blank beyond the end.
    fn cell(&self, at: u32) -> Cell<'_> {
        let (cells, _) = self.bytes.as_chunks::<CELL_LEN>();
        cells.get(at as usize).map_or(Cell::Blank, cell::decode)
    }

    /// Reads the block at a cell, if it is whole: its sequence and its number of cells.
    fn block(&self, at: u32, block: &mut Vec<u8>) -> Option<(u64, u32)> {
        block.clear();
        let Cell::Part(first) = self.cell(at) else { return None };
        for index in 0..first.count {
            match self.cell(at + index) {
                Cell::Part(part)
                    if (part.seq, part.index, part.count) == (first.seq, index, first.count) =>
                {
                    block.extend_from_slice(part.data);
                }
                _ => return None,
            }
        }
        Some((first.seq, first.count))
    }

    /// The part after the whole blocks.
    fn tail(self) -> Tail {
        let parts = (self.end..self.file.cells).filter_map(|at| match self.cell(at) {
            Cell::Part(part) => Some((part.seq, at.saturating_sub(part.index), part.count)),
            Cell::Blank | Cell::Damaged => None,
        });
        let is_damaged = |at: &u32| self.cell(*at) == Cell::Damaged;
        let begun = parts.max_by_key(|(seq, ..)| *seq).map(|(seq, start, count)| LastBlock {
            seq,
            start,
            is_whole: self.block(start, &mut Vec::new()).is_some_and(|(whole, _)| whole == seq),
            damaged: (start..start.saturating_add(count).min(self.file.cells)).find(is_damaged),
        });
        Tail {
            last: self.last,
            begun,
            damaged_next: Some(self.end).filter(is_damaged),
            damaged_first: Some(0).filter(is_damaged),
            path: self.file.path,
        }
    }
}

/// The latest block after the whole blocks of a file.
struct LastBlock {
    seq: u64,
    /// Its first cell.
    start: u32,
    /// All of its cells are there: it was acknowledged, and a block before it is damaged.
    is_whole: bool,
    /// The first of its cells that is neither new nor unchanged.
    damaged: Option<u32>,
}

/// The part of a file after its whole blocks.
struct Tail {
    path: PathBuf,
    /// Sequence of the last whole block.
    last: Option<u64>,
    /// The latest block of it.
    begun: Option<LastBlock>,
    /// The cell after the last whole block, if it is damaged.
    damaged_next: Option<u32>,
    /// The first cell, if it is damaged.
    damaged_first: Option<u32>,
}

fn damage(path: &Path, at: u32, reason: &'static str) -> Fault {
    let offset = u64::from(at) * CELL_LEN as u64;
    Fault {
        kind: FaultKind::Corrupt,
        action: "open the log's journal",
        path: path.to_owned(),
        cause: Arc::new(JournalDamage { offset, reason }),
    }
}

struct Recovery {
    /// Sequence of the last block that was replayed or is in the database.
    known: u64,
    /// The greatest sequence of an incomplete block.
    seen: u64,
}

impl Recovery {
    fn files(&mut self, files: [JournalFile; 2], replay: &mut dyn Replay) -> Result<(), Fault> {
        let [one, other] = files.map(|file| first(&file).map(|first| (first, file)));
        let mut files = [one?, other?];
        // The file begun earlier comes first; a file that begins empty or with an incomplete block
        // has no acknowledged block, or only known ones.
        files.sort_by_key(|(first, _)| first.unwrap_or(u64::MAX));
        let mut tails = Vec::new();
        for (_, file) in files {
            // One at a time, because they are large.
            let mut file = Loaded::new(file)?;
            self.whole_blocks(&mut file, replay)?;
            tails.push(file.tail());
        }
        tails.iter().try_for_each(|tail| self.last_block(tail))
    }

    fn whole_blocks(&mut self, file: &mut Loaded, replay: &mut dyn Replay) -> Result<(), Fault> {
        let mut block = Vec::new();
        while let Some((seq, cells)) = file.block(file.end, &mut block)
            && file.last.is_none_or(|last| seq == last + 1)
        {
            if seq > self.known + 1 {
                let reason = "blocks before this one are missing";
                return Err(damage(&file.file.path, file.end, reason));
            }
            if seq == self.known + 1 {
                replay.replay(&block)?;
                self.known = seq;
            }
            (file.last, file.end) = (Some(seq), file.end + cells);
        }
        Ok(())
    }

    /// Checks that the part after the whole blocks is a block that was never acknowledged.
    fn last_block(&mut self, tail: &Tail) -> Result<(), Fault> {
        const REASON: &str = "it is not what was written there";
        if let Some(begun) = tail.begun.as_ref().filter(|begun| begun.seq > self.known) {
            if begun.is_whole || begun.seq > self.known + 1 {
                return Err(damage(&tail.path, begun.start, "a block before it is damaged"));
            }
            if let Some(at) = begun.damaged {
                return Err(damage(&tail.path, at, REASON));
            }
            self.seen = begun.seq;
        }
        // Where the next block would begin, after the last one or in the other file.
        let next = tail.damaged_next.filter(|_| tail.last == Some(self.known));
        match next.or(tail.damaged_first) {
            Some(at) => Err(damage(&tail.path, at, REASON)),
            None => Ok(()),
        }
    }
}
