//! The thread of a node: its network, its group and its life are tasks of one runtime on it.
//!
//! An application whose threads are busy or block does not delay heartbeats. A message passes from
//! the network to the group and back without another thread: each wake-up of a thread may wait for
//! a processor, and a change needs several. Must always hold: when the end is reported, no task of
//! the node is left, and the data directory is free.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::consensus::ClusterError;

use super::shared::Shared;

/// Its name; the system shows 15 bytes.
const NAME: &str = "forebay-cluster";

/// Starts the thread.
pub(super) fn spawn(
    shared: Arc<Shared>,
    life: impl Future<Output = Result<(), ClusterError>> + Send + 'static,
    end: oneshot::Sender<Result<(), ClusterError>>,
) -> Result<(), ClusterError> {
    let failed = |error| ClusterError::Stopped(format!("no thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let run = move || {
        let tasks = LocalSet::new();
        let ended = tasks.block_on(&runtime, life);
        shared.set_over();
        drop((tasks, runtime, shared));
        let _ = end.send(ended);
    };
    std::thread::Builder::new().name(NAME.to_owned()).spawn(run).map(drop).map_err(failed)
}
