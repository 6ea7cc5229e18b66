//! Items that are added while a run is running.
//!
//! Must always hold: a client is told that its items are stored once they are; the run ends
//! only when they have ended, too.

use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use super::{ExecError, Run};
use crate::exec::{
    adds::{
        Counts,
        server::{self, Batch, Server, Told},
    },
    feed::{Adder, Ahead, Fed},
    runs::Identity,
    summary::Summary,
};

/// Where they come from; nowhere once the run takes none.
#[derive(Default)]
pub(super) struct Adds {
    batches: Option<mpsc::Receiver<Batch>>,
    /// Taken, and not stored yet for want of room.
    pending: Option<Pending>,
    are_named: bool,
    _server: Option<Server>,
}

/// Items that are being stored.
struct Pending {
    stored: oneshot::Sender<Counts>,
    before: Summary,
    /// The next ones are read meanwhile.
    _ahead: Vec<Ahead>,
}

impl Adds {
    /// Takes items from now on. A run for which that is not possible takes none.
    pub(super) fn start(data_dir: &Path, identity: &Identity, adder: Adder) -> Self {
        let told = Told { run: identity.id().to_string(), command: identity.command_line() };
        match server::start(&data_dir.join("exec"), told, adder) {
            Ok((server, batches)) => {
                Self { batches: Some(batches), _server: Some(server), ..Self::default() }
            }
            Err(error) => {
                tracing::warn!(%error, "`forebay add` does not work: its socket cannot be made");
                Self::default()
            }
        }
    }

    /// The next ones; pending while there are none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        match &mut self.batches {
            Some(batches) => batches.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Whether some were given and not taken.
    pub(super) fn has_some(&self) -> bool {
        self.batches.as_ref().is_some_and(|batches| !batches.is_empty())
    }

    /// Whether the items that are being named were added.
    pub(super) fn are_named(&self) -> bool {
        self.are_named
    }
}

impl Run {
    /// Stores items that were added, as far as there is room.
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

    /// Tells who added items that all of them are stored, if they are. While some wait for
    /// room, nothing else is read: what is counted since is theirs.
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
        // It may have gone away.
        let _ = stored.send(counts);
    }
}
