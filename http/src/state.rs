//! The state of a router, and its settings.
//!
//! Must not know: requests.

use std::{sync::Arc, time::Duration};

use forebay_api::TokenRole;
use tokio::sync::Semaphore;

use crate::{
    backend::{Backend, TOKEN_HASH_LEN},
    bulk_actions::BulkActions,
    feed::Feed,
    scrape::Scrape,
};

/// Unit of the memory for bodies, in bytes.
pub(crate) const BODY_UNIT: usize = 16 << 10;

/// A token that exists only in this process.
#[derive(Clone, Debug)]
pub struct LocalToken {
    /// What it allows.
    pub role: TokenRole,
    /// See [`token_hash`](crate::auth::token_hash).
    pub hash: [u8; TOKEN_HASH_LEN],
}

/// Settings of a router.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Whether requests need a token (default: yes). Without one, every request that reaches the
    /// router is allowed to do everything.
    pub needs_token: bool,
    /// Tokens that exist only in this process, in addition to the stored ones.
    pub local_tokens: Vec<LocalToken>,
    /// Names under which clients reach the server, beside `localhost` and addresses. A request for
    /// another name is refused, as it may come from a site whose name leads here.
    pub hosts: Vec<String>,
    /// Maximum length of a batch, in bytes (default: 16 MiB).
    pub batch_len_max: usize,
    /// Maximum memory for bodies that are being read, in bytes (default: 256 MiB).
    pub body_memory_max: usize,
    /// Maximum time for a body to arrive (default: 30 s).
    pub body_time_max: Duration,
    /// Maximum number of readers of events (default: 2,048).
    pub event_readers_max: usize,
    /// How long a worker's lease holds without a heartbeat (default: 30 s). All routers of a
    /// runtime have that of the first.
    pub lease: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            needs_token: true,
            local_tokens: Vec::new(),
            hosts: Vec::new(),
            batch_len_max: 16 << 20,
            body_memory_max: 256 << 20,
            body_time_max: Duration::from_secs(30),
            event_readers_max: 2_048,
            lease: Duration::from_secs(30),
        }
    }
}

/// State of a router.
pub(crate) struct Server {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) options: HttpOptions,
    /// One permit for each [`BODY_UNIT`] of a body that is being read.
    pub(crate) body_memory: Arc<Semaphore>,
    pub(crate) event_readers: Arc<Semaphore>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) bulk: BulkActions,
    pub(crate) scrape: Scrape,
}

impl Server {
    pub(crate) fn new(backend: Box<dyn Backend>, options: HttpOptions) -> Arc<Self> {
        let units = (options.body_memory_max / BODY_UNIT).min(Semaphore::MAX_PERMITS);
        let readers = options.event_readers_max.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            backend,
            options,
            body_memory: Arc::new(Semaphore::new(units)),
            event_readers: Arc::new(Semaphore::new(readers)),
            feed: Arc::default(),
            bulk: BulkActions::default(),
            scrape: Scrape::default(),
        })
    }
}
