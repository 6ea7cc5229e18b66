//! Requests that are sent again, evicted, refused.

use forebay_engine::metadata::{
    CHANGES_MAX, CLIENT_REQUESTS_MAX, CLIENTS_MAX, COMMAND_BYTES_MAX, Expected, InvalidCommand,
    Outcome, STATE_BYTES_MAX, State,
};

use super::{apply, change, command, put, versions};

#[test]
fn a_request_that_comes_again_gets_its_first_outcome() {
    let mut state = State::default();
    let create = command(1, 1, vec![change("a", Some("1"), Expected::Absent)]);
    assert_eq!(apply(&mut state, 0, &create), versions(&[1]));
    let mut changed = Vec::new();
    assert_eq!(state.apply(1, &create, &mut changed), versions(&[1]));
    assert!(changed.is_empty(), "watches are notified once");
    let conflict = Outcome::Conflict { at: 0, found: Some(1) };
    let other = command(2, 1, create.changes.clone());
    assert_eq!(apply(&mut state, 2, &other), conflict);
    apply(&mut state, 3, &command(3, 1, vec![change("a", None, Expected::Anything)]));
    assert_eq!(apply(&mut state, 4, &other), conflict, "a refusal is remembered too");
}

#[test]
fn changes_are_made_together_or_not_at_all() {
    let mut state = State::default();
    apply(&mut state, 0, &put(1, 1, "b"));
    let both =
        vec![change("a", Some("1"), Expected::Absent), change("b", Some("1"), Expected::Absent)];
    let outcome = apply(&mut state, 1, &command(1, 2, both));
    assert_eq!(outcome, Outcome::Conflict { at: 1, found: Some(1) });
    assert_eq!(state.get("a"), None);
}

#[test]
fn versions_grow_over_a_deletion() {
    let mut state = State::default();
    apply(&mut state, 0, &put(1, 1, "a"));
    let delete = |request| command(1, request, vec![change("a", None, Expected::Anything)]);
    assert_eq!(apply(&mut state, 1, &delete(2)), versions(&[2]));
    assert_eq!(apply(&mut state, 2, &delete(3)), versions(&[2]), "there is nothing to delete");
    let create = command(1, 4, vec![change("a", Some("1"), Expected::Absent)]);
    assert_eq!(apply(&mut state, 3, &create), versions(&[3]));
}

#[test]
fn an_evicted_request_is_too_old_and_is_not_applied_again() {
    let mut state = State::default();
    for request in 1..=CLIENT_REQUESTS_MAX as u64 + 1 {
        assert_eq!(apply(&mut state, request, &put(1, request, "a")), versions(&[request]));
    }
    let version = state.get("a").unwrap().version;
    assert!(matches!(apply(&mut state, 5000, &put(1, 1, "a")), Outcome::TooOld { .. }));
    assert_eq!(apply(&mut state, 5001, &put(1, 2, "a")), versions(&[2]), "still remembered");
    assert_eq!(state.get("a").unwrap().version, version);
    state.check();
}

#[test]
fn a_client_that_may_be_evicted_is_too_old() {
    let mut state = State::default();
    for client in 0..=CLIENTS_MAX as u128 {
        let mut first = put(client, 1, "a");
        first.since = client as u64;
        assert!(matches!(apply(&mut state, client as u64, &first), Outcome::Changed { .. }));
    }
    let version = state.get("a").unwrap().version;
    let again = put(0, 1, "a");
    let Outcome::TooOld { oldest } = apply(&mut state, 20_000, &again) else {
        panic!("client 0 was evicted");
    };
    assert_eq!((oldest, state.oldest_start()), (1, 1));
    assert_eq!(state.get("a").unwrap().version, version);
    let mut fresh = put(77_777, 1, "a");
    fresh.since = oldest;
    assert_eq!(apply(&mut state, 20_001, &fresh), versions(&[version + 1]));
    state.check();
}

#[test]
fn a_full_state_refuses_what_makes_it_larger() {
    let mut state = State::default();
    let mut index = 0;
    let large = |key: usize, request| {
        let mut large = put(1, request, &format!("key/{key}"));
        large.changes[0].value = Some(vec![7; 1 << 20].into());
        large
    };
    let full = loop {
        index += 1;
        match apply(&mut state, index, &large(index as usize, index)) {
            Outcome::Changed { .. } => {}
            other => break other,
        }
    };
    assert_eq!(full, Outcome::Full);
    assert!(state.bytes() <= STATE_BYTES_MAX);
    let delete = command(1, 900, vec![change("key/1", None, Expected::Anything)]);
    assert_eq!(apply(&mut state, 900, &delete), versions(&[2]));
    assert_eq!(apply(&mut state, 901, &large(1, 901)), versions(&[3]));
}

#[test]
fn commands_that_cannot_be_proposed() {
    let error = |changes| command(1, 1, changes).check().unwrap_err();
    let any = |key: &str| change(key, Some("1"), Expected::Anything);
    assert_eq!(error(vec![]), InvalidCommand::Count(0));
    let many = (0..=CHANGES_MAX).map(|key| any(&key.to_string())).collect();
    assert_eq!(error(many), InvalidCommand::Count(CHANGES_MAX + 1));
    for key in ["", "a b", "ä", &"x".repeat(257)] {
        assert_eq!(error(vec![any(key)]), InvalidCommand::Key(key.to_owned()));
    }
    assert_eq!(error(vec![any("a"), any("a")]), InvalidCommand::Twice("a".to_owned()));
    let mut long = any("a");
    long.value = Some(vec![0; COMMAND_BYTES_MAX].into());
    assert_eq!(error(vec![long]), InvalidCommand::TooLong(COMMAND_BYTES_MAX + 1));
}
