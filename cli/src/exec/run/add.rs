//! Items that are added while a run is running.
//!
//! Must always hold: a client is notified once its items are stored; the run ends only after they
//! have ended, too.

use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use super::{ExecError, Run};
use crate::exec::{
    adds::{
        Counts,
        server::{self, Batch, RunInfo, Server},
    },
    feed::{Adder, Ahead, Fed},
    runs::Identity,
    summary::Summary,
};

/// Added items, until the run takes no more.
#[derive(Default)]
pub(super) struct Adds {
    batches: Option<mpsc::Receiver<Batch>>,
    /// Taken, but not stored yet, because there is no room.
    pending: Option<Pending>,
    are_named: bool,
    _server: Option<Server>,
}

/// Items that are being stored.
struct Pending {
    stored: oneshot::Sender<Counts>,
    before: Summary,
    /// Held until these are stored; the next items are read in the meantime.
    _ahead: Vec<Ahead>,
}

impl Adds {
    /// Takes items from now on. If the socket fails, the run takes none.
    pub(super) fn start(data_dir: &Path, identity: &Identity, adder: Adder) -> Self {
        let info = RunInfo { run: identity.id().to_string(), command: identity.command_line() };
        match server::start(&data_dir.join("exec"), info, adder) {
            Ok((server, batches)) => {
                Self { batches: Some(batches), _server: Some(server), ..Self::default() }
            }
            Err(error) => {
                tracing::warn!(%error, "`forebay add` does not work: its socket cannot be created");
                Self::default()
            }
        }
    }

    /// The next batch; pending while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        match &mut self.batches {
            Some(batches) => batches.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Whether a batch waits to be taken.
    pub(super) fn has_some(&self) -> bool {
        self.batches.as_ref().is_some_and(|batches| !batches.is_empty())
    }

    /// Whether the items that are being named are added ones.
    pub(super) fn are_named(&self) -> bool {
        self.are_named
    }
}

impl Run {
    /// Stores added items, as far as there is room.
    pub(super) async fn take_added(&mut self, batch: Batch) -> Result<(), ExecError> {
        let before = self.summary.clone();
        let (mut items, mut ahead) = (Vec::new(), Vec::new());
        for fed in batch.items {
            if let Fed::Item(item, share) = fed {
                items.push(*item);
                ahead.push(share);
            }
        }
        self.adds.are_named = true;
        let named = self.name(items).await;
        self.adds.are_named = false;
        named?;
        self.store().await?;
        self.adds.pending = Some(Pending { stored: batch.stored, before, _ahead: ahead });
        self.answer_added();
        Ok(())
    }

    /// Notifies the client once all of its items are stored. While some wait for room, nothing else
    /// is read, so everything counted since then belongs to this client.
    pub(super) fn answer_added(&mut self) {
        let Some(Pending { stored, before, .. }) =
            self.adds.pending.take_if(|_| self.room.is_empty())
        else {
            return;
        };
        let now = &self.summary;
        let mut counts = Counts {
            added: 0,
            duplicates: now.duplicates - before.duplicates,
            done_before: now.succeeded_earlier - before.succeeded_earlier,
            failed_before: now.failed_earlier - before.failed_earlier,
            inside: 0,
            skipped: now.skipped - before.skipped,
        };
        let others = counts.done_before + counts.failed_before + counts.skipped;
        counts.added = (now.accepted - before.accepted).saturating_sub(others);
        self.summary.added += counts.added;
        // The client may be gone.
        let _ = stored.send(counts);
    }
}
