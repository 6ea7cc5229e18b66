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

#[cfg(test)]
mod tests {
    use forebay::{EntryId, EntryOutcome, PartitionKey, Stage, explain::Reason};

    use super::*;

    fn id(number: u8) -> EntryId {
        EntryId { partition_key: PartitionKey(0), uuid: [number; 16] }
    }

    fn entry(number: u8, depth: u32, operation: &str, stage: Option<Stage>) -> TreeEntryView {
        TreeEntryView {
            id: id(number),
            depth,
            parent: None,
            operation: Some(operation.to_owned()).filter(|name| !name.is_empty()),
            is_awaited: true,
            is_attached: true,
            service: stage.map(|_| "ship".to_owned()),
            key: None,
            stage,
            outcome: None,
            waits_for: Vec::new(),
        }
    }

    #[test]
    fn a_tree_has_a_line_for_each_entry_and_each_wait() {
        let child = id(2);
        let ended = Some(EntryOutcome::Success);
        let (operation, stage, outcome) = ("pack".to_owned(), Some(Stage::Inbox), None);
        let wait = Reason::Child { child, operation, stage, outcome };
        let shown = TreeView {
            entries: vec![
                TreeEntryView {
                    key: Some("k".to_owned()),
                    waits_for: vec![wait],
                    ..entry(1, 0, "", Some(Stage::Suspended))
                },
                entry(2, 1, "pack", Some(Stage::Inbox)),
                TreeEntryView { outcome: ended, ..entry(3, 2, "label", Some(Stage::Finished)) },
                TreeEntryView { is_awaited: false, ..entry(4, 1, "mail", None) },
                TreeEntryView {
                    is_awaited: false,
                    is_attached: false,
                    ..entry(5, 1, "note", Some(Stage::Running))
                },
            ],
            is_cut: true,
        };
        let lines = [
            format!("{} suspended ship key k", id(1)),
            format!("    waits: call pack of {}: inbox", id(2)),
            format!("  call pack: {} inbox ship", id(2)),
            format!("    call label: {} success ship", id(3)),
            format!("  attached mail: {} not stored (on its way, or purged)", id(4)),
            format!("  send note: {} running ship", id(5)),
            "… and more: the first 5 are listed\n".to_owned(),
        ];
        assert_eq!(tree(&shown), lines.join("\n"));
    }
}
