//! Adding handlers and aliases to a running node, and logging services without a handler.
//!
//! Must always hold: every partition here is notified of a service that gains a handler, after the
//! handler is registered, so that no waiting vqueue misses it; a stored alias is in force on every
//! node with the same metadata. Must not know: how entries wait.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::{
    aliases::{AliasError, Aliases},
    partition::machine::PartitionInput,
};
use forebay_messages::{PartitionId, VQueueId};
use forebay_storage::metadata::{
    Change, MetaKey, MetadataError, MetadataStore, Precondition, Watch,
};

use crate::{
    error::NodeError,
    executor::{Changed, Executor, ExternalExecutor, ExternalOptions, Handler},
    registry::Registry,
    shell::World,
};

/// Attempts before a race with other writers is given up.
const TRIES_MAX: usize = 16;

impl Registry {
    /// The set of services with a handler has changed.
    pub(crate) fn services_changed(&self, executor: &Executor, changed: Changed) {
        self.slots.resize(|service| executor.slots(service));
        if changed == Changed::default() {
            return;
        }
        self.unserved.forget_served(|service| executor.has_handler(service));
        for replica in &self.replicas {
            // A partition that is gone starts nothing.
            replica.partition.address.send(PartitionInput::ServicesChanged { lost: changed.lost });
        }
    }

    /// Follows the aliases in the metadata until the watch is dropped. The present ones are in
    /// force when this returns.
    pub(crate) async fn watch_aliases(
        self: &Arc<Self>,
        executor: &Arc<Executor>,
    ) -> Result<Watch, MetadataError> {
        let (registry, executor) = (Arc::downgrade(self), Arc::downgrade(executor));
        let on_change = move |change: &Change| {
            let (Some(registry), Some(executor)) = (registry.upgrade(), executor.upgrade()) else {
                return;
            };
            match change.value.as_deref().map_or_else(|| Ok(Aliases::default()), Aliases::decode) {
                Ok(aliases) => {
                    let changed = executor.set_aliases(aliases);
                    registry.services_changed(&executor, changed);
                }
                Err(error) => tracing::error!(%error, "the aliases stay as they were"),
            }
        };
        self.metadata.watch(&MetaKey::aliases(), Box::new(on_change)).await
    }

    /// A vqueue has work for a service without a handler here: this is logged, at first after a
    /// short delay and then once a minute.
    pub(crate) fn note_unserved(
        self: &Arc<Self>,
        world: &World,
        service: &str,
        vqueue: (PartitionId, VQueueId),
    ) {
        if let Some(at) = self.unserved.add(world.clock().now(), service, vqueue) {
            self.report_unserved_at(world.clone(), at);
        }
    }

    fn report_unserved_at(self: &Arc<Self>, world: World, at: forebay_messages::Timestamp) {
        let registry = Arc::downgrade(self);
        let timers = world.timers().clone();
        timers.set(at, move || {
            let Some(registry) = registry.upgrade() else { return };
            let waiting = |(partition, vqueue)| {
                let store =
                    registry.replicas.get(&partition).map(|replica| replica.rows.store.clone());
                // Only for a log line: failed reads are reported where the row is needed.
                let meta = store.and_then(|store| store.vqueue(vqueue).ok().flatten());
                meta.map_or(0, |meta| meta.inbox)
            };
            let (reports, next) = registry.unserved.due_reports(world.clock().now(), waiting);
            for report in reports {
                let at_least = if report.has_more { "at least " } else { "" };
                tracing::warn!(
                    service = report.service,
                    entries = report.entries,
                    "no handler for service `{}` here: {at_least}{} entries wait; register a \
                     handler, or let another one serve them (forebay alias)",
                    report.service,
                    report.entries
                );
            }
            if let Some(next) = next {
                registry.report_unserved_at(world, next);
            }
        });
    }
}

/// The stored aliases and their version.
async fn stored(metadata: &dyn MetadataStore) -> Result<(Aliases, Precondition), NodeError> {
    match metadata.get(&MetaKey::aliases()).await? {
        None => Ok((Aliases::default(), Precondition::DoesNotExist)),
        Some(found) => {
            Ok((Aliases::decode(&found.value)?, Precondition::MatchesVersion(found.version)))
        }
    }
}

/// The handlers of a node and the aliases under which they serve other services.
pub struct Handlers {
    registry: Arc<Registry>,
    executor: Arc<Executor>,
}

impl Handlers {
    pub(crate) fn new(registry: Arc<Registry>, executor: Arc<Executor>) -> Self {
        Self { registry, executor }
    }

    /// Adds the handler of a service. Entries of that service that already wait start too.
    ///
    /// # Errors
    /// [`NodeError::HandlerExists`] when the service has a handler of its name, and
    /// [`NodeError::ShutDown`].
    pub fn register(&self, service: &str, handler: Arc<dyn Handler>) -> Result<(), NodeError> {
        self.registry.check_up()?;
        let added = self.executor.add_handler(service, handler);
        let changed = added.ok_or_else(|| NodeError::HandlerExists(service.to_owned()))?;
        self.registry.services_changed(&self.executor, changed);
        Ok(())
    }

    /// Announces an executor beside the handlers, without services.
    ///
    /// # Errors
    /// [`NodeError::ExecutorExists`] when its id is in use, and [`NodeError::ShutDown`].
    pub fn announce(&self, options: ExternalOptions) -> Result<ExternalExecutor, NodeError> {
        self.registry.check_up()?;
        let announced = ExternalExecutor::announce(&self.registry, &self.executor, options);
        announced.ok_or_else(|| match self.registry.check_up() {
            Err(down) => down,
            Ok(()) => NodeError::ExecutorExists(options.lease_id.unwrap_or_default()),
        })
    }

    /// The aliases: services served by handlers with other names. Cancel-safe.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn aliases(&self) -> Result<Aliases, NodeError> {
        stored(&*self.registry.metadata).await.map(|(aliases, _)| aliases)
    }

    /// Makes the handler of another name serve a service (`None`: removes the alias). Durable, and
    /// in force when it returns (on other nodes of a cluster soon after). Returns all aliases.
    ///
    /// # Errors
    /// [`NodeError::Alias`] when it is invalid; nothing was changed then.
    pub async fn set_alias(
        &self,
        service: &str,
        handler: Option<&str>,
    ) -> Result<Aliases, NodeError> {
        self.registry.check_up()?;
        let change = |aliases: &mut Aliases| match handler {
            Some(handler) => aliases.set(service, handler),
            None => aliases.remove(service),
        };
        swap(&*self.registry.metadata, change).await
    }
}

/// Changes the stored aliases by compare-and-swap; concurrent changes are retried.
async fn swap(
    metadata: &dyn MetadataStore,
    change: impl Fn(&mut Aliases) -> Result<(), AliasError> + Send,
) -> Result<Aliases, NodeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (mut aliases, precondition) = stored(metadata).await?;
        change(&mut aliases)?;
        let bytes = Bytes::from(aliases.encode());
        match metadata.put(&MetaKey::aliases(), bytes, precondition).await {
            Ok(_) => return Ok(aliases),
            Err(MetadataError::PreconditionFailed { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}
