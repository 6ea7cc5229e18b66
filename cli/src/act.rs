//! Commands that change entries or whole queues: `cancel`, `kill`, `pause`, `resume`,
//! `reschedule`, `purge`, `redrive`.
//!
//! Must always hold: who names entries or queues learns of each one that was not
//! changed, and from the exit code that there is one. Must not know: to which entries
//! an action applies.

use std::{fmt::Write as _, process::ExitCode};

use forebay::control::{ActView, Action, Request, Response, Target};
use forebay_actors::{
    node::EntryFilter,
    shell::{Clock as _, WallClock},
};

use super::{
    args::{Command, EndedArgs, Global, LiveSelection, PauseArgs, RescheduleArgs, Selection},
    exec::summary::EXIT_FAILURES,
    inspect::{AskError, answered, before, services, stage},
    show::json,
};

/// Ids that are printed for people, of each kind.
const PRINTED_MAX: usize = 20;

/// What is to be done to whom.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    action: Action,
    target: Target,
    dry_run: bool,
}

impl Act {
    /// The act behind a command, if it is one of these.
    pub(crate) fn of(command: &Command) -> Option<Self> {
        let live = |action, live: &LiveSelection| Self::new(action, &live.selection, Some(live));
        Some(match command {
            Command::Cancel(args) => live(Action::Cancel, args),
            Command::Kill(args) => live(Action::Kill, args),
            Command::Pause(args) => Self::pause(Action::Pause, args),
            Command::Resume(args) => Self::pause(Action::Resume, args),
            Command::Reschedule(args) => {
                live(Action::Reschedule { run_at: run_at(args) }, &args.live)
            }
            Command::Purge(args) => Self::ended(Action::Purge, args),
            Command::Redrive(args) => Self::ended(Action::Redrive, args),
            _ => return None,
        })
    }

    fn new(action: Action, selection: &Selection, live: Option<&LiveSelection>) -> Self {
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
        Self { action, target, dry_run: selection.dry_run }
    }

    fn pause(action: Action, args: &PauseArgs) -> Self {
        let mut act = Self::new(action, &args.live.selection, Some(&args.live));
        act.target.queues.clone_from(&args.queues);
        act
    }

    fn ended(action: Action, args: &EndedArgs) -> Self {
        let mut act = Self::new(action, &args.selection, None);
        act.target.filter.outcome = args.outcome.map(Into::into);
        act
    }

    /// Whether each one was named.
    fn is_named(&self) -> bool {
        !(self.target.entries.is_empty() && self.target.queues.is_empty())
    }

    /// Does it, and says what came of it.
    ///
    /// # Errors
    /// [`AskError`]; after `Control` a part may be done.
    pub(crate) async fn perform(self, global: &Global) -> Result<ExitCode, AskError> {
        let is_named = self.is_named();
        let what = match self.target.queues.is_empty() {
            true => ("entry", "entries"),
            false => ("queue", "queues"),
        };
        let Self { action, target, dry_run } = self;
        let response = answered(global, Request::Act { action, target, dry_run }).await?;
        let Response::Acted { report } = &response else {
            return Err(AskError::Strange);
        };
        let text = match global.json {
            true => json(&response)?,
            false => people(report, what, done(action), is_named),
        };
        super::print(text.as_bytes())?;
        let is_amiss = is_named && report.not_changed > 0;
        Ok(if is_amiss { ExitCode::from(EXIT_FAILURES) } else { ExitCode::SUCCESS })
    }
}

fn run_at(args: &RescheduleArgs) -> u64 {
    let now = WallClock.now().0;
    match (args.at, args.after) {
        // What lies before 1970 is as early as can be.
        (Some(at), _) => u64::try_from(at.as_millisecond()).unwrap_or(0),
        (_, Some(after)) => {
            now.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
        }
        // `--now`: clap wants one of the three.
        (None, None) => now,
    }
}

fn done(action: Action) -> &'static str {
    match action {
        Action::Cancel => "canceled",
        Action::Kill => "killed",
        Action::Pause => "paused",
        Action::Resume => "resumed",
        Action::Reschedule { .. } => "rescheduled",
        Action::Purge => "purged",
        Action::Redrive => "redriven",
    }
}

fn people(report: &ActView, what: (&str, &str), done: &str, is_named: bool) -> String {
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
