//! The rule book, for applications.

use std::sync::Arc;

use forebay_actors::node::Node;
use forebay_api::RulesImpact;
use forebay_engine::rules::HistoryEntry;
pub use forebay_engine::rules::{
    BookVersion, Change, ChangeError, Edit, LimitsPatch, Precondition, RuleBook, RuleChange,
    RulePatch,
};
use forebay_messages::rule::{Limits, Pattern, PatternError};
use thiserror::Error;

use crate::error::{ErrorKind, NodeError};

/// A rule was not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RulesError {
    /// Not a valid pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern where a key is required.
    #[error("`{0}` is a pattern; a key has no `*` in it")]
    NoKey(String),
    /// The node refused (a precondition failed, the book is full, ...).
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl From<forebay_actors::error::NodeError> for RulesError {
    fn from(cause: forebay_actors::error::NodeError) -> Self {
        Self::Node(cause.into())
    }
}

impl RulesError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Pattern(_) | Self::NoKey(_) => ErrorKind::BadInput,
            Self::Node(error) => error.kind(),
        }
    }
}

/// The rule book of a runtime. Changes apply to entries that start afterwards; calls return once
/// every partition led here has applied them. A dropped call changes the book anyway, once it was
/// polled; repeating it is safe, and waits for the partitions.
#[derive(Clone)]
pub struct Rules {
    node: Arc<Node>,
}

impl Rules {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Sets limits of a pattern, whether or not it has a rule. Limits that are not specified stay
    /// unchanged, as with `forebay rules set`: the rule's other limits, and a pause.
    /// [`Rules::replace`] removes unspecified limits, [`Rules::resume`] ends a pause.
    ///
    /// # Errors
    /// [`RulesError`]; a limit of zero is refused.
    pub async fn upsert(&self, pattern: &str, limits: Limits) -> Result<(), RulesError> {
        self.set(pattern, LimitsPatch::keeping_others(limits)).await
    }

    /// Sets all limits of a pattern, whether or not it has a rule. Limits that are not specified
    /// are removed, including a pause.
    ///
    /// ```
    /// # use forebay::{Drain, Limits, Runtime};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder().in_memory().start().await?;
    /// let weighty = Limits { weight: std::num::NonZeroU32::new(3), ..Limits::default() };
    /// runtime.rules().upsert("tenant-a", Limits::concurrency(5)).await?;
    /// runtime.rules().upsert("tenant-a", weighty).await?; // and the 5 stay
    /// runtime.rules().replace("tenant-a", Limits::concurrency(7)).await?; // weight 1 again
    /// # let book = runtime.rules().book().await?;
    /// # assert_eq!(book.get(&"tenant-a".parse()?).unwrap().limits, Limits::concurrency(7));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RulesError`]; a limit of zero is refused.
    pub async fn replace(&self, pattern: &str, limits: Limits) -> Result<(), RulesError> {
        self.set(pattern, limits.into()).await
    }

    /// Pauses a tenant (a pattern), or a service as `service:NAME`: no present or future entries
    /// start under it until it is resumed. Running entries continue. The pause is in the rule book
    /// and survives restarts. Pausing it again changes nothing.
    ///
    /// A pause applies to every key that the pattern matches: a pause of `*` stops all scopes,
    /// including the ones with rules of their own.
    ///
    /// ```
    /// # use forebay::{Drain, Runtime};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder().in_memory().start().await?;
    /// runtime.rules().pause("tenant-a").await?;
    /// runtime.rules().pause("service:mail").await?;
    /// assert!(runtime.rules().resume("tenant-a").await?);
    /// assert!(!runtime.rules().resume("tenant-a").await?, "it runs already");
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn pause(&self, pattern: &str) -> Result<(), RulesError> {
        self.set(pattern, LimitsPatch::paused(true)).await
    }

