//! A client: one call at a time, sent again to other nodes under the same number until its time is
//! over.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_engine::metadata::{Change, ClientId, Command, Expected, Outcome};

use crate::linearizable::{Call, Condition, Put, Returned};

use super::node::{Nodes, Reply};
use super::{Calls, Planted, World};

/// Ticks after which a call is sent to another node.
const ATTEMPT_TICKS: u64 = 25;

/// A call in progress.
struct Busy {
    group: usize,
    /// In the history of the group.
    number: usize,
    call: Call,
    /// The request's number, for a change.
    request: u64,
    attempt: u64,
    sent: u64,
    /// It is sent again at this tick.
    again: Option<u64>,
    deadline: u64,
    may_be_made: bool,
}

pub(super) struct Client {
    place: usize,
    /// Starts of the client so far: each has another id.
    starts: u64,
    since: u64,
    requests: u64,
    attempts: u64,
    node: usize,
    busy: Option<Busy>,
    /// Versions that it saw.
    versions: BTreeMap<String, u64>,
    now: u64,
}

impl Client {
    pub(super) fn new(place: usize) -> Self {
        Self {
            place,
            starts: 0,
            since: 0,
            requests: 0,
            attempts: 0,
            node: 0,
            busy: None,
            versions: BTreeMap::new(),
            now: 0,
        }
    }

    fn id(&self) -> ClientId {
        ClientId(u128::from(self.starts) << 64 | self.place as u128)
    }

    pub(super) fn tick(
        &mut self,
        world: &mut World,
        nodes: &mut Nodes,
        calls: &mut Calls,
        begins: bool,
    ) {
        self.now = world.now;
        if let Some(busy) = &mut self.busy {
            if world.now >= busy.deadline {
                // The last attempt has no answer yet.
                busy.may_be_made |= busy.again.is_none();
                let may_be_made = busy.may_be_made && matches!(busy.call, Call::Change(_));
                return self.finish(may_be_made.then_some(Returned::Unknown), calls);
            }
            let is_lost = busy.again.is_none() && world.now >= busy.sent + ATTEMPT_TICKS;
            if is_lost {
                busy.may_be_made |= matches!(busy.call, Call::Change(_));
                self.node = calls.random.below(world.nodes.len() as u64) as usize;
            }
            let is_due = busy.again.is_some_and(|again| world.now >= again);
            if is_lost || is_due {
                self.send(world, nodes);
            }
            return;
        }
        if !begins || !calls.random.permille(400) {
            return;
        }
        if calls.random.permille(30) {
            // It starts again, at a node that may lag behind.
            self.starts += 1;
            self.requests = 0;
            self.node = calls.random.below(world.nodes.len() as u64) as usize;
            self.since = nodes.applied(self.node);
        }
        if !nodes.is_running(self.node) || calls.random.permille(100) {
            self.node = calls.random.below(world.nodes.len() as u64) as usize;
        }
        self.begin(world, calls);
        self.send(world, nodes);
    }

    fn begin(&mut self, world: &World, calls: &mut Calls) {
        let group = calls.group();
        let call = self.call(group, calls);
        let number = calls.groups[group].history.called(call.clone());
        self.requests += 1;
        self.busy = Some(Busy {
            group,
            number,
            call,
            request: self.requests,
            attempt: 0,
            sent: world.now,
            again: None,
            deadline: world.now + 30 + calls.random.below(150),
            may_be_made: false,
        });
    }

    fn call(&self, group: usize, calls: &mut Calls) -> Call {
        let key = calls.key(group);
        let choice = calls.random.below(100);
        let mut value = || {
            calls.values += 1;
            Some(format!("v{}", calls.values))
        };
        let put = |key: &str, value: Option<String>, condition| Put {
            key: key.to_owned(),
            value,
            condition,
        };
        let known = self.versions.get(&key).copied().unwrap_or(0);
        let swap = if known == 0 { Condition::Absent } else { Condition::Version(known) };
        match choice {
            0..35 => Call::Get(key),
            35..55 => Call::Change(vec![put(&key, value(), Condition::Nothing)]),
            55..85 => Call::Change(vec![put(&key, value(), swap)]),
            85..95 => {
                let first = put(&format!("group-{group}/0"), value(), Condition::Nothing);
                let second = put(&format!("group-{group}/1"), value(), Condition::Nothing);
                Call::Change(vec![first, second])
            }
            _ => Call::Change(vec![put(&key, None, swap)]),
        }
    }

