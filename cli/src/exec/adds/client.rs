//! `forebay add`: adds items to a running run.
//!
//! Must always hold: exit code 0 only when the run has reported every item as durable. Must not
//! know: the command of the run.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::{ffi::OsStrExt, net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use thiserror::Error;

use super::{Answer, Counts, FrameWriter, Header, VERSION, read_line, send_line, socket};
use crate::{
    args::{AddArgs, Global},
    console::{EXIT_FAILURES, EXIT_SUCCESS},
    exec::{
        feed::{self, OpenInputError},
        setup,
    },
};

/// How long to wait for a run that is starting, and the interval of checks for it.
const START_WITHIN: Duration = Duration::from_secs(2);
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum wait for the first answer of a run.
const HELLO_WITHIN: Duration = Duration::from_secs(60);

/// Why items could not be added, or not all of them.
#[derive(Debug, Error)]
pub(crate) enum AddError {
    #[error(
        "no run takes items in {}: start one with `forebay exec`, or name another directory with \
         --data-dir (a run of `forebay exec --resume` takes none)",
        .0.display()
    )]
    NoRun(PathBuf),
    #[error("cannot reach the run in {}: {source}", .path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Input(#[from] OpenInputError),
    #[error("{0}")]
    Refused(String),
    #[error("{why}: {kept}; give the rest to `forebay exec`")]
    Partly { why: String, kept: String },
    #[error("the input broke off: {source}; {kept}")]
    Broken { source: io::Error, kept: String },
    #[error("{0}")]
    Output(io::Error),
}

/// The result, for programs.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    run: &'a str,
    #[serde(flatten)]
    counts: Counts,
}

/// Adds items; the exit code is 1 when some of them cannot be run, or had failed before.
///
/// # Errors
/// [`AddError`]
pub(crate) fn add(global: &Global, args: &AddArgs) -> Result<ExitCode, AddError> {
    let input = match args.items.is_empty() {
        true => Some(feed::open(&args.input)?),
        false => None,
    };
    let mut stream = reach(&global.data_dir)?;
    let broken = |source| AddError::Socket { path: global.data_dir.clone(), source };
    let header = Header {
        version: VERSION,
        run: args.run.clone(),
        format: setup::format(args.null, args.ndjson, args.delimiter),
        crlf: args.crlf,
        per_item: args.per_item,
        are_words: input.is_none(),
    };
    stream.set_read_timeout(Some(HELLO_WITHIN)).map_err(broken)?;
    send_line(&mut stream, &header).map_err(broken)?;
    let mut answers = BufReader::new(stream.try_clone().map_err(broken)?);
    let (run, command, is_ndjson) = match read_line::<Answer>(&mut answers).map_err(broken)? {
        Some(Answer::Hello { run, command, is_ndjson }) => (run, command, is_ndjson),
        Some(Answer::Refused { reason }) => return Err(AddError::Refused(reason)),
        _ => return Err(AddError::NoRun(global.data_dir.clone())),
    };
    stream.set_read_timeout(None).map_err(broken)?;
    let words = (!args.items.is_empty()).then(|| words(args, is_ndjson));
    // On a separate thread, because the run reports errors while it reads.
    let sending = thread::spawn(move || match (input, words) {
        (Some(input), _) => send(input, stream),
        (None, words) => send(&words.unwrap_or_default()[..], stream),
    });
    let counts = listen(&mut answers, sending)?;
    print_result(global.json, &run, &command, counts)
}

/// Connects to the run; waits for one that is starting.
fn reach(data_dir: &Path) -> Result<UnixStream, AddError> {
    let until = Instant::now() + START_WITHIN;
    loop {
        let source = match socket::connect(&data_dir.join("exec")) {
            Ok(stream) => return Ok(stream),
            Err(source) => source,
        };
        let is_absent =
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        if !is_absent {
            return Err(AddError::Socket { path: data_dir.to_owned(), source });
        }
        let may_start = data_dir.join(forebay::control::SOCKET_NAME).exists();
        if !may_start || Instant::now() >= until {
            return Err(AddError::NoRun(data_dir.to_owned()));
        }
        thread::sleep(CHECK_INTERVAL);
    }
}

/// The words of the command line as an input: each ends with NUL, or is a line of JSON.
fn words(args: &AddArgs, is_ndjson: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for word in &args.items {
        let mut word = word.as_bytes().to_vec();
        if is_ndjson {
            // Newlines between the tokens of JSON; a string contains none.
            word.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        }
        input.extend_from_slice(&word);
        input.push(if is_ndjson { b'\n' } else { 0 });
    }
    input
}

/// Sends the whole input. Returns only errors of reading it: a run that takes no more items reports
/// this itself.
fn send(mut input: impl BufRead, stream: UnixStream) -> io::Result<()> {
    let mut frames = FrameWriter(stream);
    loop {
        let bytes = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let len = bytes.len();
        let sent = if len == 0 { frames.end() } else { frames.frame(bytes) };
        if len == 0 || sent.is_err() {
            return Ok(());
        }
        input.consume(len);
    }
}

/// Counts the results that the run reports, and prints errors.
fn listen(
    answers: &mut impl BufRead,
    sending: thread::JoinHandle<io::Result<()>>,
) -> Result<Counts, AddError> {
    let mut counts = Counts::default();
    let partly = |why: &str, counts: &Counts| {
        let kept = match counts.added {
            0 => "nothing was added".to_owned(),
            count => format!("{count} were added, and are stored"),
        };
        AddError::Partly { why: why.to_owned(), kept }
    };
    loop {
        match read_line::<Answer>(answers) {
            Ok(Some(Answer::Stored(more))) => counts.add(more),
            Ok(Some(Answer::Bad { reason })) => warn(&format!("error: {reason}; skipped")),
            Ok(Some(Answer::Note { text })) => warn(&format!("forebay: {text}")),
            Ok(Some(Answer::End)) => return Ok(counts),
            Ok(Some(Answer::Refused { reason })) => return Err(partly(&reason, &counts)),
            Ok(Some(Answer::Hello { .. })) => {}
            Ok(None) | Err(_) if sending.is_finished() => {
                return match sending.join() {
                    Ok(Err(source)) => {
                        let kept = format!("{} were added before", counts.added);
                        Err(AddError::Broken { source, kept })
                    }
                    _ => Err(partly("the run has ended", &counts)),
                };
            }
            Ok(None) | Err(_) => return Err(partly("the run has ended", &counts)),
        }
    }
}

fn warn(text: &str) {
    // Standard error may be closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn print_result(
    as_json: bool,
    run: &str,
    command: &str,
    counts: Counts,
) -> Result<ExitCode, AddError> {
    let text = match as_json {
        true => {
            let line = Line { kind: "added", run, counts };
            serde_json::to_string(&line).expect("texts and numbers are JSON")
        }
        false => as_text(run, command, counts),
    };
    crate::console::print(format!("{text}\n").as_bytes()).map_err(AddError::Output)?;
    let amiss = counts.skipped + counts.failed_before;
    Ok(ExitCode::from(if amiss == 0 { EXIT_SUCCESS } else { EXIT_FAILURES }))
}

fn as_text(run: &str, command: &str, counts: Counts) -> String {
    let short = &run[..run.len().min(8)];
    let mut text = format!("{} added to run {short} ({command})", counts.added);
    let extras = [
        (counts.duplicates, "named before"),
        (counts.done_before, "were done before"),
        (counts.failed_before, "had failed before"),
        (counts.inside, "in the data directory left out"),
        (counts.skipped, "bad ones skipped"),
    ];
    for (count, what) in extras.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    text
}
