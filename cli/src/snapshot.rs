//! `forebay snapshot`: the process that uses the data directory takes snapshots; they are checked
//! and restored here.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use forebay::{
    control::{Request, SnapshotView, snapshot_view},
    snapshot::{self, SnapshotError},
};
use thiserror::Error;

use super::args::{Global, SnapshotArgs, SnapshotCommand};

/// Why nothing was restored or checked.
#[derive(Debug, Error)]
pub(super) enum SnapshotWorkError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Output(#[from] std::io::Error),
}

/// Work that needs no request.
pub(super) enum Work {
    Restore { from: PathBuf, log_of: Option<PathBuf> },
    Verify { from: PathBuf },
}

/// The request of `forebay snapshot create`, or the work of the other commands.
pub(super) fn request(args: &SnapshotArgs) -> Result<Request, Work> {
    match args.command.clone() {
        // The other process may have another working directory.
        SnapshotCommand::Create { to } => {
            Ok(Request::Snapshot { to: std::path::absolute(&to).unwrap_or(to) })
        }
        SnapshotCommand::Restore { from, log_of } => Err(Work::Restore { from, log_of }),
        SnapshotCommand::Verify { from } => Err(Work::Verify { from }),
    }
}

impl Work {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, SnapshotWorkError> {
        let manifest = match self {
            Self::Restore { from, log_of } => {
                snapshot::restore(&from, &global.data_dir, log_of.as_deref())?
            }
            Self::Verify { from } => snapshot::verify(&from)?,
        };
        let manifest = snapshot_view(manifest);
        let text = match global.json {
            true => serde_json::to_string(&manifest)? + "\n",
            false => as_text(&manifest),
        };
        Ok(super::console::print(text.as_bytes())?)
    }
}

/// A manifest, for display.
pub(super) fn as_text(manifest: &SnapshotView) -> String {
    let bytes: u64 = manifest.files.iter().map(|file| file.len).sum();
    let mut text = format!(
        "snapshot of {} by forebay {}: {} files, {bytes} bytes\n",
        super::show::format::time(manifest.created_at),
        manifest.forebay,
        manifest.files.len()
    );
    for partition in &manifest.partitions {
        let _ = writeln!(
            text,
            "partition {}: {} rows as of LSN {}, log {}..{}",
            partition.id, partition.rows, partition.applied, partition.log_first, partition.log_end
        );
    }
    text
}
