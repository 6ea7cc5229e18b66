//! The rule book of a node: changing it, and bringing it to the partitions.

pub(crate) mod publish;

mod change;
