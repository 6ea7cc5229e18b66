//! Planned faults of the log's journal: blocks that are lost, torn, unanswered or slow.

use std::{collections::BTreeMap, sync::Mutex};

use crossbeam_channel::Receiver;

use crate::sync;

/// A fault at one write of a block.
#[derive(Clone, Debug)]
pub enum JournalFault {
    /// Nothing is written; the write fails.
    Lost,
    /// Only some cells are written; the write fails.
    Torn {
        /// A set bit writes its cell. Cell 64 has the bit of cell 0, and so on.
        cells: u64,
    },
    /// The whole block is written, but the write fails.
    Unanswered,
    /// The write waits until something is sent on the channel (or its sender is dropped).
    Slow(Receiver<()>),
}

impl JournalFault {
    pub(crate) fn writes(&self, cell: u32) -> bool {
        match self {
            Self::Lost => false,
            Self::Torn { cells } => cells >> (cell % 64) & 1 == 1,
            Self::Unanswered => true,
            Self::Slow(released) => {
                if cell == 0 {
                    // A dropped sender releases it too.
                    let _ = released.recv();
                }
                true
            }
        }
    }

    pub(crate) fn succeeds(&self) -> bool {
        matches!(self, Self::Slow(_))
    }
}

/// Faults planned for the blocks of a journal; hand it to the log with
/// `LocalLog::set_journal_faults`.
#[derive(Debug, Default)]
pub struct JournalFaults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: u64,
    planned: BTreeMap<u64, JournalFault>,
    is_last_whole: bool,
}

impl JournalFaults {
    /// No faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans a fault for the `nth` block from now; 1 is the next one.
    pub fn plan(&self, nth: u64, fault: JournalFault) {
        let mut state = sync::lock(&self.state);
        let at = state.blocks + nth;
        state.planned.insert(at, fault);
    }

    /// Number of blocks so far, including failed ones.
    pub fn blocks(&self) -> u64 {
        sync::lock(&self.state).blocks
    }

    /// Whether all of the last block with a fault was written.
    pub fn is_last_whole(&self) -> bool {
        sync::lock(&self.state).is_last_whole
    }

    pub(crate) fn wrote(&self, is_whole: bool) {
        sync::lock(&self.state).is_last_whole = is_whole;
    }

    pub(crate) fn next(&self) -> Option<JournalFault> {
        let mut state = sync::lock(&self.state);
        state.blocks += 1;
        let block = state.blocks;
        state.planned.remove(&block)
    }
}
