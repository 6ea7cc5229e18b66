//! The `forebay` binary: the command line.
//!
//! Owns: arguments, output for users and for programs, exit codes. Must always hold: exit code 0
//! means that everything succeeded, 1 that something failed or was skipped, 2 that nothing useful
//! could be done; an error is one line, `error: what, where; what to do`; the first check is
//! whether this process is the spawner of a running `forebay exec` (see [`exec::process`]), which
//! must stay small, so it starts no runtime and opens no store. Must not know: how entries are
//! scheduled.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub(crate) mod act;
mod alias;
pub(crate) mod args;
mod ask_error;
pub(crate) mod bench;
mod calls;
mod cluster;
mod console;
pub(crate) mod exec;
mod explain;
pub(crate) mod inspect;
mod jobs;
pub(crate) mod logging;
mod output;
mod partitions;
mod runs;
mod serve;
mod show;
mod snapshot;
mod token;
mod top;

use std::{ffi::OsString, io, path::Path, process::ExitCode, time::Duration};

use act::Act;
use args::{Cli, Command, Global};
use console::{EXIT_FAILURES, EXIT_USAGE, fail, print, unwritten};

use exec::{
    interrupt::{Exit, die_of},
    process::{SPAWNER_ARGUMENT, serve},
};

/// Entries are allocated on one thread and freed on another, which is slow with glibc's allocator.
/// Applications that embed the library choose their own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    if let [_, first, dir] = line.as_slice()
        && first == SPAWNER_ARGUMENT
    {
        return serve(Path::new(dir));
    }
    match args::parse(line) {
        Ok(cli) => dispatch(cli),
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE);
            match error.print() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    fail(&unwritten("the help", &error))
                }
                _ => ExitCode::from(code),
            }
        }
    }
}

fn dispatch(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let request = match &command {
        Command::Completions(shell) => return done(completions(shell.shell)),
        Command::Man => return done(manual()),
        Command::Exec(args) => return run_exec(&global, args),
        Command::Add(args) => {
            logging::start(global.log, io::stderr);
            return done(exec::adds::client::add(&global, args));
        }
        Command::Runs => return run_runs(&global),
        Command::Top => return run_top(&global),
        Command::Serve(args) => return run_serve(&global, args),
        Command::Token(args) => return run_token(&global, args),
        Command::Node(args) => return run_node(&global, args),
        Command::Cluster(args) => return run_cluster(&global, args),
        Command::Output(args) => return run_output(&global, args),
        Command::Bench(args) => return run_bench(&global, args),
        Command::Act(command) => return run_act(&global, command),
        Command::Jobs(args) => jobs::request(args),
        Command::Rules(args) => inspect::rules(args),
        Command::Entries(args) => inspect::entries(args),
        Command::Entry(args) => inspect::entry(args),
        Command::Queues(args) => inspect::queues(args),
        Command::Query(query) => query.request(),
        Command::Snapshot(args) => match snapshot::request(args) {
            Ok(request) => request,
            Err(work) => return done(work.run(&global)),
        },
        Command::Partitions(args) => partitions::request(args),
        Command::Alias(args) => alias::request(args),
        Command::Resolve(args) => calls::request(args),
    };
    logging::start(global.log, io::stderr);
    match on_tokio(|| inspect::ask(&global, request)) {
        Ok(answered) => done(answered),
        Err(error) => fail(&error),
    }
}

fn run_exec(global: &Global, args: &args::ExecArgs) -> ExitCode {
    match on_tokio(|| exec::run::exec(global, args)) {
        Ok(Ok(exit)) => end(exit),
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

fn run_top(global: &Global) -> ExitCode {
    match on_tokio(|| top::top(global)) {
        Ok(Ok(exit)) => end(exit),
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

fn run_serve(global: &Global, args: &args::ServeArgs) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| serve::run(global, args)) {
        Ok(served) => done(served),
        Err(error) => fail(&error),
    }
}

fn run_token(global: &Global, args: &args::TokenArgs) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| token::run(global, args)) {
        Ok(ran) => done(ran),
        Err(error) => fail(&error),
    }
}

fn run_node(global: &Global, args: &args::NodeArgs) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| cluster::node(global, args)) {
        Ok(ended) => done(ended),
        Err(error) => fail(&error),
    }
}

fn run_cluster(global: &Global, args: &args::ClusterArgs) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| cluster::cluster(global, args)) {
        Ok(ran) => done(ran),
        Err(error) => fail(&error),
    }
}

fn end(exit: Exit) -> ExitCode {
    match exit {
        Exit::Code(code) => ExitCode::from(code),
        Exit::Signal(signal) => {
            // Everything is shut down and reported. Does not return, unless the system refuses.
            let _ = die_of(signal);
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(EXIT_FAILURES))
        }
    }
}

fn run_act(global: &Global, command: &args::ActCommand) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| Act::of(command).perform(global)) {
        Ok(acted) => done(acted),
        Err(error) => fail(&error),
    }
}

fn run_output(global: &Global, args: &args::OutputArgs) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| output::output(global, args)) {
        Ok(printed) => done(printed),
        Err(error) => fail(&error),
    }
}

fn run_runs(global: &Global) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| runs::runs(global)) {
        Ok(listed) => done(listed),
        Err(error) => fail(&error),
    }
}

fn run_bench(global: &Global, args: &args::BenchArgs) -> ExitCode {
    logging::start(global.log, io::stderr);
    match on_tokio(|| bench::bench(global, args)) {
        Ok(ran) => done(ran),
        Err(error) => fail(&error),
    }
}

/// How long tasks may take to end at the end of the process.
const TASKS_END_WITHIN: Duration = Duration::from_millis(500);

/// Runs a future on a separate tokio runtime.
fn on_tokio<F: Future>(make: impl FnOnce() -> F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let output = runtime.block_on(async { make().await });
    // Tasks must release what they hold before the process ends, because the store's threads must
    // not be running by then. Threads that wait for a reader must not delay the end of the process.
    runtime.shutdown_timeout(TASKS_END_WITHIN);
    Ok(output)
}

fn done<E: std::error::Error>(result: Result<ExitCode, E>) -> ExitCode {
    result.unwrap_or_else(|error| fail(&error))
}

fn completions(shell: clap_complete::Shell) -> io::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command_line(), "forebay", &mut script);
    print(&script)
}

fn manual() -> io::Result<ExitCode> {
    let mut page = Vec::new();
    clap_mangen::Man::new(args::command_line()).render(&mut page)?;
    print(&page)
}
