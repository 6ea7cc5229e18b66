//! The items, and the trace written by their commands.

use std::{fmt::Write as _, fs, path::Path};

use super::Random;

pub(super) const ITEMS: u64 = 2_000;
const KEYS: u64 = 200;
const SCOPES: u64 = 5;

/// A line: a command has started, or is about to end.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) is_start: bool,
    /// The run of forebay that the command belongs to, from 1.
    pub(super) run: u64,
    pub(super) item: u64,
    pub(super) key: String,
    pub(super) scope: String,
    pub(super) pid: u32,
    /// Helps to investigate a failure.
    #[expect(dead_code, reason = "shown with the lines around a wrong one, never checked")]
    nanos: u64,
}

/// NDJSON, number by number, with keys in random order. A key has one scope.
pub(super) fn items(random: &mut Random) -> String {
    let mut text = String::new();
    for n in 1..=ITEMS {
        let key = random.below(KEYS);
        let scope = key % SCOPES;
        writeln!(text, r#"{{"n":{n},"k":"k{key}","s":"s{scope}"}}"#).unwrap();
    }
    text
}

pub(super) fn read(path: &Path) -> Vec<Line> {
    fs::read_to_string(path).unwrap().lines().map(parse).collect()
}

fn parse(line: &str) -> Line {
    let words: Vec<_> = line.split(' ').collect();
    let [kind, run, item, key, scope, pid, nanos] = words[..] else {
        panic!("a torn line in the trace: {line:?}");
    };
    assert!(kind == "s" || kind == "e", "{line:?}");
    Line {
        is_start: kind == "s",
        run: run.parse().unwrap(),
        item: item.parse().unwrap(),
        key: key.to_owned(),
        scope: scope.to_owned(),
        pid: pid.parse().unwrap(),
        nanos: nanos.parse().unwrap(),
    }
}

#[cfg(test)]
pub(super) fn sample(text: &str) -> Vec<Line> {
    // Start or end, run, item; key and scope follow from the item.
    let mut lines = Vec::new();
    for (nanos, line) in (0..).zip(text.split(';').map(str::trim)) {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, run, item, key, scope] = words[..] else { panic!("{line:?}") };
        lines.push(parse(&format!("{kind} {run} {item} {key} {scope} {run}{item} {nanos}")));
    }
    lines
}
