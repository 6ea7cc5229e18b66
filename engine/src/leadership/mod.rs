//! Leadership of one partition replica: Follower -> Candidate -> Leader and back, and
//! the order in which a leader's actors start.
//!
//! Must always hold:
//! - L1: the log is fenced at an epoch before that epoch is announced.
//! - L2: leadership begins when the own announcement is *applied*: everything before it in the log
//!   has been applied by then.
//! - L3: start order: the limiter is seeded, then attempts of earlier epochs begin to return to
//!   their inboxes, then the gate opens.
//! - L4: a newer epoch seen in the log ends a leadership at once.
//! - L5: more than [`RESTARTS_MAX`] restarts within [`RESTART_WINDOW_MS`] end it too; the replica
//!   runs again after a backoff.
//! - L6: no replica takes over on its own from a leader known to be alive; while any replica
//!   stands, a partition does not stay without a leader, whichever replica fenced another and died.
//! - L7: after `StepDown` a replica no longer leads once the deadline has passed, and does not run
//!   again before it receives `Run`.
//!
//! L6 where several replicas share a log: leaders hold a *lease*, which only says that they are
//! alive (a leader is fenced by the log, never by a clock). A standing replica runs when it sees
//! the lease free.
//!
//! Must not know: limits, entries, how actors are spawned, where leases are kept.

mod restarts;

pub use restarts::{RESTART_WINDOW_MS, RESTARTS_MAX, Restarts};

use forebay_messages::{Epoch, Generation, NodeId, Timestamp};

use crate::Machine;

/// First delay before running again, in milliseconds; doubles up to the maximum.
pub const BACKOFF_FIRST_MS: u64 = 100;
/// Longest delay before running again, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 10_000;
/// How long a rival that fenced this replica off has to announce itself before this one runs again,
/// in milliseconds.
pub const RIVAL_GRACE_MS: u64 = 1_000;
/// Additional delay per rank after the lease is seen free, in milliseconds.
pub const RANK_WAIT_MS: u64 = 500;

/// The role of a replica, as reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Applies the log and does nothing else.
    Follower,
    /// Has obtained an epoch and waits for its announcement to be applied.
    Candidate {
        /// The epoch.
        epoch: Epoch,
    },
    /// Leads.
    Leader {
        /// The epoch.
        epoch: Epoch,
        /// Whether the gate is open: clients are served.
        open: bool,
    },
}

