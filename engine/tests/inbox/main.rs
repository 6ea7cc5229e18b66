//! Tests of the inbox cache: a model of all events that can happen to it, and named cases.
#![allow(clippy::unwrap_used, reason = "tests")]

mod inbox_model;
mod inbox_named;

use forebay_messages::{EntryKey, Timestamp};

/// The `n`th key.
fn key(n: u64) -> EntryKey {
    EntryKey { run_at: Timestamp(n), ..EntryKey::default() }
}

/// The inverse of [`key`].
fn number(key: EntryKey) -> u64 {
    key.run_at.0
}
