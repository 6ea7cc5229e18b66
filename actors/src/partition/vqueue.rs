//! The vqueue actor: performs the effects of the vqueue machine.
//!
//! Must not know: why a permit is granted, what follows from a decision.

use std::{rc::Rc, sync::Arc};

use forebay_engine::{
    partition::machine::PartitionInput,
    vqueue::{VQueue, VQueueEffect},
};
use forebay_messages::{
    Timestamp, VQueueHandle, VQueueId, VQueueName,
    actor::{Acquire, LimiterMessage, RefillFailed, RefillRequest, Release, VQueueMessage},
};
use forebay_storage::partition::{PartitionStore, TryRefill};

use crate::shell::{Cx, Performer, TimerKey, Timers};

use super::{
    links::Links,
    refill::{RefillJob, RefillPool},
};

/// Shared by the vqueues of one partition.
pub(crate) struct VQueueShared {
    pub(crate) links: Rc<Links>,
    pub(crate) store: PartitionStore,
    pub(crate) refill: Arc<RefillPool>,
    pub(crate) timers: Timers,
}

/// Performs the effects of one vqueue.
pub(crate) struct VQueuePerformer {
    shared: Rc<VQueueShared>,
    handle: VQueueHandle,
    vqueue: VQueueId,
    name: Arc<VQueueName>,
    timer: Option<TimerKey>,
    /// It has reported its end: later messages are ignored.
    gone: bool,
}

impl VQueuePerformer {
    pub(crate) fn new(
        shared: Rc<VQueueShared>,
        handle: VQueueHandle,
        vqueue: VQueueId,
        name: Arc<VQueueName>,
    ) -> Self {
        Self { shared, handle, vqueue, name, timer: None, gone: false }
    }

    /// Reads without blocking if possible; otherwise a refill worker reads.
    fn read_inbox(&self, request: RefillRequest, cx: &mut Cx<'_, VQueueMessage>) {
        let tried = match self.shared.refill.may_try() {
            true => self.shared.store.try_refill(&request),
            false => Ok(TryRefill::WouldBlock),
        };
        match tried {
            Ok(TryRefill::Done(done)) => cx.feed_back(VQueueMessage::RefillDone(done)),
            Ok(TryRefill::WouldBlock) => {
                let id = request.id;
                let job = RefillJob {
                    store: self.shared.store.clone(),
                    request,
                    reply_to: cx.me.clone(),
                };
                if !self.shared.refill.submit(job) {
                    let reason = "the refill workers are busy".to_owned();
                    cx.feed_back(VQueueMessage::RefillFailed(RefillFailed { id, reason }));
                }
            }
            Err(error) => {
                tracing::error!(vqueue = %self.vqueue, %error, "an inbox cannot be read");
                let failed = RefillFailed { id: request.id, reason: error.to_string() };
                cx.feed_back(VQueueMessage::RefillFailed(failed));
            }
        }
    }

    fn acquire(&mut self, ask: Acquire, cx: &mut Cx<'_, VQueueMessage>) {
        let links = &self.shared.links;
        if let Err(error) = links.acquire(&self.shared.store, ask) {
            tracing::error!(vqueue = %self.vqueue, %error, "a lock cannot be read");
            // The partition starts another one.
            self.gone = true;
            links.to_partition(PartitionInput::VQueueDied(self.handle));
            cx.stop();
        }
    }

    fn arm(&mut self, at: Timestamp, cx: &Cx<'_, VQueueMessage>) {
        self.disarm();
        let me = cx.me.clone();
        self.timer = Some(self.shared.timers.set(at, move || {
            me.send(VQueueMessage::Wake);
        }));
    }

    fn disarm(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.shared.timers.cancel(timer);
        }
    }
}

impl Performer<VQueue> for VQueuePerformer {
    const IS_ONE_OF_MANY: bool = true;

    fn perform(&mut self, effect: VQueueEffect, cx: &mut Cx<'_, VQueueMessage>) {
        if self.gone {
            return;
        }
        self.shared.refill.faults().at_vqueue();
        let handle = self.handle;
        let links = &self.shared.links;
        match effect {
            VQueueEffect::Acquire { count, lock } => {
                let (vqueue, name) = (self.vqueue, Arc::clone(&self.name));
                self.acquire(Acquire { handle, vqueue, name, count, lock }, cx);
            }
            VQueueEffect::ReturnPermit(permit) => {
                links
                    .to_limiter(LimiterMessage::Release(vec![Release { permit, keep_lock: None }]));
            }
            VQueueEffect::Decide { keys, permits } => {
                links.to_partition(PartitionInput::Decide { handle, keys, permits });
            }
            VQueueEffect::ReadInbox(request) => self.read_inbox(request, cx),
            VQueueEffect::ArmTimer(at) | VQueueEffect::RetryRefillAt(at) => self.arm(at, cx),
            VQueueEffect::DisarmTimer => self.disarm(),
            VQueueEffect::Passivated(rest) => {
                self.gone = true;
                links.to_partition(PartitionInput::Passivated { handle, rest });
            }
            VQueueEffect::StillNeeded => links.to_partition(PartitionInput::StillNeeded(handle)),
            VQueueEffect::Idle(_) => links.to_partition(PartitionInput::Idle(handle)),
            VQueueEffect::WantsToGo(_) => links.to_partition(PartitionInput::WantsToGo(handle)),
        }
    }
}

impl Drop for VQueuePerformer {
    fn drop(&mut self) {
        self.disarm();
    }
}