    /// Ends a pause of a pattern or a service; returns whether there was one. Other pauses that
    /// match the same work stay.
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn resume(&self, pattern: &str) -> Result<bool, RulesError> {
        let pattern: Pattern = pattern.parse()?;
        let is_paused = |book: &RuleBook, pattern: &Pattern| {
            book.get(pattern).is_some_and(|rule| rule.limits.paused)
        };
        let was_paused = is_paused(&self.node.rules().newest().await?, &pattern);
        let resumed = RulePatch { limits: LimitsPatch::paused(false), ..RulePatch::default() };
        self.node
            .rules()
            .change_rules("", move |book| match is_paused(book, &pattern) {
                true => vec![book.upsert(pattern.clone(), resumed.clone())],
                false => Vec::new(),
            })
            .await?;
        Ok(was_paused)
    }

    async fn set(&self, pattern: &str, limits: LimitsPatch) -> Result<(), RulesError> {
        let pattern: Pattern = pattern.parse()?;
        let patch = RulePatch { limits, ..RulePatch::default() };
        self.node
            .rules()
            .change_rules("", move |book| vec![book.upsert(pattern.clone(), patch.clone())])
            .await?;
        Ok(())
    }

    /// Deletes the rule of a pattern; returns whether there was one.
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn delete(&self, pattern: &str) -> Result<bool, RulesError> {
        let pattern: Pattern = pattern.parse()?;
        let was_there = self.node.rules().newest().await?.get(&pattern).is_some();
        self.node
            .rules()
            .change_rules("", move |book| match book.get(&pattern) {
                Some(_) => vec![RuleChange::new(pattern.clone(), Change::Delete)],
                None => Vec::new(),
            })
            .await?;
        Ok(was_there)
    }

    /// The newest rule book. Cancel-safe.
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn book(&self) -> Result<RuleBook, RulesError> {
        Ok(self.node.rules().newest().await?)
    }

    /// The effect that changes would have on running and waiting entries, as far as concurrency
    /// limits and pauses of patterns go (not pauses of services); nothing is changed. `key`: also
    /// report which rules govern it. Cancel-safe.
    ///
    /// ```
    /// # use forebay::{Context, Drain, Entry, Limits, Runtime};
    /// use forebay::rules::{Change, RuleChange, RulePatch};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .in_memory()
    /// #     .handler("work", |_: Context, (): ()| async { Ok(()) })
    /// #     .start()
    /// #     .await?;
    /// let one = Change::Create(RulePatch::limits(Limits::concurrency(1)));
    /// let change = RuleChange::new("tenant-a/*".parse()?, one);
    /// let impact = runtime.rules().test(vec![change], Some("tenant-a/gold")).await?;
    /// let then = impact.governs[1].then.as_ref().expect("the new rule");
    /// assert_eq!((then.pattern.as_str(), then.limits), ("tenant-a/*", Limits::concurrency(1)));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RulesError`]: when the changes would be refused, and when a read fails.
    pub async fn test(
        &self,
        changes: Vec<RuleChange>,
        key: Option<&str>,
    ) -> Result<RulesImpact, RulesError> {
        let key = match key {
            None => Vec::new(),
            Some(text) => {
                let pattern: Pattern = text.parse()?;
                pattern.as_key().ok_or_else(|| RulesError::NoKey(text.to_owned()))?
            }
        };
        Ok(self.node.inspect().test_rules(|_| changes, &key).await?)
    }

    /// The kept versions of the book, oldest first, each with author and time. Cancel-safe.
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, RulesError> {
        Ok(self.node.rules().history().await?.entries().to_vec())
    }

    /// Puts the rules of an earlier version in force again, as a new version.
    ///
    /// # Errors
    /// [`RulesError`]; also when that version is no longer kept.
    pub async fn rollback(
        &self,
        author: &str,
        version: BookVersion,
    ) -> Result<RuleBook, RulesError> {
        Ok(self.node.rules().rollback_rules(author, version).await?)
    }

    /// Applies changes all or none, each with its precondition. `author` is kept in the
    /// history.
    ///
    /// # Errors
    /// [`RulesError`]; a failed precondition contains the expected and the actual value.
    pub async fn change(
        &self,
        author: &str,
        changes: Vec<RuleChange>,
    ) -> Result<RuleBook, RulesError> {
        Ok(self.node.rules().change_rules(author, move |_| changes.clone()).await?)
    }
}
