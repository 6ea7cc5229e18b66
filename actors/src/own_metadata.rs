//! The metadata of a node that runs alone, behind the port: its store, on threads that may block.
//!
//! Must always hold: a call is one piece of work on such a thread, however many keys it has.

use std::sync::Arc;

use forebay_storage::metadata::{
    BlockingMetadata, KeyWrite, MetaKey, MetadataError, MetadataFuture, MetadataStore, OnChange,
    Version, Versioned, Watch,
};

use crate::{error::NodeError, host::Host};

/// The store of one node (or of several in this process).
pub struct OwnMetadata {
    store: Arc<dyn BlockingMetadata>,
    host: Host,
}

impl OwnMetadata {
    /// Runs the calls of a store on the blocking threads of a host.
    #[must_use]
    pub fn new(store: Arc<dyn BlockingMetadata>, host: Host) -> Self {
        Self { store, host }
    }

    fn run<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce(&dyn BlockingMetadata) -> Result<T, MetadataError> + Send + 'static,
    ) -> MetadataFuture<'a, T> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let done = self.host.blocking(move || work(&*store)).await;
            done.map_err(|error: NodeError| MetadataError::Interrupted(error.to_string()))?
        })
    }
}

impl MetadataStore for OwnMetadata {
    fn get_all<'a>(&'a self, keys: &'a [MetaKey]) -> MetadataFuture<'a, Vec<Option<Versioned>>> {
        let keys = keys.to_vec();
        self.run(move |store| keys.iter().map(|key| store.get(key)).collect())
    }

    fn get_applied<'a>(&'a self, key: &'a MetaKey) -> MetadataFuture<'a, Option<Versioned>> {
        self.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> MetadataFuture<'a, Vec<(MetaKey, Versioned)>> {
        let prefix = prefix.to_owned();
        self.run(move |store| store.list(&prefix))
    }

    fn put_all(&self, writes: Vec<KeyWrite>) -> MetadataFuture<'_, Vec<Version>> {
        self.run(move |store| store.put_all(&writes))
    }

    fn watch<'a>(&'a self, key: &'a MetaKey, on_change: OnChange) -> MetadataFuture<'a, Watch> {
        let key = key.clone();
        self.run(move |store| store.watch(&key, on_change))
    }
}
