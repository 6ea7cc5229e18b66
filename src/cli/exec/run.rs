//! A run of `forebay exec`, from its arguments to its exit code.
//!
//! Must always hold: an item is stored before its command may start; what is told of
//! an item follows from its stored result; an interrupted run leaves every item that
//! has not ended to the next one.

mod error;
mod stop;
mod store;
mod tell;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use forebay::{EntryHandle, HandlerOptions, Outcome, Runtime};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use super::{
    dry_run::dry_run,
    feed::{self, Fed},
    interrupt::{Exit, How, Stop, Stopper, on_suspend},
    item::{JOB_BYTES_MAX, Prepared, SERVICE},
    process::Spawner,
    program::check_program,
    results::Results,
    room::{Room, STORE_LEN_MAX},
    runner::{Limits, Runner},
    screen::Screen,
    setup,
    shape::check_shape,
    show::Shown,
    summary::Summary,
};
use crate::cli::args::{ExecArgs, Global, HaltArg};

pub(crate) use error::ExecError;

/// Items that have been stored and not ended; reading the input waits above it.
const PENDING_MAX: usize = 1_000_000;

/// How one item ended, for the main loop.
struct ItemEnd {
    handle: EntryHandle,
    item: Prepared,
    outcome: Result<Outcome, forebay::ResultError>,
}

type Waiting = FuturesUnordered<BoxFuture<'static, ItemEnd>>;

/// Runs the items of the input.
///
/// # Errors
/// [`ExecError`]: nothing sensible could be done, or not to the end.
pub(crate) async fn exec(global: &Global, args: &ExecArgs) -> Result<Exit, ExecError> {
    let started = Instant::now();
    let plan = setup::compile(args)?;
    check_shape(&args.command)?;
    if let Some(program) = plan.program() {
        check_program(program)?;
    }
    let (mut fed, lines) = feed::start(feed::open(&args.input)?, setup::reading(args), plan)?;
    if args.dry_run {
        return dry_run(fed, args.strict, args.quiet, global.json).await;
    }
    let held = if args.strict { read_all(&mut fed).await? } else { Vec::new() };
    let results = args.results.as_ref().map(absolute).transpose()?;
    let kept = results.as_deref().map(Results::open).transpose()?;
    let (stopper, signals) = Stopper::on_signals(args.grace)?;
    let screen = Screen::new(args.quiet);
    let log = screen.clone();
    crate::cli::logging::start(global.log, move || log.clone());
    let limits = Limits { timeout: args.timeout, grace: args.grace };
    let (runner, broken) = Runner::new(results, limits, started);
    on_suspend(&runner)?;
    let shown = Shown::start(screen.clone(), Arc::clone(&runner), lines);
    let runtime = start_runtime(global, args, &runner).await?;
    let run = Run {
        json: global.json,
        quiet: args.quiet,
        tag: args.tag,
        retry_failed: args.retry_failed,
        grace: args.grace,
        halt: args.halt,
        stopper,
        summary: Summary::default(),
        seen: HashSet::new(),
        room: Room::new(),
        told_of_room: false,
        began_at: SystemTime::now(),
        waiting: Waiting::new(),
        results: kept,
        screen,
        runner,
        runtime,
        shown,
    };
    run.go(global, args, held, fed, broken, signals).await
}

fn absolute(path: &PathBuf) -> Result<PathBuf, ExecError> {
    std::path::absolute(path).map_err(ExecError::Os)
}

/// Reads the whole input; the first bad line refuses it.
async fn read_all(fed: &mut mpsc::Receiver<Fed>) -> Result<Vec<Prepared>, ExecError> {
    let mut all = Vec::new();
    while let Some(next) = fed.recv().await {
        match next {
            // All are kept: what is read ahead is no bound here.
            Fed::Item(item, _) => all.push(*item),
            Fed::Bad(reason) => return Err(ExecError::Strict(reason)),
            // What is bad about it is told line by line.
            Fed::Note(_) => {}
            Fed::Broken(reason) => return Err(ExecError::Broken(reason)),
        }
    }
    Ok(all)
}

async fn start_runtime(
    global: &Global,
    args: &ExecArgs,
    runner: &Arc<Runner>,
) -> Result<Runtime, ExecError> {
    let options = HandlerOptions {
        retry: setup::retry(args),
        retention: Some(Duration::MAX),
        ..HandlerOptions::default()
    };
    let running = Arc::clone(runner);
    let builder = Runtime::builder()
        .data_dir(&global.data_dir)
        .max_running(args.jobs().get())
        .payload_max(JOB_BYTES_MAX)
        .trim_log(args.trim_log.into())
        .handler_with(SERVICE, options, move |context, payload| {
            Arc::clone(&running).run(context, payload)
        });
    Ok(builder.start().await?)
}

