//! The rule book of a node: its changes, and their distribution to the partitions.
//!
//! Owns: the distribution of a book from a change to the leading partitions. Must not know: the
//! meaning of a rule.

pub(crate) mod known;

mod change;
mod publish;
pub(crate) mod stored;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::registry::Registry;

/// The rule book of a node.
pub struct Rules {
    registry: Arc<Registry>,
}

impl Rules {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}
