//! The port over all of its providers: the same calls get the same answers.

use std::sync::Mutex;

use forebay_storage::Medium;
use forebay_storage::metadata::{
    Change, KeyWrite, LocalMetadata, MemoryMetadata, MetaKey, MetadataError, MetadataStore,
    Precondition, Version, Watch,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::OwnMetadata;
use crate::consensus::ClusterStore;

use super::*;

const CASES: usize = 40;

#[derive(Clone, Debug)]
enum Call {
    Put(u8, Precondition),
    Delete(u8, Precondition),
    /// Key, whether it gets a value, precondition.
    PutAll(Vec<(u8, bool, Precondition)>),
    Get(u8),
    GetAll(Vec<u8>),
    List(bool),
}

fn some_call() -> impl Strategy<Value = Call> {
    let precondition = || {
        prop_oneof![
            2 => Just(Precondition::None),
            1 => Just(Precondition::DoesNotExist),
            2 => (0..5_u64).prop_map(|version| Precondition::MatchesVersion(Version(version))),
        ]
    };
    let write = (0..4_u8, any::<bool>(), precondition());
    prop_oneof![
        4 => (0..4_u8, precondition()).prop_map(|(key, condition)| Call::Put(key, condition)),
        2 => (0..4_u8, precondition()).prop_map(|(key, condition)| Call::Delete(key, condition)),
        3 => prop::collection::vec(write, 1..4).prop_map(Call::PutAll),
        1 => (0..5_u8).prop_map(Call::Get),
        1 => prop::collection::vec(0..5_u8, 1..4).prop_map(Call::GetAll),
        1 => any::<bool>().prop_map(Call::List),
    ]
}

fn key(case: usize, number: u8) -> MetaKey {
    // The last one has another prefix.
    let group = if number == 3 { "other" } else { "key" };
    MetaKey::new(format!("case-{case}/{group}/{number}")).unwrap()
}

/// An answer as text; keys of one case are alike in all stores.
async fn answer(store: &dyn MetadataStore, case: usize, call: &Call, value: &Bytes) -> String {
    let key = |number: &u8| key(case, *number);
    let done = match call {
        Call::Put(at, condition) => {
            let put = store.put(&key(at), value.clone(), *condition).await;
            put.map(|version| format!("{version:?}"))
        }
        Call::Delete(at, condition) => {
            store.delete(&key(at), *condition).await.map(|()| "deleted".to_owned())
        }
        Call::PutAll(writes) => {
            let write = |(at, has_value, precondition): &(u8, bool, Precondition)| KeyWrite {
                key: key(at),
                value: has_value.then(|| value.clone()),
                precondition: *precondition,
            };
            let put = store.put_all(writes.iter().map(write).collect()).await;
            put.map(|versions| format!("{versions:?}"))
        }
        Call::Get(at) => store.get(&key(at)).await.map(|found| format!("{found:?}")),
        Call::GetAll(all) => {
            // A key is asked for once.
            let mut keys: Vec<_> = all.iter().map(key).collect();
            keys.sort();
            keys.dedup();
            store.get_all(&keys).await.map(|found| format!("{found:?}"))
        }
        Call::List(is_all) => {
            let group = if *is_all { "" } else { "key/" };
            let listed = store.list(&format!("case-{case}/{group}")).await;
            listed.map(|found| format!("{found:?}"))
        }
    };
    match done {
        Ok(text) => text,
        // The texts of these two differ.
        Err(MetadataError::Refused(_)) => "refused".to_owned(),
        Err(error @ MetadataError::PreconditionFailed { .. }) => error.to_string(),
        Err(other) => panic!("{call:?}: {other}"),
    }
}

type Seen = Arc<Mutex<Vec<(String, u64, Option<Bytes>)>>>;

async fn watched(store: &dyn MetadataStore, key: &MetaKey) -> (Seen, Watch) {
    let seen = Seen::default();
    let sees = Arc::clone(&seen);
    let on_change = move |change: &Change| {
        let Change { key, version, value } = change;
        sees.lock().unwrap().push((key.to_string(), version.0, value.clone()));
    };
    let watch = store.watch(key, Box::new(on_change)).await.unwrap();
    (seen, watch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_local_and_omnipaxos_answer_alike() {
    let nodes = Nodes::in_memory(11, &["a", "b", "c"]).provisioned().await;
    let host = || tokio::runtime::Handle::current().into();
    let dir = tempfile::tempdir().unwrap();
    let local = LocalMetadata::open(dir.path(), &Medium::disk()).unwrap();
    let memory = OwnMetadata::new(Arc::new(MemoryMetadata::new()), host());
    let local = OwnMetadata::new(Arc::new(local), host());
    let cluster: Vec<_> =
        (0..3).map(|at| ClusterStore::new(nodes.node(at).metadata()).within(CALL)).collect();
    let mut runner = TestRunner::deterministic();
    let calls_of = prop::collection::vec(some_call(), 1..30);
    for case in 0..CASES {
        let calls = calls_of.new_tree(&mut runner).unwrap().current();
        let first = key(case, 0);
        let early = Bytes::from_static(b"early");
        let mut watches = Vec::new();
        for store in [&memory as &dyn MetadataStore, &local, &cluster[0]] {
            store.put(&first, early.clone(), Precondition::None).await.unwrap();
        }
        for store in [&memory as &dyn MetadataStore, &local, &cluster[case % 3]] {
            watches.push(watched(store, &first).await);
        }
        for (at, call) in calls.iter().enumerate() {
            let value = Bytes::from(format!("{case}.{at}"));
            let expected = answer(&memory, case, call, &value).await;
            assert_eq!(answer(&local, case, call, &value).await, expected, "{call:?}");
            // Another node each time: it sees what the others wrote.
            let store = &cluster[at % 3];
            assert_eq!(answer(store, case, call, &value).await, expected, "{call:?}, {calls:?}");
        }
        let expected = watches[0].0.lock().unwrap().clone();
        assert_eq!(*watches[1].0.lock().unwrap(), expected);
        // A node reports what it has applied; the present value may have come later than 1.
        let last = expected.last().cloned();
        let began = Instant::now();
        while watches[2].0.lock().unwrap().last().cloned() != last {
            assert!(began.elapsed() < PATIENCE, "{:?}, not {expected:?}", watches[2].0);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(*watches[2].0.lock().unwrap(), expected);
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_late_reports_the_present_value_at_once() {
    let nodes = Nodes::in_memory(12, &["a"]).provisioned().await;
    nodes.put(0, "key", "value").await.unwrap();
    let store = ClusterStore::new(nodes.node(0).metadata());
    let key = MetaKey::new("key").unwrap();
    let (seen, watch) = watched(&store, &key).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    drop(watch);
    nodes.put(0, "key", "other").await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1, "a dropped watch reports nothing");
    // Also of the public type, which does not wait.
    let (sender, received) = std::sync::mpsc::channel();
    let _watch = nodes.node(0).metadata().watch("key", move |row| {
        let _ = sender.send(row.version);
    });
    let version = tokio::task::spawn_blocking(move || received.recv_timeout(PATIENCE)).await;
    assert_eq!(version.unwrap(), Ok(2));
    nodes.end().await;
}
