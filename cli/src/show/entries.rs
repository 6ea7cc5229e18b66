//! Entries and vqueues, for display and as JSON.

use forebay::{
    EntryView, Stage,
    control::{Request, Response},
};
use forebay_api::VQueueView;
use serde_json::{Map, Value};

use super::{
    columns::{Column, Columns, NONE},
    format::{or_dash, time},
    work::{Work, safe},
};

const ENTRY_COLUMNS: &[Column] = &[
    Column::new("ENTRY"),
    Column::new("STAGE"),
    Column::new("OUTCOME").hides_empty(),
    Column::new("SERVICE").goes(3),
    Column::new("SCOPE").hides_empty(),
    Column::new("LIMIT KEY").hides_empty(),
    Column::new("KEY").hides_empty(),
    Column::new("ATTEMPTS").goes(2),
    Column::new("CREATED").goes(1),
    Column::new("COMMAND OR PAYLOAD"),
];

const QUEUE_COLUMNS: &[Column] = &[
    Column::new("VQUEUE"),
    Column::new("SERVICE").goes(3),
    Column::new("SCOPE").hides_empty(),
    Column::new("LIMIT KEY").hides_empty(),
    Column::new("KEY").hides_empty(),
    Column::new("INBOX"),
    Column::new("RUNNING"),
    Column::new("PARKED").goes(2),
    Column::new("FINISHED").goes(1),
    Column::new("PAUSED"),
    Column::new("HANDLER").hides_empty(),
    Column::new("RUNS NOW OR NEXT"),
];

/// A list that is printed page by page.
pub(super) struct List {
    is_json: bool,
    columns: Columns,
    /// Printed for an empty list.
    nothing: &'static str,
    printed: usize,
}

impl List {
    /// The list of a request, if it is for one.
    pub(super) fn of(request: &Request, is_json: bool, terminal: Option<usize>) -> Option<Self> {
        let (columns, nothing) = match request {
            Request::Entries { .. } => (ENTRY_COLUMNS, "no entries"),
            Request::Queues { all: true, .. } => (QUEUE_COLUMNS, "no queues"),
            Request::Queues { .. } => {
                (QUEUE_COLUMNS, "no queue has anything to do; --all lists the others")
            }
            _ => return None,
        };
        Some(Self { is_json, columns: Columns::new(columns, terminal), nothing, printed: 0 })
    }

    /// One page as text; `None` when it is not part of this list.
    pub(super) fn page(&mut self, page: &Response) -> Option<Result<String, serde_json::Error>> {
        let rows: Vec<Row<'_>> = match page {
            Response::Entries { entries, .. } => entries.iter().map(Row::Entry).collect(),
            Response::Queues { queues, .. } => queues.iter().map(Row::Queue).collect(),
            _ => return None,
        };
        if !self.is_json {
            let rows: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
            return Some(Ok(self.columns.page(&rows)));
        }
        let mut text = String::new();
        for row in rows {
            text.push_str(if self.printed == 0 { "[" } else { ",\n" });
            self.printed += 1;
            match serde_json::to_string(&row.json()) {
                Ok(json) => text.push_str(&json),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(text))
    }

    /// Text after the last page.
    pub(super) fn end(&self) -> String {
        match (self.is_json, self.printed) {
            (true, 0) => "[]\n".to_owned(),
            (true, _) => "]\n".to_owned(),
            (false, _) if self.columns.is_empty() => format!("{}\n", self.nothing),
            (false, _) => String::new(),
        }
    }
}

enum Row<'a> {
    Entry(&'a EntryView),
    Queue(&'a VQueueView),
}

impl Row<'_> {
    fn cells(&self) -> Vec<String> {
        match self {
            Self::Entry(entry) => vec![
                entry.id.to_string(),
                entry.stage.to_string(),
                or_dash(entry.outcome.map(|outcome| outcome.to_string()).as_ref()),
                entry.service.clone(),
                name(entry.scope.as_ref()),
                name(entry.limit_key.as_ref()),
                name(entry.key.as_ref()),
                entry.attempts.to_string(),
                time(entry.created_at),
                work_of(entry).line(),
            ],
            Self::Queue(queue) => vec![
                queue.id.to_string(),
                queue.service.clone(),
                name(queue.scope.as_ref()),
                name(queue.limit_key.as_ref()),
                name(queue.key.as_ref()),
                queue.inbox.to_string(),
                queue.running.to_string(),
                queue.parked.to_string(),
                queue.finished.to_string(),
                if queue.is_paused { "yes" } else { "no" }.to_owned(),
                match queue.has_handler {
                    Some(false) => "no handler here",
                    Some(true) | None => NONE,
                }
                .to_owned(),
                next_of(queue),
            ],
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Entry(entry) => entry_json(entry),
            Self::Queue(queue) => {
                let work = Work::of(&queue.service, queue.payload.as_ref(), None);
                with_work(serde_json::to_value(queue), &work)
            }
        }
    }
}

/// A part of a vqueue's name.
fn name(part: Option<&String>) -> String {
    part.map_or_else(|| NONE.to_owned(), |part| safe(part))
}

/// The work of an entry.
pub(super) fn work_of(entry: &EntryView) -> Work {
    Work::of(&entry.service, entry.payload.as_ref(), entry.result.as_ref())
}

/// An entry with its command in place of the bytes of its payload.
pub(super) fn entry_json(entry: &EntryView) -> Value {
    let work = work_of(entry);
    let mut json = with_work(serde_json::to_value(entry), &work);
    if matches!(work, Work::Command { .. })
        && let Value::Object(object) = &mut json
    {
        object.remove("result");
    }
    json
}

fn with_work(json: Result<Value, serde_json::Error>, work: &Work) -> Value {
    let mut object = match json {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    object.remove("payload");
    work.put_json(&mut object);
    Value::Object(object)
}

/// The stage of an entry, in a word.
pub(super) fn stage_word(entry: &EntryView) -> String {
    match (entry.stage, entry.outcome) {
        (Stage::Finished, Some(outcome)) => outcome.to_string(),
        (stage, _) => stage.to_string(),
    }
}

/// What a queue runs now or next, on one line.
pub(crate) fn next_of(queue: &VQueueView) -> String {
    Work::of(&queue.service, queue.payload.as_ref(), None).line()
}

/// The work of an entry, on one line; its directory, if it has one.
pub(crate) fn work(entry: &EntryView) -> (String, Option<String>) {
    let work = work_of(entry);
    let directory = match &work {
        Work::Command { job, is_whole: true } => {
            Some(safe(&String::from_utf8_lossy(&job.directory)))
        }
        _ => None,
    };
    (work.line(), directory)
}
