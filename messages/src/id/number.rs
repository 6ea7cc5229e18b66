//! Ids that are numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::wire_number;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $encoding:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        wire_number!($name, $inner, $encoding);

        impl $name {
            /// The next one. Panics on overflow, which cannot happen in practice.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("an id counter overflowed"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A point of the 64-bit key space; decides which partition owns an entry.
    PartitionKey, u64, Fixed
);
number!(
    /// A partition: a shard of the key space. Never a tenant.
    PartitionId, u32, Varint
);
number!(
    /// A position in a log. The first record has LSN 1; 0 means "nothing yet".
    Lsn, u64, Varint
);
number!(
    /// Leader epoch of a partition: only grows; fences stale leaders.
    Epoch, u64, Varint
);
number!(
    /// Incarnation of an actor under one epoch.
    Generation, u32, Varint
);
number!(
    /// The partition's inbox sequence, assigned when an entry is put in an inbox.
    InboxSeq, u64, Varint
);
number!(
    /// Sequence of a producer's records, for deduplication.
    RecordSeq, u64, Varint
);
number!(
    /// A run of an entry: its journal begins empty with each. The first is 0.
    Run, u32, Varint
);
number!(
    /// Incarnation of a partition's outbox: grows when the partition is restored, so that
    /// indexes given again are not taken for repetitions. The first is 0.
    Incarnation, u64, Varint
);
number!(
    /// A node of the cluster.
    NodeId, u32, Varint
);
number!(
    /// The receiver of an answer; assigned by a shell, opaque to machines.
    ReplyId, u64, Varint
);
number!(
    /// Identity of a rule: xxh3-64 of its pattern's display form. Printed `rul_…`.
    RuleId, u64, Fixed
);

/// Address of an active vqueue inside its partition: a slot and its incarnation.
///
/// Slots are reused; the generation distinguishes the incarnations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VQueueHandle {
    /// Index in the partition's registry.
    pub slot: u32,
    /// Incarnation of that slot.
    pub generation: Generation,
}

/// The right to run one entry, held from grant to release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId {
    /// Incarnation of the limiter that granted it.
    pub incarnation: Generation,
    /// Number of the grant within that incarnation, from 1.
    pub serial: u64,
}

/// Fences the completion of an attempt that has been superseded.
///
/// Created when a decision to run is proposed: the leader's epoch and a sequence under it. A later
/// attempt of the same entry has a greater token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, bilrost::Message)]
pub struct AttemptToken {
    /// Epoch of the leader that decided.
    #[bilrost(1)]
    pub epoch: Epoch,
    /// Sequence of the decision under that epoch.
    #[bilrost(2)]
    pub seq: u64,
}

impl fmt::Display for AttemptToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}
