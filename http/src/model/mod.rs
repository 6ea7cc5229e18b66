//! The JSON of requests and answers.
//!
//! Must always hold: times are ISO 8601, durations like `1m30s`; unknown fields of requests are
//! refused by name. Must not know: how a request is answered.

mod bulk;
mod enqueue;
mod entries;
mod events;
mod explain;
mod queues;
mod rules;
mod values;
mod workers;

pub(crate) use bulk::*;
pub(crate) use enqueue::*;
pub(crate) use entries::*;
pub(crate) use events::*;
pub(crate) use explain::*;
pub(crate) use queues::*;
pub(crate) use rules::*;
pub(crate) use values::*;
pub(crate) use workers::*;
