//! New entries, and handles to stored ones.

mod entries;
mod entry;
mod handle;
mod ids;
mod vqueue;

pub use entries::Entries;
pub use entry::{Entry, IDEMPOTENCY_KEY_LEN_MAX, PAYLOAD_LEN_DEFAULT, PAYLOAD_LEN_MAX};
pub use handle::EntryHandle;
pub use vqueue::VQueueControl;
