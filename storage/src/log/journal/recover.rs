//! What the files of a journal hold when it is opened.
//!
//! Must always hold: every block that may have been acknowledged is handed over or is
//! known to the database, or damage is reported. At most one block was being written
//! when the process died, the one after the last acknowledged one. So everything below
//! the greatest sequence seen in any cell was acknowledged; and the last block is cut
//! only if each cell that it lacks holds what was there before it.

use std::{path::Path, sync::Arc};

use super::{
    FILES, FlushDatabase, Journal, Sizes,
    cell::{self, CELL_LEN, Cell},
    file::JournalFile,
};
use crate::{Fault, FaultKind, journal::JournalDamage};

/// What a start does with the blocks that the database lacks.
pub(in crate::log) trait Replay {
    /// Takes a block, the next one.
    fn replay(&mut self, block: &[u8]) -> Result<(), Fault>;
    /// The next block will have the sequence after this one: puts that into the database
    /// and writes everything to its files.
    fn settle(&mut self, mark: u64) -> Result<(), Fault>;
}

/// Opens the journal in a directory. `mark` is the sequence of the last block that the
/// database has in files, `None` if there was never one.
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
        // A journal that the database knows of has both; else it was just being made.
        let [one, other] = FILES.map(|name| JournalFile::open(dir.join(name), mark.is_none()));
        recovery.files([Loaded::new(one?)?, Loaded::new(other?)?], replay)?;
    }
    let last = recovery.known.max(recovery.seen);
    let settled = if last == known { Ok(()) } else { replay.settle(last) };
    let refused = match settled {
        // Everything can be read; what is in the files must not be written over.
        Err(fault) if fault.kind == FaultKind::DiskFull => Some(fault),
        settled => settled.map(|()| None)?,
    };
    let mut journal = Journal::new(dir.to_owned(), sizes, flush, last + 1);
    journal.refused = refused;
    Ok(journal)
}

/// A file in memory.
struct Loaded {
    file: JournalFile,
    bytes: Vec<u8>,
    /// Sequence of the first cell.
    first: Option<u64>,
    /// Sequence of the last whole block in a row from the first cell on.
    last: Option<u64>,
    /// The cell after it.
    end: u32,
}

impl Loaded {
    fn new(file: JournalFile) -> Result<Self, Fault> {
        let mut bytes = vec![0; file.cells as usize * CELL_LEN];
        file.read(&mut bytes)?;
        let mut loaded = Self { file, bytes, first: None, last: None, end: 0 };
        if let Cell::Part(part) = loaded.cell(0) {
            loaded.first = Some(part.seq);
        }
        Ok(loaded)
    }

    /// Blank beyond the end.
    fn cell(&self, at: u32) -> Cell<'_> {
        let (cells, _) = self.bytes.as_chunks::<CELL_LEN>();
        cells.get(at as usize).map_or(Cell::Blank, cell::decode)
    }

    /// Reads the block at a cell, if all of it is there: its sequence and its cells.
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

    /// The greatest sequence after the last whole block, with the cells of that block.
    fn rest(&self) -> Option<(u64, std::ops::Range<u32>)> {
        let parts = (self.end..self.file.cells).filter_map(|at| match self.cell(at) {
            Cell::Part(part) => {
                let start = at.saturating_sub(part.index);
                Some((part.seq, start..start.saturating_add(part.count)))
            }
            Cell::Blank | Cell::Damaged => None,
        });
        parts.max_by_key(|(seq, _)| *seq)
    }

    fn first_damaged(&self, range: std::ops::Range<u32>) -> Option<u32> {
        let in_file = range.start..range.end.min(self.file.cells);
        in_file.into_iter().find(|at| self.cell(*at) == Cell::Damaged)
    }

    fn damage(&self, at: u32, reason: &'static str) -> Fault {
        let offset = u64::from(at) * CELL_LEN as u64;
        Fault {
            kind: FaultKind::Corrupt,
            action: "open the log's journal",
            path: self.file.path.clone(),
            cause: Arc::new(JournalDamage { offset, reason }),
        }
    }
}

struct Recovery {
    /// Sequence of the last block that was handed over or that the database has.
    known: u64,
    /// The greatest sequence of a block that is not whole.
    seen: u64,
}

impl Recovery {
    fn files(&mut self, mut files: [Loaded; 2], replay: &mut dyn Replay) -> Result<(), Fault> {
        // The one that was begun earlier comes first; of one that begins with nothing, or
        // with half a block, nothing was acknowledged or all of it is known.
        files.sort_by_key(|file| file.first.unwrap_or(u64::MAX));
        for file in &mut files {
            self.whole_blocks(file, replay)?;
        }
        files.iter().try_for_each(|file| self.last_block(file))
    }

    fn whole_blocks(&mut self, file: &mut Loaded, replay: &mut dyn Replay) -> Result<(), Fault> {
        let mut block = Vec::new();
        while let Some((seq, cells)) = file.block(file.end, &mut block)
            && file.last.is_none_or(|last| seq == last + 1)
        {
            if seq > self.known + 1 {
                return Err(file.damage(file.end, "blocks before this one are missing"));
            }
            if seq == self.known + 1 {
                replay.replay(&block)?;
                self.known = seq;
            }
            (file.last, file.end) = (Some(seq), file.end + cells);
        }
        Ok(())
    }

    /// Is what comes after the whole blocks a block that was never acknowledged?
    fn last_block(&mut self, file: &Loaded) -> Result<(), Fault> {
        let damaged = |at| Err(file.damage(at, "it is not what was written there"));
        if let Some((seq, cells)) = file.rest()
            && seq > self.known
        {
            if seq > self.known + 1 {
                return Err(file.damage(cells.start, "a block before this one is damaged"));
            }
            if let Some(at) = file.first_damaged(cells) {
                return damaged(at);
            }
            self.seen = seq;
        }
        // Where the next block would begin, after the last one or in the other file.
        let next = (file.last == Some(self.known)).then_some(file.end);
        match next.into_iter().chain([0]).find(|at| file.cell(*at) == Cell::Damaged) {
            Some(at) => damaged(at),
            None => Ok(()),
        }
    }
}
