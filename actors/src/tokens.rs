//! Tokens for the HTTP server, in the metadata.
//!
//! Must always hold: a changed table is durable before the change returns, and reaches every
//! [`WatchedTokens`] of the same metadata. Must not know: the text of a token.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use forebay_engine::tokens::{Token, TokenError, Tokens};
use forebay_messages::Timestamp;
use forebay_storage::metadata::{
    Change, MetaKey, MetadataError, MetadataStore, Precondition, Watch,
};

use crate::{error::NodeError, registry::Registry};

/// Attempts before a race with other writers is given up.
const TRIES_MAX: usize = 16;

/// The table of tokens as it is now.
pub struct WatchedTokens {
    current: Arc<RwLock<Arc<Tokens>>>,
    _watch: Watch,
}

impl WatchedTokens {
    /// The table.
    #[must_use]
    pub fn current(&self) -> Arc<Tokens> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The stored tokens and their version.
async fn stored(metadata: &dyn MetadataStore) -> Result<(Tokens, Precondition), NodeError> {
    match metadata.get(&MetaKey::tokens()).await? {
        None => Ok((Tokens::default(), Precondition::DoesNotExist)),
        Some(found) => {
            Ok((Tokens::decode(&found.value)?, Precondition::MatchesVersion(found.version)))
        }
    }
}

/// Changes the stored tokens by compare-and-swap; concurrent changes are retried.
async fn swap(
    metadata: &dyn MetadataStore,
    change: impl Fn(&mut Tokens) -> Result<(), TokenError> + Send,
) -> Result<Tokens, NodeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (mut tokens, precondition) = stored(metadata).await?;
        change(&mut tokens)?;
        let bytes = Bytes::from(tokens.encode());
        match metadata.put(&MetaKey::tokens(), bytes, precondition).await {
            Ok(_) => return Ok(tokens),
            Err(MetadataError::PreconditionFailed { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The tokens of a node.
pub struct TokenTable {
    registry: Arc<Registry>,
}

impl TokenTable {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The stored tokens. Cancel-safe.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn list(&self) -> Result<Tokens, NodeError> {
        stored(&*self.registry.metadata).await.map(|(tokens, _)| tokens)
    }

    /// Adds a token; returns all tokens. Durable when it returns.
    ///
    /// # Errors
    /// [`NodeError::Token`] when it is refused; nothing was changed then.
    pub async fn add(&self, name: &str, token: Token) -> Result<Tokens, NodeError> {
        self.registry.check_up()?;
        swap(&*self.registry.metadata, |tokens| tokens.add(name, token.clone())).await
    }

    /// Removes a token; returns the others. Durable when it returns.
    ///
    /// # Errors
    /// [`NodeError::Token`] when there is none of this name.
    pub async fn remove(&self, name: &str) -> Result<Tokens, NodeError> {
        self.registry.check_up()?;
        swap(&*self.registry.metadata, |tokens| tokens.remove(name)).await
    }

    /// The time of new tokens.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.registry.clock().now()
    }

    /// The table, kept up to date.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn watch(&self) -> Result<WatchedTokens, NodeError> {
        let current = Arc::new(RwLock::new(Arc::new(Tokens::default())));
        let shared = Arc::clone(&current);
        let on_change = move |change: &Change| match change
            .value
            .as_deref()
            .map_or_else(|| Ok(Tokens::default()), Tokens::decode)
        {
            Ok(tokens) => {
                *shared.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
            }
            Err(error) => tracing::error!(%error, "the tokens stay as they were"),
        };
        // The watch also calls it with the present value, so no change is missed.
        let watch = self.registry.metadata.watch(&MetaKey::tokens(), Box::new(on_change)).await?;
        Ok(WatchedTokens { current, _watch: watch })
    }
}
