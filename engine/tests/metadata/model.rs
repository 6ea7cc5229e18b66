//! Random commands, applied to the state and to a model that keeps everything.

use std::collections::BTreeMap;

use ::bytes::Bytes;
use forebay_engine::metadata::{
    Change, Changed, ClientId, Command, Expected, Outcome, Row, State, decode_block, encode_block,
};
use proptest::prelude::*;

/// Every version of every key, and every outcome.
#[derive(Default)]
struct Model {
    history: BTreeMap<String, Vec<Option<Bytes>>>,
    outcomes: BTreeMap<(u128, u64), Outcome>,
}

impl Model {
    fn live(&self, key: &str) -> Option<u64> {
        let history = self.history.get(key)?;
        history.last()?.as_ref().map(|_| history.len() as u64)
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let request = (command.client.0, command.request);
        if let Some(outcome) = self.outcomes.get(&request) {
            return outcome.clone();
        }
        let failed = command.changes.iter().position(|change| {
            let live = self.live(&change.key);
            match change.expected {
                Expected::Anything => false,
                Expected::Absent => live.is_some(),
                Expected::Version(version) => live != Some(version),
            }
        });
        let outcome = match failed {
            Some(at) => {
                let found = self.live(&command.changes[at].key);
                Outcome::Conflict { at: at as u32, found }
            }
            None => {
                for change in &command.changes {
                    if change.value.is_some() || self.live(&change.key).is_some() {
                        let history = self.history.entry(change.key.to_string()).or_default();
                        history.push(change.value.clone());
                    }
                }
                let version = |change: &Change| {
                    self.history.get(&*change.key).map_or(0, |history| history.len() as u64)
                };
                Outcome::Changed { versions: command.changes.iter().map(version).collect() }
            }
        };
        self.outcomes.insert(request, outcome.clone());
        outcome
    }
}

fn some_change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![
        1 => Just(None),
        3 => "[a-z]{0,4}".prop_map(|text| Some(Bytes::from(text))),
    ];
    let expected = prop_oneof![
        3 => Just(Expected::Anything),
        1 => Just(Expected::Absent),
        2 => (0..6_u64).prop_map(Expected::Version),
    ];
    (0..5_u8, value, expected).prop_map(|(key, value, expected)| Change {
        key: format!("key/{key}").into(),
        value,
        expected,
    })
}

fn some_command() -> impl Strategy<Value = Command> {
    let changes = prop::collection::vec(some_change(), 1..4).prop_map(|mut changes| {
        changes.sort_by(|one, other| one.key.cmp(&other.key));
        changes.dedup_by(|one, other| one.key == other.key);
        changes
    });
    // Few clients and numbers, so that requests are repeated.
    (0..3_u128, 0..40_u64, changes).prop_map(|(client, request, changes)| Command {
        client: ClientId(client),
        since: 0,
        request,
        changes,
    })
}

proptest! {
    #[test]
    fn the_state_equals_the_model(commands in prop::collection::vec(some_command(), 1..120)) {
        let (mut state, mut model) = (State::default(), Model::default());
        for (index, command) in (0..).zip(&commands) {
            let mut changed = Vec::new();
            let outcome = state.apply(index, command, &mut changed);
            prop_assert_eq!(&outcome, &model.apply(command));
            for Changed { key, row } in changed {
                prop_assert_eq!(state.get(&key), Some(&row), "a watch reports the state");
            }
            state.check();
        }
        for (key, history) in &model.history {
            let row = Row { version: history.len() as u64, value: history.last().cloned().flatten() };
            prop_assert_eq!(state.get(key), Some(&row));
        }
        let listed: Vec<_> = state.range("key/", None).map(|(key, _)| key.to_string()).collect();
        prop_assert_eq!(listed, model.history.keys().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn blocks_round_trip(commands in prop::collection::vec(some_command(), 0..20)) {
        prop_assert_eq!(decode_block(encode_block(&commands)).unwrap(), commands);
    }

    #[test]
    fn bytes_that_are_no_block_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_block(Bytes::from(bytes.clone()));
        let _ = forebay_engine::metadata::Snapshot::decode(Bytes::from(bytes.clone()));
        let _ = Outcome::decode(Bytes::from(bytes));
    }
}
