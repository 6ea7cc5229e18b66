//! The vqueues of a node, and their readers.

use super::*;

impl Node {
    pub(super) fn spawn(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        dispatched: Vec<forebay_messages::EntryKey>,
        shared: &mut Shared,
    ) -> bool {
        let others = self.vqueues.values();
        assert!(others.map(|it| it.machine.id()).all(|id| id != vqueue), "P5: one incarnation");
        let Some(meta) = self.replica.tables.vqueues.get(&vqueue) else { return false };
        let has_lock = meta.name.has_lock();
        let config = VQueueConfig {
            id: vqueue,
            has_lock,
            quantum: if has_lock { 1 } else { 2 },
            paused: meta.is_paused,
            draining: false,
        };
        let active = Active {
            machine: VQueue::new(config, dispatched),
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
        true
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
                    self.tell_limiter(LimiterMessage::Acquire(ask));
                }
                VQueueEffect::Withdraw => self.tell_limiter(LimiterMessage::Withdraw(handle)),
                VQueueEffect::ReturnPermit(permit) => {
                    let release = Release { permit, keep_lock: None };
                    self.tell_limiter(LimiterMessage::Release(release));
                }
                VQueueEffect::Decide { key, permit } => {
                    self.mailbox.push_back(PartitionInput::Decide { handle, key, permit });
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
