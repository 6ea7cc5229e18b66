//! Entries as clients make them, and handles to those that were stored.

mod entry;
mod handle;

pub use entry::{Entry, IDEMPOTENCY_KEY_LEN_MAX, PAYLOAD_LEN_MAX};
pub use handle::EntryHandle;
