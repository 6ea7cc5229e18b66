//! Tests of machines and actors: step a machine by hand, record an actor's messages, run shells
//! under a seeded executor, inject storage failures; and tests of whole runtimes in virtual time.
//!
//! From small to large: [`Step`] steps one machine, [`Probe`] stands in for an actor, [`SimWorld`]
//! polls actors in a seeded order, [`TestRuntime`] is a whole runtime controlled by a test, [`Sim`]
//! hosts several nodes. Faults are planned: [`Script`]s for messages, [`LogFault`]s and
//! [`StoreFault`]s for storage, [`SiteFaults`] for threads. The guide is `docs/testing.md`.

mod probe;
mod runtime;
mod step;

pub use forebay_actors::{
    host::faults::{ActorFaults, FaultRates},
    shell::{
        Child, Cx, Death, Look, Performer, Ref, World,
        script::{Script, Scripted},
        sim::{MachineClock, SeededRandom, SimWorld, VirtualClock},
    },
    sim::{Disk, Sim, SimHost, SimNode, SiteFaults, SiteId, TaskHandle, TraceStep},
    testkit::{FaultLog, LogFault, LogStore, MemoryLog, MemoryMetadata, StoreFault, StoreFaults},
};
pub use forebay_engine::Machine;
pub use probe::Probe;
pub use runtime::{TestBuilder, TestRuntime, launch};
pub use step::Step;
