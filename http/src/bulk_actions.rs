//! Actions on many entries that run on the server.
//!
//! Must always hold: a bounded number of them runs and is remembered; one continues when its client
//! is gone, until it is done or aborted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use forebay_api::Response;
use futures_util::future::BoxFuture;
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    model::{BulkStage, BulkState},
    problem::{Code, Problem, unexpected},
};

/// Maximum number that run at the same time.
const RUNNING_MAX: usize = 16;
/// Maximum number that are remembered.
const REMEMBERED_MAX: usize = 256;

struct Known {
    state: watch::Receiver<BulkState>,
    task: AbortHandle,
    /// Changes the state when it is aborted.
    change: watch::Sender<BulkState>,
}

/// The actions of a server on many entries.
#[derive(Default)]
pub(crate) struct BulkActions {
    known: Mutex<(u64, BTreeMap<u64, Known>)>,
}

impl BulkActions {
    fn with<T>(&self, use_them: impl FnOnce(&mut u64, &mut BTreeMap<u64, Known>) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, all) = &mut *known;
        use_them(last, all)
    }

    /// Begins one.
    pub(crate) fn begin(
        &self,
        asked: BoxFuture<'static, Result<Response, Problem>>,
    ) -> Result<u64, Problem> {
        self.with(|last, all| {
            let is_running = |known: &&Known| known.state.borrow().state == BulkStage::Running;
            if all.values().filter(is_running).count() >= RUNNING_MAX {
                let text = format!("{RUNNING_MAX} actions on many entries run already");
                return Err(Problem::new(Code::Busy, text).retry_after(Duration::from_secs(1)));
            }
            while all.len() >= REMEMBERED_MAX {
                let ended = all.iter().find(|(_, known)| !is_running(known)).map(|(id, _)| *id);
                let Some(ended) = ended else { break };
                all.remove(&ended);
            }
            *last += 1;
            let id = *last;
            let running = BulkState { id, state: BulkStage::Running, report: None, failure: None };
            let (change, state) = watch::channel(running);
            let end = change.clone();
            let task = tokio::spawn(async move {
                let ended = ended(id, asked.await);
                end.send_replace(ended);
            });
            all.insert(id, Known { state, task: task.abort_handle(), change });
            Ok(id)
        })
    }

    /// The state of an action, until it is dropped from memory.
    pub(crate) fn state(&self, id: u64) -> Result<watch::Receiver<BulkState>, Problem> {
        self.with(|_, all| all.get(&id).map(|known| known.state.clone())).ok_or_else(|| {
            Problem::new(Code::NotFound, format!("there is no action {id} (any more)"))
        })
    }

    /// Aborts one, if it runs.
    pub(crate) fn abort(&self, id: u64) -> Result<BulkState, Problem> {
        let state = self.state(id)?;
        self.with(|_, all| {
            if let Some(known) = all.get(&id) {
                known.task.abort();
                known.change.send_if_modified(|state| {
                    let runs = state.state == BulkStage::Running;
                    if runs {
                        state.state = BulkStage::Aborted;
                    }
                    runs
                });
            }
        });
        let state = state.borrow().clone();
        Ok(state)
    }
}

fn ended(id: u64, answered: Result<Response, Problem>) -> BulkState {
    let done = BulkState { id, state: BulkStage::Done, report: None, failure: None };
    match answered {
        Ok(Response::Acted { report }) => BulkState { report: Some((&report).into()), ..done },
        Ok(other) => {
            let failure = Some(unexpected(&other).detail);
            BulkState { state: BulkStage::Failed, failure, ..done }
        }
        Err(problem) => {
            BulkState { state: BulkStage::Failed, failure: Some(problem.detail), ..done }
        }
    }
}
