//! Where the actors of a thread run: on actix, or in a simulation.
//!
//! An enum beside the port of the node's environment ([`crate::host`]), because spawning is generic
//! over the machine: through a trait object every message would cost a virtual call.

use std::sync::Arc;

use forebay_engine::Machine;

use super::{ActixWorld, Clock, Look, Performer, Ref, Timers, sim::SimWorld};

/// How an actor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It was stopped, or no address of it was left.
    Stopped,
    /// It panicked, with this message.
    Panicked(String),
}

/// Called once, on the actor's thread, when it has ended.
pub type OnDeath = Box<dyn FnOnce(Death)>;

/// One thread of actors. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub enum World {
    /// An actix arbiter thread.
    Actix(ActixWorld),
    /// A seeded, single-threaded executor.
    Sim(SimWorld),
}

impl World {
    /// Starts an actor. `on_death` is called when it has ended.
    pub fn spawn<M, P>(
        &self,
        name: &'static str,
        machine: M,
        performer: P,
        on_death: OnDeath,
    ) -> Child<M::Input>
    where
        M: Machine + 'static,
        M::Input: Send + 'static,
        P: Performer<M>,
    {
        self.spawn_visible(name, machine, performer, on_death).0
    }

    /// The same for an actor with a machine that can be inspected: the second address takes the
    /// [`Look`]s.
    pub fn spawn_visible<M, P>(
        &self,
        name: &'static str,
        machine: M,
        performer: P,
        on_death: OnDeath,
    ) -> (Child<M::Input>, Ref<Look<M>>)
    where
        M: Machine + 'static,
        M::Input: Send + 'static,
        P: Performer<M>,
    {
        match self {
            Self::Actix(world) => world.spawn(name, machine, performer, on_death),
            Self::Sim(world) => world.spawn(name, machine, performer, on_death),
        }
    }

    /// The same thread with another clock: actors spawned from here on use it, and timers follow
    /// it.
    #[must_use]
    pub fn with_clock(&self, clock: Arc<dyn Clock>) -> Self {
        match self {
            Self::Actix(world) => Self::Actix(world.with_clock(clock)),
            Self::Sim(world) => Self::Sim(world.with_clock(clock)),
        }
    }

    /// The timers of this thread, by its clock.
    #[must_use]
    pub fn timers(&self) -> &Timers {
        match self {
            Self::Actix(world) => world.timers(),
            Self::Sim(world) => world.timers(),
        }
    }

    /// Where time comes from.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        match self {
            Self::Actix(world) => world.clock(),
            Self::Sim(world) => world.clock(),
        }
    }
}

/// An actor as its parent holds it: an address, and a way to stop it.
pub struct Child<I> {
    /// Its address.
    pub address: Ref<I>,
    stop: Box<dyn Fn() + Send + Sync>,
}

impl<I> Child<I> {
    pub(super) fn new(address: Ref<I>, stop: impl Fn() + Send + Sync + 'static) -> Self {
        Self { address, stop: Box::new(stop) }
    }

    /// Ends the actor before it takes another message. Its parent is notified.
    pub fn stop(&self) {
        (self.stop)();
    }
}

impl<I> std::fmt::Debug for Child<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}
