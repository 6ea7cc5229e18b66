//! The display of a run: a bar on a terminal, occasional lines otherwise, and the outputs of
//! the items.
//!
//! Must always hold: the output of an item is written in one piece, never mixed with another's or
//! with the bar; standard output only has outputs (and JSON). When standard output is closed (`|
//! head`), the run is asked to stop, as by SIGPIPE; when standard error is closed, progress and
//! messages are lost, and the run continues. Waiting for a reader of standard output does not block
//! standard error. Must not know: the meaning of the numbers.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, IsTerminal, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use signal_hook::consts::SIGPIPE;

use super::{
    interrupt::{How, Stopper},
    progress::{Details, View},
    report::{Output, Report},
};
use crate::console::unwritten;

/// Maximum rate of drawing the bar, per second.
const BAR_HZ: u8 = 10;
/// Minimum interval between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time of the first one, while the input is still being read.
const LINE_FIRST: Duration = Duration::from_secs(1);
/// Minimum number of columns for a long bar, and for a short one.
const LONG_BAR_FROM: u16 = 120;
const SHORT_BAR_FROM: u16 = 60;

/// Standard output, standard error and the bar, for one writer at a time. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    bar: Option<ProgressBar>,
    /// No progress.
    is_quiet: bool,
    state: Arc<Mutex<State>>,
    /// The reader of the outputs is gone.
    closed: Arc<AtomicBool>,
    stopper: Stopper,
}

#[derive(Debug, Default)]
struct State {
    /// When the last plain line was written, since the start of the run.
    line_at: Option<Duration>,
    /// The last layout of the bar.
    layout: Option<Layout>,
    /// Nothing is shown any more.
    is_closed: bool,
}

/// The layout of the terminal's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Long,
    Short,
    None,
}

impl Layout {
    fn of(columns: u16) -> Self {
        match columns {
            LONG_BAR_FROM.. => Self::Long,
            SHORT_BAR_FROM.. => Self::Short,
            _ => Self::None,
        }
    }

    fn style(self) -> ProgressStyle {
        let template = match self {
            Self::Long => "{bar:30} {pos}/{len} {wide_msg}",
            Self::Short => "{bar:10} {pos}/{len} {wide_msg}",
            Self::None => "{pos}/{len} {wide_msg}",
        };
        ProgressStyle::with_template(template).expect("the template is a constant")
    }
}

/// Columns of the terminal, which may change at any time.
fn columns() -> u16 {
    rustix::termios::tcgetwinsize(io::stderr()).map_or(LONG_BAR_FROM, |size| size.ws_col)
}

impl Screen {
    /// A bar when standard error is a terminal, otherwise plain lines; neither when quiet.
    #[must_use]
    pub(crate) fn new(is_quiet: bool, stopper: Stopper) -> Self {
        let has_bar = !is_quiet && io::stderr().is_terminal();
        let bar = has_bar.then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(BAR_HZ);
            let bar = ProgressBar::with_draw_target(Some(0), target);
            bar.set_style(Layout::None.style());
            bar
        });
        Self { bar, is_quiet, state: Arc::default(), closed: Arc::default(), stopper }
    }

    /// Whether to show the progress now: on a terminal always, otherwise at intervals once the run
    /// has begun. `now` is since its start.
    pub(crate) fn wants(&self, now: Duration, is_read: bool, has_begun: bool) -> bool {
        let first = if is_read { LINE_EVERY } else { LINE_FIRST };
        let due = |at: Option<Duration>| now >= at.map_or(first, |at| at + LINE_EVERY);
        // Another thread may be writing, and waiting for a reader.
        let Ok(state) = self.state.try_lock() else { return false };
        self.bar.is_some() || has_begun && !self.is_quiet && due(state.line_at)
    }

    /// Shows the progress.
    pub(crate) fn show(&self, view: &View, now: Duration) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let Some(bar) = &self.bar else {
            state.line_at = Some(now);
            let _ = writeln!(io::stderr().lock(), "forebay: {view}");
            return;
        };
        // An empty bar would look like a full one.
        let layout = if view.total == 0 { Layout::None } else { Layout::of(columns()) };
        if state.layout.replace(layout) != Some(layout) {
            bar.set_style(layout.style());
        }
        bar.set_length(view.total);
        bar.set_message(Details(view).to_string());
        bar.set_position(view.done);
    }

    /// Writes both outputs of an item, each in one piece; whether all of it was written. With a tag
    /// each line begins with it and a tab. Blocks until the reader has read it.
    ///
    /// # Errors
    /// When an output cannot be read or written; a closed standard output is not an error.
    pub(crate) fn outputs(&self, report: &Report, tag: Option<Bytes>) -> io::Result<bool> {
        let tag = tag.as_deref();
        let mut written = true;
        if report.stdout.len > 0 {
            written = self.write(&STDOUT, || {
                let mut out = io::stdout().lock();
                write_output(&report.stdout, tag, &mut out).and_then(|()| out.flush())
            })?;
        }
        if written && report.stderr.len > 0 {
            let _state = self.lock();
            written = self
                .write(&STDERR, || write_output(&report.stderr, tag, &mut io::stderr().lock()))?;
        }
        Ok(written)
    }

    /// Writes a line to standard output; whether it was written. Blocks until the reader has read
    /// it.
    ///
    /// # Errors
    /// When it cannot be written; a closed standard output is not an error.
    pub(crate) fn line(&self, line: &str) -> io::Result<bool> {
        self.write(&STDOUT, || {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush())
        })
    }

    /// Writes to the stream of outputs, unless that is closed; when it is found closed for the
    /// first time, the run is asked to stop.
    fn write(&self, stream: &Stream, write: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // A bar is only in the way on the same terminal. If a pipe is not read, nothing else may
        // wait for it.
        let written = if (stream.is_terminal)() { self.without_bar(write) } else { write() };
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                self.stopper.ask(How::Finish, Some(SIGPIPE));
                Ok(false)
            }
            Err(error) => Err(unwritten(stream.name, &error)),
        }
    }

    /// Writes text to standard error, above the bar.
    pub(crate) fn message(&self, text: &[u8]) {
        let _state = self.lock();
        self.without_bar(|| {
            // A failure to report a failure is ignored.
            let _ = io::stderr().lock().write_all(text);
        });
    }

    /// Removes the bar, at the end; it does not return.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn without_bar<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of outputs.
