//! Why a run of `forebay exec` cannot start, or not finish.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::exec::{
    feed::OpenInputError, process::SpawnerError, program::ProgramError, results::ResultsError,
    runs::book::BookError, shape::ShapeError, template::TemplateError,
};

/// Why a run cannot start or finish.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Input(#[from] OpenInputError),
    #[error(transparent)]
    Results(#[from] ResultsError),
    #[error(transparent)]
    Book(#[from] BookError),
    #[error("cannot use {}: {source}; check its permissions and free space", .path.display())]
    Kept { path: PathBuf, source: io::Error },
    #[error("there is no run `{0}`; `forebay runs` lists them")]
    NoRun(String),
    #[error("{count} runs begin with `{name}`; `forebay runs` lists them")]
    ManyRuns { name: String, count: usize },
    #[error(transparent)]
    Spawner(#[from] SpawnerError),
    #[error(transparent)]
    Runtime(#[from] forebay::RuntimeError),
    #[error(transparent)]
    Enqueue(#[from] forebay::EnqueueError),
    #[error(transparent)]
    Rules(#[from] forebay::rules::RulesError),
    #[error("cannot read the current directory: {0}; change to one that exists")]
    Directory(#[source] io::Error),
    #[error("{0}")]
    Os(#[from] io::Error),
    /// The input, or the process that starts commands, failed.
    #[error("{0}")]
    Broken(String),
    /// `--strict` and a bad line.
    #[error("{0} (nothing was stored, because of --strict)")]
    Strict(String),
}
