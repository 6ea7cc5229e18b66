//! Testing machines and actors: step a machine by hand, record what an actor says, run
//! shells under a seeded executor, let storage fail on cue.
//!
//! A first form: [`Step`], [`Probe`], [`SimWorld`] and the fault wrappers of storage.

mod probe;
mod runtime;
mod step;

pub use forebay_actors::{
    faults::{ActorFaults, FaultRates},
    shell::{
        Child, Death, Look, Performer, Ref, Scope, World,
        sim::{SeededRandom, SimWorld, VirtualClock},
    },
    sim::{Disk, Host, Place, Sim, SiteId, TaskHandle, TraceStep, Weather},
    testkit::{FaultLog, LogFault, LogStore, MemoryLog, MemoryMetadata, StoreFault, StoreFaults},
};
pub use forebay_engine::Machine;
pub use probe::Probe;
pub use runtime::{TestBuilder, TestRuntime, launch};
pub use step::Step;
