//! Running commands: a small separate process starts them, watches them and reads their outputs.
//!
//! Owns: processes, their groups and outputs, the lifeline. Must always hold: a started command is
//! reported exactly once or its spawner is gone; when the requesting process dies, in any way,
//! everything it started is killed, and a resuming process waits until it is gone. Must not know:
//! entries, the runtime.
//!
//! # Why a process and not a thread
//! A parent-death signal is set by the child, and is tied to the thread that started it. So the
//! binary starts itself once more as [`serve()`]: its only thread is the parent, and it notices the
//! death of the requesting process by the end of their socket and can then kill whole groups, which
//! the death signal alone cannot. It starts commands without a fork ([`launch`]).
//!
//! # The environment of a command
//! It has its own session (and so its own process group), no terminal, `/dev/null` as standard
//! input, the lifeline, and the environment of `forebay`. When it exits, the rest of its group is
//! killed, so that nothing of it overlaps with the next item of its key.

mod capture;
mod child;
mod launch;
mod lifeline;
mod link;
mod procfs;
mod serve;
mod spawner;
mod start_queue;

pub(crate) use lifeline::{NO_FOLLOW, create_file};
pub(crate) use serve::{SPAWNER_ARGUMENT, serve};
pub(crate) use spawner::{Order, Spawner, SpawnerError};

#[cfg(test)]
mod tests;
