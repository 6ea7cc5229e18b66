//! The source of a run's items.

use std::path::Path;

use tokio::sync::mpsc;

use super::ExecError;
use crate::{
    args::ExecArgs,
    exec::{
        feed::{self, Adder, Fed},
        inside::Inside,
        item::Prepared,
        program::check_program,
        runs::Identity,
        setup,
        shape::check_shape,
        show::LinesRead,
    },
};

/// An input that is being read.
pub(super) struct Input {
    pub(super) identity: Identity,
    /// Items that were read already.
    pub(super) held: Vec<Prepared>,
    pub(super) fed: mpsc::Receiver<Fed>,
    lines: LinesRead,
    /// For items that are added.
    pub(super) adder: Adder,
}

/// The source of the items.
pub(super) enum Source {
    /// They are read; ones that were already read (`--strict`) come first.
    Input(Box<Input>),
    /// Interrupted runs: one of them, or all (an empty name).
    Stored(String),
}

impl Source {
    /// Number of input lines read.
    pub(super) fn lines(&self) -> LinesRead {
        match self {
            Self::Input(input) => input.lines.clone(),
            Self::Stored(_) => LinesRead::default(),
        }
    }
}

/// Starts reading the input. With `--strict` all of it is read first, unless nothing will be
/// stored.
pub(super) async fn input(args: &ExecArgs, data_dir: &Path) -> Result<Source, ExecError> {
    let directory = std::env::current_dir().map_err(ExecError::Directory)?;
    let plan = setup::compile(args, &directory)?;
    check_shape(&args.command)?;
    // A relative path for --chdir cannot be checked from here.
    let is_elsewhere =
        |program: &[u8]| args.chdir.is_some() && program.contains(&b'/') && program[0] != b'/';
    if let Some(program) = plan.program().filter(|program| !is_elsewhere(program)) {
        check_program(program)?;
    }
    let identity = plan.run().clone();
    let inside = Inside::new(&directory, data_dir);
    let reader = feed::open(&args.input)?;
    let adder = Adder::new(setup::reading(args), plan, inside);
    let (mut fed, lines) = feed::start(reader, &adder)?;
    let reads_all = args.strict && !args.dry_run;
    let held = if reads_all { read_all(&mut fed).await? } else { Vec::new() };
    Ok(Source::Input(Box::new(Input { identity, held, fed, lines, adder })))
}

/// Reads the whole input; the first bad line refuses it.
async fn read_all(fed: &mut mpsc::Receiver<Fed>) -> Result<Vec<Prepared>, ExecError> {
    let mut all = Vec::new();
    while let Some(next) = fed.recv().await {
        match next {
            // All are kept: the read-ahead limit does not apply here.
            Fed::Item(item, _) => all.push(*item),
            Fed::Bad(reason) => return Err(ExecError::Strict(reason)),
            // Problems are reported line by line.
            Fed::Note(_) | Fed::Inside => {}
            Fed::Broken(reason) => return Err(ExecError::Broken(reason)),
        }
    }
    Ok(all)
}
