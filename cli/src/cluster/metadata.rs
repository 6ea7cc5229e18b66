//! `forebay cluster get`, `keys`, `put`, `watch` and `events`.

use std::process::ExitCode;

use forebay::control::cluster::{Answer, ClusterEventView, KeyView, Request};

use crate::{
    args::{ClusterCommand, Global},
    console::{EXIT_FAILURES, print, print_more},
    show::{
        format::{finish, table, time},
        safe,
    },
};

use super::{ClusterCommandError, asked::Asked, json, millis};

/// How long one request waits for something new; it is repeated.
const WATCH_MS: u64 = 20_000;

pub(super) async fn command(
    global: &Global,
    asked: &Asked,
    command: &ClusterCommand,
) -> Result<ExitCode, ClusterCommandError> {
    match command {
        ClusterCommand::Get { key, within, .. } => {
            let request = Request::Get { key: key.clone(), within_ms: millis(*within) };
            let Answer::Key { key: found } = asked.ask(request).await? else {
                return Err(ClusterCommandError::Strange);
            };
            let has_value = found.as_ref().is_some_and(|found| found.bytes.is_some());
            let text = match (&found, global.json) {
                (Some(found), true) => json(found)?,
                (Some(found), false) if has_value => value_text(found),
                _ => String::new(),
            };
            print(text.as_bytes())?;
            Ok(if has_value { ExitCode::SUCCESS } else { EXIT_FAILURES.into() })
        }
        ClusterCommand::Keys { prefix, within, .. } => {
            keys(global, asked, prefix, millis(*within)).await
        }
        ClusterCommand::Put { key, value, if_version, within, .. } => {
            let (key, value, if_version) = (key.clone(), value.clone(), *if_version);
            let request = Request::Put { key, value, if_version, within_ms: millis(*within) };
            let Answer::Written { version } = asked.ask(request).await? else {
                return Err(ClusterCommandError::Strange);
            };
            let text = match global.json {
                true => format!("{{\"version\":{version}}}\n"),
                false => format!("version {version}\n"),
            };
            Ok(print(text.as_bytes())?)
        }
        ClusterCommand::Watch { key, after, .. } => watch(global, asked, key, *after).await,
        ClusterCommand::Events { follow, .. } => events(global, asked, *follow).await,
        _ => Err(ClusterCommandError::Strange),
    }
}

async fn keys(
    global: &Global,
    asked: &Asked,
    prefix: &str,
    within_ms: u64,
) -> Result<ExitCode, ClusterCommandError> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let request = Request::List { prefix: prefix.to_owned(), after, within_ms };
        let Answer::Keys { keys, more } = asked.ask(request).await? else {
            return Err(ClusterCommandError::Strange);
        };
        all.extend(keys);
        after = all.last().map(|last| last.key.clone()).filter(|_| more);
        if after.is_none() {
            break;
        }
    }
    let text = if global.json {
        all.iter().map(json).collect::<Result<String, _>>()?
    } else {
        let mut table = table(&["KEY", "VERSION", "BYTES"]);
        for key in &all {
            let bytes = key.bytes.unwrap_or_default().to_string();
            table.add_row([key.key.clone(), key.version.to_string(), bytes]);
        }
        finish(&table, all.len(), "keys")
    };
    Ok(print(text.as_bytes())?)
}

/// Prints the present value of a key and every later one that the node applies, until it is
/// interrupted or its reader is gone.
async fn watch(
    global: &Global,
    asked: &Asked,
    key: &str,
    mut after: u64,
) -> Result<ExitCode, ClusterCommandError> {
    loop {
        let request = Request::Watch { key: key.to_owned(), after, within_ms: WATCH_MS };
        let Answer::Key { key: found } = asked.ask(request).await? else {
            return Err(ClusterCommandError::Strange);
        };
        let Some(found) = found else { continue };
        after = found.version;
        let text = match (global.json, found.bytes) {
            (true, _) => json(&found)?,
            (false, Some(_)) => format!("version {after}: {}", value_text(&found)),
            (false, None) => format!("version {after}: deleted\n"),
        };
        if !print_more(text.as_bytes())? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

async fn events(
    global: &Global,
    asked: &Asked,
    follow: bool,
) -> Result<ExitCode, ClusterCommandError> {
    let mut after = 0;
    loop {
        let within_ms = if follow { WATCH_MS } else { 0 };
        let Answer::Events { events } = asked.ask(Request::Events { after, within_ms }).await?
        else {
            return Err(ClusterCommandError::Strange);
        };
        after = events.last().map_or(after, |last| last.number);
        let text = if global.json {
            events.iter().map(json).collect::<Result<String, _>>()?
        } else {
            events.iter().map(event_text).collect()
        };
        if !print_more(text.as_bytes())? || !follow {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn event_text(event: &ClusterEventView) -> String {
    let ClusterEventView { at_ms, kind, is_warning, text, .. } = event;
    let warning = if *is_warning { "! " } else { "" };
    format!("{} {kind:<12} {warning}{}\n", time(*at_ms), safe(text))
}

fn value_text(found: &KeyView) -> String {
    match &found.value {
        Some(value) => format!("{value}\n"),
        None => format!("({} bytes that are no text)\n", found.bytes.unwrap_or_default()),
    }
}
