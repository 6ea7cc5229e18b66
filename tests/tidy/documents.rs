//! Checks of the documents: commands, links, reasons, numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, layers::Crate};

/// Minimum length of the reason for a dependency, in characters.
const REASON_LEN_MIN: usize = 20;

/// Reports every `make` command in code of a document that the Makefile lacks.
pub(super) fn unknown_commands(documents: &[File], makefile: &str) -> Vec<String> {
    let targets = targets(makefile);
    let mut complaints = Vec::new();
    for document in documents {
        for target in make_commands(&document.text) {
            if !targets.contains(target) {
                complaints.push(format!("{}: no target for `make {target}`", document.path));
            }
        }
    }
    complaints
}

fn targets(makefile: &str) -> BTreeSet<&str> {
    let rules = makefile.lines().filter_map(|line| line.split_once(':'));
    rules
        .filter(|(_, rest)| !rest.starts_with('='))
        .flat_map(|(names, _)| names.split_whitespace())
        .filter(|name| name.chars().all(is_target))
        .collect()
}

fn is_target(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-'
}

/// The targets of `make` commands in code: in fences and between back quotes.
fn make_commands(markdown: &str) -> Vec<&str> {
    let target = |command: &'_ str| -> Option<usize> {
        let rest = command.trim_start().strip_prefix("make ")?;
        let end = rest.find(|c| !is_target(c)).unwrap_or(rest.len());
        (end > 0).then_some(end)
    };
    let mut commands = Vec::new();
    for code in code(markdown) {
        if let Some(len) = target(code) {
            let rest = &code.trim_start()["make ".len()..];
            commands.push(&rest[..len]);
        }
    }
    commands
}

/// Lines of fenced code and spans of inline code.
fn code(markdown: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push(line.trim_start().trim_start_matches("$ "));
        } else {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Reports every relative link whose file does not exist.
pub(super) fn dead_links(documents: &[File], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for document in documents {
        let directory = document.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for link in links(&document.text) {
            let path = format!("{directory}/{link}");
            if !exists(path.trim_start_matches('/')) {
                complaints.push(format!("{}: {link} does not exist", document.path));
            }
        }
    }
    complaints
}

/// Targets of links without fragments, except links to the network or within the page.
fn links(markdown: &str) -> Vec<&str> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

/// Reports dependencies without a reason and reasons without a dependency.
pub(super) fn dependencies(document: &str, crates: &[Crate]) -> Vec<String> {
    let rows = reasons(document);
    let used: BTreeMap<&str, &str> = crates
        .iter()
        .flat_map(|one| one.dependencies.iter().map(move |dependency| (one, dependency)))
        .filter(|(_, dependency)| !dependency.ours)
        .map(|(one, dependency)| (dependency.name.as_str(), one.name.as_str()))
        .collect();
    let mut complaints = Vec::new();
    for (name, user) in &used {
        match rows.get(name) {
            None => complaints.push(format!("{name} (used by {user}) has no row")),
            Some(reason) if reason.len() < REASON_LEN_MIN => {
                complaints.push(format!("{name} has no reason"));
            }
            Some(_) => {}
        }
    }
    let unused = rows.keys().filter(|name| !used.contains_key(**name));
    complaints.extend(unused.map(|name| format!("{name} has a row, but is not used")));
    complaints
}

/// Rows of the form ``| `name` | reason |``.
fn reasons(document: &str) -> BTreeMap<&str, &str> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        let reason = rest.trim_start_matches([' ', '|']).trim_end_matches([' ', '|']);
        Some((name, reason))
    })
    .collect()
}

/// Reports decisions that are not named `NNNN-some-title.md`, numbered 0001, 0002, … in sequence,
/// or lack context, decision or consequence.
pub(super) fn decisions(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (expected, file) in (1..).zip(files) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let number = format!("{expected:04}");
        let title = name.strip_suffix(".md").and_then(|name| name.split_once('-'));
        match title {
            Some((found, title)) if found == number && title.chars().all(is_target) => {}
            _ => complaints.push(format!("{} is not {number}-some-title.md", file.path)),
        }
        if !file.text.starts_with(&format!("# {number}: ")) {
            complaints.push(format!("{} does not start with `# {number}: `", file.path));
        }
        for part in ["## Context", "## Decision", "## Consequence"] {
            if !file.text.lines().any(|line| line.starts_with(part)) {
                complaints.push(format!("{} has no `{part}`", file.path));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::layers::Dependency;

    const MAKEFILE: &str =
        ".PHONY: run\nhome := a\nrun: build ## does it\n\tcargo run\ntest-long: a\n";

    fn readme(text: &str) -> [File; 1] {
        [File::sample("docs/README.md", text)]
    }

    #[test]
    fn a_command_without_a_target_is_refused() {
        let commands = |text| unknown_commands(&readme(text), MAKEFILE);
        assert_eq!(commands("run `make fly`"), ["docs/README.md: no target for `make fly`"]);
        assert_eq!(commands("```sh\n$ make fly # up\n```").len(), 1);
        assert_eq!(commands("```sh\nmake home\n```").len(), 1, "a variable is no target");
        assert!(commands("`make run`, `make test-long`, and we make sure of it").is_empty());
        assert!(commands("```sh\nmake run   # what it does\n```").is_empty());
    }

    #[test]
    fn a_dead_link_is_refused() {
        let exists = |path: &str| path == "docs/architecture.md";
        let dead = |text| dead_links(&readme(text), exists);
        assert_eq!(dead("[a](nowhere.md)"), ["docs/README.md: nowhere.md does not exist"]);
        let fine = "[a](architecture.md#layers) [b](https://example.org/x) [c](#here)";
        assert!(dead(fine).is_empty());
    }

    #[test]
    fn a_dependency_without_a_reason_is_refused() {
        let dependency = |name: &str, ours| Dependency { name: name.to_owned(), dev: false, ours };
        let crates = [Crate {
            name: "forebay".to_owned(),
            dependencies: vec![dependency("tokio", false), dependency("forebay-engine", true)],
        }];
        let complaints = |document| dependencies(document, &crates);
        assert_eq!(complaints("tokio is nice"), ["tokio (used by forebay) has no row"]);
        assert_eq!(complaints("| `tokio` | |"), ["tokio has no reason"]);
        let row = "| `tokio` | the runtime on which handlers run |";
        assert!(complaints(row).is_empty());
        let stale = format!("{row}\n| `serde` | payloads are typed by it |");
        assert_eq!(complaints(&stale), ["serde has a row, but is not used"]);
    }

    #[test]
    fn a_decision_out_of_turn_is_refused() {
        let body = "\n## Context\n## Decision\n## Consequences\n";
        let decision = |name: &str, title: &str| {
            File::sample(&format!("docs/decisions/{name}"), &format!("{title}{body}"))
        };
        let first = || decision("0001-one-profile.md", "# 0001: One profile");
        assert!(decisions(&[first()]).is_empty());
        let gap = [first(), decision("0003-keys.md", "# 0003: Keys")];
        assert_eq!(decisions(&gap).len(), 2);
        let twice = [first(), decision("0001-other.md", "# 0001: Other")];
        assert_eq!(decisions(&twice).len(), 2);
        assert_eq!(decisions(&[decision("one-profile.md", "# 0001: One profile")]).len(), 1);
        let empty = [File::sample("docs/decisions/0001-a.md", "# 0001: A")];
        assert_eq!(decisions(&empty).len(), 3);
    }
}
