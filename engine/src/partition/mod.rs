//! The partition: its rows, the state machine that applies records to them, and the
//! leader's bookkeeping.

pub mod apply;
mod backlog;
pub mod machine;
#[cfg(any(test, feature = "testkit"))]
pub mod mem;
pub mod read;
pub mod rows;
pub mod state;
pub mod store;
