//! Messages to a limiter.

use std::sync::Arc;

use bytestring::ByteString;

use crate::{EntryId, PermitId, VQueueHandle, VQueueId, VQueueName, rule::RuleUpdate};

/// The request of an [`Acquire`] for its vqueue's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockWish {
    /// The vqueue has no object key.
    #[default]
    None,
    /// The lock must be free, and is taken with the permit.
    Take,
    /// The head entry kept the lock from an earlier attempt and runs under it.
    Held(EntryId),
}

/// A request for permits to run the vqueue's head entries. Stands until granted or withdrawn; a
/// second one of the same handle replaces the first and keeps its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// The requesting vqueue; grants are sent to it.
    pub handle: VQueueHandle,
    /// Its id (the key of its lock).
    pub vqueue: VQueueId,
    /// Its name: the levels it counts against.
    pub name: Arc<VQueueName>,
    /// Maximum number of permits (the quantum); 1 with a lock.
    pub count: u32,
    /// Its request for the lock.
    pub lock: LockWish,
}

/// Consecutive permits of one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// The first permit.
    pub first: PermitId,
    /// Their number; serials count up from the first.
    pub count: u32,
}

impl Permits {
    /// One permit.
    #[must_use]
    pub fn one(permit: PermitId) -> Self {
        Self { first: permit, count: 1 }
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(self, count: u32) -> Self {
        assert!(count <= self.count, "{count} of {self:?}");
        Self { count, ..self }
    }

    /// The permits one by one.
    pub fn iter(self) -> impl Iterator<Item = PermitId> {
        let PermitId { incarnation, serial } = self.first;
        (0..u64::from(self.count)).map(move |i| PermitId { incarnation, serial: serial + i })
    }
}

/// An answer to an [`Acquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The requesting vqueue.
    pub handle: VQueueHandle,
    /// The permits: at least one, at most the requested number.
    pub permits: Permits,
}

/// A permit is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The permit. One that is not held any more is rejected and counted.
    pub permit: PermitId,
    /// The entry keeps its vqueue's lock (a retry): only the concurrency is returned. Otherwise a
    /// lock that was taken with the permit is freed too.
    pub keep_lock: Option<EntryId>,
}

/// The initial state of a new limiter, before the first acquire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// The whole current rule book, as updates of an empty one.
    pub rules: Vec<RuleUpdate>,
    /// Held locks, and the entries that hold them: all of them, or, if there are very many, those
    /// of running entries. The others are sent as [`LimiterMessage::LockHeld`] before a request
    /// that they concern.
    pub locks: Vec<(VQueueId, EntryId)>,
    /// Entries that run (or may still run).
    pub running: Vec<SeedRunning>,
    /// Services whose entries need a slot, see [`LimiterMessage::SlotsAnnounced`].
    pub services: Vec<ByteString>,
}

/// An entry that already runs when the limiter starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedRunning {
    /// The entry.
    pub entry: EntryId,
    /// Its vqueue.
    pub vqueue: VQueueId,
    /// The vqueue's name.
    pub name: Arc<VQueueName>,
}

/// A change of this partition's share of the slots of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// As [`LimiterMessage::CapacityLeased`].
    Leased(u32),
    /// As [`LimiterMessage::CapacityRecalled`].
    Recalled,
    /// As [`LimiterMessage::CapacityClaimed`].
    Claimed,
}

/// Messages to a limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimiterMessage {
    /// The first message of an incarnation.
    Seed(Box<Seed>),
    /// Changed rules, one message for a whole difference.
    RulesUpdated(Vec<RuleUpdate>),
    /// A vqueue requests permits.
    Acquire(Acquire),
    /// A lock is held that may not have been in the seed; ignored if its holder is known.
    LockHeld {
        /// The vqueue.
        vqueue: VQueueId,
        /// The holder.
        entry: EntryId,
    },
    /// Permits are returned, in this order.
    Release(Vec<Release>),
    /// A lock that was kept without a permit is released (the entry ended).
    FreeLock {
        /// The vqueue.
        vqueue: VQueueId,
        /// The holder; a lock held by another entry is unchanged.
        entry: EntryId,
    },
    /// The vqueue is gone or needs nothing any more: drop its request, and take back permits
    /// granted to this incarnation and not handed over.
    Withdraw(VQueueHandle),
    /// The partition took over these permits from the vqueue (with a decision): they are no longer
    /// returned by [`LimiterMessage::Withdraw`].
    HandedOver(Permits),
    /// The node leased this many more slots to this partition.
    CapacityLeased(u32),
    /// The node wants capacity back: return unused slots, now and as they become unused, until the
    /// next lease.
    CapacityRecalled,
    /// It is another partition's turn: return one slot, an unused one at once, otherwise the next
    /// one freed, even if a vqueue here waits for it.
    CapacityClaimed,
    /// Executors beside the handlers of the process run a service: from now on its entries need a
    /// slot of one of them. Before the first request of that service.
    SlotsAnnounced(ByteString),
    /// This partition's share of the slots of an announced service changes.
    Slots {
        /// The service.
        service: ByteString,
        /// How.
        change: SlotChange,
    },
    /// A requested time has come (a token of a rate limit is available).
    Tick,
}
