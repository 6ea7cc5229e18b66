//! The leadership supervisor of a partition replica: performs the effects of the leadership
//! machine.
//!
//! Owns: the limiter actor, and checking the lease where several nodes share a log. Must not know:
//! the reason for an effect.

use std::{
    hash::{BuildHasher, RandomState},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use forebay_engine::{
    leadership::{Leadership, LeadershipEffect, LeadershipInput, Role},
    limiter::{Limiter, LimiterConfig},
    partition::machine::PartitionInput,
};
use forebay_messages::{Epoch, Generation, PartitionId};
use forebay_storage::{log::LogError, metadata::MetadataError};

use crate::{
    cluster::LEASE_LOOK_MS,
    log_writer::{LogCommand, LogHandle, WRITER_GONE},
    registry::Registry,
    shell::{Cx, Death, Performer, Ref, World},
};

use super::{dropped::check_calls, limiter::LimiterPerformer, links::Links};

/// Performs leadership effects.
pub(crate) struct SupervisorPerformer {
    pub(crate) partition: PartitionId,
    pub(crate) world: World,
    pub(crate) links: Rc<Links>,
    pub(crate) log: LogHandle,
    pub(crate) registry: Arc<Registry>,
}

impl SupervisorPerformer {
    fn obtain_epoch(&self, above: Epoch, cx: &Cx<'_, LeadershipInput>) {
        let (registry, partition) = (Arc::clone(&self.registry), self.partition);
        let obtain = move || match registry.epochs.next(partition, above) {
            Ok(epoch) => LeadershipInput::EpochObtained(epoch),
            Err(error @ MetadataError::PreconditionFailed { .. }) => {
                LeadershipInput::EpochRefused { reason: error.to_string() }
            }
            Err(error) => {
                registry.stop_failed(partition, &error.to_string());
                LeadershipInput::StepDown
            }
        };
        // A synced write would delay the other actors of this thread.
        let me = cx.me.clone();
        self.registry.host.run_blocking(move || {
            me.send(obtain());
        });
    }

    fn fence(&self, epoch: Epoch, cx: &Cx<'_, LeadershipInput>) {
        let me = cx.me.clone();
        let (registry, partition) = (Arc::clone(&self.registry), self.partition);
        let done = Box::new(move |fenced: Result<Epoch, LogError>| {
            me.send(match fenced {
                Ok(current) if current == epoch => LeadershipInput::LogFenced { epoch },
                Ok(current) => LeadershipInput::FenceFailed { epoch, current },
                Err(error) => {
                    registry.stop_failed(partition, &error.to_string());
                    LeadershipInput::StepDown
                }
            });
        });
        let command = LogCommand::Fence { partition: self.partition, epoch, done };
        if !self.log.send(command) {
            self.registry.stop_failed(self.partition, WRITER_GONE);
        }
    }

    fn start_limiter(&self, incarnation: Generation, cx: &Cx<'_, LeadershipInput>) {
        let config = LimiterConfig {
            capacity: self.registry.capacity_mode(),
            hash_seed: RandomState::new().hash_one(0_u8),
            ..LimiterConfig::default()
        };
        let machine = Limiter::new(incarnation, config);
        let performer = LimiterPerformer::new(
            Rc::clone(&self.links),
            self.world.timers().clone(),
            Arc::clone(&self.registry),
            self.partition,
        );
        let me = cx.me.clone();
        let on_death = Box::new(move |death| {
            if matches!(death, Death::Panicked(_)) {
                me.send(LeadershipInput::LimiterDied { incarnation });
            }
        });
        let (child, looks) = self.world.spawn_visible("limiter", machine, performer, on_death);
        self.registry.limiter_started(self.partition, looks);
        self.links.limiter_started(child);
    }
}

/// Makes a supervisor check the lease now and at intervals, if there is one.
pub(crate) fn look_at_lease(
    world: &World,
    registry: &Arc<Registry>,
    partition: PartitionId,
    supervisor: &Ref<LeadershipInput>,
) {
    let Some(shared) = registry.shared() else { return };
    let held = shared.held(partition, world.clock().monotonic());
    if !supervisor.send(LeadershipInput::Lease { held }) {
        return;
    }
    let (again, registry, supervisor) = (world.clone(), Arc::clone(registry), supervisor.clone());
    let next = world.clock().now().after(Duration::from_millis(LEASE_LOOK_MS));
    world.timers().set(next, move || {
        look_at_lease(&again, &registry, partition, &supervisor);
    });
}

impl Performer<Leadership> for SupervisorPerformer {
    fn perform(&mut self, effect: LeadershipEffect, cx: &mut Cx<'_, LeadershipInput>) {
        let partition = self.partition;
        match effect {
            LeadershipEffect::ObtainEpoch { above } => self.obtain_epoch(above, cx),
            LeadershipEffect::Fence { epoch } => self.fence(epoch, cx),
            LeadershipEffect::Announce { epoch } => {
                self.links.to_partition(PartitionInput::Announce { epoch });
            }
            LeadershipEffect::StartLimiter { incarnation } => {
                self.start_limiter(incarnation, cx);
            }
            LeadershipEffect::Seed { epoch } => {
                self.links.to_partition(PartitionInput::BeginSeed { epoch });
            }
            LeadershipEffect::Drain { epoch } => {
                self.links.to_partition(PartitionInput::Drain { epoch });
            }
            LeadershipEffect::OpenGate { epoch } => {
                self.links.to_partition(PartitionInput::OpenGate { epoch });
            }
            LeadershipEffect::CloseGate { .. } => {
                self.links.to_partition(PartitionInput::CloseGate);
            }
            LeadershipEffect::StopLeading => {
                self.links.to_partition(PartitionInput::StopLeading);
            }
            LeadershipEffect::StopLimiter => {
                self.links.stop_limiter();
                self.registry.limiter_stopped(partition);
            }
            LeadershipEffect::Report(role) => {
                tracing::info!(%partition, ?role, "leadership");
                let open = matches!(role, Role::Leader { open: true, .. });
                self.registry.report_role(partition, role);
                if open {
                    self.registry.publish_rule_book(partition);
                    check_calls(&self.registry, partition);
                }
            }
            LeadershipEffect::Warn(text) => tracing::warn!(%partition, "{text}"),
            LeadershipEffect::HoldLease { epoch } => {
                if let Some(shared) = self.registry.shared() {
                    let now = self.world.clock().monotonic();
                    shared.hold(partition, self.registry.node, epoch, now);
                }
            }
            LeadershipEffect::FreeLease { epoch } => {
                if let Some(shared) = self.registry.shared() {
                    shared.free(partition, epoch);
                }
            }
            LeadershipEffect::RetryAt(at) => {
                let me = cx.me.clone();
                self.world.timers().set(at, move || {
                    me.send(LeadershipInput::RetryDue);
                });
            }
        }
    }
}
