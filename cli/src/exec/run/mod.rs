//! A run of `forebay exec`, from its arguments to its exit code.
//!
//! Must always hold: an item is stored before its command may start; reports on an item are derived
//! from its stored result; an interrupted run leaves every unfinished item to the next one.

mod add;
mod error;
mod gate;
mod print;
mod rest;
mod resume;
mod signals;
mod source;
mod stop;
mod store;
mod waits;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use forebay::{HandlerOptions, Outcome, Runtime, RuntimeError, Timestamp};
use forebay_api::ServiceCounts;
use forebay_messages::EntryId;
use tokio::sync::{mpsc, watch};

use super::{
    dry_run::dry_run,
    feed::Fed,
    interrupt::{Exit, How, Stop, Stopper, at, on_suspend},
    item::JOB_BYTES_MAX,
    process::Spawner,
    results::Results,
    room::{Room, STORE_LEN_MAX},
    runner::{Limits, Runner},
    runs::{self, Identity, book::Book, items::ItemIndex},
    screen::Screen,
    setup,
    show::{self, Shown},
    summary::Summary,
};
use crate::args::{ExecArgs, Global, HaltArg};

use signals::SignalHandler;

use add::Adds;
pub(crate) use error::ExecError;
use gate::{Gate, Known, Note, Served};
use source::{Input, Source, input};
use stop::is_down;
use waits::Waits;

/// Maximum number of named items that have not ended; beyond it reading the input waits.
const PENDING_MAX: u64 = 1_000_000;
/// How long the input is read before unnamed items are set aside. Most inputs end within this time,
/// and nothing has to be paused and resumed.
const READ_FIRST: Duration = Duration::from_millis(500);

/// Runs the items of the input, or the rest of earlier runs (`--resume`).
///
/// # Errors
/// [`ExecError`]: the run could not start, or not finish.
#[expect(clippy::too_many_lines, reason = "the steps of a run in their order")]
pub(crate) async fn exec(global: &Global, args: &ExecArgs) -> Result<Exit, ExecError> {
    let started = Instant::now();
    let data_dir = absolute(&global.data_dir)?;
    let source = match &args.resume {
        Some(run) => Source::Stored(run.clone()),
        None => input(args, &data_dir).await?,
    };
    if args.dry_run
        && let Source::Input(input) = source
    {
        return dry_run(input.fed, args.strict, args.quiet, global.json).await;
    }
    let results = args.results.as_ref().map(|dir| absolute(dir)).transpose()?;
    let kept = results.as_deref().map(Results::open).transpose()?;
    let (stopper, signals) = Stopper::on_signals(args.grace)?;
    let screen = Screen::new(args.quiet, stopper.clone());
    let log = screen.clone();
    crate::logging::start(global.log, move || log.clone());
    // Long outputs must outlive the process until they are reported.
    let kept_dir = data_dir.join("exec").join("kept");
    let limits = Limits { timeout: args.timeout, grace: args.grace };
    let outputs = results.unwrap_or_else(|| kept_dir.clone());
    let (runner, broken) = Runner::new(outputs, limits, started);
    on_suspend(&runner)?;
    let runtime = start_runtime(&global.data_dir, args).await?;
    let shown = Shown::start(screen.clone(), Arc::clone(&runner), source.lines());
    let (gate, notes) = Gate::new(&runner);
    let run = Run {
        json: global.json,
        quiet: args.quiet,
        tag: args.tag,
        retry_failed: args.retry_failed,
        keep_order: args.keep_order,
        options: options(args),
        grace: args.grace,
        halt: args.halt,
        stopper,
        summary: Summary::default(),
        data_dir,
        kept_dir,
        served: Vec::new(),
        counts: Vec::new(),
        has_before: false,
        aside: 0,
        holders: Vec::new(),
        is_open: false,
        is_cut: false,
        gate,
        notes,
        room: Room::new(),
        has_reported_room: false,
        began_at: Timestamp::from(SystemTime::now()).0,
        waits: Waits::default(),
        adds: Adds::default(),
        known: HashMap::new(),
        is_stopping: false,
        behind: HashMap::new(),
        results: kept,
        screen,
        runner,
        runtime,
        shown,
    };
    run.go(args, source, broken, signals).await
}

fn absolute(path: &Path) -> Result<PathBuf, ExecError> {
    std::path::absolute(path).map_err(ExecError::Os)
}

fn options(args: &ExecArgs) -> HandlerOptions {
    HandlerOptions {
        retry: setup::retry(args),
        retention: Some(Duration::MAX),
        // Commands run in separate processes and cannot be the reason why this one dies.
        interruptions_max: Some(u32::MAX),
        ..HandlerOptions::default()
    }
}

