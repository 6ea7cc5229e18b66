//! The same calls to the store in memory and to the state machine of a cluster: the same answers.

use bytes::Bytes;
use forebay_engine::metadata::{Change, ClientId, Command, Expected, Outcome, State};
use proptest::prelude::*;

use super::{
    BlockingMetadata as _, KeyWrite, MemoryMetadata, MetaKey, MetadataError, Precondition, Version,
};

#[derive(Clone, Debug)]
enum Call {
    Put(u8, Precondition),
    PutWith(u8, Precondition),
    Delete(u8, Precondition),
}

fn some_call() -> impl Strategy<Value = Call> {
    let precondition = prop_oneof![
        2 => Just(Precondition::None),
        1 => Just(Precondition::DoesNotExist),
        2 => (0..6_u64).prop_map(|version| Precondition::MatchesVersion(Version(version))),
    ];
    (0..3_u8, 0..4_u8, precondition).prop_map(|(call, key, precondition)| match call {
        0 => Call::Put(key, precondition),
        1 => Call::PutWith(key, precondition),
        _ => Call::Delete(key, precondition),
    })
}

fn key(number: u8) -> MetaKey {
    MetaKey::new(format!("key/{number}")).unwrap()
}

const ALSO: u8 = 9;

fn change(number: u8, value: Option<Bytes>, precondition: Precondition) -> Change {
    let expected = match precondition {
        Precondition::None => Expected::Anything,
        Precondition::DoesNotExist => Expected::Absent,
        Precondition::MatchesVersion(version) => Expected::Version(version.0),
    };
    Change { key: key(number).as_str().into(), value, expected }
}

/// The version of the first key, or what was found of it.
type Answer = Result<Option<u64>, Option<u64>>;

fn in_memory(store: &MemoryMetadata, call: &Call, value: Bytes) -> Answer {
    let done = match call {
        Call::Put(at, precondition) => store.put(&key(*at), value, *precondition).map(Some),
        Call::PutWith(at, precondition) => {
            let write = |at, precondition| {
                let value = Some(value.clone());
                KeyWrite { key: key(at), value, precondition }
            };
            let writes = [write(*at, *precondition), write(ALSO, Precondition::None)];
            store.put_all(&writes).map(|versions| Some(versions[0]))
        }
        Call::Delete(at, precondition) => store.delete(&key(*at), *precondition).map(|()| None),
    };
    match done {
        Ok(version) => Ok(version.map(|version| version.0)),
        Err(MetadataError::PreconditionFailed { found, .. }) => Err(found.map(|found| found.0)),
        Err(other) => panic!("{other}"),
    }
}

fn in_state(state: &mut State, request: u64, call: &Call, value: Bytes) -> Answer {
    let (changes, is_put) = match call {
        Call::Put(at, precondition) => (vec![change(*at, Some(value), *precondition)], true),
        Call::PutWith(at, precondition) => {
            let also = change(ALSO, Some(value.clone()), Precondition::None);
            (vec![change(*at, Some(value), *precondition), also], true)
        }
        Call::Delete(at, precondition) => (vec![change(*at, None, *precondition)], false),
    };
    let command = Command { client: ClientId(1), since: 0, request, changes };
    command.check().unwrap();
    match state.apply(request, &command, &mut Vec::new()) {
        Outcome::Changed { versions } => Ok(is_put.then_some(versions[0])),
        Outcome::Conflict { at: 0, found } => Err(found),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn memory_and_the_state_machine_answer_alike(calls in prop::collection::vec(some_call(), 1..80)) {
        let (store, mut state) = (MemoryMetadata::new(), State::default());
        for (request, call) in (1..).zip(&calls) {
            let value = Bytes::from(request.to_string());
            let answer = in_memory(&store, call, value.clone());
            prop_assert_eq!(answer, in_state(&mut state, request, call, value));
            for number in [0, 1, 2, 3, ALSO] {
                let one = store.get(&key(number)).unwrap().map(|found| (found.version.0, found.value));
                let row = state.get(key(number).as_str());
                let other = row.and_then(|row| Some((row.version, row.value.clone()?)));
                prop_assert_eq!(one, other);
            }
        }
    }
}
