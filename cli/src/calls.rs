//! `forebay tree` and `forebay resolve`: the requests, and the answers for display.

use std::fmt::Write as _;

use forebay::{TreeEntryView, TreeView, control::Request};

use super::{args::ResolveArgs, explain::reason, show::safe};

/// The request of `forebay resolve`.
pub(super) fn request(args: &ResolveArgs) -> Request {
    let ResolveArgs { entry, name, value, reject } = args.clone();
    Request::Resolve { entry, name, value: value.unwrap_or_default(), reject }
}

/// A tree, with one line per entry and its waits below it.
pub(super) fn tree(tree: &TreeView) -> String {
    let mut text = String::new();
    for entry in &tree.entries {
        let indent = "  ".repeat(entry.depth as usize);
        let _ = writeln!(text, "{indent}{}", line(entry));
        for wait in &entry.waits_for {
            let _ = writeln!(text, "{indent}    waits: {}", reason(wait));
        }
    }
    if tree.is_cut {
        let _ = writeln!(text, "… and more: the first {} are listed", tree.entries.len());
    }
    text
}

fn line(entry: &TreeEntryView) -> String {
    let mut line = String::new();
    if let Some(operation) = &entry.operation {
        let made = match (entry.is_awaited, entry.is_attached) {
            (true, _) => "call",
            (false, true) => "attached",
            (false, false) => "send",
        };
        let _ = write!(line, "{made} {}: ", safe(operation));
    }
    let _ = write!(line, "{}", entry.id);
    match (entry.stage, &entry.outcome) {
        (_, Some(outcome)) => {
            let _ = write!(line, " {outcome}");
        }
        (Some(stage), None) => {
            let _ = write!(line, " {stage}");
        }
        (None, None) => line += " not stored (on its way, or purged)",
    }
    if let Some(service) = &entry.service {
        let _ = write!(line, " {service}");
    }
    if let Some(key) = &entry.key {
        let _ = write!(line, " key {}", safe(key));
    }
    line
}
