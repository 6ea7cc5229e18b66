//! A run of `forebay exec`, from its arguments to its exit code.
//!
//! Must always hold: an item is stored before its command may start; what is told of
//! an item follows from its stored result; an interrupted run leaves every item that
//! has not ended to the next one.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bilrost::Message;
use forebay::{
    Drain, EnqueueError, Entry, EntryHandle, HandlerOptions, Outcome, RetryPolicy, Runtime,
    Timestamp, error::BacklogFull,
};
use forebay_actors::node::{EntryCommand, EntryTarget};
use forebay_engine::rules::{LimitsPatch, RuleChange, RulePatch};
use forebay_messages::{FailureKind, outcome::Failure};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use super::{
    feed::{self, Fed, OpenInputError},
    input::Format,
    interrupt::{Stop, on_signals},
    item::{Plan, Prepared, SERVICE, Templates},
    process::{Spawner, SpawnerError},
    program::{ProgramError, check_program},
    results::{Ended, Results, ResultsError, line},
    room::{Room, STORE_LEN_MAX},
    runner::{Runner, report_of},
    screen::Screen,
    summary::Summary,
    template::{Offer, TemplateError},
};
use crate::cli::args::{ExecArgs, Global, RuleArg};

/// Items that have been stored and not ended; reading the input waits above it.
const PENDING_MAX: usize = 1_000_000;
/// How often the progress is shown at most.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How long a run that was asked to finish waits for its commands.
const FINISH_WITHIN: Duration = Duration::from_secs(365 * 24 * 3600);
/// First wait between two tries of an item, in milliseconds.
const RETRY_FIRST_MS: u64 = 200;

