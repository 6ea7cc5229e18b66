//! The trait of all machines.

use std::fmt::Debug;

use forebay_messages::Timestamp;

/// A piece of logic that advances in steps: state and input in, effects out.
///
/// A machine never awaits, reads a clock, draws a random number, allocates an id of the outside
/// world or spawns. Effects are a closed enum per machine, each variant with its delivery guarantee
/// written beside it; a shell performs them in order.
pub trait Machine {
    /// Its inputs. Values: a test may deliver one twice.
    type Input: Clone + Debug;
    /// The actions it requests.
    type Effect: Debug;

    /// Called once, before the first input.
    fn start(&mut self, _now: Timestamp, _effects: &mut Vec<Self::Effect>) {}

    /// Processes one input. Effects are appended in the order in which they must be performed.
    ///
    /// Persist before reply or send: an effect that makes something durable comes before every
    /// effect that announces it.
    fn step(&mut self, now: Timestamp, input: Self::Input, effects: &mut Vec<Self::Effect>);

    /// Checks the machine's invariants; panics naming the broken one. Called after every step in
    /// debug builds and in simulation.
    fn check(&self) {}
}

/// A deterministic hash map: fixed hasher, so that the same inputs give the same
/// iteration order in every run.
pub type Map<K, V> = hashbrown::HashMap<K, V, rustc_hash::FxBuildHasher>;

/// An entry of a [`Map`], occupied or vacant.
pub use hashbrown::hash_map::Entry as MapEntry;

/// A deterministic hash set; see [`Map`].
pub type Set<K> = hashbrown::HashSet<K, rustc_hash::FxBuildHasher>;