async fn start_runtime(data_dir: &Path, args: &ExecArgs) -> Result<Runtime, ExecError> {
    let builder = Runtime::builder()
        .data_dir(data_dir)
        .max_running(args.jobs().get())
        .payload_max(JOB_BYTES_MAX)
        .trim_log(args.trim_log.into())
        // Starting commands takes more time than writing files.
        .small_buffers(true);
    Ok(builder.start().await?)
}

/// A run in progress.
struct Run {
    json: bool,
    quiet: bool,
    tag: bool,
    retry_failed: bool,
    keep_order: bool,
    /// Options of entries stored from now on.
    options: HandlerOptions,
    grace: Duration,
    halt: Option<HaltArg>,
    stopper: Stopper,
    summary: Summary,
    data_dir: PathBuf,
    /// Directory of long outputs until they are reported.
    kept_dir: PathBuf,
    /// The run itself, then other runs whose entries it has found. Items of all of them that this
    /// input names are in the first one's table.
    served: Vec<Served>,
    /// The stored entries at the start of this process.
    counts: Vec<ServiceCounts>,
    /// A version without runs has left entries.
    has_before: bool,
    /// Number of items of this run that are set aside.
    aside: u64,
    /// Set-aside items that probably hold a key.
    holders: Vec<(EntryId, String)>,
    /// Items may start.
    is_open: bool,
    /// Outputs are printed in order, and an earlier one is left to the next run.
    is_cut: bool,
    gate: Gate,
    notes: mpsc::UnboundedReceiver<Note>,
    /// Items that are not stored yet.
    room: Room,
    has_reported_room: bool,
    /// In milliseconds since 1970.
    began_at: u64,
    waits: Waits,
    adds: Adds,
    /// Data of items whose ends are about to be reported.
    known: HashMap<ItemIndex, Known>,
    /// The runtime shuts down: nothing can be looked up any more.
    is_stopping: bool,
    /// Outcomes of ended items that come after an unfinished one in the order.
    behind: HashMap<ItemIndex, Outcome>,
    results: Option<Results>,
    screen: Screen,
    runner: Arc<Runner>,
    runtime: Runtime,
    shown: Shown,
}

impl Run {
    async fn go(
        mut self,
        args: &ExecArgs,
        source: Source,
        mut broken: mpsc::UnboundedReceiver<String>,
        signals: watch::Receiver<Stop>,
    ) -> Result<Exit, ExecError> {
        // Waiting for the orphans of an earlier run may take a while.
        let mut early = signals.clone();
        let prepared = tokio::select! {
            biased;
            _ = early.wait_for(|stop| stop.how != How::No) => Ok(false),
            prepared = self.prepare(args) => prepared.map(|()| true),
        };
        let handler = SignalHandler {
            runtime: self.runtime.clone(),
            runner: Arc::clone(&self.runner),
            screen: self.screen.clone(),
            grace: self.grace,
        };
        let handling = tokio::spawn(handler.handle(signals.clone()));
        let ran = match (prepared, source) {
            (Err(error), _) => Err(error),
            (Ok(false), _) => Ok(()),
            (Ok(true), Source::Input(input)) => {
                self.run_input(*input, &mut broken, signals.clone()).await
            }
            (Ok(true), Source::Stored(which)) => {
                self.resume(&which, &mut broken, signals.clone()).await
            }
        };
        self.adds = Adds::default();
        // Inspection must not delay it.
        self.shown.set_served(None);
        let stopped = self.stop(&signals, &mut broken).await;
        if let Some(results) = &self.results {
            results.sync()?;
        }
        handling.abort();
        // It has a handle of the runtime, which must be dropped before this process ends.
        let _ = handling.await;
        self.screen.close();
        let stop = *signals.borrow();
        match ran {
            // The runtime was shut down in the meantime.
            Err(error) if stop.how != How::No && is_down(&error) => {}
            ran => ran?,
        }
        stopped?;
        self.conclude(stop)
    }

    /// Before the first item: the rules, then the spawner (which kills the orphans of an earlier
    /// run).
    async fn prepare(&mut self, args: &ExecArgs) -> Result<(), ExecError> {
        if !args.rules.is_empty() {
            let book = self.runtime.rules().book().await?;
            let changes = setup::rule_changes(args, &book);
            self.runtime.rules().change("forebay exec", changes).await?;
        }
        let spawner = Spawner::start(&self.data_dir.join("exec")).await?;
        self.summary.orphans_killed = spawner.orphans_killed();
        let (screen, waits) = (self.screen.clone(), spawner.clone());
        tokio::spawn(async move {
            if let Some(what) = waits.waits().await {
                let text = format!("forebay: {what}\n");
                tokio::task::block_in_place(|| screen.message(text.as_bytes()));
            }
        });
        self.runner.begin(spawner);
        self.prepare_kept()?;
        let counts = self.runtime.node().inspect().service_counts().await;
        self.counts = counts.map_err(RuntimeError::from)?;
        Ok(())
    }

