//! The sessions in docs/commands.md and docs/exec.md match reality.

use std::{fmt::Write as _, path::Path, process::Stdio};

use crate::place::Place;

const COMMANDS: &str = include_str!("../../docs/commands.md");
const EXEC: &str = include_str!("../../docs/exec.md");
/// Separates the outputs of two commands.
pub(super) const MARK: &str = "--- next ---";
/// Stands for variable text.
const ANYTHING: char = '…';

/// The commands of a document's sessions, each with its expected output.
pub(super) fn sessions(text: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    let mut is_session = false;
    for line in text.lines() {
        match line {
            "```console" => is_session = true,
            "```" => is_session = false,
            _ if !is_session => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.to_owned(), Vec::new())),
                None => commands.last_mut().unwrap().1.push(line.to_owned()),
            },
        }
    }
    commands
}

/// Whether a line matches, independent of column widths.
fn line_matches(line: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, expected) = (words(line), words(expected));
    let mut parts = expected.split(ANYTHING);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || expected.ends_with(ANYTHING)
}

/// Whether the lines match the expected ones; a line of only variable text matches any number of
/// lines.
pub(super) fn lines_match(printed: &[&str], expected: &[String]) -> bool {
    match (printed, expected) {
        ([], []) => true,
        (_, [any, rest @ ..]) if *any == ANYTHING.to_string() => {
            (0..=printed.len()).any(|skip| lines_match(&printed[skip..], rest))
        }
        ([line, printed @ ..], [pattern, expected @ ..]) => {
            line_matches(line, pattern) && lines_match(printed, expected)
        }
        _ => false,
    }
}

#[test]
fn the_sessions_in_commands_md_are_correct() {
    check(COMMANDS);
}

#[test]
fn the_sessions_in_exec_md_are_correct() {
    check(EXEC);
}

fn check(document: &str) {
    let place = Place::new();
    let sessions = sessions(document);
    assert!(sessions.len() > 12, "the sessions are found");
    let mut script = String::new();
    for (command, _) in &sessions {
        let _ = writeln!(script, "{command}\necho '{MARK}'");
    }
    place.write("script", script);
    let binary = Path::new(env!("CARGO_BIN_EXE_forebay"));
    let path = std::env::var("PATH").unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", ". ./script 2>&1"]).current_dir(place.path("")).stdin(Stdio::null());
    shell.env("PATH", format!("{}:{path}", binary.parent().unwrap().display()));
    let output = shell.env_remove("FOREBAY_DATA_DIR").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<Vec<&str>> =
        text.split(&format!("{MARK}\n")).map(|one| one.lines().collect()).collect();
    for ((command, expected), printed) in sessions.iter().zip(printed) {
        assert!(
            lines_match(&printed, expected),
            "$ {command}\nsaid {printed:#?}\nnot  {expected:#?}"
        );
    }
}