/// Inputs of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipInput {
    /// Lead, even if another replica leads now; and stand from now on.
    Run,
    /// Lead when no other replica does.
    Stand {
        /// Lower ranks go first.
        rank: u8,
    },
    /// State of the lease; arrives regularly where several replicas share a log.
    Lease {
        /// The epoch of the holder; `None`: it is free.
        held: Option<Epoch>,
    },
    /// The metadata store granted an epoch that no other replica has.
    EpochObtained(Epoch),
    /// The metadata store granted no epoch.
    EpochRefused {
        /// The reason, for display.
        reason: String,
    },
    /// The log is fenced.
    LogFenced {
        /// At this epoch.
        epoch: Epoch,
    },
    /// The log was not fenced: another replica was faster.
    FenceFailed {
        /// At this epoch.
        epoch: Epoch,
        /// The epoch in force.
        current: Epoch,
    },
    /// The partition applied an announcement.
    Announced {
        /// The node that leads.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// The limiter is seeded.
    Seeded {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Attempts of earlier epochs are returning to their inboxes.
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
        /// The reason, for display.
        reason: String,
        /// The newer epoch in force, if that is the reason.
        fenced_by: Option<Epoch>,
    },
    /// Stop leading at once and do not run again before the next `Run`.
    StepDown,
    /// Stop leading in order: nothing new starts, running attempts may end.
    Leave {
        /// When handlers that still run are abandoned.
        by: Timestamp,
    },
    /// Nothing runs or waits any more, and the gate is closed.
    Quiet {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// The armed time was reached.
    RetryDue,
}

/// Effects of the supervisor, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipEffect {
    /// Raise the partition's epoch in the metadata store (compare-and-swap) above this one;
    /// answered once.
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
    /// Start a new limiter in place of any other.
    StartLimiter {
        /// Its incarnation.
        incarnation: Generation,
    },
    /// Let the partition seed it.
    Seed {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Let the partition return attempts of earlier epochs to their inboxes.
    Drain {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Let the partition serve clients.
    OpenGate {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Let the partition start nothing new and report when it is quiet.
    CloseGate {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Let the partition stop leading.
    StopLeading,
    /// Stop the limiter.
    StopLimiter,
    /// The role changed.
    Report(Role),
    /// A message for the operator.
    Warn(String),
    /// Take the lease, or extend it.
    HoldLease {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Release the lease, unless a newer epoch holds it.
    FreeLease {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Send `RetryDue` at this time.
    RetryAt(Timestamp),
}

/// The leadership of one replica.
#[derive(Debug)]
pub struct Leadership {
    node: NodeId,
    role: Role,
    /// Highest epoch seen anywhere.
    highest: Epoch,
    incarnation: Generation,
    restarts: Restarts,
    failures: u32,
    /// It runs when no replica leads; the value is its rank among the standing replicas.
    stands: Option<u8>,
    /// Another replica has announced itself since this one last led, and is not known to be gone.
    other_leads: bool,
    /// Since when the lease has been seen free.
    free_since: Option<Timestamp>,
    /// Time at which it runs again. Only the last armed time counts.
    retry_at: Option<Timestamp>,
    /// It has asked for an epoch and has no answer yet.
    asks_epoch: bool,
    /// It leads until it is quiet, at the latest until this time.
    leaves_by: Option<Timestamp>,
}

impl Leadership {
    /// A follower on a node whose store knows this epoch.
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
            asks_epoch: false,
            leaves_by: None,
        }
    }

    /// The current role.
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

    /// Runs again after a backoff of at least `wait_min_ms`.
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
        if self.role == Role::Follower && !self.asks_epoch {
            self.asks_epoch = true;
            effects.push(LeadershipEffect::ObtainEpoch { above: self.highest });
        }
    }

    fn leads(&self, epoch: Epoch) -> bool {
        matches!(&self.role, Role::Leader { epoch: own, .. } if *own == epoch)
    }

    fn on_announced(&mut self, node: NodeId, epoch: Epoch, effects: &mut Vec<LeadershipEffect>) {
        // An older announcement does not tell which replica leads now: a replica that starts sees
        // the announcements of earlier leaders, and the newest leader may have refused it
        // meanwhile.
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
        self.asks_epoch = false;
        if self.role != Role::Follower || self.stands.is_none() {
            return;
        }
        if epoch <= self.highest {
            // A newer epoch was announced since it was requested.
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

    fn on_epoch_refused(
        &mut self,
        now: Timestamp,
        reason: &str,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        self.asks_epoch = false;
        effects.push(LeadershipEffect::Warn(format!("cannot lead: {reason}")));
        if self.stands.is_some() && self.role == Role::Follower {
            self.run_later(now, 0, effects);
        }
    }

    fn on_draining(&mut self, epoch: Epoch, effects: &mut Vec<LeadershipEffect>) {
        if self.leads(epoch) {
            self.failures = 0;
            effects.push(LeadershipEffect::OpenGate { epoch });
            let open = self.leaves_by.is_none();
            self.become_role(Role::Leader { epoch, open }, effects);
        }
    }

    /// The log refuses this replica's writes, or will refuse them.
    fn on_refused(
        &mut self,
        now: Timestamp,
        reason: String,
        fenced_by: Option<Epoch>,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        // A replica that has left has already armed the next step.
        let Some(own) = self.own_epoch() else { return };
        if fenced_by.is_some_and(|epoch| epoch <= own) {
            // A late message about an earlier epoch.
            return;
        }
        effects.push(LeadershipEffect::Warn(reason));
        self.fall_back(effects);
        self.highest = self.highest.max(fenced_by.unwrap_or_default());
        if self.stands.is_some() {
            // The rival that fenced it may have died before announcing itself.
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
                // It was fenced off without noticing: the others must not wait for it.
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

    /// Stops leading in order; a replica that does not serve clients just stops.
    fn on_leave(&mut self, by: Timestamp, effects: &mut Vec<LeadershipEffect>) {
        self.stands = None;
        self.retry_at = None;
        if let Some(before) = self.leaves_by {
            // Already leaving: the deadline can only be moved forward.
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
            // It received `Run` while leaving.
            self.run_now(effects);
        }
    }

    fn on_retry_due(&mut self, now: Timestamp, effects: &mut Vec<LeadershipEffect>) {
        if self.leaves_by.is_some_and(|by| now >= by) {
            self.has_left(effects);
        } else if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            // L6: another replica may have begun to lead since the timer was armed.
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
                self.on_epoch_refused(now, &reason, effects);
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
            LeadershipInput::Draining { epoch } => self.on_draining(epoch, effects),
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