    /// Number of entries of a run that had not ended at the start of this process.
    fn left_of(&self, service: &str) -> u64 {
        let of = self.counts.iter().find(|counts| counts.service == service);
        of.map_or(0, ServiceCounts::unfinished)
    }

    async fn run_input(
        &mut self,
        input: Input,
        broken: &mut mpsc::UnboundedReceiver<String>,
        signals: watch::Receiver<Stop>,
    ) -> Result<(), ExecError> {
        let Input { identity, held, fed, adder, .. } = input;
        let identity = Identity { started_at: self.began_at, ..identity };
        self.summary.again = identity.again.as_ref().map(ToString::to_string);
        self.has_before = self.counts.iter().any(|counts| counts.service == runs::SERVICE);
        let book = Book::open(&self.data_dir, &identity)?;
        self.served.push(Served::new(identity.id(), book));
        self.name(held).await?;
        self.store().await?;
        self.adds = Adds::start(&self.data_dir, &identity, adder);
        self.run(fed, broken, signals).await
    }

    /// Runs items until all have ended, or the run must stop.
    async fn run(
        &mut self,
        mut fed: mpsc::Receiver<Fed>,
        broken: &mut mpsc::UnboundedReceiver<String>,
        mut signals: watch::Receiver<Stop>,
    ) -> Result<(), ExecError> {
        self.show_served();
        let mut reading = true;
        let mut batch = Vec::new();
        let mut input_broke = None;
        let left = self.left_of(&self.served[0].service) + self.left_of(runs::SERVICE);
        let gate_at = tokio::time::Instant::now() + READ_FIRST;
        if left == 0 {
            self.open_all().await?;
        }
        while reading || self.waits.open() > 0 || self.adds.has_some() {
            self.fill();
            self.answer_added();
            let has_room = self.room.is_empty() && self.waits.open() < PENDING_MAX;
            let again_at = self.room.again_at();
            tokio::select! {
                biased;
                _ = signals.wait_for(|stop| stop.how != How::No) => return Ok(()),
                Some(reason) = broken.recv() => return Err(ExecError::Broken(reason)),
                Some(note) = self.notes.recv() => self.noted(note),
                end = self.waits.next() => {
                    self.room.may_have_come();
                    self.ended(end)?;
                }
                () = tokio::time::sleep_until(gate_at), if !self.is_open => self.open_all().await?,
                () = at(again_at), if again_at.is_some() => self.store().await?,
                Some(batch) = self.adds.next(), if has_room => self.take_added(batch).await?,
                count = fed.recv_many(&mut batch, STORE_LEN_MAX),
                    if reading && has_room =>
                {
                    reading = count > 0;
                    if let Some(reason) = self.take(std::mem::take(&mut batch)).await? {
                        input_broke = Some(reason);
                    }
                    if !reading {
                        self.runner.progress().input_ended();
                        self.open_all().await?;
                        self.report_rest();
                    }
                }
            }
        }
        input_broke.map_or(Ok(()), |reason| Err(ExecError::Broken(reason)))
    }

    /// Lets items start: items of this run, and of other runs that its items were found in.
    async fn open_all(&mut self) -> Result<(), ExecError> {
        if std::mem::replace(&mut self.is_open, true) {
            return Ok(());
        }
        for which in 0..self.served.len() {
            self.open(which).await?;
        }
        Ok(())
    }

    /// From now on shows why items of the served runs wait.
    pub(super) fn show_served(&self) {
        let services = self.served.iter().map(|served| served.service.clone()).collect();
        let (runtime, aside) = (self.runtime.clone(), self.aside);
        self.shown.set_served(Some(show::Served { runtime, services, aside }));
    }

    fn fill(&mut self) {
        let runtime = &self.runtime;
        let attach = |place, items: &runs::items::Items| runtime.attach(items.id(place));
        self.waits.fill(&mut self.served[0].items, attach);
    }

    /// The last attempt of an item is probably over: its end is waited for.
    fn noted(&mut self, note: Note) {
        let items = &mut self.served[0].items;
        let Some(place) = items.find(&note.uuid) else { return };
        if items.has(place, runs::items::ENDED) {
            return;
        }
        self.known.insert(place, note.known);
        let runtime = &self.runtime;
        self.waits.wait_for(items, place, |place, items| runtime.attach(items.id(place)));
    }
}
