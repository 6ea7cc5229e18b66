//! The `forebay` binary. Owns nothing: hands over to the command line.
//!
//! Must always hold: the first thing asked is whether this process is the spawner
//! of a running `forebay exec` (see [`cli::exec::process`]); that one must stay
//! small, so it starts no runtime and opens no store.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;

/// Entries come on one thread and go on another; glibc's allocator pays for that.
/// Whoever embeds the library chooses their own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