/// A run that is under way.
struct Run {
    json: bool,
    quiet: bool,
    tag: bool,
    retry_failed: bool,
    grace: Duration,
    halt: Option<HaltArg>,
    stopper: Stopper,
    summary: Summary,
    /// Items of this input, to tell what it names twice.
    seen: HashSet<[u8; 16]>,
    /// Items that are not stored yet.
    room: Room,
    told_of_room: bool,
    began_at: SystemTime,
    waiting: Waiting,
    results: Option<Results>,
    screen: Screen,
    runner: Arc<Runner>,
    runtime: Runtime,
    shown: Shown,
}

impl Run {
    async fn go(
        mut self,
        global: &Global,
        args: &ExecArgs,
        held: Vec<Prepared>,
        fed: mpsc::Receiver<Fed>,
        mut broken: mpsc::UnboundedReceiver<String>,
        mut signals: watch::Receiver<Stop>,
    ) -> Result<Exit, ExecError> {
        // To wait for the orphans of an earlier run may take a while.
        let mut early = signals.clone();
        let prepared = tokio::select! {
            biased;
            _ = early.wait_for(|stop| stop.how != How::No) => Ok(()),
            prepared = self.prepare(global, args) => prepared,
        };
        let ran = match prepared {
            Ok(()) => self.run(held, fed, &mut broken, signals.clone()).await,
            Err(error) => Err(error),
        };
        // It must not be held up by somebody who looks at it.
        self.shown.set_runtime(None);
        let stopped = self.stop(&mut signals, &mut broken).await;
        if let Some(results) = &self.results {
            results.sync()?;
        }
        self.screen.close();
        ran?;
        stopped?;
        let stop = *signals.borrow();
        self.conclude(stop)
    }

    /// Before the first item: the rules, then the spawner (which ends the orphans of an
    /// earlier run).
    async fn prepare(&mut self, global: &Global, args: &ExecArgs) -> Result<(), ExecError> {
        if !args.rules.is_empty() {
            let book = self.runtime.rules().book()?;
            let changes = setup::rule_changes(args, &book);
            self.runtime.rules().change("forebay exec", changes).await?;
        }
        let spawner = Spawner::start(&global.data_dir.join("exec")).await?;
        self.summary.orphans_killed = spawner.orphans_killed();
        let (screen, waits) = (self.screen.clone(), spawner.clone());
        tokio::spawn(async move {
            if let Some(what) = waits.waits().await {
                screen.message(format!("forebay: {what}\n").as_bytes());
            }
        });
        self.runner.begin(spawner);
        Ok(())
    }

    /// Until every item has ended, or the run is to stop.
    async fn run(
        &mut self,
        held: Vec<Prepared>,
        mut fed: mpsc::Receiver<Fed>,
        broken: &mut mpsc::UnboundedReceiver<String>,
        mut signals: watch::Receiver<Stop>,
    ) -> Result<(), ExecError> {
        self.shown.set_runtime(Some(self.runtime.clone()));
        self.store(held).await?;
        let mut reading = true;
        let mut batch = Vec::new();
        let mut input_broke = None;
        while reading || !self.waiting.is_empty() || !self.room.is_empty() {
            let again_at = self.room.again_at();
            tokio::select! {
                biased;
                _ = signals.wait_for(|stop| stop.how != How::No) => return Ok(()),
                Some(reason) = broken.recv() => return Err(ExecError::Broken(reason)),
                Some(end) = self.waiting.next() => {
                    self.room.may_have_come();
                    self.ended(end)?;
                }
                () = at(again_at), if again_at.is_some() => self.store(Vec::new()).await?,
                count = fed.recv_many(&mut batch, STORE_LEN_MAX),
                    if reading && self.room.is_empty() && self.waiting.len() < PENDING_MAX =>
                {
                    reading = count > 0;
                    if let Some(reason) = self.take(std::mem::take(&mut batch)).await? {
                        input_broke = Some(reason);
                    }
                    if !reading {
                        self.runner.progress().input_ended();
                    }
                }
            }
        }
        input_broke.map_or(Ok(()), |reason| Err(ExecError::Broken(reason)))
    }
}

/// Sleeps until then; for ever without a time.
async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
