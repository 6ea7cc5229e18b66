//! `forebay output`: the stored outputs of `exec` commands.
//!
//! Must always hold: only real output is written; output that is no longer stored is reported. Must
//! not know: how items run.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::ExitCode,
};

use bilrost::OwnedMessage;
use forebay::control::{Control, ControlError, Request, Response};
use forebay_api::{DETAIL_BYTES_MAX, EntryDetails};
use forebay_messages::EntryId;
use thiserror::Error;

use super::{
    args::{Global, OutputArgs},
    console::{EXIT_FAILURES, note},
    exec::{
        report::{Output, Report},
        results::kept,
        runs::{
            RunId,
            book::{self, BookError},
        },
    },
};

/// Why outputs cannot be printed.
#[derive(Debug, Error)]
pub(crate) enum OutputError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0}")]
    Refused(String),
    #[error("the answer does not match the request (another version of forebay?)")]
    Unexpected,
    #[error(transparent)]
    Book(#[from] BookError),
    #[error("there is no run `{0}`; `forebay runs` lists them")]
    NoRun(String),
    #[error("{count} runs begin with `{name}`; `forebay runs` lists them")]
    ManyRuns { name: String, count: usize },
    #[error("{id} is no item of exec that has ended; `forebay entry {id}` shows what it is")]
    NoOutput { id: EntryId },
    #[error("cannot write the outputs: {0}")]
    Write(#[from] io::Error),
}

/// Prints the outputs of entries, or of all items of a run.
///
/// # Errors
/// [`OutputError`]
pub(crate) async fn output(global: &Global, args: &OutputArgs) -> Result<ExitCode, OutputError> {
    let entries = match &args.run {
        None => args.entries.clone(),
        Some(name) => of_run(&global.data_dir, name)?,
    };
    let control = Control::open(&global.data_dir).await?;
    let printed = print_all(&control, global, args, &entries).await;
    control.close().await?;
    printed
}

/// The items of a run, in the order of its book.
fn of_run(data_dir: &Path, name: &str) -> Result<Vec<EntryId>, OutputError> {
    let runs = book::list(data_dir)?;
    let found: Vec<&RunId> =
        runs.iter().map(|run| &run.id).filter(|id| id.to_string().starts_with(name)).collect();
    let [id] = found[..] else {
        return Err(match found.len() {
            0 => OutputError::NoRun(name.to_owned()),
            count => OutputError::ManyRuns { name: name.to_owned(), count },
        });
    };
    let items = book::items(data_dir, id)?;
    Ok(items.places().map(|place| items.id(place)).collect())
}

async fn print_all(
    control: &Control,
    global: &Global,
    args: &OutputArgs,
    entries: &[EntryId],
) -> Result<ExitCode, OutputError> {
    let mut is_whole = true;
    for id in entries {
        let request = Request::Entry { entry: *id, bytes_max: DETAIL_BYTES_MAX };
        let details = match control.ask(request).await? {
            Response::Entry { details } => details,
            // It was purged.
            Response::Error { .. } if args.run.is_some() => continue,
            Response::Error { message, .. } => return Err(OutputError::Refused(message)),
            _ => return Err(OutputError::Unexpected),
        };
        let Some(report) = report(&details) else {
            // It has not ended, or none of its commands has.
            match &details.entry.failure {
                _ if args.run.is_some() => {}
                Some(why) if is_exec(&details) => note(&format!("{id} has no output: {why}")),
                _ => return Err(OutputError::NoOutput { id: *id }),
            }
            continue;
        };
        let written = print(global, *id, &report);
        match written {
            Ok(whole) => is_whole &= whole,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURES) })
}

fn is_exec(details: &EntryDetails) -> bool {
    RunId::of_service(&details.entry.service).is_some()
}

fn report(details: &EntryDetails) -> Option<Report> {
    let bytes = details.entry.result.as_ref().or(details.detail.as_ref())?;
    if is_exec(details) && bytes.is_whole() {
        Report::decode(bytes.head.clone()).ok()
    } else {
        None
    }
}

/// Prints both outputs; whether both are stored completely.
fn print(global: &Global, id: EntryId, report: &Report) -> io::Result<bool> {
    let kept_dir = global.data_dir.join("exec").join("kept");
    let copied = |output: &Output, stream: &str, to: &mut dyn Write| {
        let named = output.file.as_ref().map(|path| Path::new(OsStr::from_bytes(path)).to_owned());
        let here = kept(&kept_dir, id, stream);
        let file = named.into_iter().chain([here]).find_map(|path| File::open(path).ok());
        match file.filter(|_| !output.is_whole()) {
            Some(mut file) => {
                io::copy(&mut file, &mut &mut *to)?;
                return Ok(true);
            }
            None => to.write_all(&output.head)?,
        }
        if !output.is_whole() {
            note(&format!(
                "{stream} of {id}: only the first {} of {} bytes are stored",
                output.head.len(),
                output.len
            ));
        }
        Ok::<_, io::Error>(output.is_whole())
    };
    let stdout = copied(&report.stdout, "stdout", &mut io::stdout().lock())?;
    let stderr = copied(&report.stderr, "stderr", &mut io::stderr().lock())?;
    Ok(stdout && stderr)
}
