//! The limiter actor: performs the effects of the limiter machine.

use std::{rc::Rc, sync::Arc};

use forebay_engine::{
    limiter::{Limiter, LimiterEffect},
    partition::machine::PartitionInput,
};
use forebay_messages::{PartitionId, actor::LimiterMessage};

use crate::{
    capacity::CapacityClient,
    registry::Registry,
    shell::{Cx, Performer, TimerKey, Timers},
};

use super::links::Links;

/// Performs the effects of a limiter.
pub(crate) struct LimiterPerformer {
    links: Rc<Links>,
    timers: Timers,
    timer: Option<TimerKey>,
    capacity: CapacityClient,
    partition: PartitionId,
    registry: Arc<Registry>,
}

impl LimiterPerformer {
    pub(crate) fn new(
        links: Rc<Links>,
        timers: Timers,
        registry: Arc<Registry>,
        partition: PartitionId,
    ) -> Self {
        let capacity = registry.capacity(partition);
        Self { links, timers, timer: None, capacity, partition, registry }
    }
}

impl Performer<Limiter> for LimiterPerformer {
    fn perform(&mut self, effect: LimiterEffect, cx: &mut Cx<'_, LimiterMessage>) {
        match effect {
            LimiterEffect::Granted(granted) => {
                self.links.grant(granted.handle, granted.permits);
            }
            LimiterEffect::Seeded { permits } => {
                self.links.to_partition(PartitionInput::LimiterSeeded { permits });
            }
            LimiterEffect::WantCapacity(count) => self.capacity.want(count),
            LimiterEffect::ReturnCapacity(count) => self.capacity.give_back(count),
            LimiterEffect::WantSlots { service, slots } => {
                self.registry.slots.want(self.partition, &service, slots);
            }
            LimiterEffect::ReturnSlots { service, slots } => {
                self.registry.slots.give_back(self.partition, &service, slots);
            }
            LimiterEffect::SetTimer(at) => {
                if let Some(timer) = self.timer.take() {
                    self.timers.cancel(timer);
                }
                let me = cx.me.clone();
                self.timer = Some(self.timers.set(at, move || {
                    me.send(LimiterMessage::Tick);
                }));
            }
        }
    }
}

impl Drop for LimiterPerformer {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.timers.cancel(timer);
        }
    }
}
