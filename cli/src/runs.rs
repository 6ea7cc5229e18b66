//! `forebay runs`: the runs of `exec` in a data directory.
//!
//! Must not know: how runs are served.

use std::{collections::BTreeMap, process::ExitCode};

use forebay::control::{Request, Response};
use forebay_api::ServiceCounts;
use serde::Serialize;
use thiserror::Error;

use super::{
    args::Global,
    ask_error::AskError,
    exec::runs::{
        Identity, RunId,
        book::{self, BookError},
    },
    inspect::answered,
    show::format::{finish, table, time},
};

/// Maximum length of a displayed command line, in characters.
const COMMAND_CHARS_MAX: usize = 60;

/// Why runs cannot be listed.
#[derive(Debug, Error)]
pub(crate) enum RunsError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Book(#[from] BookError),
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A run, for users and for programs.
#[derive(Debug, Serialize)]
struct RunView {
    id: String,
    state: &'static str,
    /// In milliseconds since 1970; 0 when unknown.
    started_at: u64,
    waiting: u64,
    running: u64,
    paused: u64,
    ended: u64,
    again: Option<String>,
    directory: String,
    command: String,
}

/// Lists them, oldest first.
///
/// # Errors
/// [`RunsError`]
pub(crate) async fn runs(global: &Global) -> Result<ExitCode, RunsError> {
    let Response::Services { services } = answered(global, Request::Services).await? else {
        return Err(AskError::Unexpected.into());
    };
    let mut counts: BTreeMap<RunId, ServiceCounts> = BTreeMap::new();
    for service in services {
        if let Some(id) = RunId::of_service(&service.service) {
            counts.insert(id, service);
        }
    }
    let listed = book::list(&global.data_dir)?;
    let mut views: Vec<RunView> = listed
        .into_iter()
        .map(|run| view(&run.id, &run.identity, &counts.remove(&run.id).unwrap_or_default()))
        .collect();
    // Without a book: left by versions without runs.
    let rest = counts.iter().map(|(id, counts)| view(id, &Identity::default(), counts));
    views.splice(0..0, rest.collect::<Vec<_>>());
    let text = match global.json {
        true => format!("{}\n", serde_json::to_string(&views)?),
        false => as_text(&views),
    };
    Ok(super::console::print(text.as_bytes())?)
}

fn view(id: &RunId, identity: &Identity, counts: &ServiceCounts) -> RunView {
    let state = match (counts.running, counts.unfinished()) {
        (0, 0) => "done",
        (0, _) => "waits",
        _ => "runs",
    };
    RunView {
        id: id.to_string(),
        state,
        started_at: identity.started_at,
        waiting: counts.inbox,
        running: counts.running,
        paused: counts.parked,
        ended: counts.finished,
        again: identity.again.as_ref().map(ToString::to_string),
        directory: identity.directory().display().to_string(),
        command: if id.is_before() {
            "(items of earlier versions of forebay)".to_owned()
        } else {
            identity.command_line()
        },
    }
}

fn as_text(runs: &[RunView]) -> String {
    let columns = [
        "RUN",
        "STATE",
        "STARTED",
        "WAITING",
        "RUNNING",
        "PAUSED",
        "ENDED",
        "DIRECTORY",
        "COMMAND",
    ];
    let mut table = table(&columns);
    for run in runs {
        let started = if run.started_at == 0 { "-".to_owned() } else { time(run.started_at) };
        let again = run.again.iter().map(|name| format!("--again={name} "));
        let command: String = again.chain([run.command.clone()]).collect();
        let mut shown: String =
            command.chars().filter(|c| !c.is_control()).take(COMMAND_CHARS_MAX).collect();
        if shown.len() < command.len() {
            shown.push('…');
        }
        table.add_row([
            run.id.chars().take(8).collect(),
            run.state.to_owned(),
            started,
            run.waiting.to_string(),
            run.running.to_string(),
            run.paused.to_string(),
            run.ended.to_string(),
            if run.directory.is_empty() { "-".to_owned() } else { run.directory.clone() },
            shown,
        ]);
    }
    finish(&table, runs.len(), "runs")
}
