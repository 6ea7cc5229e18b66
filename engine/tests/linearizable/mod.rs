//! Histories of concurrent calls of the metadata, and whether they are linearizable: judged by
//! `todc-utils`, which implements the algorithm of Wing, Gong and Lowe.
//!
//! Shared by path: the simulation of this crate, the nodes of `forebay-actors` and the processes
//! of `tests/process` record the same histories.
//!
//! Must always hold: a change with an unknown outcome stays open, so it takes effect at any time
//! after its call, or never. Every value is written once, so a value names its change.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::{Specification, WGLChecker};

/// Version and value of a key that was ever written; a deleted one has no value.
pub(crate) type Row = (u64, Option<String>);

/// What must hold of a key for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Nothing,
    Absent,
    Version(u64),
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) key: String,
    /// `None` deletes.
    pub(crate) value: Option<String>,
    pub(crate) condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Get(String),
    /// Several keys together or none.
    Change(Vec<Put>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    Row(Option<Row>),
    /// The versions of the changed keys.
    Changed(Vec<u64>),
    /// A condition did not hold; nothing was changed.
    Conflict,
    /// The change was made, will be made, or never.
    Unknown,
}

#[derive(Clone, Debug)]
enum Event {
    Called(usize, Call),
    Returned(usize, Returned),
}

/// Calls and returns in the order in which they happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    events: Vec<Event>,
    calls: usize,
}

/// The sequential specification: what one call after the other returns.
struct Metadata;

type State = BTreeMap<String, Row>;

impl Specification for Metadata {
    type State = State;
    type Operation = (Call, Returned);

    fn init() -> State {
        State::new()
    }

    fn apply((call, returned): &(Call, Returned), state: &State) -> (bool, State) {
        match call {
            Call::Get(key) => (*returned == Returned::Row(state.get(key).cloned()), state.clone()),
            Call::Change(puts) => {
                let mut next = state.clone();
                let made = change(&mut next, puts);
                (*returned == made || *returned == Returned::Unknown, next)
            }
        }
    }
}

fn change(state: &mut State, puts: &[Put]) -> Returned {
    let live = |put: &Put| state.get(&put.key).filter(|(_, value)| value.is_some());
    let holds = |put: &Put| match put.condition {
        Condition::Nothing => true,
        Condition::Absent => live(put).is_none(),
        Condition::Version(version) => live(put).is_some_and(|(found, _)| *found == version),
    };
    if !puts.iter().all(holds) {
        return Returned::Conflict;
    }
    let versions = puts.iter().map(|put| {
        let known = state.get(&put.key);
        let version = known.map_or(0, |(version, _)| *version);
        if put.value.is_none() && known.is_none_or(|(_, value)| value.is_none()) {
            return version;
        }
        state.insert(put.key.clone(), (version + 1, put.value.clone()));
        version + 1
    });
    Returned::Changed(versions.collect())
}

impl History {
    /// Before a call is made. Returns its number.
    pub(crate) fn called(&mut self, call: Call) -> usize {
        let number = self.calls;
        self.calls += 1;
        self.events.push(Event::Called(number, call));
        number
    }

    /// After it returned; `None`: nothing was done, and that is known.
    pub(crate) fn returned(&mut self, number: usize, returned: Option<Returned>) {
        match returned {
            Some(returned) => self.events.push(Event::Returned(number, returned)),
            None => {
                let is_it = |event: &Event| matches!(event, Event::Called(of, _) if *of == number);
                self.events.retain(|event| !is_it(event));
            }
        }
    }

    /// Calls that are recorded.
    pub(crate) fn len(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Called(..))).count()
    }

    /// The events of the checker. A change with an unknown outcome returns just before its value
    /// is first seen, or at the end.
    fn actions(&self) -> Vec<(usize, Action<(Call, Returned)>)> {
        let mut open: BTreeMap<usize, Call> = BTreeMap::new();
        let mut unknown: BTreeMap<usize, Call> = BTreeMap::new();
        for event in &self.events {
            match event {
                Event::Called(number, call) => drop(unknown.insert(*number, call.clone())),
                Event::Returned(_, Returned::Unknown) => {}
                Event::Returned(number, _) => drop(unknown.remove(number)),
            }
        }
        let mut actions = Vec::new();
        for event in &self.events {
            match event {
                // A read without an answer says nothing.
                Event::Called(number, Call::Get(_)) if unknown.contains_key(number) => {}
                Event::Called(number, call) => {
                    actions.push((*number, Action::Call((call.clone(), Returned::Unknown))));
                    open.insert(*number, call.clone());
                }
                Event::Returned(_, Returned::Unknown) => {}
                Event::Returned(number, returned) => {
                    if let Returned::Row(Some((_, Some(seen)))) = returned {
                        let wrote = unknown.iter().find(|(_, call)| writes(call, seen));
                        if let Some(wrote) = wrote.map(|(number, _)| *number) {
                            let call = unknown.remove(&wrote).expect("it was found");
                            open.remove(&wrote);
                            actions.push((wrote, Action::Response((call, Returned::Unknown))));
                        }
                    }
                    let call = open.remove(number).expect("a call returns once");
                    actions.push((*number, Action::Response((call, returned.clone()))));
                }
            }
        }
        let rest = open.into_iter().filter(|(number, _)| unknown.contains_key(number));
        actions.extend(
            rest.map(|(number, call)| (number, Action::Response((call, Returned::Unknown)))),
        );
        actions
    }

    /// Whether some order of the calls explains what they returned.
    pub(crate) fn is_linearizable(&self) -> bool {
        let actions = self.actions();
        actions.is_empty()
            || WGLChecker::<Metadata>::is_linearizable(Actions::from_actions(actions))
    }

    /// Panics with the history unless it is linearizable.
    #[track_caller]
    pub(crate) fn check(&self) {
        if self.is_linearizable() {
            return;
        }
        let mut text = String::new();
        for event in &self.events {
            let _ = match event {
                Event::Called(number, call) => writeln!(text, "{number:>4} {call:?}"),
                Event::Returned(number, returned) => writeln!(text, "{number:>4}   {returned:?}"),
            };
        }
        panic!("the history is not linearizable:\n{text}");
    }
}

/// Whether a call writes this value.
fn writes(call: &Call, value: &str) -> bool {
    match call {
        Call::Get(_) => false,
        Call::Change(puts) => puts.iter().any(|put| put.value.as_deref() == Some(value)),
    }
}
