//! The log, on standard error.

use std::io::Write;

use tracing::level_filters::LevelFilter;

/// Logs events of `level` and above; each event is one write to what `writer` makes.
/// Only the first call in a process counts.
pub(crate) fn start<W: Write + 'static>(
    level: LevelFilter,
    writer: impl Fn() -> W + Send + Sync + 'static,
) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(writer)
        .finish();
    // A second log in one process is a mistake of ours that need not stop anybody.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
