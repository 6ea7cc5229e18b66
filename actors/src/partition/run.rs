//! Starting vqueues and attempts.

use std::{rc::Rc, sync::Arc};

use forebay_engine::{
    partition::machine::{PartitionInput, RunAttempt},
    vqueue::{Rest, VQueue, VQueueConfig},
};
use forebay_messages::{EntryKey, VQueueHandle, VQueueId};

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
