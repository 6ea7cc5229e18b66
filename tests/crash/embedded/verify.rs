//! Invariants of the trace of an embedding process, whenever it was killed.

use std::collections::{BTreeMap, BTreeSet};

use super::child::{DOOMED, LIMIT_MAX};

/// The state after some lines.
#[derive(Default)]
struct State<'a> {
    acked: BTreeMap<u64, &'a str>,
    /// Started in this run and not ended: scope and key.
    open: BTreeMap<u64, (&'a str, &'a str)>,
    ended: BTreeSet<u64>,
    /// The last started entry, by key.
    newest: BTreeMap<&'a str, u64>,
    outcomes: BTreeMap<u64, &'a str>,
    canceled: usize,
}

/// Fails with the first violation; otherwise returns counts to be printed.
pub(super) fn check(trace: &str) -> String {
    let mut state = State::default();
    for line in trace.lines() {
        let words: Vec<_> = line.splitn(5, ' ').collect();
        match words[..] {
            ["run", _] => state.open.clear(),
            ["acked", n, scope, ..] => {
                state.acked.insert(number(n), scope);
            }
            ["start", n, scope, key] => state.start(number(n), scope, key, line),
            ["end", n, ..] => {
                let n = number(n);
                assert!(state.open.remove(&n).is_some(), "it ends without having started: {line}");
                state.ended.insert(n);
            }
            ["outcome", n, how, ..] => state.outcome(number(n), how, line),
            ["snapshot", _] => {}
            _ => panic!("a torn line in the trace: {line:?}"),
        }
    }
    for n in state.acked.keys() {
        assert!(state.outcomes.contains_key(n), "{n} was acknowledged and has no outcome");
    }
    assert!(state.canceled > 0, "nothing was ever canceled");
    format!("{} entries, {} of them canceled", state.acked.len(), state.canceled)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))
}

impl<'a> State<'a> {
    fn start(&mut self, n: u64, scope: &'a str, key: &'a str, line: &str) {
        assert!(!self.outcomes.contains_key(&n), "it had already ended: {line}");
        for (other, (_, other_key)) in &self.open {
            assert_ne!(*other_key, key, "{other} of the same key still runs: {line}");
        }
        assert!(self.open.insert(n, (scope, key)).is_none(), "twice at the same time: {line}");
        let in_scope = self.open.values().filter(|open| open.0 == scope).count();
        assert!(in_scope <= LIMIT_MAX as usize, "{in_scope} run in one scope: {line}");
        // The same entry after a kill, or the next one of its key.
        let before = self.newest.insert(key, n);
        assert!(before <= Some(n), "it comes after {before:?}, which is behind it: {line}");
    }

    fn outcome(&mut self, n: u64, how: &'a str, line: &str) {
        self.outcomes.insert(n, how);
        match how {
            "success" => assert!(self.ended.contains(&n), "it never ran: {line}"),
            "canceled" => {
                self.canceled += 1;
                assert_eq!(self.acked[&n], DOOMED, "it was not canceled: {line}");
            }
            _ => panic!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    const GOOD: &str = "run 1\nacked 2 s k id\nstart 2 s k\nrun 2\nstart 2 s k\nend 2 s k\n\
                        acked 5 doomed l id\noutcome 2 success\noutcome 5 canceled\n";

    #[test]
    fn a_good_trace_passes() {
        assert_eq!(check(GOOD), "2 entries, 1 of them canceled");
    }

    #[test]
    fn bad_traces_are_refused() {
        for (from, to) in [
            ("outcome 2 success\n", ""),
            ("end 2 s k\n", ""),
            ("run 2\n", ""),
            ("outcome 2 success", "outcome 2 canceled"),
            ("outcome 2 success", "outcome 2 failed: x"),
            ("run 2\nstart 2 s k", "run 2\nstart 3 s k\nend 3 s k\nstart 2 s k"),
            ("run 2\n", "run 2\nstart 7 s a\nstart 8 s b\nstart 9 s c\n"),
            ("outcome 5 canceled", "outcome 5 canceled\nstart 5 doomed l"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let bad = GOOD.replacen(from, to, 1);
            assert!(std::panic::catch_unwind(|| check(&bad)).is_err(), "{bad}");
        }
    }
}
