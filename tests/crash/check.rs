//! Invariants of a trace, whenever processes were killed.

use std::collections::{BTreeMap, BTreeSet};

use super::trace::{ITEMS, Line};

/// `--rule *=3`.
const SCOPE_RUNNING_MAX: usize = 3;
/// `--jobs 8`.
const RUNNING_MAX: usize = 8;

/// Fails with the first violation.
pub(super) fn check(lines: &[Line]) {
    if let Err(wrong) = verify(lines, ITEMS) {
        panic!("{wrong}");
    }
}

/// The state after some lines of a trace.
#[derive(Default)]
struct State<'a> {
    /// The last run that started something.
    run: u64,
    /// Items started and not ended.
    open: BTreeMap<u64, &'a Line>,
    ended: BTreeSet<u64>,
    /// The last started item of each vqueue, and the last run that started it.
    newest: BTreeMap<(&'a str, &'a str), (u64, u64)>,
    /// Items of each vqueue in the order of their first starts.
    order: BTreeMap<(&'a str, &'a str), Vec<u64>>,
}

fn verify(lines: &[Line], items: u64) -> Result<(), String> {
    let mut state = State::default();
    for (at, line) in lines.iter().enumerate() {
        let step = if line.is_start { state.start(line) } else { state.end(line) };
        step.map_err(|wrong| {
            let around = &lines[at.saturating_sub(12)..(at + 5).min(lines.len())];
            let around: Vec<_> = around.iter().map(|line| format!("  {line:?}")).collect();
            format!("{wrong}, at {line:?} in\n{}", around.join("\n"))
        })?;
    }
    let missing: Vec<_> = (1..=items).filter(|item| !state.ended.contains(item)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("never ended: {missing:?}")) }
}

impl<'a> State<'a> {
    fn start(&mut self, line: &'a Line) -> Result<(), String> {
        if line.run < self.run {
            return Err(format!("an orphan starts while run {} works", self.run));
        }
        if line.run > self.run {
            // The earlier process was killed: its open commands are ended before the next process
            // starts any.
            self.run = line.run;
            self.open.clear();
        }
        self.start_in_vqueue(line)?;
        if self.open.insert(line.item, line).is_some() {
            return Err("an item runs twice at the same time".to_owned());
        }
        let in_scope = self.open.values().filter(|open| open.scope == line.scope).count();
        if in_scope > SCOPE_RUNNING_MAX {
            return Err(format!("{in_scope} run in one scope"));
        }
        if self.open.len() > RUNNING_MAX {
            return Err(format!("{} run at once", self.open.len()));
        }
        Ok(())
    }

    /// Items of a vqueue start in input order, each after the previous one has ended; only the last
    /// one may start again, and only in a later run.
    fn start_in_vqueue(&mut self, line: &'a Line) -> Result<(), String> {
        let vqueue = (line.scope.as_str(), line.key.as_str());
        if let Some(open) = self.open.values().find(|open| (&*open.scope, &*open.key) == vqueue) {
            return Err(format!("{} and {} of one vqueue overlap", open.item, line.item));
        }
        match self.newest.insert(vqueue, (line.item, line.run)) {
            Some((item, run)) if item == line.item && run == line.run => {
                Err("an item runs twice in one run".to_owned())
            }
            Some((item, _)) if item > line.item => {
                Err(format!("it comes after {item}, which is behind it in its vqueue"))
            }
            Some((item, _)) if item < line.item && !self.ended.contains(&item) => {
                Err(format!("{item}, before it in its vqueue, has not ended"))
            }
            Some((item, _)) if item == line.item => Ok(()),
            _ => {
                self.order.entry(vqueue).or_default().push(line.item);
                Ok(())
            }
        }
    }

    fn end(&mut self, line: &'a Line) -> Result<(), String> {
        match self.open.remove(&line.item) {
            Some(open) if open.pid == line.pid && open.run == line.run => {
                self.ended.insert(line.item);
                Ok(())
            }
            _ => Err("an orphan ends while a later run works".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::verify;
    use crate::crash::trace::sample;

    fn wrong(text: &str) -> String {
        let result = verify(&sample(text), 2);
        result.expect_err(text).lines().next().unwrap().to_owned()
    }

    #[test]
    fn good_traces_pass() {
        for text in [
            "s 1 1 k s; e 1 1 k s; s 1 2 k s; e 1 2 k s",
            "s 1 1 k s; s 2 1 k s; e 2 1 k s; s 2 2 k s; e 2 2 k s",
            "s 1 1 k s; e 1 1 k s; s 2 1 k s; e 2 1 k s; s 3 2 k s; e 3 2 k s",
            "s 1 1 k s; s 1 2 l s; e 1 1 k s; e 1 2 l s",
        ] {
            assert_eq!(verify(&sample(text), 2), Ok(()), "{text}");
        }
    }

    #[test]
    fn bad_traces_are_refused() {
        for (text, expected) in [
            ("s 1 1 k s; s 1 2 k s", "1 and 2 of one vqueue overlap"),
            ("s 1 1 k s; s 2 2 k s", "1, before it in its vqueue, has not ended"),
            ("s 1 2 k s; e 1 2 k s; s 1 1 k s", "it comes after 2, which is behind it"),
            ("s 1 1 k s; e 1 1 k s; s 1 1 k s", "an item runs twice in one run"),
            ("s 1 1 k s; s 2 2 l s; e 1 1 k s", "an orphan ends while a later run works"),
            ("s 2 1 k s; s 1 2 l s", "an orphan starts while run 2 works"),
            ("s 1 1 a s; s 1 2 b s; s 1 3 c s; s 1 4 d s", "4 run in one scope"),
            ("s 1 1 k s; e 1 1 k s", "never ended: [2]"),
        ] {
            let found = wrong(text);
            assert!(found.starts_with(expected), "{text}: {found}");
        }
        let nine = (1..=9).map(|n| format!("s 1 {n} k{n} s{n}")).collect::<Vec<_>>().join("; ");
        assert!(wrong(&nine).starts_with("9 run at once"));
    }
}
