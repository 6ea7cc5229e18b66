//! The log, on standard error.

use std::io::Write;

use tracing::level_filters::LevelFilter;

/// Logs events of `level` and above; each event is one write to a writer made by `writer`. Only the
/// first call in a process has an effect.
pub(crate) fn start<W: Write + 'static>(
    level: LevelFilter,
    writer: impl Fn() -> W + Send + Sync + 'static,
) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(writer)
        .finish();
    // A second call is a bug that need not stop the program.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
