//! Clocks of the nodes, compared: one that differs from the majority's is shown, and its node does
//! not lead.
//!
//! A partition's time, timers and limits over time depend on the clock of the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::cluster::{NodeAnswer, NodeRequest};
use forebay_engine::consensus::StorageId;
use forebay_net::NodeName;

use crate::consensus::driver::Event;
use crate::consensus::events::unix_ms;

use super::shared::Shared;

/// A clock that differs more than this from the majority's is off.
pub(super) const OFF_MS: u64 = 500;
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Differences from the clock of the majority in milliseconds, by node. Positive: ahead.
pub(super) type Differences = BTreeMap<StorageId, i64>;

pub(super) fn is_off(difference: i64) -> bool {
    difference.unsigned_abs() > OFF_MS
}

/// This node's clock; ahead by as much as a test says.
pub(super) fn now_ms(shared: &Shared) -> u64 {
    unix_ms().saturating_add_signed(shared.clock_ahead_ms())
}

/// From differences to this node, which is among them, to differences to the majority: to the
/// median. Of two medians it is the one nearer to this node.
fn to_majority(mut differences: Differences) -> Differences {
    let mut sorted: Vec<_> = differences.values().copied().collect();
    sorted.sort_unstable();
    let middle = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
    let medians = middle.into_iter().filter_map(|at| sorted.get(at).copied());
    let median = medians.min_by_key(|median| median.unsigned_abs()).unwrap_or_default();
    differences.values_mut().for_each(|difference| *difference -= median);
    differences
}

/// How far a clock is ahead, given what it showed and this clock before and after. Within the
/// uncertainty of the round trip they are equal.
fn ahead_ms(theirs: u64, before: u64, after: u64) -> i64 {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let uncertain = signed(after.saturating_sub(before)) / 2;
    let difference = signed(theirs) - (signed(before) + uncertain);
    match difference.saturating_abs() - uncertain {
        left if left <= 0 => 0,
        left => left * difference.signum(),
    }
}

async fn ask(shared: &Shared, peer: &NodeName) -> Option<i64> {
    let before = now_ms(shared);
    let answer = shared.ask_peer(peer, &NodeRequest::Clock, ASK_WITHIN).await.ok()?;
    let after = now_ms(shared);
    match answer {
        NodeAnswer::Clock { unix_ms } => Some(ahead_ms(unix_ms, before, after)),
        _ => None,
    }
}

/// Compares the clocks of the connected nodes again and again.
pub(super) async fn run(shared: Arc<Shared>) {
    let me = shared.disk.groups.node().storage;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(view) = shared.view().await else { continue };
        let others = view.nodes.iter().filter(|node| node.is_connected && node.entry.storage != me);
        let others = others.filter_map(|node| {
            Some((
                node.entry.storage,
                node.entry.name.to_string(),
                node.entry.name.parse::<NodeName>().ok()?,
            ))
        });
        let shared_by_all = &shared;
        let asked = others.map(|(storage, name, peer)| async move {
            Some((storage, name, ask(shared_by_all, &peer).await?))
        });
        let answers = futures_util::future::join_all(asked).await;
        let mut names = BTreeMap::from([(me, shared.name().to_string())]);
        let mut differences = Differences::from([(me, 0)]);
        for (storage, name, difference) in answers.into_iter().flatten() {
            names.insert(storage, name);
            differences.insert(storage, difference);
        }
        let differences = to_majority(differences);
        let off = |(_, difference): &(&StorageId, &i64)| is_off(**difference);
        let avoid: BTreeSet<_> = differences.iter().filter(off).map(|(one, _)| *one).collect();
        report(&shared, &names, &differences);
        shared.send_driver(Event::Avoid(avoid));
        shared.set_clocks(differences);
    }
}

/// Tells which clocks are off since the last look, and which no longer are.
fn report(shared: &Shared, names: &BTreeMap<StorageId, String>, now: &Differences) {
    let before = shared.clocks();
    for (storage, difference) in now {
        let was_off = before.get(storage).copied().is_some_and(is_off);
        let name = names.get(storage).map_or("?", String::as_str);
        match (was_off, is_off(*difference)) {
            (false, true) => shared.events.warn("clock", None, text(name, *difference)),
            (true, false) => {
                let text = format!("the clock of {name} agrees with the majority's again");
                shared.events.note("clock", None, text);
            }
            _ => {}
        }
    }
}

/// The warning about a clock that is off.
pub(super) fn text(name: &str, difference: i64) -> String {
    let how = if difference > 0 { "ahead of" } else { "behind" };
    let ms = difference.unsigned_abs();
    format!(
        "the clock of {name} is {ms} ms {how} the majority's: correct it; until then {name} does \
         not lead if another member can"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn majority(all: &[i64]) -> Vec<i64> {
        let all = (0..).zip(all).map(|(at, difference)| (StorageId(at), *difference)).collect();
        to_majority(all).into_values().collect()
    }

    #[test]
    fn the_majority_is_right() {
        assert_eq!(majority(&[0, 3, -2]), [0, 3, -2]);
        assert_eq!(majority(&[0, 900, 901]), [-900, 0, 1], "this node is behind");
        assert_eq!(majority(&[0, 1, 900]), [-1, 0, 899]);
        assert_eq!(majority(&[0, 900]), [0, 900], "of two none is right");
        assert_eq!(majority(&[0]), [0]);
    }

    #[test]
    fn a_slow_answer_says_less() {
        assert_eq!(ahead_ms(1_000, 1_000, 1_000), 0);
        assert_eq!(ahead_ms(2_000, 1_000, 1_000), 1_000);
        assert_eq!(ahead_ms(500, 1_000, 1_000), -500);
        assert_eq!(ahead_ms(1_400, 1_000, 2_000), 0, "it may have been read at any time");
        assert_eq!(ahead_ms(3_000, 1_000, 2_000), 1_000);
    }
}
