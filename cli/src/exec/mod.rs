//! `forebay exec`: a durable, resumable, limited xargs.
//!
//! Owns: what an item is, how it becomes an entry, how its command is run and how results are
//! shown. Must always hold: an item is stored before its command runs; its output is never mixed
//! with another's. Must not know: which entry may run when; the runtime decides that.
//!
//! | module | does |
//! |---|---|
//! | [`input`] | bytes to items |
//! | [`template`] | items to texts |
//! | [`item`] | items to entries: their commands, vqueues and identities |
//! | [`runs`] | what a run is, and its book: its items, and which results were reported |
//! | [`adds`] | items that are added to a running run |
//! | [`process`] | runs commands |
//! | [`report`] | how a command ended; kept as the entry's result |
//! | [`results`], [`screen`], [`progress`], [`show`], [`summary`] | what users see of it |
//! | [`interrupt`], [`program`] | Ctrl-C; whether a command exists |
//! | [`setup`], [`shape`], [`dry_run`] | options; a command line in one word; `--dry-run` |

pub(crate) mod adds;
mod dry_run;
pub(crate) mod feed;
pub(crate) mod input;
mod inside;
pub(crate) mod interrupt;
pub(crate) mod item;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod results;
mod room;
pub(crate) mod run;
pub(crate) mod runner;
pub(crate) mod runs;
pub(crate) mod screen;
mod setup;
mod shape;
mod show;
pub(crate) mod summary;
pub(crate) mod template;
