//! The shuffle actor of a leading partition: performs the effects of the shuffle machine.
//!
//! Owns: commands in flight to other partitions. Must always hold: a command that is lost with its
//! shuffle is handed over again by the next one. Must not know: the contents of a message, which
//! node leads a partition.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use forebay_engine::{
    leadership::LeadershipInput,
    partition::{
        apply::Reply,
        machine::{Answer, OutboxCount, PartitionInput},
        read,
        store::JournalRows as _,
    },
    shuffle::{Shuffle, ShuffleEffect, ShuffleInput},
};
use forebay_messages::{
    PartitionId, RecordSeq,
    command::{Command, OutboxMessage},
    record::RECORD_ROOM,
};
use forebay_storage::partition::PartitionStore;

use crate::{
    access::{propose::propose_by, replies::Credit},
    error::NodeError,
    host::{Host, Spawned},
    registry::Registry,
    shell::{Cx, Death, Performer, Ref, TimerKey, Timers},
};

use super::{
    PartitionCx, PartitionPerformer,
    dropped::{begin_checked, calls_of, fail},
};

/// Performs the effects of a shuffle.
pub(super) struct ShufflePerformer {
    source: PartitionId,
    store: PartitionStore,
    registry: Arc<Registry>,
    host: Host,
    timers: Timers,
    timer: Option<TimerKey>,
    /// The last command to each partition.
    deliveries: BTreeMap<PartitionId, Spawned>,
    truncation: Option<Spawned>,
}

type ShuffleCx<'a> = Cx<'a, ShuffleInput>;

/// Whether a command was applied. One with an unknown outcome counts as not applied.
fn is_applied(to: PartitionId, answer: Result<Answer, NodeError>) -> bool {
    let refused = match answer {
        Ok(Answer::Reply(Reply::Changed(_))) => return true,
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    };
    tracing::debug!(partition = %to, refused, "a command of an outbox is handed over again later");
    false
}

impl ShufflePerformer {
    /// Proposes a command to a partition, wherever it is led, and reports whether it was applied.
    fn propose(
        &self,
        to: PartitionId,
        command: Command,
        me: &Ref<ShuffleInput>,
        report: impl FnOnce(bool) -> ShuffleInput + Send + 'static,
    ) -> Spawned {
        let (registry, me) = (Arc::clone(&self.registry), me.clone());
        self.host.spawn_as("shuffle", async move {
            let answer = propose_by(&registry, Credit::None, to, command).await;
            drop(registry);
            me.send(report(is_applied(to, answer)));
        })
    }

    fn read(&self, after: RecordSeq, limit: usize, cx: &mut ShuffleCx<'_>) {
        match read::outbox(&self.store, after, limit) {
            Ok((messages, is_end)) => cx.feed_back(ShuffleInput::Read { messages, is_end }),
            Err(error) => {
                self.registry.stop_failed(self.source, &error.to_string());
                cx.stop();
            }
        }
    }

    /// Ends the calls that wait for these messages.
    fn end_calls(&self, messages: &[Arc<OutboxMessage>]) {
        let calls = calls_of(messages);
        if calls.is_empty() {
            return;
        }
        let (registry, source) = (Arc::clone(&self.registry), self.source);
        self.host.spawn_as("dropped", async move {
            match fail(&registry, source, calls).await {
                // The next leader's shuffle reports them again.
                Ok(()) | Err(NodeError::ShutDown | NodeError::LostLeadership) => {}
                Err(error) => {
                    tracing::warn!(partition = %source, %error, "calls to no partition do not end");
                }
            }
        });
    }

    fn cancel_timer(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.timers.cancel(timer);
        }
    }
}

