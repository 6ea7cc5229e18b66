//! Running commands: a small process of our own starts them, watches them and reads
//! what they say.
//!
//! Owns: processes, their groups and outputs, the lifeline. Must always hold: a
//! command that was started is reported exactly once or its spawner is gone; when the
//! process that asked dies, however it dies, everything it started is killed, and
//! who resumes waits until it is gone. Must not know: entries, the runtime.
//!
//! # Why a process and not a thread
//! A child with a session and a parent-death signal needs code between fork and exec,
//! so the standard library has to fork, and a fork copies the page tables: measured
//! with 200 MiB of touched memory, 8 ms per `true` against 1.8 ms from a small process
//! and 1.3 ms by posix_spawn, which can set no death signal. So the binary starts
//! itself once more as [`serve`] before anything large is opened: it stays small, its
//! only thread is the parent that the death signal is tied to, and it notices the
//! death of the process that asked by the end of their socket and can then end whole
//! groups, which the death signal alone cannot.
//!
//! # What a command gets
//! A session (and so a process group) of its own, no terminal, `/dev/null` as standard
//! input, the lifeline, the environment of `forebay`. When it exits, what is left of its
//! group is killed, so that nothing of it overlaps with the next item of its key.

mod capture;
mod child;
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