struct Stream {
    name: &'static str,
    is_terminal: fn() -> bool,
}

const STDOUT: Stream =
    Stream { name: "standard output", is_terminal: || io::stdout().is_terminal() };
const STDERR: Stream =
    Stream { name: "standard error", is_terminal: || io::stderr().is_terminal() };

/// Standard error for the log: lines go above the bar.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.message(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_output(output: &Output, tag: Option<&[u8]>, to: &mut impl Write) -> io::Result<()> {
    let Some(tag) = tag else { return copy(output, to) };
    let mut tagged = Tagged { tag, to: io::BufWriter::new(to), in_line: false };
    copy(output, &mut tagged)?;
    tagged.end()
}

/// Writes a tag and a tab before each line.
struct Tagged<'a, W: Write> {
    tag: &'a [u8],
    to: W,
    in_line: bool,
}

impl<W: Write> Tagged<'_, W> {
    /// Ends an unfinished last line, so that the next tag begins a line.
    fn end(mut self) -> io::Result<()> {
        if self.in_line {
            self.to.write_all(b"\n")?;
        }
        self.to.flush()
    }
}

impl<W: Write> Write for Tagged<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.in_line {
                self.to.write_all(self.tag)?;
                self.to.write_all(b"\t")?;
            }
            self.to.write_all(line)?;
            self.in_line = line.last() != Some(&b'\n');
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Copies a whole output: from the file if it exists, otherwise the head.
fn copy(output: &Output, to: &mut impl Write) -> io::Result<()> {
    let file = output.file.as_ref().map(|path| File::open(Path::new(OsStr::from_bytes(path))));
    match file {
        Some(Ok(mut file)) => io::copy(&mut file, to).map(drop),
        Some(Err(_)) | None => to.write_all(&output.head),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Output, copy, write_output};

    #[test]
    fn each_line_is_tagged_and_the_last_one_ended() {
        let tagged = |head: &str| {
            let output =
                Output { head: Bytes::copy_from_slice(head.as_bytes()), ..Output::default() };
            let mut to = Vec::new();
            write_output(&output, Some(b"a b"), &mut to).unwrap();
            String::from_utf8(to).unwrap()
        };
        assert_eq!(tagged("1\n\n2"), "a b\t1\na b\t\na b\t2\n");
        assert_eq!(tagged(""), "");
    }

    #[test]
    fn the_file_counts_when_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o");
        let file = Some(Bytes::copy_from_slice(path.as_os_str().as_encoded_bytes()));
        let output = Output { head: "be".into(), len: 9, file, lost: None };
        let copied = || {
            let mut to = Vec::new();
            copy(&output, &mut to).unwrap();
            to
        };
        assert_eq!(copied(), b"be");
        std::fs::write(&path, "beginning").unwrap();
        assert_eq!(copied(), b"beginning");
    }
}
