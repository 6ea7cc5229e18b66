//! Takes added items for the run of this process.
//!
//! Must always hold: items are reported as stored only after the run has stored them; once the run
//! takes no more items, clients get a refusal. Must not know: how items are stored.

use std::{
    fs,
    io::{self, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, Counts, FrameReader, Header, SOCKET_NAME, VERSION, read_line, send_line, socket,
};
use crate::exec::{
    feed::{self, Adder, Fed},
    input::{Format, Reading},
};

/// Maximum number of connections.
const CONNECTIONS_MAX: usize = 16;
/// Maximum number of batches of items that wait for the run.
const BATCHES_MAX: usize = 4;
/// Maximum number of items in a batch.
const BATCH_LEN_MAX: usize = 256;
/// Maximum time for a client to send its first line, and to read each answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Items to be stored, and the sender for the result.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Fed>,
    pub(crate) stored: oneshot::Sender<Counts>,
}

/// The run, for answers to clients.
#[derive(Clone, Debug)]
pub(crate) struct RunInfo {
    pub(crate) run: String,
    pub(crate) command: String,
}

/// The socket, while the run takes items.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes items from now on. `dir` is the directory of `exec`, which this process owns.
///
/// # Errors
/// When the socket cannot be created.
pub(crate) fn start(
    dir: &Path,
    run_info: RunInfo,
    adder: Adder,
) -> io::Result<(Server, mpsc::Receiver<Batch>)> {
    let listener = socket::bind(dir)?;
    let (batches, taken) = mpsc::channel(BATCHES_MAX);
    let open = Arc::new(AtomicUsize::new(0));
    // Not joined: it waits for connections until the process ends.
    thread::Builder::new().name("forebay-adds".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                let reason = format!("{CONNECTIONS_MAX} others add items already: try again");
                let _ = stream.set_write_timeout(Some(TIMEOUT));
                let _ = send_line(&mut stream, &Answer::Refused { reason });
                continue;
            }
            let (run_info, adder, batches) = (run_info.clone(), adder.clone(), batches.clone());
            let (counted, spawned_count) = (Arc::clone(&open), Arc::clone(&open));
            let serving = move || {
                if let Err(error) = serve(stream, &run_info, &adder, &batches) {
                    tracing::debug!(%error, "a client that adds items is gone");
                }
                counted.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new().name("forebay-add".to_owned()).spawn(serving).is_err() {
                spawned_count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })?;
    Ok((Server { path: dir.join(SOCKET_NAME) }, taken))
}

fn serve(
    mut stream: UnixStream,
    run_info: &RunInfo,
    adder: &Adder,
    batches: &mpsc::Sender<Batch>,
) -> io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(header) = read_line::<Header>(&mut reader)? else { return Ok(()) };
    if let Some(reason) = refusal(&header, run_info, batches) {
        return send_line(&mut stream, &Answer::Refused { reason });
    }
    let reading = reading(&header, adder.reading());
    let is_ndjson = reading.format == Format::Ndjson;
    let (run, command) = (run_info.run.clone(), run_info.command.clone());
    send_line(&mut stream, &Answer::Hello { run, command, is_ndjson })?;
    // A user may type them.
    stream.set_read_timeout(None)?;
    let input = Box::new(BufReader::new(FrameReader::new(reader)));
    let mut fed = feed::start_added(input, reading, adder)?;
    let mut is_broken = false;
    while let Some(first) = fed.blocking_recv() {
        let (mut items, mut counts) = (Vec::new(), Counts::default());
        let mut next = Some(first);
        while let Some(fed_one) = next.take() {
            match fed_one {
                item @ Fed::Item(..) => items.push(item),
                Fed::Bad(reason) => {
                    counts.skipped += 1;
                    send_line(&mut stream, &Answer::Bad { reason })?;
                }
                Fed::Note(text) => send_line(&mut stream, &Answer::Note { text })?,
                Fed::Inside => counts.inside += 1,
                // The client is gone.
                Fed::Broken(_) => is_broken = true,
            }
            if items.len() < BATCH_LEN_MAX {
                next = fed.try_recv().ok();
            }
        }
        if !items.is_empty() {
            let (stored, answer) = oneshot::channel();
            let sent = batches.blocking_send(Batch { items, stored });
            let Some(taken) = sent.ok().and_then(|()| answer.blocking_recv().ok()) else {
                let reason = "the run has ended or is being stopped".to_owned();
                send_line(&mut stream, &Answer::Stored(counts))?;
                return send_line(&mut stream, &Answer::Refused { reason });
            };
            counts.add(taken);
        }
        send_line(&mut stream, &Answer::Stored(counts))?;
    }
    if is_broken { Ok(()) } else { send_line(&mut stream, &Answer::End) }
}

fn refusal(header: &Header, run_info: &RunInfo, batches: &mpsc::Sender<Batch>) -> Option<String> {
    if header.version != VERSION {
        return Some(format!(
            "the running process is another version of forebay (it speaks {VERSION} and not {})",
            header.version
        ));
    }
    if batches.is_closed() {
        return Some("the run has ended or is being stopped".to_owned());
    }
    let wanted = header.run.as_deref().filter(|wanted| !run_info.run.starts_with(wanted))?;
    let RunInfo { run, command } = run_info;
    Some(format!(
        "run `{wanted}` is not running here, but {} ({command})",
        &run[..8.min(run.len())]
    ))
}

/// The format of the items: as in the input of the run, unless the client specifies it.
fn reading(header: &Header, of_run: Reading) -> Reading {
    let format = match (header.format.unwrap_or(of_run.format), header.are_words) {
        (Format::Ndjson, _) => Format::Ndjson,
        (_, true) => Format::Nul,
        (format, false) => format,
    };
    let crlf = header.crlf || header.format.is_none() && of_run.crlf;
    Reading { format, crlf, per_item: header.per_item.unwrap_or(of_run.per_item) }
}
