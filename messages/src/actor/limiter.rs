//! What a limiter is told.

use std::sync::Arc;

use crate::{EntryId, PermitId, VQueueHandle, VQueueId, VQueueName, rule::RuleUpdate};

/// What an [`Acquire`] wants of its vqueue's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockWish {
    /// The vqueue has no object key.
    #[default]
    None,
    /// The lock must be free, and is taken with the permit.
    Take,
    /// The head entry kept the lock from an earlier attempt; it goes ahead under it.
    Held(EntryId),
}

/// A vqueue wants to run its head entries. Stands until granted or withdrawn; a
/// second one of the same handle replaces the first and keeps its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Who asks; grants go there.
    pub handle: VQueueHandle,
    /// Its id (locks are kept under it).
    pub vqueue: VQueueId,
    /// Its name: the levels it counts against.
    pub name: Arc<VQueueName>,
    /// How many permits at most (the quantum); 1 with a lock.
    pub count: u32,
    /// What it wants of the lock.
    pub lock: LockWish,
}

/// Consecutive permits of one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// The first.
    pub first: PermitId,
    /// How many; serials count up from the first.
    pub count: u32,
}

impl Permits {
    /// One permit.
    #[must_use]
    pub fn one(permit: PermitId) -> Self {
        Self { first: permit, count: 1 }
    }

    /// The first so many of them.
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
    /// Who asked.
    pub handle: VQueueHandle,
    /// What it got: at least one, at most what it asked for.
    pub permits: Permits,
}

/// A permit comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Which. One that is not held any more is refused and counted.
    pub permit: PermitId,
    /// The entry keeps its vqueue's lock (a retry): only the concurrency comes back.
    /// Otherwise a lock that was taken with the permit is freed too.
    pub keep_lock: Option<EntryId>,
}

/// What a fresh limiter is told before anybody may acquire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// The whole rule book in force, as updates against an empty one.
    pub rules: Vec<RuleUpdate>,
    /// Locks that are held, and by which entry.
    pub locks: Vec<(VQueueId, EntryId)>,
    /// Entries that run (or may still run).
    pub running: Vec<SeedRunning>,
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

/// What a limiter is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimiterMessage {
    /// The first message of an incarnation.
    Seed(Box<Seed>),
    /// Changed rules, one message for a whole diff.
    RulesUpdated(Vec<RuleUpdate>),
    /// A vqueue wants permits.
    Acquire(Acquire),
    /// Permits come back, in this order.
    Release(Vec<Release>),
    /// A lock that was kept without a permit is given up (the entry ended).
    FreeLock {
        /// The vqueue.
        vqueue: VQueueId,
        /// Who held it; anybody else's lock stays.
        entry: EntryId,
    },
    /// The vqueue is gone or wants nothing any more: forget what it asked for, and
    /// take back what was granted to this incarnation and not handed over.
    Withdraw(VQueueHandle),
    /// The partition took these permits over from the vqueue (with a decision): they
    /// no longer come back with [`LimiterMessage::Withdraw`].
    HandedOver(Permits),
    /// The node gave this partition capacity for so many more running entries.
    CapacityLeased(u32),
    /// The node wants capacity back: return what is unused, now and as it becomes
    /// unused, until the next lease.
    CapacityRecalled,
    /// Another partition's turn has come: return one slot, an unused one at once, or
    /// else the next that comes free, even when somebody waits for it here.
    CapacityClaimed,
    /// Time passed that somebody waited for (a token of a rate limit).
    Tick,
}
