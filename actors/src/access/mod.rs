//! Asking partitions: commands with credits, attaching to results, and the way of answers.

pub mod replies;

mod act;
pub(crate) mod propose;

pub use act::{ActReport, EntryTarget, NAMED_MAX, VQueueReport};
pub use propose::{CREDIT_BYTES, CREDITS_PER_PARTITION};
