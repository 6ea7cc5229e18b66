//! The rule book, as applications change it.

use std::sync::Arc;

use forebay_actors::node::{Node, RulesImpact};
use forebay_engine::rules::HistoryEntry;
pub use forebay_engine::rules::{
    BookVersion, Change, ChangeError, Edit, LimitsPatch, Precondition, RuleBook, RuleChange,
    RulePatch,
};
use forebay_messages::rule::{Limits, Pattern, PatternError};
use thiserror::Error;

use crate::error::NodeError;

/// A rule was not changed.
#[derive(Debug, Error)]
pub enum RulesError {
    /// The pattern is not one.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern where a key was asked for.
    #[error("`{0}` is a pattern; a key has no `*` in it")]
    NoKey(String),
    /// The node said no (a precondition failed, the book is full, ...).
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// The rule book of a runtime. Changes take effect on what starts from then on; they
/// return once every partition led here has applied them. A dropped call changes the book
/// all the same, once it was polled; to repeat it is safe, and waits for the partitions.
#[derive(Clone)]
pub struct Rules {
    node: Arc<Node>,
}

impl Rules {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Sets the limits of a pattern, whether or not there is a rule for it.
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn upsert(&self, pattern: &str, limits: Limits) -> Result<(), RulesError> {
        let pattern: Pattern = pattern.parse()?;
        self.node
            .change_rules("", move |book| {
                vec![book.upsert(pattern.clone(), RulePatch::limits(limits))]
            })
            .await?;
        Ok(())
    }

    /// Deletes the rule of a pattern; whether there was one.
    ///
    /// # Errors
    /// [`RulesError`].
    pub async fn delete(&self, pattern: &str) -> Result<bool, RulesError> {
        let pattern: Pattern = pattern.parse()?;
        let was_there = self.node.rule_book()?.get(&pattern).is_some();
        self.node
            .change_rules("", move |book| match book.get(&pattern) {
                Some(_) => vec![RuleChange::new(pattern.clone(), Change::Delete)],
                None => Vec::new(),
            })
            .await?;
        Ok(was_there)
    }

    /// The newest rule book.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn book(&self) -> Result<RuleBook, RulesError> {
        Ok(self.node.rule_book()?)
    }

    /// What changes would do to what runs and waits, as far as concurrency limits go;
    /// nothing is changed. `key`: also say which rules govern it. Cancel-safe.
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
    /// assert_eq!((then.pattern.as_str(), then.limits.concurrency), ("tenant-a/*", Some(1)));
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
        Ok(self.node.test_rules(|_| changes, &key).await?)
    }

    /// The versions of the book that are kept, oldest first, each with author and time.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn history(&self) -> Result<Vec<HistoryEntry>, RulesError> {
        Ok(self.node.rule_book_history()?.entries().to_vec())
    }

    /// Puts the rules of an earlier version in force again, as a new version.
    ///
    /// # Errors
    /// [`RulesError`]; when that version is not kept any more.
    pub async fn rollback(
        &self,
        author: &str,
        version: BookVersion,
    ) -> Result<RuleBook, RulesError> {
        Ok(self.node.rollback_rules(author, version).await?)
    }

    /// Applies changes all or none, each with its precondition. `author` is kept in the
    /// history.
    ///
    /// # Errors
    /// [`RulesError`]; a failed precondition says what was expected and what was found.
    pub async fn change(
        &self,
        author: &str,
        changes: Vec<RuleChange>,
    ) -> Result<RuleBook, RulesError> {
        Ok(self.node.change_rules(author, move |_| changes.clone()).await?)
    }
}
