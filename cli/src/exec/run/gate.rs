//! Which entries a process runs: items of the requested runs, and of these the ones that its input
//! names.
//!
//! Unfinished items of a run that this input has not named are set aside (paused) before the run's
//! handler is registered, and are put back at their positions when the input names them.
//!
//! Must always hold: nothing of a run starts before its unnamed items are set aside; this is
//! recorded in the book first, so that items paused by users stay paused. Must not know: where
//! items come from.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bilrost::OwnedMessage;
use bytes::Bytes;
use forebay::{Context, HandlerError, HandlerOptions, Runtime, RuntimeError, Stage, Timestamp};
use forebay_actors::access::EntryTarget;
use forebay_api::{EntryFilter, EntryView};
use forebay_messages::{EntryId, VQueueName, command::EntryAction};
use tokio::sync::mpsc;

use super::{ExecError, Run};
use crate::exec::{
    item::Job,
    runner::Runner,
    runs::{
        RunId,
        book::Book,
        items::{ASIDE, Items, NAMED},
    },
};

/// How long an attempt of a set-aside item is postponed, unless it is named.
const PUT_OFF: Duration = Duration::from_secs(30 * 24 * 3600);

/// A run that this process serves, or will serve.
pub(super) struct Served {
    pub(super) id: RunId,
    pub(super) service: String,
    pub(super) book: Book,
    pub(super) items: Items,
    /// Its handler is registered.
    pub(super) is_open: bool,
}

impl Served {
    pub(super) fn new(id: RunId, (book, items): (Book, Items)) -> Self {
        Self { service: id.service(), id, book, items, is_open: false }
    }
}

/// Data of an item, kept so that it need not be looked up.
pub(super) struct Known {
    /// Its command.
    pub(super) job: Job,
    /// Its vqueue and number of attempts, if this process has run it.
    pub(super) ran: Option<(VQueueName, u32)>,
}

/// The last attempt of an item is probably over.
pub(super) struct Note {
    pub(super) uuid: [u8; 16],
    pub(super) known: Known,
}

/// Shared by the handlers of all runs.
#[derive(Clone)]
pub(super) struct Gate {
    runner: Arc<Runner>,
    notes: mpsc::UnboundedSender<Note>,
    /// Items that ran when their process died, and that this input has not named. Running entries
    /// cannot be paused: their next attempt is postponed.
    put_off: Arc<Mutex<HashSet<EntryId>>>,
}

impl Gate {
    pub(super) fn new(runner: &Arc<Runner>) -> (Self, mpsc::UnboundedReceiver<Note>) {
        let (notes, receiver) = mpsc::unbounded_channel();
        (Self { runner: Arc::clone(runner), notes, put_off: Arc::default() }, receiver)
    }

    fn put_off(&self) -> MutexGuard<'_, HashSet<EntryId>> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn handle(self, context: Context, payload: Bytes) -> Result<Bytes, HandlerError> {
        let id = context.entry();
        if self.put_off().contains(&id) {
            return Err(HandlerError::snooze(PUT_OFF));
        }
        let ended = Arc::clone(&self.runner).run(context.clone(), payload.clone()).await;
        if ended.is_ok() || context.is_last_attempt() || context.is_canceled() {
            // The receiver is gone once the run is over.
            let job = Job::decode(payload).unwrap_or_default();
            let ran = Some((context.vqueue().clone(), context.attempt()));
            let _ = self.notes.send(Note { uuid: id.uuid, known: Known { job, ran } });
        }
        ended
    }

    fn register(
        &self,
        runtime: &Runtime,
        service: &str,
        options: HandlerOptions,
    ) -> Result<(), RuntimeError> {
        let gate = self.clone();
        runtime.register_with(service, options, move |context, payload| {
            gate.clone().handle(context, payload)
        })
    }
}

impl Run {
    /// Sets aside the unnamed items of a run, then lets the run's other items start.
    pub(super) async fn open(&mut self, which: usize) -> Result<(), ExecError> {
        if std::mem::replace(&mut self.served[which].is_open, true) {
            return Ok(());
        }
        // Paused ones first: items paused by this are counted once.
        for stage in [Stage::Paused, Stage::Running, Stage::Inbox] {
            self.set_aside(which, stage).await?;
        }
        self.show_served();
        let service = self.served[which].service.clone();
        self.gate.register(&self.runtime, &service, self.options)?;
        Ok(())
    }

