//! The queries of `forebay top`, and their interval.
//!
//! Must always hold: queries take at most a tenth of the time, however much is stored; a directory
//! that no process has open is opened once, not each second, and closed again. Must not know:
//! terminals.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use forebay::{
    control::{Control, ControlError, NodeView, Request, Response},
    explain::LimitView,
};
use forebay_api::{EntryFilter, ServiceCounts, VQueueView};
use tokio::sync::{Notify, watch};

use super::blocks;
use crate::{
    exec::runs::{RunId, book},
    show::{next_of, safe},
};

/// Minimum interval between updates.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);
/// After a long update, a pause of this many times its duration.
const REST_FACTOR: u32 = 9;
/// How long the directory is left closed after its process has ended: a process that is restarted
/// must not find it open.
const LEFT_ALONE: Duration = Duration::from_secs(3);
/// Maximum wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of listed queues.
const QUEUES_MAX: usize = 1_000;
/// Maximum number of pages of queues per update: many queues may have no work.
const PAGES_MAX: usize = 20;
/// Bytes of a payload that are enough to show an entry.
const PAYLOAD_BYTES_MAX: usize = 256;
/// Maximum number of queues whose next entry is explained, where counters do not show the reason.
const EXPLAINED_MAX: usize = 20;

/// The result of an update.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The process, or the directory itself; absent before the first answer.
    pub(super) node: Option<NodeView>,
    /// Maximum number of running entries.
    pub(super) running_max: Option<u32>,
    /// Services and runs, most work first.
    pub(super) services: Vec<ServiceRow>,
    /// Counters, ordered by how many queues they hold back, most first.
    pub(super) limits: Vec<LimitView>,
    /// Queues with work, most work first.
    pub(super) queues: Vec<QueueRow>,
    /// There are more queues than are listed.
    pub(super) has_more: bool,
    /// The time of the update.
    pub(super) found_at: Option<Instant>,
    /// Why there is no newer view.
    pub(super) problem: Option<String>,
}

/// A service, or a run of `exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceRow {
    pub(super) name: String,
    pub(super) counts: ServiceCounts,
}

/// A queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueRow {
    pub(super) service: String,
    /// Scope, limit key and key.
    pub(super) name: String,
    pub(super) waiting: u64,
    pub(super) running: u64,
    pub(super) paused: u64,
    /// Why the next entry does not start; empty if nothing blocks it.
    pub(super) blocked: String,
    /// The running or next entry.
    pub(super) work: String,
}

impl View {
    /// Whether a process has the directory open.
    pub(super) fn has_process(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.pid.is_some())
    }
}

