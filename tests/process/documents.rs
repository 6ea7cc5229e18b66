//! The sessions in docs/commands.md and docs/exec.md match reality.

use std::{fmt::Write as _, path::Path, process::Stdio};

use crate::place::Place;

const COMMANDS: &str = include_str!("../../docs/commands.md");
const EXEC: &str = include_str!("../../docs/exec.md");
/// Between the outputs of two commands.
const MARK: &str = "--- next ---";
/// Stands for variable text.
const ANYTHING: char = '…';

/// The commands of a document's sessions, each with its expected output.
fn sessions(text: &str) -> Vec<(String, Vec<String>)> {
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

/// Whether a line matches, whatever the width of columns.
fn is_as_told(line: &str, told: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, told) = (words(line), words(told));
    let mut parts = told.split(ANYTHING);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || told.ends_with(ANYTHING)
}

/// Whether lines are those told; a line that says nothing certain stands for any number.
fn are_as_told(said: &[&str], told: &[String]) -> bool {
    match (said, told) {
        ([], []) => true,
        (_, [any, rest @ ..]) if *any == ANYTHING.to_string() => {
            (0..=said.len()).any(|skip| are_as_told(&said[skip..], rest))
        }
        ([line, said @ ..], [wanted, told @ ..]) => {
            is_as_told(line, wanted) && are_as_told(said, told)
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
    let said: Vec<Vec<&str>> =
        text.split(&format!("{MARK}\n")).map(|one| one.lines().collect()).collect();
    for ((command, told), said) in sessions.iter().zip(said) {
        assert!(are_as_told(&said, told), "$ {command}\nsaid {said:#?}\nnot  {told:#?}");
    }
}
