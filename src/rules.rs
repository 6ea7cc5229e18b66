//! The rule book, as applications change it.

use std::sync::Arc;

use forebay_actors::node::Node;
use forebay_engine::rules::{Change, RuleBook, RuleChange, RulePatch};
use forebay_messages::rule::{Limits, Pattern, PatternError};
use thiserror::Error;

use crate::error::NodeError;

/// A rule was not changed.
#[derive(Debug, Error)]
pub enum RulesError {
    /// The pattern is not one.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The node said no (a precondition failed, the book is full, ...).
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// The rule book of a runtime. Changes take effect on what starts from then on; they
/// return once every partition led here has applied them.
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