    fn send(&mut self, world: &mut World, nodes: &mut Nodes) {
        let (id, since) = (self.id(), self.since);
        self.attempts += 1;
        let Some(busy) = &mut self.busy else { return };
        if nodes.planted == Planted::MadeTwice && busy.attempt > 0 {
            self.requests += 1;
            busy.request = self.requests;
        }
        (busy.attempt, busy.sent, busy.again) = (self.attempts, world.now, None);
        let attempt = (self.place, busy.attempt);
        match &busy.call {
            Call::Get(key) => nodes.read(world, self.node, key, attempt),
            Call::Change(puts) => {
                let changes = puts.iter().map(change).collect();
                let command = Command { client: id, since, request: busy.request, changes };
                nodes.change(self.node, command, attempt);
            }
        }
    }

    pub(super) fn answered(
        &mut self,
        attempt: u64,
        reply: Reply,
        calls: &mut Calls,
        planted: Planted,
    ) {
        let is_lost = calls.random.permille(60);
        let now = self.now;
        let Some(busy) = self.busy.as_mut().filter(|busy| busy.attempt == attempt) else { return };
        // An answer that is lost: the client sends its call again.
        if is_lost && planted != Planted::StaleRead {
            return;
        }
        match reply {
            Reply::Outcome(Outcome::Changed { versions }) => {
                if let Call::Change(puts) = &busy.call {
                    let keys = puts.iter().map(|put| put.key.clone());
                    self.versions.extend(keys.zip(versions.iter().copied()));
                }
                self.finish(Some(Returned::Changed(versions)), calls);
            }
            Reply::Outcome(Outcome::Conflict { found, .. }) => {
                if let Call::Change(puts) = &busy.call {
                    self.versions.insert(puts[0].key.clone(), found.unwrap_or(0));
                }
                self.finish(Some(Returned::Conflict), calls);
            }
            Reply::Outcome(Outcome::TooOld { .. } | Outcome::Full) => {
                let returned = busy.may_be_made.then_some(Returned::Unknown);
                self.finish(returned, calls);
            }
            Reply::Row(row) => {
                let row = row.map(|row| {
                    let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
                    (row.version, row.value.map(text))
                });
                if let Call::Get(key) = &busy.call {
                    let live = row.as_ref().filter(|(_, value)| value.is_some());
                    self.versions.insert(key.clone(), live.map_or(0, |(version, _)| *version));
                }
                self.finish(Some(Returned::Row(row)), calls);
            }
            Reply::NotLeader(leader) => {
                busy.again = Some(now + 1);
                let hint = leader.and_then(|leader| usize::try_from(leader.0 / 1000).ok());
                self.node = match hint {
                    Some(number) if number > 0 => number - 1,
                    _ => calls.random.below(3) as usize,
                };
            }
            Reply::Unavailable => busy.again = Some(now + 2),
            Reply::Unknown => {
                busy.may_be_made |= matches!(busy.call, Call::Change(_));
                busy.again = Some(now + 2);
                self.node = calls.random.below(3) as usize;
            }
        }
    }

    /// `None`: nothing was done.
    fn finish(&mut self, returned: Option<Returned>, calls: &mut Calls) {
        let Some(busy) = self.busy.take() else { return };
        let group = &mut calls.groups[busy.group];
        match &returned {
            Some(Returned::Unknown) => {
                calls.unknown += 1;
                group.unknown += 1;
            }
            Some(_) => calls.finished += 1,
            None => {}
        }
        group.history.returned(busy.number, returned);
    }
}

fn change(put: &Put) -> Change {
    Change {
        key: put.key.as_str().into(),
        value: put.value.as_ref().map(|value| Bytes::from(value.clone())),
        expected: match put.condition {
            Condition::Nothing => Expected::Anything,
            Condition::Absent => Expected::Absent,
            Condition::Version(version) => Expected::Version(version),
        },
    }
}
