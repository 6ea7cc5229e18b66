//! What a person sees of a run: a bar on a terminal, now and then a line elsewhere,
//! and the outputs of the items.
//!
//! Must always hold: the output of an item is written as one piece, never mixed with
//! another's or with the bar; standard output has nothing but outputs (and JSON). When
//! standard output is closed (`| head`), the run is asked to stop, as by SIGPIPE; a closed
//! standard error takes no progress and no messages, and the run goes on. Who waits for a
//! reader of standard output keeps nobody from standard error. Must not know: what the
//! numbers mean.

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
    super::unwritten,
    interrupt::{How, Stopper},
    progress::{Details, View},
    report::{Output, Report},
};

/// How often the bar is drawn at most, per second.
const BAR_HZ: u8 = 10;
/// How often a plain line is written at most.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// When the first one is, while the input is still being read.
const LINE_FIRST: Duration = Duration::from_secs(1);
/// From how many columns on there is a long bar, and a short one.
const LONG_BAR_FROM: u16 = 120;
const SHORT_BAR_FROM: u16 = 60;

/// Standard output, standard error and the bar, for one writer at a time. Clones share
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    bar: Option<ProgressBar>,
    /// No progress.
    is_quiet: bool,
    state: Arc<Mutex<State>>,
    /// Nobody reads the outputs any more.
    closed: Arc<AtomicBool>,
    stopper: Stopper,
}

#[derive(Debug, Default)]
struct State {
    /// When the last plain line was written, since the start of the run.
    line_at: Option<Duration>,
    /// How the bar was last laid out.
    layout: Option<Layout>,
    /// Nothing is shown any more.
    is_closed: bool,
}

/// How the columns of the terminal are used.
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
    /// A bar when standard error is a terminal, else plain lines; neither when it is to be
    /// quiet.
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

    /// Whether it is time to show how far the run is: on a terminal always, elsewhere now and
    /// then once it has begun. `now` is since its start.
    pub(crate) fn wants(&self, now: Duration, is_read: bool, has_begun: bool) -> bool {
        let first = if is_read { LINE_EVERY } else { LINE_FIRST };
        let due = |at: Option<Duration>| now >= at.map_or(first, |at| at + LINE_EVERY);
        // Somebody else may write, and wait for a reader.
        let Ok(state) = self.state.try_lock() else { return false };
        self.bar.is_some() || has_begun && !self.is_quiet && due(state.line_at)
    }

    /// Shows it.
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
        // A bar of nothing would look like a full one.
        let layout = if view.total == 0 { Layout::None } else { Layout::of(columns()) };
        if state.layout.replace(layout) != Some(layout) {
            bar.set_style(layout.style());
        }
        bar.set_length(view.total);
        bar.set_message(Details(view).to_string());
        bar.set_position(view.done);
    }

    /// Writes both outputs of an item, each as one piece; whether all of it was written. With
    /// a tag each line begins with it and a tab. Blocks as long as nobody reads them.
    ///
    /// # Errors
    /// When an output cannot be read or written; that it is closed is no error.
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

    /// Writes a line to standard output; whether it was written. Blocks as long as nobody
    /// reads it.
    ///
    /// # Errors
    /// When it cannot be written; that standard output is closed is no error.
    pub(crate) fn line(&self, line: &str) -> io::Result<bool> {
        self.write(&STDOUT, || {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush())
        })
    }

    /// Writes to where outputs go, unless that is closed; the first time that it is found to
    /// be, the run is asked to stop.
    fn write(&self, stream: &Stream, write: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // A bar is in the way only on the same terminal. Where nobody reads a pipe, nothing
        // else is to wait for it.
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
            // Nobody is left to be told that nobody can be told.
            let _ = io::stderr().lock().write_all(text);
        });
    }

    /// Takes the bar away, at the end; it does not come back.
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

/// Where outputs go.
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

/// Puts a tag and a tab before each line that is written to it.
struct Tagged<'a, W: Write> {
    tag: &'a [u8],
    to: W,
    in_line: bool,
}

impl<W: Write> Tagged<'_, W> {
    /// A last line without its end gets one, so that the next tag begins a line.
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

/// Copies all there is of an output: the file when it is there, else the head.
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