    async fn set_aside(&mut self, which: usize, stage: Stage) -> Result<(), ExecError> {
        let service = Some(self.served[which].service.clone());
        let filter = EntryFilter { stage: Some(stage), service, ..EntryFilter::default() };
        let mut from = None;
        loop {
            let page = self.runtime.node().inspect().entry_page(&filter, from).await;
            let page = page.map_err(RuntimeError::from)?;
            let named = &self.served[0].items;
            let is_named = |view: &EntryView| {
                named
                    .find(&view.id.uuid)
                    .is_some_and(|place| named.has(place, NAMED) && named.id(place) == view.id)
            };
            let rest = page.entries.iter().filter(|view| !is_named(view));
            let rest: Vec<EntryView> = rest.cloned().collect();
            self.set_aside_page(which, stage, &rest).await?;
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    async fn set_aside_page(
        &mut self,
        which: usize,
        stage: Stage,
        rest: &[EntryView],
    ) -> Result<(), ExecError> {
        let served = &mut self.served[which];
        let is_aside = |items: &Items, view: &EntryView| {
            items.find(&view.id.uuid).is_some_and(|place| items.has(place, ASIDE))
        };
        let counted = |view: &&EntryView| stage != Stage::Paused || is_aside(&served.items, view);
        for view in rest.iter().filter(counted) {
            if which == 0 {
                self.aside += 1;
            }
            if let (Some(key), Some(_)) = (&view.key, view.started_at) {
                self.holders.push((view.id, key.clone()));
            }
        }
        let fresh =
            rest.iter().filter(|view| !is_aside(&served.items, view) && stage != Stage::Paused);
        let ids: Vec<EntryId> = fresh.map(|view| view.id).collect();
        if !ids.is_empty() {
            served.book.set_aside(&ids)?;
            for id in &ids {
                let place = served.items.find_or_add(*id);
                served.items.set(place, ASIDE);
            }
        }
        let all: Vec<EntryId> = rest.iter().map(|view| view.id).collect();
        match stage {
            Stage::Running => self.gate.put_off().extend(all),
            Stage::Inbox if !all.is_empty() => {
                let target = EntryTarget::Named(all);
                let paused =
                    self.runtime.node().access().act(EntryAction::Pause, &target, false).await;
                paused.map_err(RuntimeError::from)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts set-aside items back at their positions.
    pub(super) async fn put_back(
        &mut self,
        which: usize,
        views: &[EntryView],
    ) -> Result<(), ExecError> {
        if views.is_empty() {
            return Ok(());
        }
        let ids: Vec<EntryId> = views.iter().map(|view| view.id).collect();
        let node = self.runtime.node();
        let target = EntryTarget::Named(ids.clone());
        node.access().act(EntryAction::Resume, &target, false).await.map_err(RuntimeError::from)?;
        let now = Timestamp::from(SystemTime::now()).0;
        for view in views {
            self.gate.put_off().remove(&view.id);
            // Its last attempt was postponed; that was its position.
            if view.run_at.is_some_and(|at| at > now + PUT_OFF_LEFT_MIN) {
                let to = EntryAction::Reschedule { run_at: Timestamp(view.created_at) };
                let target = EntryTarget::Named(vec![view.id]);
                node.access().act(to, &target, false).await.map_err(RuntimeError::from)?;
            }
        }
        let served = &mut self.served[which];
        served.book.take_back(&ids)?;
        for id in &ids {
            if let Some(place) = served.items.find(&id.uuid) {
                served.items.unset(place, ASIDE);
            }
        }
        self.aside = self.aside.saturating_sub(if which == 0 { ids.len() as u64 } else { 0 });
        self.show_served();
        Ok(())
    }

    /// The index in `served` of a run's service; a run that is not served yet is added.
    pub(super) fn serve(&mut self, id: RunId) -> Result<usize, ExecError> {
        if let Some(which) = self.served.iter().position(|served| served.id == id) {
            return Ok(which);
        }
        let book = Book::of(&self.data_dir, &id)?;
        self.served.push(Served::new(id, book));
        Ok(self.served.len() - 1)
    }
}

/// In milliseconds. Longer than any regular delay between two attempts.
const PUT_OFF_LEFT_MIN: u64 = 24 * 3600 * 1000;
