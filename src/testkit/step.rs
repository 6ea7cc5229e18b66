//! Stepping a machine by hand.

use std::time::Duration;

use forebay_engine::Machine;
use forebay_messages::Timestamp;

/// A machine controlled by a test: time and inputs are given, effects are returned as values, and
/// the machine's invariants are checked after every step.
///
/// ```
/// use forebay::testkit::Step;
/// use forebay_engine::leadership::{Leadership, LeadershipEffect, LeadershipInput};
/// use forebay_messages::{Epoch, NodeId};
///
/// let mut supervisor = Step::new(Leadership::new(NodeId(1), Epoch(4)));
/// let effects = supervisor.step(LeadershipInput::Run);
/// assert_eq!(effects, [LeadershipEffect::ObtainEpoch { above: Epoch(4) }]);
/// ```
#[derive(Debug)]
pub struct Step<M> {
    machine: M,
    now: Timestamp,
}

impl<M: Machine> Step<M> {
    /// A machine at time zero, not started.
    pub fn new(machine: M) -> Self {
        Self { machine, now: Timestamp::default() }
    }

    /// Starts the machine; returns its first effects.
    pub fn start(&mut self) -> Vec<M::Effect> {
        let mut effects = Vec::new();
        self.machine.start(self.now, &mut effects);
        self.machine.check();
        effects
    }

    /// Gives an input; returns the effects, in order.
    pub fn step(&mut self, input: M::Input) -> Vec<M::Effect> {
        let mut effects = Vec::new();
        self.machine.step(self.now, input, &mut effects);
        self.machine.check();
        effects
    }

    /// Lets time pass before the next step.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now.after(by);
    }

    /// The time of the next step.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &M {
        &self.machine
    }
}
