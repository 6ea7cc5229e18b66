//! Leadership of one partition replica: Follower -> Candidate -> Leader and back, and
//! the order in which a leader's actors start.
//!
//! Must always hold:
//! - L1: the log is fenced at an epoch before that epoch is announced.
//! - L2: leadership begins when the own announcement is *applied*: everything before
//!   it in the log has been applied then.
//! - L3: order of a start: limiter seeded, then attempts of earlier epochs begin to go
//!   back, then the gate opens.
//! - L4: a newer epoch seen in the log ends a leadership at once.
//! - L5: more than [`RESTARTS_MAX`] restarts within [`RESTART_WINDOW_MS`] end it too;
//!   it runs again after a backoff.
//! - L6: nobody takes over by itself from a leader that is known to live; as long as
//!   somebody stands, a partition does not stay without a leader, whoever fenced whom
//!   and died.
//! - L7: whoever was told to leave leads no more by the deadline, and does not run
//!   again before it is told to.
//!
//! L6 where several replicas share a log: leaders hold a *lease*, which says that they
//! live and nothing else (a leader is fenced by the log, never by a clock). A replica
//! that stands runs when it sees the lease free.
//!
//! Must not know: limits, entries, how actors are spawned, where leases are kept.

mod restarts;

pub use restarts::{RESTART_WINDOW_MS, RESTARTS_MAX, Restarts};

use forebay_messages::{Epoch, Generation, NodeId, Timestamp};

use crate::Machine;

/// First wait before running again, in milliseconds; doubles up to the maximum.
pub const BACKOFF_FIRST_MS: u64 = 100;
/// Longest wait before running again, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 10_000;
/// How long whoever fenced this replica off gets to announce itself before this one
/// runs again, in milliseconds.
pub const RIVAL_GRACE_MS: u64 = 1_000;
/// How much longer each rank waits after it saw the lease free, in milliseconds.
pub const RANK_WAIT_MS: u64 = 500;

/// The role of a replica, as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Applies what the log says, nothing else.
    Follower,
    /// Obtained an epoch, waits for its announcement.
    Candidate {
        /// The epoch.
        epoch: Epoch,
    },
    /// Leads; `open`: the gate is open.
    Leader {
        /// The epoch.
        epoch: Epoch,
        /// Clients are served.
        open: bool,
    },
}