/// Updates the view until it is closed. `again`: also reads the stored data again if no process has
/// the directory open.
pub(super) async fn keep(dir: PathBuf, found: watch::Sender<View>, again: Arc<Notify>) {
    let mut queries = Queries { dir, stored: None, process: Process::None, runs: HashMap::new() };
    let mut last = View::default();
    loop {
        let begun = Instant::now();
        let running = Control::Running(queries.dir.clone());
        let asked = tokio::select! {
            () = found.closed() => return,
            asked = queries.ask(&running) => asked,
        };
        last = match asked {
            Ok(view) => {
                queries.stored = None;
                queries.process = Process::Answers;
                view
            }
            Err(error) if error.is_not_running && queries.is_left_alone() => {
                let problem = "its process has ended; the stored data is read soon".to_owned();
                View { problem: Some(problem), ..last }
            }
            Err(error) if error.is_not_running => match queries.stored().await {
                Ok(view) => view,
                Err(error) => View { problem: Some(error.message), ..last },
            },
            Err(error) => View { problem: Some(error.message), ..last },
        };
        if found.send(last.clone()).is_err() {
            return;
        }
        let rest = match last.problem {
            // The other side does no work while this side waits.
            Some(_) => UPDATE_INTERVAL,
            None => UPDATE_INTERVAL.max(begun.elapsed() * REST_FACTOR),
        };
        tokio::select! {
            () = found.closed() => return,
            () = again.notified() => (queries.stored, queries.process) = (None, Process::None),
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Why there is no answer.
struct QueryError {
    message: String,
    /// No process has the directory open.
    is_not_running: bool,
}

impl From<ControlError> for QueryError {
    fn from(error: ControlError) -> Self {
        let is_not_running = match &error {
            ControlError::Silent { source, .. } => {
                matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
            }
            _ => false,
        };
        Self { message: error.to_string(), is_not_running }
    }
}

impl From<Response> for QueryError {
    fn from(response: Response) -> Self {
        let message = match response {
            Response::Error { message, .. } => message,
            _ => "the answer does not match the request (another version of forebay?)".to_owned(),
        };
        Self { message, is_not_running: false }
    }
}

/// The process that has the directory open.
enum Process {
    /// None has answered.
    None,
    Answers,
    /// It has not answered since then.
    Gone(Instant),
}

struct Queries {
    dir: PathBuf,
    /// The stored data; absent while a process has the directory open.
    stored: Option<View>,
    process: Process,
    /// The commands of the runs, by id.
    runs: HashMap<RunId, String>,
}

impl Queries {
    /// Whether the directory of an ended process must not be opened yet.
    fn is_left_alone(&mut self) -> bool {
        if let Process::Answers = self.process {
            self.process = Process::Gone(Instant::now());
        }
        matches!(self.process, Process::Gone(at) if at.elapsed() < LEFT_ALONE)
    }

    /// The stored data. The directory is opened for it only if it was not read yet.
    async fn stored(&mut self) -> Result<View, QueryError> {
        if let Some(view) = &self.stored {
            return Ok(view.clone());
        }
        let control = Control::look(&self.dir).await?;
        let asked = self.ask(&control).await;
        // Nothing was written that must be kept.
        let _ = control.close().await;
        let view = asked?;
        // A process may have started in the meantime.
        self.stored = (!view.has_process()).then(|| view.clone());
        Ok(view)
    }

    async fn ask(&mut self, control: &Control) -> Result<View, QueryError> {
        let node = match control.ask_within(Request::Status, TIMEOUT).await? {
            Response::Status { node } => node,
            other => return Err(other.into()),
        };
        let mut view = View { node: Some(node), ..View::default() };
        if view.has_process()
            && let Response::Jobs { jobs } =
                control.ask_within(Request::Jobs { running_max: None }, TIMEOUT).await?
        {
            view.running_max = jobs.running_max;
        }
        view.services = match control.ask_within(Request::Services, TIMEOUT).await? {
            Response::Services { services } => self.named(services),
            other => return Err(other.into()),
        };
        let request = Request::Limits { scope: None, in_parts: true };
        view.limits = match control.ask_within(request, TIMEOUT).await? {
            Response::Limits { limits, .. } => merged(limits),
            other => return Err(other.into()),
        };
        let holds = |limit: &LimitView| (limit.waiters, limit.paused.is_some(), limit.usage);
        view.limits.sort_by(|one, other| {
            holds(other).cmp(&holds(one)).then_with(|| one.key.cmp(&other.key))
        });
        let queues = queues(control, &mut view).await?;
        view.queues = rows(control, &view, &queues).await?;
        view.found_at = Some(Instant::now());
        Ok(view)
    }

    /// Services in the order of their work, runs with their commands.
    fn named(&mut self, services: Vec<ServiceCounts>) -> Vec<ServiceRow> {
        let is_new = |id: &RunId| !self.runs.contains_key(id);
        if services.iter().filter_map(|of| RunId::of_service(&of.service)).any(|id| is_new(&id)) {
            self.runs.extend(commands(&self.dir));
        }
        let mut rows = Vec::with_capacity(services.len());
        for counts in services {
            let name = match RunId::of_service(&counts.service) {
                Some(id) => {
                    // A run without a book stays without one: it is not searched again.
                    let command = self.runs.entry(id.clone()).or_default();
                    format!("run {} {command}", id.short())
                }
                None => safe(&counts.service),
            };
            rows.push(ServiceRow { name, counts });
        }
        let work = |row: &ServiceRow| (row.counts.running > 0, row.counts.unfinished());
        rows.sort_by(|one, other| {
            work(other).cmp(&work(one)).then_with(|| one.name.cmp(&other.name))
        });
        rows
    }
}

/// Each partition has its own row for a paused service: one is enough.
fn merged(limits: Vec<LimitView>) -> Vec<LimitView> {
    let mut merged: Vec<LimitView> = Vec::with_capacity(limits.len());
    for limit in limits {
        // Few services are paused, but many scopes are counted.
        let same = match limit.key.starts_with("service:") {
            true => merged.iter_mut().find(|row| row.key == limit.key),
            false => None,
        };
        match same {
            Some(row) => row.waiters += limit.waiters,
            None => merged.push(limit),
        }
    }
    merged
}

/// The commands of the runs that have a book.
fn commands(dir: &Path) -> Vec<(RunId, String)> {
    // Without the books, runs are shown without their commands.
    let listed = book::list(dir).unwrap_or_default();
    listed.into_iter().map(|run| (run.id, safe(&run.identity.command_line()))).collect()
}

async fn queues(control: &Control, view: &mut View) -> Result<Vec<VQueueView>, QueryError> {
    let filter =
        EntryFilter { limit: QUEUES_MAX, bytes_max: PAYLOAD_BYTES_MAX, ..EntryFilter::default() };
    let mut pages = control.pages(Request::Queues { filter, all: false, after: None });
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        match pages.next().await? {
            None => break,
            Some(Response::Queues { queues, next }) => {
                found.extend(queues);
                view.has_more = next.is_some();
            }
            Some(other) => return Err(other.into()),
        }
    }
    let work = |queue: &VQueueView| (queue.running > 0, queue.inbox, queue.parked);
    found.sort_by_key(|queue| (Reverse(work(queue)), queue.id));
    Ok(found)
}

async fn rows(
    control: &Control,
    view: &View,
    queues: &[VQueueView],
) -> Result<Vec<QueueRow>, QueryError> {
    let counters = blocks::Counters::of(view);
    let (mut rows, mut explained) = (Vec::with_capacity(queues.len()), 0);
    for queue in queues {
        let mut blocked = counters.blocked(queue);
        if blocked.is_empty()
            && view.has_process()
            && queue.running == 0
            && queue.inbox > 0
            && explained < EXPLAINED_MAX
            && let Some(entry) = queue.head
        {
            explained += 1;
            // One that has started or ended meanwhile is not blocked.
            if let Response::Explain { explained } =
                control.ask_within(Request::Explain { entry }, TIMEOUT).await?
            {
                blocked = blocks::explained(&explained);
            }
        }
        let parts = [&queue.scope, &queue.limit_key, &queue.key];
        let name: Vec<String> = parts.into_iter().flatten().map(|part| safe(part)).collect();
        rows.push(QueueRow {
            service: match RunId::of_service(&queue.service) {
                Some(id) => format!("run {}", id.short()),
                None => safe(&queue.service),
            },
            name: if name.is_empty() { "-".to_owned() } else { name.join("/") },
            waiting: queue.inbox,
            running: queue.running,
            paused: queue.parked,
            blocked: safe(&blocked),
            work: next_of(queue),
        });
    }
    Ok(rows)
}
