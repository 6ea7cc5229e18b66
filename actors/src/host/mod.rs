//! The environment of a node: threads, the application's tokio runtime, planned faults.
//!
//! | file | owns |
//! |---|---|
//! | `port.rs` | [`Host`]: what a node needs of its environment, and the choice between the two |
//! | `threads.rs` | the first implementation: threads of this library, and a tokio runtime |
//! | `../sim/host.rs` | the second one: a simulation |
//! | `arbiter.rs` | actor threads |
//! | `faults.rs` | planned deaths of vqueues and failures of refills |

pub mod faults;

mod arbiter;
mod port;
mod threads;

pub use faults::FaultPlan;
pub use port::Host;
pub use threads::Threads;

pub(crate) use arbiter::Arbiter;
#[cfg(feature = "testkit")]
pub(crate) use arbiter::Job;
#[cfg(feature = "testkit")]
pub(crate) use port::HANDLER;
pub(crate) use port::Spawned;
