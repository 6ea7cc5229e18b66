//! The one actor shell: it receives, steps a machine, performs the effects.
//!
//! Must always hold:
//! - S1: effects are performed in the order in which the machine returned them, before the next
//!   message is taken.
//! - S2: inputs that a performer feeds back are stepped before the next message of the mailbox.
//! - S3: a panic in a machine or performer ends the actor, and its parent is notified.
//!
//! The same shell runs on actix and in a seeded single-threaded executor without actix ([`sim`]).
//! Must not know: what a machine does.

mod actix;
mod clock;
mod mailbox;
mod panic;
mod reference;
pub mod script;
pub mod sim;
mod timers;
mod world;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use forebay_engine::Machine;
use forebay_messages::Timestamp;

pub use self::actix::{ActixWorld, YIELD_EVERY};
pub use clock::{AHEAD_WARNING, Clock, SteadyClock, WallClock};
pub(crate) use panic::panic_text;
pub use reference::{Post, Ref};
pub use timers::{TimerKey, Timers};
pub use world::{Child, Death, OnDeath, World};

/// Reads a machine from outside, with the time, between two messages. It changes nothing and must
/// be short: inspection uses it.
pub type Look<M> = Box<dyn FnOnce(&M, Timestamp) + Send>;

/// Messages and effects between two readings of the time, each of which costs as much as several of
/// them.
const WORK_BETWEEN_LOOKS: usize = 16;

/// Performs the effects of a machine.
pub trait Performer<M: Machine>: 'static {
    /// There may be a million of these actors: they share the memory needed to handle a message.
    const IS_ONE_OF_MANY: bool = false;

    /// Performs one effect.
    fn perform(&mut self, effect: M::Effect, cx: &mut Cx<'_, M::Input>);

    /// Called after messages were handled, with the machine (for gauges and queries).
    fn observe(&mut self, _machine: &M) {}
}

/// What a performer has besides its own state.
pub struct Cx<'a, I> {
    /// The time of the step that returned the effect.
    pub now: Timestamp,
    /// The actor itself.
    pub me: &'a Ref<I>,
    feedback: &'a mut VecDeque<I>,
    stop: &'a mut bool,
}

impl<I> Cx<'_, I> {
    /// Steps an input in before the next message is taken (S2).
    pub fn feed_back(&mut self, input: I) {
        self.feedback.push_back(input);
    }

    /// Ends the actor after this message.
    pub fn stop(&mut self) {
        *self.stop = true;
    }
}

/// Number of steps between two checks of a machine's invariants, after the first `CHECK_ALL_UNTIL`
/// ones. A check reads the whole state: a large test would do little else.
#[cfg(debug_assertions)]
const CHECK_EVERY: u64 = 997;
#[cfg(debug_assertions)]
const CHECK_ALL_UNTIL: u64 = 5_000;

/// Buffers for handling a message, empty between two messages.
pub(crate) struct Scratch<M: Machine> {
    effects: Vec<M::Effect>,
    feedback: VecDeque<M::Input>,
}

impl<M: Machine> Default for Scratch<M> {
    fn default() -> Self {
        Self { effects: Vec::new(), feedback: VecDeque::new() }
    }
}

/// A machine with its performer: the part of the shell that is the same on actix and in
/// simulations.
pub(crate) struct Core<M: Machine, P> {
    machine: M,
    performer: P,
    clock: Arc<dyn Clock>,
    /// When the turn began: reading the time costs as much as a quick message.
    now: Timestamp,
    /// Work done since the last reading of the time.
    work: usize,
    #[cfg(debug_assertions)]
    steps: u64,
}

impl<M: Machine, P: Performer<M>> Core<M, P> {
    pub(crate) fn new(machine: M, performer: P, clock: Arc<dyn Clock>) -> Self {
        Self {
            machine,
            performer,
            now: clock.now(),
            clock,
            work: 0,
            #[cfg(debug_assertions)]
            steps: 0,
        }
    }

    /// Called once, in a turn, before the first message; false when the actor must end.
    pub(crate) fn start(&mut self, me: &Ref<M::Input>, scratch: &mut Scratch<M>) -> bool {
        self.machine.start(self.now, &mut scratch.effects);
        self.run(None, me, scratch)
    }

    /// Called before the first message of a turn, which is short.
    pub(crate) fn begin_turn(&mut self) {
        self.now = self.clock.now();
    }

    /// The same for a caller that has just read the monotonic clock.
    pub(crate) fn begin_turn_at(&mut self, monotonic: Duration) {
        self.now = self.clock.at(monotonic);
    }

    /// The monotonic time now.
    pub(crate) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Handles one message; false when the actor must end.
    pub(crate) fn receive(
        &mut self,
        input: M::Input,
        me: &Ref<M::Input>,
        scratch: &mut Scratch<M>,
    ) -> bool {
        self.run(Some(input), me, scratch)
    }

    /// Whether enough work was done since the last reading of the time to read it again.
    pub(crate) fn is_time_to_look(&mut self) -> bool {
        let is_time = self.work >= WORK_BETWEEN_LOOKS;
        if is_time {
            self.work = 0;
        }
        is_time
    }

    /// Applies a look to the machine.
    pub(crate) fn show(&self, look: Look<M>) {
        look(&self.machine, self.clock.now());
    }

    fn run(
        &mut self,
        mut next: Option<M::Input>,
        me: &Ref<M::Input>,
        Scratch { effects, feedback }: &mut Scratch<M>,
    ) -> bool {
        let (mut stop, now) = (false, self.now);
        loop {
            if let Some(input) = next {
                self.machine.step(now, input, effects);
                self.check();
            }
            self.work += 1 + effects.len();
            for effect in effects.drain(..) {
                let mut cx = Cx { now, me, feedback, stop: &mut stop };
                self.performer.perform(effect, &mut cx);
            }
            next = feedback.pop_front();
            if next.is_none() {
                break;
            }
            // A step that fed an input back did more than send messages.
            self.work += WORK_BETWEEN_LOOKS;
        }
        !stop
    }

    /// Called when messages were handled and no more follow for now.
    pub(crate) fn observe(&mut self) {
        self.performer.observe(&self.machine);
    }

    #[cfg(debug_assertions)]
    fn check(&mut self) {
        self.steps += 1;
        if self.steps < CHECK_ALL_UNTIL || self.steps.is_multiple_of(CHECK_EVERY) {
            self.machine.check();
        }
    }

    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_self, reason = "the same call in both builds")]
    fn check(&mut self) {}
}