impl Performer<Shuffle> for ShufflePerformer {
    fn perform(&mut self, effect: ShuffleEffect, cx: &mut ShuffleCx<'_>) {
        match effect {
            ShuffleEffect::Read { after, limit } => self.read(after, limit, cx),
            ShuffleEffect::Deliver { target, command } => {
                let report = move |is_applied| match is_applied {
                    true => ShuffleInput::Delivered { target },
                    false => ShuffleInput::NotDelivered { target },
                };
                let delivery = self.propose(target, Command::Deliver(command), cx.me, report);
                self.deliveries.insert(target, delivery);
            }
            ShuffleEffect::Truncate(command) => {
                let report = |is_applied| match is_applied {
                    true => ShuffleInput::Truncated,
                    false => ShuffleInput::NotTruncated,
                };
                let command = Command::TruncateOutbox(command);
                self.truncation = Some(self.propose(self.source, command, cx.me, report));
            }
            ShuffleEffect::Unowned(messages) => self.end_calls(&messages),
            ShuffleEffect::WakeAt(at) => {
                self.cancel_timer();
                let me = cx.me.clone();
                self.timer = Some(self.timers.set(at, move || {
                    me.send(ShuffleInput::Tick);
                }));
            }
        }
    }
}

impl Drop for ShufflePerformer {
    fn drop(&mut self) {
        self.cancel_timer();
        for command in self.deliveries.values().chain(&self.truncation) {
            command.abort();
        }
    }
}

impl PartitionPerformer {
    /// Starts the shuffle if there are messages to hand over. A partition that never had a journal
    /// does not even read for it.
    pub(super) fn start_shuffle(&mut self, cx: &mut PartitionCx<'_>) {
        if self.links.has_shuffle() || !self.state.has_journals() {
            return;
        }
        match self.store.outbox_after(None, 1) {
            Ok(first) if first.is_empty() => {}
            Ok(_) => self.spawn_shuffle(),
            Err(error) => self.fail(format!("partition {}: {error}", self.id), cx),
        }
    }

    /// Counts the messages of the outbox by target.
    pub(super) fn count_outbox(&mut self, cx: &mut PartitionCx<'_>) {
        let routes = self.registry.routes();
        let counted = match self.state.has_journals() {
            true => read::count_outbox(&self.store, routes),
            false => Ok(OutboxCount { routes, ..OutboxCount::default() }),
        };
        match counted {
            Ok(count) => cx.feed_back(PartitionInput::OutboxCounted(count)),
            Err(error) => self.fail(format!("partition {}: {error}", self.id), cx),
        }
    }

    pub(super) fn stop_shuffle(&mut self) {
        self.registry.shuffle_stopped(self.id);
        self.links.stop_shuffle();
    }

    /// Passes committed messages to the shuffle. A shuffle that starts now reads them from the
    /// outbox.
    pub(super) fn hand_on(&mut self, messages: Vec<Arc<OutboxMessage>>) {
        let is_first = messages.first().is_some_and(|first| first.index == RecordSeq(1));
        if is_first {
            begin_checked(&self.registry, self.id);
        }
        if self.links.to_shuffle(ShuffleInput::Added(messages)).is_err() {
            self.spawn_shuffle();
        }
    }

    fn spawn_shuffle(&mut self) {
        let room = self.registry.record_len_max.saturating_sub(RECORD_ROOM);
        let machine = Shuffle::new(self.id, self.registry.routes()).with_room(room);
        let performer = ShufflePerformer {
            source: self.id,
            store: self.store.clone(),
            registry: Arc::clone(&self.registry),
            host: self.host.clone(),
            timers: self.world.timers().clone(),
            timer: None,
            deliveries: BTreeMap::new(),
            truncation: None,
        };
        let links = Rc::clone(&self.links);
        let on_death = Box::new(move |death| {
            if let Death::Panicked(reason) = death {
                let reason = format!("its shuffle panicked: {reason}");
                links.to_supervisor(LeadershipInput::Refused { reason, fenced_by: None });
            }
        });
        let shuffle = self.world.spawn("shuffle", machine, performer, on_death);
        self.registry.shuffle_started(self.id, shuffle.address.clone());
        self.links.put_shuffle(shuffle);
    }
}