/// What the supervisor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipInput {
    /// Lead, whoever leads now; and stand from now on.
    Run,
    /// Lead when nobody does.
    Stand {
        /// Those of a lower rank go first.
        rank: u8,
    },
    /// How the lease looks; comes regularly where several replicas share a log.
    Lease {
        /// The epoch of whoever holds it; `None`: nobody does (any more).
        held: Option<Epoch>,
    },
    /// The metadata store gave an epoch that nobody else has.
    EpochObtained(Epoch),
    /// It did not.
    EpochRefused {
        /// Why, for people.
        reason: String,
    },
    /// The log is fenced.
    LogFenced {
        /// At this epoch.
        epoch: Epoch,
    },
    /// The log was not fenced: somebody else was faster.
    FenceFailed {
        /// At this epoch.
        epoch: Epoch,
        /// The epoch in force.
        current: Epoch,
    },
    /// The partition applied an announcement.
    Announced {
        /// Who leads.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// The limiter is seeded.
    Seeded {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Attempts of earlier epochs go back to their inboxes.
    Draining {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// The limiter died.
    LimiterDied {
        /// Which incarnation.
        incarnation: Generation,
    },
    /// The log refuses what the leader writes.
    Refused {
        /// Why, for people.
        reason: String,
        /// The epoch in force, when it is that.
        fenced_by: Option<Epoch>,
    },
    /// Stop leading at once and do not run again by yourself.
    StepDown,
    /// Stop leading in order: nothing new starts, what runs may end.
    Leave {
        /// When whatever still runs is left behind.
        by: Timestamp,
    },
    /// Nothing runs and nobody waits any more, and the gate is closed.
    Quiet {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// A time came that was armed for.
    RetryDue,
}

/// What the supervisor wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipEffect {
    /// Raise the partition's epoch in the metadata store (compare-and-swap), above
    /// this one; answered once.
    ObtainEpoch {
        /// The highest epoch known here.
        above: Epoch,
    },
    /// Fence the log; answered once.
    Fence {
        /// At this epoch.
        epoch: Epoch,
    },
    /// Have the partition announce the epoch.
    Announce {
        /// The epoch.
        epoch: Epoch,
    },
    /// Start a fresh limiter in place of any other.
    StartLimiter {
        /// Its incarnation.
        incarnation: Generation,
    },
    /// Have the partition seed it.
    Seed {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Have the partition give back attempts of earlier epochs.
    Drain {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Have the partition serve clients.
    OpenGate {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Have the partition start nothing new and say when it is quiet.
    CloseGate {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Have the partition stop leading.
    StopLeading,
    /// Stop the limiter.
    StopLimiter,
    /// The role changed.
    Report(Role),
    /// Something that a person should know.
    Warn(String),
    /// Take the lease, or hold it for longer.
    HoldLease {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Give the lease free, unless a newer epoch has it.
    FreeLease {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Come back with `RetryDue`.
    RetryAt(Timestamp),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Leadership {
    node: NodeId,
    role: Role,
    /// Highest epoch seen anywhere.
    highest: Epoch,
    incarnation: Generation,
    restarts: Restarts,
    failures: u32,
    /// It runs when nobody leads; its rank among those who do.
    stands: Option<u8>,
    /// Somebody else announced itself since this one last led, and is not known to be
    /// gone.
    other_leads: bool,
    /// Since when the lease is seen free.
    free_since: Option<Timestamp>,
    /// When it runs again. Only the last one armed counts.
    retry_at: Option<Timestamp>,
    /// It leads until it is quiet, at most until then.
    leaves_by: Option<Timestamp>,
}

impl Leadership {
    /// A follower on a node, whose store knows of this epoch.
    #[must_use]
    pub fn new(node: NodeId, highest: Epoch) -> Self {
        Self {
            node,
            role: Role::Follower,
            highest,
            incarnation: Generation::default(),
            restarts: Restarts::default(),
            failures: 0,
            stands: None,
            other_leads: false,
            free_since: None,
            retry_at: None,
            leaves_by: None,
        }
    }

    /// The present role.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    fn own_epoch(&self) -> Option<Epoch> {
        match self.role {
            Role::Follower => None,
            Role::Candidate { epoch } | Role::Leader { epoch, .. } => Some(epoch),
        }
    }

    fn become_role(&mut self, role: Role, effects: &mut Vec<LeadershipEffect>) {
        if self.role != role {
            self.role = role.clone();
            effects.push(LeadershipEffect::Report(role));
        }
    }

    fn start_limiter(&mut self, epoch: Epoch, effects: &mut Vec<LeadershipEffect>) {
        self.incarnation = self.incarnation.next();
        effects.push(LeadershipEffect::StartLimiter { incarnation: self.incarnation });
        effects.push(LeadershipEffect::Seed { epoch });
    }

    fn fall_back(&mut self, effects: &mut Vec<LeadershipEffect>) {
        self.leaves_by = None;
        if let Some(epoch) = self.own_epoch() {
            effects.push(LeadershipEffect::StopLeading);
            effects.push(LeadershipEffect::StopLimiter);
            effects.push(LeadershipEffect::FreeLease { epoch });
            self.become_role(Role::Follower, effects);
        }
    }

    /// Runs again after a backoff, and not before `wait_min_ms`.
    fn run_later(&mut self, now: Timestamp, wait_min_ms: u64, effects: &mut Vec<LeadershipEffect>) {
        let backoff = (BACKOFF_FIRST_MS << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures += 1;
        let at = Timestamp(now.0 + backoff.max(wait_min_ms));
        self.retry_at = Some(at);
        effects.push(LeadershipEffect::RetryAt(at));
    }

    fn run_now(&mut self, effects: &mut Vec<LeadershipEffect>) {
        self.retry_at = None;
        self.free_since = None;
        if self.role == Role::Follower {
            effects.push(LeadershipEffect::ObtainEpoch { above: self.highest });
        }
    }

    fn leads(&self, epoch: Epoch) -> bool {
        matches!(&self.role, Role::Leader { epoch: own, .. } if *own == epoch)
    }

    fn on_announced(&mut self, node: NodeId, epoch: Epoch, effects: &mut Vec<LeadershipEffect>) {
        // Of an older one nothing follows for who leads now: a replica that starts hears of
        // those that led before, and may have been refused by the newest meanwhile.
        let is_newest = epoch >= self.highest;
        self.highest = self.highest.max(epoch);
        let own = self.own_epoch().unwrap_or_default();
        if epoch == own && node == self.node {
            assert!(matches!(self.role, Role::Candidate { .. }), "L2: announced once");
            self.other_leads = false;
            self.become_role(Role::Leader { epoch, open: false }, effects);
            self.start_limiter(epoch, effects);
        } else if epoch > own {
            if own > Epoch::default() {
                effects.push(LeadershipEffect::Warn(format!(
                    "node {node} leads under epoch {epoch}: stepping down from {own}"
                )));
            }
            if is_newest {
                self.other_leads = node != self.node;
                self.retry_at = None;
                self.free_since = None;
            }
            self.fall_back(effects);
        }
    }

    fn on_epoch_obtained(
        &mut self,
        now: Timestamp,
        epoch: Epoch,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        if self.role != Role::Follower || self.stands.is_none() {
            return;
        }
        if epoch <= self.highest {
            // Somebody announced a newer one since it was asked for.
            effects.push(LeadershipEffect::Warn(format!(
                "cannot lead: epoch {epoch} is not newer than {}",
                self.highest
            )));
            if !self.other_leads {
                self.run_later(now, 0, effects);
            }
            return;
        }
        self.highest = epoch;
        self.become_role(Role::Candidate { epoch }, effects);
        effects.push(LeadershipEffect::HoldLease { epoch });
        effects.push(LeadershipEffect::Fence { epoch });
    }

    /// The log refuses what this replica writes, or will refuse it.
    fn on_refused(
        &mut self,
        now: Timestamp,
        reason: String,
        fenced_by: Option<Epoch>,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        // Whoever has left already arranged then for what follows.
        let Some(own) = self.own_epoch() else { return };
        if fenced_by.is_some_and(|epoch| epoch <= own) {
            // Late news about an epoch before its own.
            return;
        }
        effects.push(LeadershipEffect::Warn(reason));
        self.fall_back(effects);
        self.highest = self.highest.max(fenced_by.unwrap_or_default());
        if self.stands.is_some() {
            // Whoever fenced it may have died before it announced itself.
            let grace = if fenced_by.is_some() { RIVAL_GRACE_MS } else { 0 };
            self.run_later(now, grace, effects);
        }
    }

    fn on_limiter_died(
        &mut self,
        now: Timestamp,
        incarnation: Generation,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        let Role::Leader { epoch, .. } = self.role else { return };
        if incarnation != self.incarnation {
            return;
        }
        if !self.restarts.may_restart(now) {
            effects.push(LeadershipEffect::Warn(format!(
                "the limiter died more than {RESTARTS_MAX} times in 30 s: stepping down"
            )));
            let leaves = self.leaves_by.is_some();
            self.fall_back(effects);
            if !leaves {
                self.run_later(now, 0, effects);
            }
            return;
        }
        self.become_role(Role::Leader { epoch, open: false }, effects);
        self.start_limiter(epoch, effects);
    }

    fn on_lease(
        &mut self,
        now: Timestamp,
        held: Option<Epoch>,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        match (self.own_epoch(), held) {
            (Some(own), Some(held)) if held > own => {
                // It was fenced off and has not heard of it: whoever waits must not.
                let reason = format!("epoch {held} holds the lease: stepping down from {own}");
                self.on_refused(now, reason, Some(held), effects);
            }
            (Some(own), _) => effects.push(LeadershipEffect::HoldLease { epoch: own }),
            (None, Some(_)) => self.free_since = None,
            (None, None) => {
                self.other_leads = false;
                let since = *self.free_since.get_or_insert(now);
                let wait = self.stands.map(|rank| u64::from(rank) * RANK_WAIT_MS);
                let is_due = wait.is_some_and(|wait| now.0 >= since.0 + wait);
                if is_due && self.retry_at.is_none() {
                    self.run_now(effects);
                }
            }
        }
    }

    /// Stops leading in order; whoever does not serve clients just stops.
    fn on_leave(&mut self, by: Timestamp, effects: &mut Vec<LeadershipEffect>) {
        self.stands = None;
        self.retry_at = None;
        if let Some(before) = self.leaves_by {
            // It leaves already: it may be told to hurry, not to stay longer.
            let by = by.min(before);
            self.leaves_by = Some(by);
            return effects.push(LeadershipEffect::RetryAt(by));
        }
        let Role::Leader { epoch, open: true } = self.role else {
            return self.fall_back(effects);
        };
        self.leaves_by = Some(by);
        effects.push(LeadershipEffect::CloseGate { epoch });
        self.become_role(Role::Leader { epoch, open: false }, effects);
        effects.push(LeadershipEffect::RetryAt(by));
    }

    fn has_left(&mut self, effects: &mut Vec<LeadershipEffect>) {
        self.fall_back(effects);
        if self.stands.is_some() {
            // It was told to run while it left.
            self.run_now(effects);
        }
    }

    fn on_retry_due(&mut self, now: Timestamp, effects: &mut Vec<LeadershipEffect>) {
        if self.leaves_by.is_some_and(|by| now >= by) {
            self.has_left(effects);
        } else if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            // L6: since it was armed, somebody else may have begun to lead.
            if self.stands.is_some() && !self.other_leads {
                self.run_now(effects);
            }
        }
    }
}

impl Machine for Leadership {
    type Input = LeadershipInput;
    type Effect = LeadershipEffect;

    fn step(
        &mut self,
        now: Timestamp,
        input: LeadershipInput,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        match input {
            LeadershipInput::Run => {
                self.stands = Some(self.stands.unwrap_or_default());
                self.other_leads = false;
                self.run_now(effects);
            }
            LeadershipInput::Stand { rank } => self.stands = Some(rank),
            LeadershipInput::Lease { held } => self.on_lease(now, held, effects),
            LeadershipInput::EpochObtained(epoch) => self.on_epoch_obtained(now, epoch, effects),
            LeadershipInput::LogFenced { epoch } => {
                if self.role == (Role::Candidate { epoch }) {
                    effects.push(LeadershipEffect::Announce { epoch });
                }
            }
            LeadershipInput::EpochRefused { reason } => {
                effects.push(LeadershipEffect::Warn(format!("cannot lead: {reason}")));
                if self.stands.is_some() && self.role == Role::Follower {
                    self.run_later(now, 0, effects);
                }
            }
            LeadershipInput::FenceFailed { epoch, current } => {
                if self.role == (Role::Candidate { epoch }) {
                    let reason = format!("cannot lead: {epoch} is too old, {current} is in force");
                    self.on_refused(now, reason, Some(current), effects);
                }
            }
            LeadershipInput::Announced { node, epoch } => self.on_announced(node, epoch, effects),
            LeadershipInput::Seeded { epoch } => {
                if self.leads(epoch) {
                    effects.push(LeadershipEffect::Drain { epoch });
                }
            }
            LeadershipInput::Draining { epoch } => {
                if self.leads(epoch) {
                    self.failures = 0;
                    effects.push(LeadershipEffect::OpenGate { epoch });
                    let open = self.leaves_by.is_none();
                    self.become_role(Role::Leader { epoch, open }, effects);
                }
            }
            LeadershipInput::LimiterDied { incarnation } => {
                self.on_limiter_died(now, incarnation, effects);
            }
            LeadershipInput::Refused { reason, fenced_by } => {
                self.on_refused(now, reason, fenced_by, effects);
            }
            LeadershipInput::StepDown => {
                self.stands = None;
                self.retry_at = None;
                self.fall_back(effects);
            }
            LeadershipInput::Leave { by } => self.on_leave(by, effects),
            LeadershipInput::Quiet { epoch } => {
                if self.leaves_by.is_some() && self.leads(epoch) {
                    self.has_left(effects);
                }
            }
            LeadershipInput::RetryDue => self.on_retry_due(now, effects),
        }
    }
}

#[cfg(test)]
mod tests;
