//! The vqueues of a node: starting them, and performing their effects.

use std::{collections::VecDeque, sync::Arc};

use forebay_engine::{
    Machine,
    partition::{machine::PartitionInput, read},
    vqueue::{Rest, VQueue, VQueueConfig, VQueueEffect},
};
use forebay_messages::{
    EntryKey, VQueueHandle, VQueueId, VQueueName,
    actor::{
        Acquire, LimiterMessage, Permits, RefillDone, RefillFailed, RefillRequest, Release,
        VQueueMessage,
    },
};

use super::{Active, Node, Shared};
use crate::fixture::{self, NAMES};

impl Node {
    /// Whether a vqueue of this name has a handler.
    pub(super) fn serves(&self, name: &VQueueName) -> bool {
        (0..NAMES).any(|n| fixture::name(n) == *name && self.served & (1 << n) != 0)
    }

    /// Changes which names of the fixture have a handler, one bit each.
    pub(crate) fn serve(&mut self, served: u8) {
        let lost = self.served & !served != 0;
        self.served = served;
        self.mailbox.push_back(PartitionInput::ServicesChanged { lost });
    }

    /// Returns a reason not to ask, if there is one.
    pub(super) fn acquire_for(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        head: (EntryKey, bool),
    ) -> Option<Rest> {
        let is_served = |name: &VQueueName| self.serves(name);
        match read::acquire(&self.replica.tables, handle, vqueue, head, is_served).unwrap() {
            Ok(ask) => self.acquire(ask),
            Err(rest) => return Some(rest),
        }
        None
    }

    fn acquire(&mut self, ask: Acquire) {
        if self.looks_up_locks {
            let held = read::lock_of(&self.replica.tables, ask.vqueue, ask.lock).unwrap();
            held.into_iter().for_each(|held| self.tell_limiter(held));
        }
        self.tell_limiter(LimiterMessage::Acquire(ask));
    }

    pub(super) fn spawn(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        (dispatched, permits): (Vec<EntryKey>, Option<Permits>),
        shared: &mut Shared,
    ) -> Option<Rest> {
        let others = self.vqueues.values();
        assert!(others.map(|it| it.machine.id()).all(|id| id != vqueue), "P5: one incarnation");
        let Some(meta) = self.replica.tables.vqueues.get(&vqueue) else { return Some(Rest::Empty) };
        if !self.serves(&meta.name) {
            return Some(Rest::NotServed);
        }
        let has_lock = meta.name.has_lock();
        let config = VQueueConfig {
            id: vqueue,
            has_lock,
            quantum: if has_lock { 1 } else { 2 },
            paused: meta.is_paused,
            draining: false,
        };
        let mut machine = VQueue::new(config, dispatched);
        if let Some(permits) = permits {
            machine = machine.with_permits(permits);
        }
        let active = Active {
            machine,
            mailbox: VecDeque::new(),
            name: Arc::clone(&meta.name),
            timer: None,
            refill: None,
            is_gone: false,
        };
        self.vqueues.insert(handle, active);
        let mut effects = Vec::new();
        self.vqueues.get_mut(&handle).unwrap().machine.start(shared.now, &mut effects);
        self.perform_vqueue(handle, effects, shared);
        None
    }

    pub(crate) fn tell_vqueue(&mut self, handle: VQueueHandle, message: VQueueMessage) {
        if let Some(active) = self.vqueues.get_mut(&handle) {
            active.mailbox.push_back(message);
        }
    }

    pub(crate) fn step_vqueue(
        &mut self,
        handle: VQueueHandle,
        message: VQueueMessage,
        shared: &mut Shared,
    ) {
        let active = self.vqueues.get_mut(&handle).unwrap();
        if active.is_gone {
            return;
        }
        let mut effects = Vec::new();
        active.machine.step(shared.now, message, &mut effects);
        active.machine.check();
        self.perform_vqueue(handle, effects, shared);
    }

    fn perform_vqueue(
        &mut self,
        handle: VQueueHandle,
        effects: Vec<VQueueEffect>,
        shared: &mut Shared,
    ) {
        let mut read = None;
        for effect in effects {
            let active = self.vqueues.get_mut(&handle).unwrap();
            match effect {
                VQueueEffect::Acquire { count, lock } => {
                    let (vqueue, name) = (active.machine.id(), Arc::clone(&active.name));
                    let ask = Acquire { handle, vqueue, name, count, lock };
                    self.acquire(ask);
                }
                VQueueEffect::ReturnPermit(permit) => {
                    let release = Release { permit, keep_lock: None };
                    self.tell_limiter(LimiterMessage::Release(vec![release]));
                }
                VQueueEffect::Decide { keys, permits } => {
                    self.mailbox.push_back(PartitionInput::Decide { handle, keys, permits });
                }
                VQueueEffect::ReadInbox(request) if shared.reads_block => {
                    active.refill = Some(request);
                }
                VQueueEffect::ReadInbox(request) => read = Some(request),
                VQueueEffect::ArmTimer(at) | VQueueEffect::RetryRefillAt(at) => {
                    active.timer = Some(at);
                }
                VQueueEffect::DisarmTimer => active.timer = None,
                VQueueEffect::Passivated(rest) => {
                    active.is_gone = true;
                    self.mailbox.push_back(PartitionInput::Passivated { handle, rest });
                }
                VQueueEffect::StillNeeded => {
                    self.mailbox.push_back(PartitionInput::StillNeeded(handle));
                }
                VQueueEffect::Idle(_) => self.mailbox.push_back(PartitionInput::Idle(handle)),
                VQueueEffect::WantsToGo(_) => {
                    self.mailbox.push_back(PartitionInput::WantsToGo(handle));
                }
            }
        }
        if let Some(request) = read {
            self.read(handle, &request, shared);
        }
    }

    pub(crate) fn read(
        &mut self,
        handle: VQueueHandle,
        request: &RefillRequest,
        shared: &mut Shared,
    ) {
        let tables = &self.replica.tables;
        let (rows, reached_end) = tables.inbox_after(request.vqueue, request.after, request.limit);
        let done = RefillDone { id: request.id, rows, reached_end };
        self.step_vqueue(handle, VQueueMessage::RefillDone(done), shared);
    }

    pub(crate) fn fail_read(
        &mut self,
        handle: VQueueHandle,
        request: &RefillRequest,
        shared: &mut Shared,
    ) {
        let failed = RefillFailed { id: request.id, reason: "broken".to_owned() };
        self.step_vqueue(handle, VQueueMessage::RefillFailed(failed), shared);
    }
}
