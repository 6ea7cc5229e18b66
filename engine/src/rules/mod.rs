//! The rule book: which limits exist, how they change, and which one governs a key.
//!
//! Owns: the versioned book and its bytes, all-or-nothing changes with preconditions, the
//! difference between two books, its history, and the lookup of the rule that governs a counter.
//! Must always hold: at most one rule governs a counter, and it is the most specific one; a batch
//! raises a book's version by at most one; a rule that the runtime would see differently has
//! another version. Must not know: where a book is stored, how it travels, or what a limiter does
//! with a limit.

mod batch;
mod book;
mod change;
mod codec;
mod history;
mod impact;
mod lookup;

pub use batch::Applied;
pub use book::{BookVersion, PersistedRule, RuleBook};
pub use change::{
    Change, ChangeError, DESCRIPTION_LEN_MAX, Edit, LimitsPatch, MAX_RULES_PER_BOOK, Precondition,
    RatePart, RuleChange, RulePatch, check_supported,
};
pub use codec::{BOOK_FORMAT, DecodeBookError, barrier_before};
pub use history::{
    DecodeHistoryError, HISTORY_BYTES_MAX, HISTORY_LEN_MAX, History, HistoryEntry, RollbackError,
};
pub use impact::{KeyPath, Load, Loads, Share};
pub(crate) use lookup::service_and_above;
pub use lookup::{GoverningRule, RuleLookup, RuleSlot, WhatIf};
