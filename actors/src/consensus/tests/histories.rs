//! Concurrent reads and changes of several keys at all nodes, over a network in memory that cuts,
//! slows down and breaks: the histories are linearizable, as a checker from outside judges.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay_net::Conditions;

use super::linearizable::{Call, Condition, History, Put, Returned};
use super::*;
use crate::consensus::{Change, Metadata};

/// How long a call is tried.
const WITHIN: Duration = Duration::from_millis(1500);
const ROUNDS: u64 = 8;
const CLIENTS: usize = 6;
const KEYS: usize = 2;

/// What the clients share: a history per round, each with keys of its own.
struct Calls {
    histories: Mutex<Vec<History>>,
    values: AtomicU64,
    answered: AtomicU64,
    ends: AtomicBool,
}

struct Client {
    random: fastrand::Rng,
    metadata: Metadata,
    /// Versions that it saw.
    versions: BTreeMap<String, u64>,
}

impl Client {
    /// Begins a call in the newest round.
    fn begin(&mut self, calls: &Calls) -> (usize, usize, Call) {
        let mut histories = calls.histories.lock().unwrap();
        let round = histories.len() - 1;
        let key = |at: usize| format!("round-{round}/{at}");
        let put = |at: usize, versions: Option<&BTreeMap<String, u64>>, has_value: bool| {
            let key = key(at);
            let condition = match versions.map(|versions| versions.get(&key)) {
                None => Condition::Nothing,
                Some(None | Some(0)) => Condition::Absent,
                Some(Some(version)) => Condition::Version(*version),
            };
            let value = || format!("v{}", calls.values.fetch_add(1, Ordering::Relaxed));
            Put { key, value: has_value.then(value), condition }
        };
        let (at, versions) = (self.random.usize(..KEYS), Some(&self.versions));
        let call = match self.random.u8(..100) {
            0..35 => Call::Get(key(at)),
            35..55 => Call::Change(vec![put(at, None, true)]),
            55..80 => Call::Change(vec![put(at, versions, true)]),
            80..90 => Call::Change(vec![put(0, None, true), put(1, None, true)]),
            90..95 => Call::Change(vec![put(0, versions, true), put(1, versions, true)]),
            _ => Call::Change(vec![put(at, versions, false)]),
        };
        let number = histories[round].called(call.clone());
        (round, number, call)
    }

    async fn call(&mut self, calls: &Calls) {
        let (round, number, call) = self.begin(calls);
        let returned = match &call {
            Call::Get(key) => match self.metadata.get(key, WITHIN).await {
                Ok(row) => {
                    let row = row.map(|row| {
                        let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
                        (row.version, row.value.map(text))
                    });
                    let live = row.as_ref().filter(|(_, value)| value.is_some());
                    self.versions.insert(key.clone(), live.map_or(0, |(version, _)| *version));
                    Some(Returned::Row(row))
                }
                Err(MetadataCallError::Unavailable(_)) => None,
                Err(error) => panic!("{error}"),
            },
            Call::Change(puts) => {
                let changes = puts.iter().map(change).collect();
                match self.metadata.put_all(changes, WITHIN).await {
                    Ok(versions) => {
                        for (put, version) in puts.iter().zip(&versions) {
                            let live = put.value.as_ref().map_or(0, |_| *version);
                            self.versions.insert(put.key.clone(), live);
                        }
                        Some(Returned::Changed(versions))
                    }
                    Err(MetadataCallError::Conflict { key, found }) => {
                        self.versions.insert(key, found.unwrap_or(0));
                        Some(Returned::Conflict)
                    }
                    Err(MetadataCallError::OutcomeUnknown) => Some(Returned::Unknown),
                    Err(MetadataCallError::Unavailable(_)) => None,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        if !matches!(returned, None | Some(Returned::Unknown)) {
            calls.answered.fetch_add(1, Ordering::Relaxed);
        }
        calls.histories.lock().unwrap()[round].returned(number, returned);
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

/// A fault for a part of a second.
async fn disturb(nodes: &Nodes, random: &mut fastrand::Rng) {
    let memory = nodes.memory.clone().unwrap();
    let at = random.usize(..3);
    let name = |add: usize| nodes.names[(at + add) % 3].as_str();
    match random.u8(..5) {
        0 => memory.cut(name(0), name(1)),
        1 => (1..3).for_each(|other| memory.cut(name(0), name(other))),
        2 => (1..3).for_each(|other| memory.cut(name(other), name(0))),
        3 => {
            let delay = Duration::ZERO..=Duration::from_millis(random.u64(5..60));
            memory.set_all_conditions(Conditions { delay, bytes_per_second: None });
        }
        _ => {
            for other in 1..3 {
                memory.break_connections(name(0), name(other));
            }
            memory.break_after(Some(Duration::from_millis(random.u64(50..300))));
        }
    }
    tokio::time::sleep(Duration::from_millis(random.u64(300..900))).await;
    memory.mend_all();
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn histories_hold(seed: u64) {
    let nodes = Nodes::in_memory(seed, &["a", "b", "c"]).provisioned().await;
    let calls = Arc::new(Calls {
        histories: Mutex::new(vec![History::default()]),
        values: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        ends: AtomicBool::new(false),
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let clients = (0..CLIENTS).map(|at| {
        let (metadata, random) = (nodes.node(at % 3).metadata(), random.fork());
        let mut client = Client { random, metadata, versions: BTreeMap::new() };
        let calls = Arc::clone(&calls);
        tokio::spawn(async move {
            while !calls.ends.load(Ordering::Relaxed) {
                client.call(&calls).await;
                tokio::time::sleep(Duration::from_millis(client.random.u64(1..20))).await;
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..ROUNDS {
        disturb(&nodes, &mut random).await;
        calls.histories.lock().unwrap().push(History::default());
    }
    calls.ends.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    nodes.all_healthy().await;
    nodes.end().await;
    let histories = calls.histories.lock().unwrap();
    let count: usize = histories.iter().map(History::len).sum();
    let answered = calls.answered.load(Ordering::Relaxed);
    assert!(answered > 20 * ROUNDS, "{answered} of {count} calls are answered");
    histories.iter().for_each(History::check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_over_a_bad_network_are_linearizable() {
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some();
    for seed in 0..if is_long { 20 } else { 2 } {
        histories_hold(seed).await;
    }
}
