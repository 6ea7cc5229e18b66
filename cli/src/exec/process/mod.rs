//! Running commands: a small process of our own starts them, watches them and reads
//! what they say.
//!
//! Owns: processes, their groups and outputs, the lifeline. Must always hold: a
//! command that was started is reported exactly once or its spawner is gone; when the
//! process that asked dies, however it dies, everything it started is killed, and
//! who resumes waits until it is gone. Must not know: entries, the runtime.
//!
//! # Why a process and not a thread
//! A parent-death signal is set by the child, and is tied to the thread that started it. So the
//! binary starts itself once more as [`serve`]: its only thread is the parent, and it notices
//! the death of the process that asked by the end of their socket and can then end whole
//! groups, which the death signal alone cannot. It starts commands without a fork ([`launch`]).
//!
//! # What a command gets
//! A session (and so a process group) of its own, no terminal, `/dev/null` as standard
//! input, the lifeline, the environment of `forebay`. When it exits, what is left of its
//! group is killed, so that nothing of it overlaps with the next item of its key.

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
