//! Starting vqueues and attempts.

use std::rc::Rc;

use bytes::Bytes;
use forebay_engine::{
    partition::{
        apply::{self, ApplyError},
        machine::{EarlyStart, PartitionInput, RunAttempt},
        read,
        store::{Rows, TablesError},
    },
    vqueue::{Rest, VQueue, VQueueConfig},
};
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Timestamp, VQueueHandle, VQueueId, VQueueName, actor::Permits,
    command::Decision,
};

use crate::shell::Death;

use super::{PartitionCx, PartitionPerformer, vqueue::VQueuePerformer};

/// Permits that a vqueue without a lock requests at once.
const QUANTUM: u32 = 64;

impl PartitionPerformer {
    pub(super) fn spawn_vqueue(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        dispatched: Vec<EntryKey>,
        permits: Option<Permits>,
        cx: &mut PartitionCx<'_>,
    ) {
        let meta = match self.store.vqueue(vqueue) {
            Ok(meta) => meta,
            Err(error) => return self.fail(error.to_string(), cx),
        };
        let Some(meta) = meta else {
            // It has no row any more: it passivates before it has started.
            cx.feed_back(PartitionInput::Passivated { handle, rest: Rest::Empty });
            return;
        };
        if !self.is_served(vqueue, &meta.name.service) {
            cx.feed_back(PartitionInput::Passivated { handle, rest: Rest::NotServed });
            return;
        }
        let has_lock = meta.name.has_lock();
        let config = VQueueConfig {
            id: vqueue,
            has_lock,
            quantum: if has_lock { 1 } else { QUANTUM },
            paused: meta.is_paused,
            draining: false,
        };
        let mut machine = VQueue::new(config, dispatched);
        if let Some(permits) = permits {
            machine = machine.with_permits(permits);
        }
        let shared = Rc::clone(&self.vqueues);
        let performer = VQueuePerformer::new(shared, handle, vqueue, meta.name);
        let me = cx.me.clone();
        let on_death = Box::new(move |death| {
            if matches!(death, Death::Panicked(_)) {
                me.send(PartitionInput::VQueueDied(handle));
            }
        });
        let child = self.world.spawn("vqueue", machine, performer, on_death);
        self.links.put_vqueue(handle, child);
    }

    /// Whether a handler here serves a vqueue. If not, its entries wait, and that is logged.
    fn is_served(&self, vqueue: VQueueId, service: &str) -> bool {
        let is_served = self.executor.has_handler(service);
        if !is_served {
            self.registry.note_unserved(&self.world, service, (self.id, vqueue));
        }
        is_served
    }

    /// Requests permits from the limiter for a vqueue without an actor.
    pub(super) fn acquire_for(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        head: (EntryKey, bool),
        cx: &mut PartitionCx<'_>,
    ) {
        let is_served = |name: &VQueueName| self.is_served(vqueue, &name.service);
        match read::acquire(&self.store, handle, vqueue, head, is_served) {
            Ok(Ok(ask)) => {
                if let Err(error) = self.links.acquire(&self.store, ask) {
                    self.fail(error.to_string(), cx);
                }
            }
            Ok(Err(rest)) => cx.feed_back(PartitionInput::Passivated { handle, rest }),
            Err(error) => self.fail(error.to_string(), cx),
        }
    }

    /// Runs decisions that were just proposed, as far as the committed rows allow it.
    pub(super) fn begin(&mut self, decisions: &[Decision], cx: &mut PartitionCx<'_>) {
        let mut begun = Vec::with_capacity(decisions.len());
        match self.read_begun(decisions, cx.now, &mut begun) {
            Ok(runs) => {
                cx.feed_back(PartitionInput::Begun(begun));
                self.executor.run_many(runs, cx.me);
            }
            Err(error) => self.fail(format!("partition {}: {error}", self.id), cx),
        }
    }

    fn read_begun(
        &self,
        decisions: &[Decision],
        decided_at: Timestamp,
        begun: &mut Vec<EarlyStart>,
    ) -> Result<Vec<(RunAttempt, Bytes)>, ApplyError> {
        let mut runs = Vec::with_capacity(decisions.len());
        let rows = self.store.begin().map_err(TablesError::from)?;
        for decision in decisions {
            let Some((run, retry)) = apply::begin(&rows, decision, decided_at)? else { continue };
            // Without a payload it cannot run: the applied decision will report it.
            let Some(payload) = rows.payload(run.entry)? else { continue };
            begun.push(EarlyStart { token: run.token, attempt: run.attempt, retry });
            runs.push((run, payload));
        }
        Ok(runs)
    }

    pub(super) fn run(&mut self, entry: EntryId, token: AttemptToken, cx: &mut PartitionCx<'_>) {
        match self.try_run(entry, token) {
            Ok(Some((run, payload))) => self.executor.run(run, payload, cx.me.clone()),
            Ok(None) => {
                let reason = format!("partition {}: {entry} has no payload row", self.id);
                self.fail(reason, cx);
            }
            Err(error) => self.fail(format!("partition {}: {error}", self.id), cx),
        }
    }

    fn try_run(
        &self,
        entry: EntryId,
        token: AttemptToken,
    ) -> Result<Option<(RunAttempt, Bytes)>, ApplyError> {
        let rows = self.store.begin().map_err(TablesError::from)?;
        let Some(run) = apply::started(&rows, entry, token)? else { return Ok(None) };
        Ok(rows.payload(entry)?.map(|payload| (run, payload)))
    }
}
