//! The state machine of the metadata: against a naive model, its requests, and its bytes.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bytes;
mod model;
mod requests;

use ::bytes::Bytes;
use forebay_engine::metadata::{Change, ClientId, Command, Expected, Outcome, State};

fn change(key: &str, value: Option<&'static str>, expected: Expected) -> Change {
    let value = value.map(|value| Bytes::from_static(value.as_bytes()));
    Change { key: key.to_owned().into(), value, expected }
}

fn command(client: u128, request: u64, changes: Vec<Change>) -> Command {
    Command { client: ClientId(client), since: 0, request, changes }
}

fn put(client: u128, request: u64, key: &str) -> Command {
    command(client, request, vec![change(key, Some("value"), Expected::Anything)])
}

fn apply(state: &mut State, index: u64, command: &Command) -> Outcome {
    state.apply(index, command, &mut Vec::new())
}

fn versions(versions: &[u64]) -> Outcome {
    Outcome::Changed { versions: versions.to_vec() }
}
