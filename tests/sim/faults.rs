//! Faults of the nodes of a simulation, and of their log.

use std::{sync::Arc, time::Duration};

use forebay::{
    Drain, PartitionId,
    testkit::{LogFault, MachineClock, Script, StoreFault},
};
use forebay_actors::node::KeyRange;
use forebay_messages::{Epoch, PartitionKey};

use super::{
    clients::{self, Replacement},
    plan::Fault,
    world::{Client, Node, What, World},
};

impl World {
    #[expect(clippy::too_many_lines, reason = "one arm per fault")]
    pub(super) fn inject(&mut self, index: usize, fault: Fault) {
        self.note(format!("node {index}: {fault:?}"));
        let disk = self.nodes[index].disk.clone();
        match fault {
            Fault::Crash { after_ms } => self.crash(index, after_ms),
            Fault::LogFails { nth, kind } => {
                let fault = match kind {
                    0 => LogFault::Fail,
                    1 => LogFault::FailAfterWrite,
                    2 => LogFault::Torn { appends: 0 },
                    3 => LogFault::CrashBeforeWrite,
                    _ => LogFault::CrashAfterWrite,
                };
                disk.log().plan(nth, fault);
            }
            Fault::StoreFails { nth, kind } => {
                let fault = match kind {
                    0 => StoreFault::Fail,
                    1 => StoreFault::FailAfterWrite,
                    2 => StoreFault::CrashBeforeCommit,
                    _ => StoreFault::CrashAfterCommit,
                };
                disk.faults().plan(nth, fault);
            }
            Fault::Kill { actor } => self.kill(index, actor),
            Fault::Fence { partition } => {
                use forebay::testkit::LogStore;
                let partition = PartitionId(partition);
                let epoch = Epoch(disk.log().fenced(partition).0 + 1);
                // A crashed log cannot be fenced.
                let _ = disk.log().fence(partition, epoch);
            }
            Fault::Stale { partition } => {
                let own = self.nodes[index].life.as_ref().map(|life| life.site);
                let Some(log) = self.shared.as_ref().map(|(log, _)| *log).or(own) else { return };
                // A crashed log cannot be read.
                let replayed = self.sim.replay_stale(log, PartitionId(partition));
                self.note(format!("{replayed:?} records of earlier epochs are written again"));
            }
            Fault::EndsLate { ms, again } => {
                let script = if again { Script::replay } else { Script::delay };
                let script = script("partition", "Ended", Duration::from_millis(ms));
                self.sim.script(script.times(2));
            }
            Fault::Lead { partition } => self.add(What::Lead(partition)),
            Fault::StepDown { partition, within_ms } => {
                let Some((host, runtime)) = self.nodes[index].up() else { return };
                host.spawn("step down", async move {
                    let within = Duration::from_millis(within_ms);
                    // It may have stopped, or crash meanwhile.
                    let _ =
                        runtime.node().partitions().step_down(PartitionId(partition), within).await;
                });
            }
            Fault::Replace { which, after_ms, splits } => {
                self.replace(which, Duration::from_millis(after_ms), splits);
            }
            Fault::LogDies { after_ms } => self.log_dies(index, after_ms),
            Fault::ClockSteps { by_ms } => self.with_clock(index, |clock| clock.step(by_ms)),
            Fault::ClockRuns { percent } => {
                self.with_clock(index, |clock| clock.set_rate_percent(percent));
            }
            Fault::Shutdown { after_ms, drain_ms } => {
                let Some((host, runtime)) = self.nodes[index].up() else { return };
                let task = host.spawn("shutdown", async move {
                    let drain = Drain::within(Duration::from_millis(drain_ms));
                    // Rows that could not be flushed will be replayed.
                    let _ = runtime.shutdown(drain).await;
                });
                if let Some(life) = &mut self.nodes[index].life {
                    life.stopping = Some((task, after_ms));
                }
            }
        }
    }

    pub(super) fn with_clock(&self, index: usize, change: impl FnOnce(&MachineClock)) {
        let life = self.nodes[index].life.as_ref();
        if let Some(clock) = life.and_then(|life| self.sim.machine_clock(life.site)) {
            change(clock);
        }
    }

    /// The log's writer of a node panics, or the shared one: then there is no writer for a while.
    fn log_dies(&mut self, index: usize, after_ms: u64) {
        let own = self.nodes[index].life.as_ref().map(|life| life.site);
        let shared = self.shared.as_ref().map(|(site, _)| *site);
        if shared.is_some() {
            self.log_back_at = Some(self.elapsed() + after_ms);
        }
        if let Some(site) = shared.or(own) {
            self.sim.kill_log(site);
        }
    }

    /// Drops an existing partition and assigns its keys to others; one at a time.
    fn replace(&mut self, which: usize, after: Duration, splits: bool) {
        let is_replaced = |client: &Client| matches!(client.what, What::Replace(_));
        let is_open = |client: &Client| is_replaced(client) && !*client.is_done.lock().unwrap();
        let Some((_, runtime)) = self.nodes.iter().find_map(Node::up) else { return };
        let Ok(views) = runtime.node().inspect().partition_views() else { return };
        if self.clients.iter().any(is_open) || views.is_empty() {
            return;
        }
        let view = &views[which % views.len()];
        let (first, last) = view.range;
        let middle = first + (last - first) / 2;
        let ranges = match splits && first < last {
            true => vec![(first, middle), (middle + 1, last)],
            false => vec![(first, last)],
        };
        let ranges = ranges.into_iter();
        let ranges = ranges
            .map(|(first, last)| KeyRange { first: PartitionKey(first), last: PartitionKey(last) });
        let what = Replacement { id: view.id, after, ranges: ranges.collect() };
        self.note(format!("{what:?}"));
        self.table_changed = true;
        for (number, spec) in self.plan.specs.iter().enumerate() {
            let key = clients::id_of(spec, number).partition_key.0;
            if (first..=last).contains(&key) {
                self.journal.lock().observed[number].was_dropped = true;
            }
        }
        self.add(What::Replace(Arc::new(what)));
    }

    fn kill(&mut self, index: usize, actor: u64) {
        let Some(life) = &self.nodes[index].life else { return };
        let actors = self.sim.actors(life.site);
        // Half of the time, choose an actor that is not one of the many vqueues.
        let some: Vec<_> = match actor % 2 {
            0 => actors.iter().filter(|(_, name)| *name != "vqueue").collect(),
            _ => actors.iter().collect(),
        };
        if some.is_empty() {
            return;
        }
        let (number, name) = some[(actor / 2) as usize % some.len()];
        self.note(format!("node {index}: {name} {number} panics"));
        self.sim.kill(life.site, *number);
    }
}
