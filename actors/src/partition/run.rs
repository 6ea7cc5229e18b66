//! Starting vqueues and attempts.

use std::{rc::Rc, sync::Arc};

use forebay_engine::{
    partition::{
        apply::{self, ApplyError},
        machine::{Begun, PartitionInput, RunAttempt},
        store::{Tables, TablesError},
    },
    vqueue::{Rest, VQueue, VQueueConfig},
};
use forebay_messages::{EntryKey, VQueueHandle, VQueueId, command::Decision};

use crate::{shell::Death, vqueue::VQueuePerformer};

use super::{PartitionPerformer, PartitionScope};

/// Permits that a vqueue without a lock asks for at once.
const QUANTUM: u32 = 64;

impl PartitionPerformer {
    pub(super) fn spawn_vqueue(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        dispatched: Vec<EntryKey>,
        scope: &mut PartitionScope<'_>,
    ) {
        let meta = match self.store.vqueue(vqueue) {
            Ok(meta) => meta,
            Err(error) => return self.fail(error.to_string(), scope),
        };
        let Some(meta) = meta else {
            // Nothing is left of it: it rests before it started.
            scope.feed_back(PartitionInput::Passivated { handle, rest: Rest::Empty });
            return;
        };
        let has_lock = meta.name.has_lock();
        let config = VQueueConfig {
            id: vqueue,
            has_lock,
            quantum: if has_lock { 1 } else { QUANTUM },
            paused: meta.is_paused,
            draining: false,
        };
        let machine = VQueue::new(config, dispatched);
        let shared = Rc::clone(&self.vqueues);
        let performer = VQueuePerformer::new(shared, handle, vqueue, Arc::new(meta.name));
        let me = scope.me.clone();
        let on_death = Box::new(move |death| {
            if matches!(death, Death::Panicked(_)) {
                me.send(PartitionInput::VQueueDied(handle));
            }
        });
        let child = self.world.spawn("vqueue", machine, performer, on_death);
        self.links.put_vqueue(handle, child);
    }

    /// Runs what has just been proposed, as far as the committed rows let it.
    pub(super) fn begin(&mut self, decisions: &[Decision], scope: &mut PartitionScope<'_>) {
        let mut begun = Vec::with_capacity(decisions.len());
        match self.try_begin(decisions, &mut begun, scope) {
            Ok(()) => scope.feed_back(PartitionInput::Begun(begun)),
            Err(error) => self.fail(format!("partition {}: {error}", self.id), scope),
        }
    }

    fn try_begin(
        &self,
        decisions: &[Decision],
        begun: &mut Vec<Begun>,
        scope: &PartitionScope<'_>,
    ) -> Result<(), ApplyError> {
        let rows = self.store.begin().map_err(TablesError::from)?;
        for decision in decisions {
            let Some((run, retry)) = apply::begin(&rows, decision)? else { continue };
            // Without a payload it cannot run: applied, the decision will say so.
            let Some(payload) = rows.payload(run.entry)? else { continue };
            begun.push(Begun { token: run.token, attempt: run.attempt, retry });
            self.executor.run(run, payload, scope.me.clone());
        }
        Ok(())
    }

    pub(super) fn run(&mut self, run: RunAttempt, scope: &mut PartitionScope<'_>) {
        match self.store.payload(run.entry) {
            Ok(Some(payload)) => self.executor.run(run, payload, scope.me.clone()),
            Ok(None) => {
                let reason = format!("partition {}: {} has no payload row", self.id, run.entry);
                self.fail(reason, scope);
            }
            Err(error) => self.fail(error.to_string(), scope),
        }
    }
}