/// Why a run cannot be made.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Input(#[from] OpenInputError),
    #[error(transparent)]
    Results(#[from] ResultsError),
    #[error(transparent)]
    Spawner(#[from] SpawnerError),
    #[error(transparent)]
    Runtime(#[from] forebay::RuntimeError),
    #[error(transparent)]
    Enqueue(#[from] forebay::EnqueueError),
    #[error(transparent)]
    Rules(#[from] forebay::rules::RulesError),
    #[error("the current directory cannot be told: {0}; change to one that exists")]
    Directory(#[source] io::Error),
    #[error("{0}")]
    Os(#[from] io::Error),
    /// The input, or the process that starts commands, broke.
    #[error("{0}")]
    Broken(String),
    /// `--strict` and a bad line.
    #[error("{0} (nothing was stored, because of --strict)")]
    Strict(String),
}

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
pub(crate) async fn exec(global: &Global, args: &ExecArgs) -> Result<ExitCode, ExecError> {
    let started = Instant::now();
    let format = match (args.null, args.ndjson) {
        (true, _) => Format::Nul,
        (_, true) => Format::Ndjson,
        _ => Format::Lines,
    };
    let plan = compile(args)?;
    if let Some(program) = plan.program() {
        check_program(program)?;
    }
    let mut fed = feed::start(feed::open(&args.input)?, format, plan)?;
    let held = if args.strict { read_all(&mut fed).await? } else { Vec::new() };
    let results = args.results.as_ref().map(absolute).transpose()?;
    let kept = results.as_deref().map(Results::open).transpose()?;
    let signals = on_signals()?;
    let screen = Screen::new();
    let log = screen.clone();
    crate::cli::logging::start(global.log, move || log.clone());
    let (runner, broken) = Runner::new(results, started);
    let runtime = start_runtime(global, args, &runner).await?;
    let run = Run {
        json: global.json,
        retry_failed: args.retry_failed,
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
    };
    run.go(global, args, held, fed, broken, signals).await
}

fn compile(args: &ExecArgs) -> Result<Plan, ExecError> {
    let templates = Templates {
        command: &args.command,
        key: args.key.as_ref(),
        scope: args.scope.as_ref(),
        limit_key: args.limit_key.as_ref(),
    };
    let offer = if args.ndjson { Offer::Object } else { Offer::Line };
    let directory = std::env::current_dir().map_err(ExecError::Directory)?;
    let again = args.again.then(|| uuid::Uuid::now_v7().into_bytes());
    Ok(Plan::compile(&templates, offer, &directory, again)?)
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
        retry: RetryPolicy {
            attempts_max: args.retries.saturating_add(1),
            backoff_first_ms: RETRY_FIRST_MS,
            ..RetryPolicy::default()
        },
        retention: Some(Duration::MAX),
        ..HandlerOptions::default()
    };
    let running = Arc::clone(runner);
    let builder = Runtime::builder()
        .data_dir(&global.data_dir)
        .max_running(args.jobs().get())
        .trim_log(args.trim_log.into())
        .handler_with(SERVICE, options, move |context, payload| {
            Arc::clone(&running).run(context, payload)
        });
    Ok(builder.start().await?)
}

/// A run that is under way.
struct Run {
    json: bool,
    retry_failed: bool,
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
}

impl Run {
    async fn go(
        mut self,
        global: &Global,
        args: &ExecArgs,
        held: Vec<Prepared>,
        fed: mpsc::Receiver<Fed>,
        broken: mpsc::UnboundedReceiver<String>,
        signals: watch::Receiver<Stop>,
    ) -> Result<ExitCode, ExecError> {
        let prepared = self.prepare(global, args).await;
        let ran = match prepared {
            Ok(()) => self.run(held, fed, broken, signals.clone()).await,
            Err(error) => Err(error),
        };
        let stopped = self.stop(signals).await;
        if let Some(results) = &self.results {
            results.sync()?;
        }
        self.screen.close();
        ran?;
        stopped?;
        self.conclude()
    }

    /// Before the first item: the rules, then the spawner (which ends the orphans of an
    /// earlier run).
    async fn prepare(&mut self, global: &Global, args: &ExecArgs) -> Result<(), ExecError> {
        if !args.rules.is_empty() {
            let book = self.runtime.rules().book()?;
            let changes: Vec<RuleChange> = args
                .rules
                .iter()
                .map(|rule| book.upsert(rule.pattern.clone(), concurrency(rule)))
                .collect();
            self.runtime.rules().change("forebay exec", changes).await?;
        }
        let spawner = Spawner::start(&global.data_dir.join("exec")).await?;
        self.summary.orphans_killed = spawner.orphans_killed();
        self.runner.begin(spawner);
        Ok(())
    }

    /// Until every item has ended, or the run is to stop.
    async fn run(
        &mut self,
        held: Vec<Prepared>,
        mut fed: mpsc::Receiver<Fed>,
        mut broken: mpsc::UnboundedReceiver<String>,
        mut signals: watch::Receiver<Stop>,
    ) -> Result<(), ExecError> {
        self.store(held).await?;
        let mut reading = true;
        let mut batch = Vec::new();
        let mut input_broke = None;
        let mut show = tokio::time::interval(SHOW_EVERY);
        show.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while reading || !self.waiting.is_empty() || !self.room.is_empty() {
            let again_at = self.room.again_at();
            tokio::select! {
                biased;
                _ = signals.wait_for(|stop| *stop != Stop::No) => return Ok(()),
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
                _ = show.tick() => self.show(),
            }
        }
        input_broke.map_or(Ok(()), |reason| Err(ExecError::Broken(reason)))
    }

    fn show(&self) {
        let elapsed = self.runner.elapsed();
        let view = self.runner.progress().view(elapsed);
        self.screen.show(&view, elapsed);
    }

    /// Stores what was read; what broke the input, if anything did.
    async fn take(&mut self, batch: Vec<Fed>) -> Result<Option<String>, ExecError> {
        let mut items = Vec::with_capacity(batch.len());
        let mut broke = None;
        // Until they are stored: what comes next is read meanwhile.
        let mut ahead = Vec::with_capacity(batch.len());
        for fed in batch {
            match fed {
                Fed::Item(item, share) => {
                    items.push(*item);
                    ahead.push(share);
                }
                Fed::Bad(reason) => {
                    self.summary.skipped += 1;
                    self.screen.message(format!("error: {reason}; skipped\n").as_bytes());
                }
                Fed::Broken(reason) => broke = Some(reason),
            }
        }
        self.store(items).await?;
        drop(ahead);
        Ok(broke)
    }

    /// Makes items durable, and those that were held back before them, as far as there
    /// is room.
    async fn store(&mut self, items: Vec<Prepared>) -> Result<(), ExecError> {
        for item in items {
            if self.seen.insert(item.id.uuid) {
                self.room.hold(item);
            } else {
                self.summary.duplicates += 1;
            }
        }
        while !self.room.is_empty() {
            let entries: Vec<Entry> = self.room.batch().map(entry).collect();
            let count = entries.len();
            match self.runtime.enqueue_batch(entries).await {
                Ok(handles) => {
                    let items = self.room.stored(count);
                    self.stored(items, handles).await?;
                }
                Err(EnqueueError::BacklogFull(full)) => {
                    if !self.room.refused(count) {
                        self.tell_of_room(&full);
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says once that reading the input waits.
    fn tell_of_room(&mut self, full: &BacklogFull) {
        if !std::mem::replace(&mut self.told_of_room, true) {
            let BacklogFull { key, pattern, waiting, limit, .. } = full;
            let text = format!(
                "the rest of the input waits for room: {waiting} items of {key} wait, rule \
                 `{pattern}` allows {limit}\n"
            );
            self.screen.message(text.as_bytes());
        }
    }

    /// Begins to wait for the ends of items that are stored.
    async fn stored(
        &mut self,
        items: Vec<Prepared>,
        handles: Vec<EntryHandle>,
    ) -> Result<(), ExecError> {
        for (item, handle) in items.into_iter().zip(handles) {
            self.summary.accepted += 1;
            let earlier = handle.was_existing() && !self.stored_now(&handle, &item)?;
            if earlier && self.ended_earlier(&handle, &item).await? {
                continue;
            }
            self.runner.progress().accepted();
            self.waiting.push(Box::pin(async move {
                let outcome = handle.outcome().await;
                ItemEnd { handle, item, outcome }
            }));
        }
        Ok(())
    }

    /// Whether an item that is stored was stored by this run, with a batch of which
    /// another part was refused.
    fn stored_now(&self, handle: &EntryHandle, item: &Prepared) -> Result<bool, ExecError> {
        if !self.room.is_unsure(item) {
            return Ok(false);
        }
        let view = self.runtime.node().entry(handle.id()).map_err(forebay::RuntimeError::from)?;
        let began_at = Timestamp::from(self.began_at);
        Ok(view.is_some_and(|view| view.created_at >= began_at.0))
    }

    /// Whether an item that was stored before had ended when this run began, and is not to
    /// be tried again.
    async fn ended_earlier(
        &mut self,
        handle: &EntryHandle,
        item: &Prepared,
    ) -> Result<bool, ExecError> {
        let found = self.runtime.node().outcome(handle.id());
        let Some(outcome) = found.map_err(forebay::RuntimeError::from)? else {
            return Ok(false);
        };
        let view = self.runtime.node().entry(handle.id()).map_err(forebay::RuntimeError::from)?;
        let began_at = Timestamp::from(self.began_at);
        // What an earlier run left starts at once, and may end before it is read again.
        if view.and_then(|view| view.finished_at).is_some_and(|at| at >= began_at.0) {
            return Ok(false);
        }
        if !outcome.is_success() && self.retry_failed {
            let target = EntryTarget::Named(vec![handle.id()]);
            let redriven = self.runtime.node().act(EntryCommand::Redrive, &target, false).await;
            let report = redriven.map_err(forebay::RuntimeError::from)?;
            return match report.skipped_named.first() {
                None => Ok(false),
                Some((id, why)) => Err(ExecError::Broken(format!("cannot retry {id}: {why}"))),
            };
        }
        match outcome.is_success() {
            true => self.summary.succeeded_earlier += 1,
            false => self.summary.failed_earlier += 1,
        }
        self.runner.progress().ended_earlier();
        // A crash may have come between the end of an item and its line.
        self.write_result(handle, item, &outcome, false)?;
        Ok(true)
    }

    /// Tells of an item that ended in this run.
    fn ended(&mut self, end: ItemEnd) -> Result<(), ExecError> {
        let outcome = match end.outcome {
            Ok(outcome) => outcome,
            Err(error) => return Err(ExecError::Broken(error.to_string())),
        };
        let succeeded = outcome.is_success();
        let is_stopped = matches!(
            &outcome,
            Outcome::Failure(Failure { kind: FailureKind::Canceled | FailureKind::Killed, .. })
        );
        match (succeeded, is_stopped) {
            (true, _) => self.summary.succeeded += 1,
            (false, true) => self.summary.canceled += 1,
            (false, false) => self.summary.failed += 1,
        }
        let elapsed = self.runner.elapsed();
        self.runner.progress().ended(elapsed, succeeded);
        if let Outcome::Failure(failure) = &outcome {
            let what = end.item.job.argv.iter().map(|arg| String::from_utf8_lossy(arg));
            let what = what.collect::<Vec<_>>().join(" ");
            let how = if is_stopped { "canceled" } else { "failed" };
            let text = format!("{how}: {what}: {} ({})\n", failure.message, end.handle.id());
            self.screen.message(text.as_bytes());
        }
        self.write_result(&end.handle, &end.item, &outcome, true)
    }

    /// Writes the line of an item that has none yet; without a results directory prints
    /// what the item said, if it ended in this run.
    fn write_result(
        &mut self,
        handle: &EntryHandle,
        item: &Prepared,
        outcome: &Outcome,
        ended_now: bool,
    ) -> Result<(), ExecError> {
        let mut report = report_of(outcome);
        if !self.json && self.results.is_none() {
            return if ended_now { Ok(self.screen.outputs(&report)?) } else { Ok(()) };
        }
        let (id, vqueue, job) = (handle.id(), &item.vqueue, &item.job);
        let view = self.runtime.node().entry(id).map_err(forebay::RuntimeError::from)?;
        if report.end.is_none() {
            // No command told how it ended: it was ended from outside.
            let finished_at = view.as_ref().and_then(|view| view.finished_at);
            report.ended_at = Timestamp(finished_at.unwrap_or_default());
        }
        let failure = match outcome {
            Outcome::Success(_) => None,
            Outcome::Failure(failure) => Some(failure),
        };
        let attempts = view.map_or(0, |view| view.attempts);
        let ended = Ended { id, vqueue, job, attempts, report: &report, failure };
        match &mut self.results {
            Some(results) if ended_now || results.lacks(id, report.ended_at) => {
                results.write(&ended)?;
            }
            None if ended_now => self.screen.line(&line(&ended, None))?,
            _ => {}
        }
        Ok(())
    }

    /// Lets what runs end (a second signal kills it), and takes everything down.
    async fn stop(&mut self, mut signals: watch::Receiver<Stop>) -> Result<(), ExecError> {
        let runtime = self.runtime.clone();
        let interrupted = *signals.borrow() != Stop::No;
        let within = if interrupted { FINISH_WITHIN } else { Duration::ZERO };
        if interrupted && !self.waiting.is_empty() {
            let running = runtime.node().executor().running();
            let text = format!("stopping: {running} running; once more (Ctrl-C) to kill them\n");
            self.screen.message(text.as_bytes());
        }
        let mut down = pin!(runtime.shutdown(Drain::within(within)));
        let mut killed = false;
        let stopped = loop {
            tokio::select! {
                stopped = &mut down => break stopped,
                Some(end) = self.waiting.next() => {
                    if end.outcome.is_ok() {
                        self.ended(end)?;
                    } else {
                        self.summary.left += 1;
                    }
                }
                _ = signals.wait_for(|stop| *stop == Stop::Kill), if !killed => {
                    killed = true;
                    runtime.node().executor().abort_all();
                }
            }
        };
        while let Some(end) = self.waiting.next().await {
            match end.outcome {
                Ok(_) => self.ended(end)?,
                Err(_) => self.summary.left += 1,
            }
        }
        if let Some(spawner) = self.runner.end() {
            spawner.close().await;
        }
        Ok(stopped?)
    }

    fn conclude(mut self) -> Result<ExitCode, ExecError> {
        let elapsed = self.runner.elapsed();
        self.summary.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if self.json {
            self.screen.line(&self.summary.to_json())?;
        } else {
            self.screen.message(format!("{}\n", self.summary).as_bytes());
        }
        Ok(ExitCode::from(self.summary.exit_code()))
    }
}

fn entry(item: &Prepared) -> Entry {
    let mut entry = Entry::to(SERVICE).uuid(item.id.uuid).payload(item.job.encode_to_vec());
    if let Some(scope) = &item.vqueue.scope {
        entry = entry.scope(scope);
    }
    if item.vqueue.l1.is_some() {
        entry = entry.limit_key(&item.vqueue.limit_key());
    }
    if let Some(key) = &item.vqueue.object_key {
        entry = entry.key(key);
    }
    entry
}

/// Sleeps until then; for ever without a time.
async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What `--rule PATTERN=N` changes: other limits of the rule stay, and so does a pause.
fn concurrency(rule: &RuleArg) -> RulePatch {
    let concurrency = rule.limits.concurrency.into();
    let limits = LimitsPatch { concurrency, ..LimitsPatch::default() };
    RulePatch { limits, ..RulePatch::default() }
}
