//! Standard output and standard error, as all commands use them.
//!
//! Must not know: which command writes.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// All succeeded.
pub(crate) const EXIT_SUCCESS: u8 = 0;
/// Some failed, were skipped, or are left.
pub(crate) const EXIT_FAILURES: u8 = 1;
/// Wrong usage or environment.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Prints `error: …` and returns the exit code of wrong usage or environment.
pub(crate) fn fail(error: &dyn std::error::Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Many errors already contain their cause.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let _ = writeln!(io::stderr().lock(), "error: {text}");
    ExitCode::from(EXIT_USAGE)
}

/// A note for the user, separate from the answer, which a program may read.
pub(crate) fn note(text: &str) {
    // Standard error may be closed.
    let _ = writeln!(io::stderr().lock(), "forebay: {text}");
}

/// Writes to standard output. A reader that closes it early is no error.
pub(crate) fn print(bytes: &[u8]) -> io::Result<ExitCode> {
    print_more(bytes).map(|_| ExitCode::SUCCESS)
}

/// Writes to standard output; whether the reader is still there.
pub(crate) fn print_more(bytes: &[u8]) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritten("standard output", &error)),
    }
}

/// An error with the file that could not be written.
pub(crate) fn unwritten(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {what}: {error}"))
}
