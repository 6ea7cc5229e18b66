//! Leadership of one partition replica: Follower -> Candidate -> Leader and back, and
//! the order in which a leader's actors start.
//!
//! Must always hold:
//! - L1: the log is fenced at an epoch before that epoch is announced.
//! - L2: leadership begins when the own announcement is *applied*: everything before
//!   it in the log has been applied then.
//! - L3: order of a start: limiter seeded, then attempts of earlier epochs drained,
//!   then the gate opens.
//! - L4: a newer epoch seen in the log ends a leadership at once.
//! - L5: more than [`RESTARTS_MAX`] restarts within [`RESTART_WINDOW_MS`] end it too;
//!   it runs again after a backoff.
//!
//! Must not know: limits, entries, how actors are spawned.

use std::collections::VecDeque;

use forebay_messages::{Epoch, Generation, NodeId, Timestamp};

use crate::Machine;

/// Restarts of leader-only actors that a leadership survives within the window.
pub const RESTARTS_MAX: usize = 3;
/// The window, in milliseconds.
pub const RESTART_WINDOW_MS: u64 = 30_000;
/// First wait before running again, in milliseconds; doubles up to the maximum.
pub const BACKOFF_FIRST_MS: u64 = 100;
/// Longest wait before running again, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 10_000;

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
    /// Try to lead.
    Run,
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
    /// The log could not be fenced.
    FenceFailed {
        /// Why, for people.
        reason: String,
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
    /// Attempts of earlier epochs are back in their inboxes.
    Drained {
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
    /// Stop leading and do not run again by yourself.
    StepDown,
    /// The time came that was armed for.
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
    /// Have the partition stop leading.
    StopLeading,
    /// Stop the limiter.
    StopLimiter,
    /// The role changed.
    Report(Role),
    /// Something that a person should know.
    Warn(String),
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
    restarts: VecDeque<Timestamp>,
    failures: u32,
    /// Whether it runs again by itself after it lost.
    wants_to_lead: bool,
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
            restarts: VecDeque::new(),
            failures: 0,
            wants_to_lead: false,
        }
    }

    /// The present role.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
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
        if self.role != Role::Follower {
            effects.push(LeadershipEffect::StopLeading);
            effects.push(LeadershipEffect::StopLimiter);
            self.become_role(Role::Follower, effects);
        }
    }

    fn run_later(&mut self, now: Timestamp, effects: &mut Vec<LeadershipEffect>) {
        let wait = (BACKOFF_FIRST_MS << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures += 1;
        effects.push(LeadershipEffect::RetryAt(Timestamp(now.0 + wait)));
    }

    fn leads(&self, epoch: Epoch) -> bool {
        matches!(&self.role, Role::Leader { epoch: own, .. } if *own == epoch)
    }

    fn on_announced(&mut self, node: NodeId, epoch: Epoch, effects: &mut Vec<LeadershipEffect>) {
        self.highest = self.highest.max(epoch);
        let own = match &self.role {
            Role::Follower => return,
            Role::Candidate { epoch } | Role::Leader { epoch, .. } => *epoch,
        };
        if epoch == own && node == self.node {
            assert!(matches!(self.role, Role::Candidate { .. }), "L2: announced once");
            self.become_role(Role::Leader { epoch, open: false }, effects);
            self.start_limiter(epoch, effects);
        } else if epoch > own {
            effects.push(LeadershipEffect::Warn(format!(
                "node {node} leads under epoch {epoch}: stepping down from {own}"
            )));
            self.wants_to_lead = false;
            self.fall_back(effects);
        }
    }

    fn on_epoch_obtained(
        &mut self,
        now: Timestamp,
        epoch: Epoch,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        if self.role != Role::Follower || !self.wants_to_lead {
            return;
        }
        if epoch <= self.highest {
            // Somebody announced a newer one since it was asked for.
            effects.push(LeadershipEffect::Warn(format!(
                "cannot lead: epoch {epoch} is not newer than {}",
                self.highest
            )));
            self.run_later(now, effects);
            return;
        }
        self.highest = epoch;
        self.become_role(Role::Candidate { epoch }, effects);
        effects.push(LeadershipEffect::Fence { epoch });
    }

    fn on_refused(
        &mut self,
        now: Timestamp,
        reason: String,
        fenced_by: Option<Epoch>,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        let own = match self.role {
            // It has left already, and what follows was arranged then.
            Role::Follower => return,
            Role::Candidate { epoch } | Role::Leader { epoch, .. } => epoch,
        };
        if fenced_by.is_some_and(|epoch| epoch <= own) {
            // Late news about an epoch before its own.
            return;
        }
        effects.push(LeadershipEffect::Warn(reason));
        self.fall_back(effects);
        if let Some(epoch) = fenced_by {
            self.highest = self.highest.max(epoch);
            self.wants_to_lead = false;
        } else if self.wants_to_lead {
            self.run_later(now, effects);
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
        self.restarts.push_back(now);
        while self.restarts.front().is_some_and(|at| now.0 - at.0 > RESTART_WINDOW_MS) {
            self.restarts.pop_front();
        }
        if self.restarts.len() > RESTARTS_MAX {
            effects.push(LeadershipEffect::Warn(format!(
                "the limiter died {} times in 30 s: stepping down",
                self.restarts.len()
            )));
            self.restarts.clear();
            self.fall_back(effects);
            self.run_later(now, effects);
            return;
        }
        self.become_role(Role::Leader { epoch, open: false }, effects);
        self.start_limiter(epoch, effects);
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
                self.wants_to_lead = true;
                if self.role == Role::Follower {
                    effects.push(LeadershipEffect::ObtainEpoch { above: self.highest });
                }
            }
            LeadershipInput::EpochObtained(epoch) => {
                self.on_epoch_obtained(now, epoch, effects);
            }
            LeadershipInput::LogFenced { epoch } => {
                if self.role == (Role::Candidate { epoch }) {
                    effects.push(LeadershipEffect::Announce { epoch });
                }
            }
            LeadershipInput::EpochRefused { reason } | LeadershipInput::FenceFailed { reason } => {
                effects.push(LeadershipEffect::Warn(format!("cannot lead: {reason}")));
                self.fall_back(effects);
                if self.wants_to_lead {
                    self.run_later(now, effects);
                }
            }
            LeadershipInput::Announced { node, epoch } => self.on_announced(node, epoch, effects),
            LeadershipInput::Seeded { epoch } => {
                if self.leads(epoch) {
                    effects.push(LeadershipEffect::Drain { epoch });
                }
            }
            LeadershipInput::Drained { epoch } => {
                if self.leads(epoch) {
                    self.failures = 0;
                    effects.push(LeadershipEffect::OpenGate { epoch });
                    self.become_role(Role::Leader { epoch, open: true }, effects);
                }
            }
            LeadershipInput::LimiterDied { incarnation } => {
                self.on_limiter_died(now, incarnation, effects);
            }
            LeadershipInput::Refused { reason, fenced_by } => {
                self.on_refused(now, reason, fenced_by, effects);
            }
            LeadershipInput::StepDown => {
                self.wants_to_lead = false;
                self.fall_back(effects);
            }
            LeadershipInput::RetryDue => {
                if self.wants_to_lead && self.role == Role::Follower {
                    effects.push(LeadershipEffect::ObtainEpoch { above: self.highest });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
