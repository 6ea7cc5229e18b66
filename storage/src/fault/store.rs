//! Commits of the partition store with faults planned by a test.

use std::{collections::BTreeMap, path::Path, sync::Mutex};

use super::injected;
use crate::{Fault, sync};

/// What goes wrong at one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Nothing is written; the commit fails.
    Fail,
    /// Everything is written; the commit fails anyway.
    FailAfterWrite,
    /// The process dies before the write: this commit and all later ones fail.
    CrashBeforeCommit,
    /// The process dies after the write.
    CrashAfterCommit,
}

/// Planned faults of a store's commits; passed to the store with `Store::set_faults`.
#[derive(Debug, Default)]
pub struct StoreFaults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    commits: u64,
    planned: BTreeMap<u64, StoreFault>,
    crashed: bool,
}

impl StoreFaults {
    /// No faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans a fault for the `nth` commit from now; 1 is the next one.
    pub fn plan(&self, nth: u64, fault: StoreFault) {
        let mut state = sync::lock(&self.state);
        let at = state.commits + nth;
        state.planned.insert(at, fault);
    }

    /// Drops planned faults that have not happened.
    pub fn forget_plans(&self) {
        sync::lock(&self.state).planned.clear();
    }

    /// Whether a planned crash has happened.
    pub fn is_crashed(&self) -> bool {
        sync::lock(&self.state).crashed
    }

    /// Before a commit: an error prevents it; `true` means it must fail afterwards.
    pub(crate) fn before_commit(&self, path: &Path) -> Result<bool, Fault> {
        let mut state = sync::lock(&self.state);
        let failed = || Err(injected("write the partition store", path));
        if state.crashed {
            return failed();
        }
        state.commits += 1;
        let commit = state.commits;
        match state.planned.remove(&commit) {
            None => Ok(false),
            Some(StoreFault::Fail) => failed(),
            Some(StoreFault::FailAfterWrite) => Ok(true),
            Some(StoreFault::CrashBeforeCommit) => {
                state.crashed = true;
                failed()
            }
            Some(StoreFault::CrashAfterCommit) => {
                state.crashed = true;
                Ok(true)
            }
        }
    }

    pub(crate) fn after_commit(&self, must_fail: bool, path: &Path) -> Result<(), Fault> {
        match must_fail {
            true => Err(injected("write the partition store", path)),
            false => Ok(()),
        }
    }
}
