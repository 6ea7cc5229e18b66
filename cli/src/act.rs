//! Commands that change entries or whole queues: `cancel`, `kill`, `pause`, `resume`,
//! `reschedule`, `purge`, `redrive`, `restart`.
//! Must always hold: each named entry or queue that was not changed is reported, and the exit code
//! shows that there is one. Must not know: which entries an action applies to.

use std::{fmt::Write as _, process::ExitCode};

use forebay::{
    EntryAction, Timestamp,
    control::{ActView, Request, Response, Target},
};
use forebay_actors::shell::{Clock as _, WallClock};
use forebay_api::EntryFilter;

use super::{
    args::{ActCommand, EndedArgs, Global, LiveSelection, PauseArgs, RescheduleArgs, Selection},
    ask_error::AskError,
    console::EXIT_FAILURES,
    inspect::{answered, before, services, stage},
    show::json,
};

/// Maximum number of printed ids, of each kind.
const PRINTED_MAX: usize = 20;

/// An action with its target.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    action: EntryAction,
    target: Target,
    dry_run: bool,
    /// The operation that a restart begins with.
    from: Option<String>,
}

impl Act {
    /// The action of a command.
    pub(crate) fn of(command: &ActCommand) -> Self {
        let live = |action, live: &LiveSelection| Self::new(action, &live.selection, Some(live));
        match command {
            ActCommand::Cancel(args) => live(EntryAction::Cancel, args),
            ActCommand::Kill(args) => live(EntryAction::Kill, args),
            ActCommand::Pause(args) => Self::pause(EntryAction::Pause, args),
            ActCommand::Resume(args) => Self::pause(EntryAction::Resume, args),
            ActCommand::Reschedule(args) => {
                live(EntryAction::Reschedule { run_at: run_at(args) }, &args.live)
            }
            ActCommand::Purge(args) => Self::ended(EntryAction::Purge, args),
            ActCommand::Redrive(args) => Self::ended(EntryAction::Redrive, args),
            ActCommand::Restart(args) => {
                let from = args.from.clone();
                Self { from, ..live(EntryAction::Restart, &args.live) }
            }
        }
    }

    fn new(action: EntryAction, selection: &Selection, live: Option<&LiveSelection>) -> Self {
        let filter = EntryFilter {
            stage: live.and_then(|live| live.stage).map(|of| stage(of.into())),
            service: selection.service.as_deref().map(services),
            scope: selection.scope.clone(),
            limit_key: selection.limit_key.clone(),
            created_until: selection.older_than.map(before),
            ..EntryFilter::default()
        };
        let (entries, all) = (selection.entries.clone(), selection.all);
        let target = Target { entries, filter, all, ..Target::default() };
        Self { action, target, dry_run: selection.dry_run, from: None }
    }

    fn pause(action: EntryAction, args: &PauseArgs) -> Self {
        let mut act = Self::new(action, &args.live.selection, Some(&args.live));
        act.target.queues.clone_from(&args.queues);
        act
    }

    fn ended(action: EntryAction, args: &EndedArgs) -> Self {
        let mut act = Self::new(action, &args.selection, None);
        act.target.filter.outcome = args.outcome.map(Into::into);
        act
    }

    /// Whether each one was named.
    fn is_named(&self) -> bool {
        !(self.target.entries.is_empty() && self.target.queues.is_empty())
    }

    /// Performs it, and prints the result.
    ///
    /// # Errors
    /// [`AskError`]; after `Control` part of the work may be done.
    pub(crate) async fn perform(self, global: &Global) -> Result<ExitCode, AskError> {
        let is_named = self.is_named();
        let what = match self.target.queues.is_empty() {
            true => ("entry", "entries"),
            false => ("queue", "queues"),
        };
        let Self { action, target, dry_run, from } = self;
        let request = match (from, target.entries.as_slice()) {
            (None, _) => Request::Act { action, target, dry_run },
            (Some(operation), [entry]) => Request::RestartFrom { entry: *entry, operation },
            (Some(_), _) => {
                let text = "--from is an operation of one entry: name one";
                return Err(AskError::Refused(text.to_owned()));
            }
        };
        let response = answered(global, request).await?;
        let Response::Acted { report } = &response else {
            return Err(AskError::Unexpected);
        };
        let text = match global.json {
            true => json(&response)?,
            false => as_text(report, what, action.done(), is_named),
        };
        super::console::print(text.as_bytes())?;
        let is_amiss = is_named && report.not_changed > 0;
        Ok(if is_amiss { ExitCode::from(EXIT_FAILURES) } else { ExitCode::SUCCESS })
    }
}

fn run_at(args: &RescheduleArgs) -> Timestamp {
    let now = WallClock.now();
    match (args.at, args.after) {
        // Times before 1970 become the earliest possible one.
        (Some(at), _) => Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0)),
        (_, Some(after)) => now.after(after),
        // `--now`: clap requires one of the three.
        (None, None) => now,
    }
}

fn as_text(report: &ActView, what: (&str, &str), done: &str, is_named: bool) -> String {
    let what = if report.changed == 1 { what.0 } else { what.1 };
    let would_be = if report.dry_run { "would be " } else { "" };
    let mut text = format!("{} {what} {would_be}{done}\n", report.changed);
    if report.dry_run {
        for id in report.changed_ids.iter().take(PRINTED_MAX) {
            let _ = writeln!(text, "  {id}");
        }
        more(&mut text, report.changed, "  ");
    }
    if is_named {
        for one in report.not_changed_ids.iter().take(PRINTED_MAX) {
            let _ = writeln!(text, "not {done}: {} is {}", one.id, one.reason);
        }
        more(&mut text, report.not_changed, "");
    } else {
        for skipped in &report.reasons {
            let _ = writeln!(text, "{} not {done}: {}", skipped.count, skipped.reason);
        }
    }
    text
}

fn more(text: &mut String, count: u64, indent: &str) {
    let left = count.saturating_sub(PRINTED_MAX as u64);
    if left > 0 {
        let _ = writeln!(text, "{indent}… and {left} more (--json names up to 1,000)");
    }
}
