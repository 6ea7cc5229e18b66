//! Commands that query a data directory: `rules`, `entries`, `entry`, `queues`, `status`.
//!
//! Must always hold: long lists are printed page by page. Must not know: whether the directory is
//! in use (the answers are the same), and how answers are formatted.

use std::{process::ExitCode, time::Duration};

use forebay::{
    Stage,
    cluster::RemoteNode,
    control::{Control, ControlError, Request, Response, RuleEdit},
};
use forebay_actors::shell::{Clock as _, WallClock};
use forebay_api::{EntryFilter, LISTED_BYTES_MAX};

use super::{
    args::{
        EntriesArgs, EntryArgs, Global, PauseTarget, QueuesArgs, RuleTarget, RulesArgs,
        RulesCommand, StageArg,
    },
    ask_error::AskError,
    exec::runs::SERVICE,
    show::Printer,
};

/// Maximum number of bytes of a payload, and of a result, that `forebay entry` requests: more than
/// a result of `exec` has.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Sends the request and prints the answer page by page.
pub(crate) async fn ask(global: &Global, request: Request) -> Result<ExitCode, AskError> {
    let control = open(global, &request).await?;
    let only_looks = request.only_looks();
    let asked = ask_all(&control, global, request).await;
    match control.close().await {
        // Reading has changed nothing that must be kept.
        Err(error) if !only_looks => asked.and(Err(error.into())),
        _ => asked,
    }
}

async fn ask_all(
    control: &Control,
    global: &Global,
    request: Request,
) -> Result<ExitCode, AskError> {
    let mut printer = Printer::of(&request, global.json);
    let mut pages = control.pages(request);
    let mut next_page = None;
    while let Some(part) = pages.next().await? {
        if let Response::Error { message, .. } = part {
            return Err(AskError::Refused(message));
        }
        if !super::console::print_more(printer.part(&part)?.as_bytes())? {
            return Ok(ExitCode::SUCCESS);
        }
        next_page = match part {
            Response::Entries { next, .. } => next.map(|next| next.to_string()),
            Response::Queues { next, .. } => next.map(|next| next.to_string()),
            _ => None,
        };
    }
    let printed = super::console::print(printer.end().as_bytes())?;
    if let Some(next) = next_page {
        // Separate from the answer, which a program may read.
        super::console::note(&format!("there may be more: repeat this with --after {next}"));
    }
    Ok(printed)
}

/// Opens the data directory in the way that a request needs, or reaches the node of `--node`.
async fn open(global: &Global, request: &Request) -> Result<Control, AskError> {
    if let Some(config) = global.at.config() {
        let node = RemoteNode::new(&config).await.map_err(ControlError::from)?;
        return Ok(Control::Remote(node));
    }
    if request.only_looks() {
        return Ok(Control::look(&global.data_dir).await?);
    }
    let makes_one = match request {
        Request::RuleSet { change, .. } => !change.delete && change.disabled.is_none(),
        Request::RulePause { paused, .. } => *paused,
        Request::TokenCreate { .. } => true,
        _ => false,
    };
    if makes_one && !global.data_dir.exists() {
        let control = Control::open_or_create(&global.data_dir).await?;
        super::console::note(&format!(
            "made a new data directory at {}",
            global.data_dir.display()
        ));
        return Ok(control);
    }
    Ok(Control::open(&global.data_dir).await?)
}

/// Sends the request.
pub(crate) async fn answered(global: &Global, request: Request) -> Result<Response, AskError> {
    let control = open(global, &request).await?;
    let answered = control.ask(request).await;
    let closed = control.close().await;
    let response = answered?;
    closed?;
    if let Response::Error { message, .. } = response {
        return Err(AskError::Refused(message));
    }
    Ok(response)
}

/// The request of `forebay entries`.
pub(crate) fn entries(args: &EntriesArgs) -> Request {
    let filter = EntryFilter {
        stage: args.stage.map(stage),
        service: args.service.as_deref().map(services),
        scope: args.scope.clone(),
        limit_key: args.limit_key.clone(),
        created_until: args.older_than.map(before),
        outcome: args.outcome.map(Into::into),
        limit: args.limit,
        bytes_max: LISTED_BYTES_MAX,
    };
    match args.count {
        true => Request::CountEntries { filter },
        false => Request::Entries { filter, after: args.after },
    }
}

/// The services for a name: `exec` stands for all runs.
pub(crate) fn services(name: &str) -> String {
    if name == SERVICE { format!("{SERVICE}.*") } else { name.to_owned() }
}

/// A stage as named in answers.
pub(crate) fn stage(stage: StageArg) -> Stage {
    match stage {
        StageArg::Inbox => Stage::Inbox,
        StageArg::Running => Stage::Running,
        StageArg::Suspended => Stage::Suspended,
        StageArg::Paused => Stage::Paused,
        StageArg::Finished => Stage::Finished,
    }
}

/// This long ago, in milliseconds since 1970.
pub(crate) fn before(age: Duration) -> u64 {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    WallClock.now().0.saturating_sub(age_ms)
}

/// The request of `forebay queues`.
pub(crate) fn queues(args: &QueuesArgs) -> Request {
    let filter = EntryFilter {
        service: args.service.as_deref().map(services),
        scope: args.scope.clone(),
        limit: args.limit,
        bytes_max: LISTED_BYTES_MAX,
        ..EntryFilter::default()
    };
    Request::Queues { filter, all: args.all, after: args.after }
}

/// The request of `forebay entry`.
pub(crate) fn entry(args: &EntryArgs) -> Request {
    Request::Entry { entry: args.entry, bytes_max: ENTRY_BYTES_MAX }
}

/// The request of `forebay rules …`.
pub(crate) fn rules(args: &RulesArgs) -> Request {
    let author = author();
    let edit = |target: &RuleTarget, change: RuleEdit| Request::RuleSet {
        pattern: target.pattern.to_string(),
        change,
        if_version: target.if_version,
        author: author.clone(),
    };
    match &args.command {
        RulesCommand::List => Request::Rules,
        RulesCommand::History => Request::RulesHistory { in_parts: true },
        RulesCommand::Rollback { version } => Request::RulesRollback { version: *version, author },
        RulesCommand::Set(set) => edit(
            &set.target,
            RuleEdit {
                limits: set.limits(),
                description: set.description.clone(),
                ..RuleEdit::default()
            },
        ),
        RulesCommand::Test(test) => Request::RulesTest {
            rules: test
                .rules
                .iter()
                .map(|rule| {
                    let limit = rule.concurrency.map(std::num::NonZeroU32::get);
                    (rule.pattern.to_string(), limit)
                })
                .collect(),
            key: test.key.as_ref().map(ToString::to_string),
            limit: test.limit,
        },
        RulesCommand::Pause(target) => pause(target, true, author),
        RulesCommand::Resume(target) => pause(target, false, author),
        RulesCommand::Disable(target) => {
            edit(target, RuleEdit { disabled: Some(true), ..RuleEdit::default() })
        }
        RulesCommand::Enable(target) => {
            edit(target, RuleEdit { disabled: Some(false), ..RuleEdit::default() })
        }
        RulesCommand::Delete(target) => {
            edit(target, RuleEdit { delete: true, ..RuleEdit::default() })
        }
    }
}

fn pause(target: &PauseTarget, paused: bool, author: String) -> Request {
    let pattern = target.pattern.to_string();
    Request::RulePause { pattern, paused, if_version: target.if_version, author }
}

/// The author of rule changes: the user, from the environment.
fn author() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()))
}
