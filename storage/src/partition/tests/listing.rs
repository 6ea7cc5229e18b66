//! Listing and counting: the right entries, in the right order, from few rows.

use forebay_engine::partition::rows::Stage;
use forebay_messages::{
    AttemptToken, FailureKind, Outcome,
    command::{Complete, Decision, EntrySelector, SchedulerDecisions},
};

use super::*;

/// Vqueues of [`populated`]: one without a scope, two of scope `a`.
fn three_names() -> [VQueueName; 3] {
    let scoped = |limit_key: &str| {
        VQueueName::service("s").with_scope("a").with_limit_key(limit_key).unwrap()
    };
    [VQueueName::service("r").with_object_key("k"), scoped("gold/u1"), scoped("gold/u2")]
}

/// The id of an entry as routed in production.
fn routed(n: u64, name: &VQueueName) -> EntryId {
    let uuid = entry_id(n).uuid;
    EntryId { partition_key: name.partition_key(None, &uuid), uuid }
}

/// Entry n of [`populated`].
pub(super) fn id_of(n: u64) -> EntryId {
    routed(n, &three_names()[n as usize % 3])
}

fn stored(id: EntryId, n: u64, name: &VQueueName) -> Arc<Record> {
    record(n, Command::Enqueue(Enqueue { entry: new_entry(id, name.clone()) }))
}

/// Starts an entry, and ends it if an outcome is given.
fn start(store: &PartitionStore, log: &mut Vec<Arc<Record>>, id: EntryId, end: Option<Outcome>) {
    let n = log.len() as u64;
    let row = store.entry(id).unwrap().unwrap();
    let token = AttemptToken { seq: n, ..Default::default() };
    let decisions = vec![Decision { vqueue: row.vqueue, key: row.key, token, executor: None }];
    log.push(record(20, Command::SchedulerDecisions(SchedulerDecisions { decisions })));
    if let Some(outcome) = end {
        let complete =
            Complete { entry: id, token, outcome: Some(outcome.into()), heeds_cancel: false };
        log.push(record(30 + u64::from(id.uuid[15]), Command::Complete(complete)));
    }
    catch_up(store, log, 1);
}

/// Entries 0 to 8 of three vqueues; 1 runs, 2 succeeded, 5 failed.
pub(super) fn populated() -> PartitionStore {
    let names = three_names();
    let mut log: Vec<_> = (0..9).map(|n| stored(id_of(n), n, &names[n as usize % 3])).collect();
    let store = in_memory();
    catch_up(&store, &log, 4);
    start(&store, &mut log, id_of(1), None);
    start(&store, &mut log, id_of(2), Some(Outcome::Success(Bytes::from_static(b"result"))));
    start(&store, &mut log, id_of(5), Some(Outcome::failure(FailureKind::Terminal, "no")));
    store
}

fn text(text: &str) -> Option<bytestring::ByteString> {
    Some(text.into())
}

#[test]
fn entries_are_listed_by_filter_and_page() {
    let store = populated();
    let list = |filter: EntrySelector, after, limit| {
        let page = store.list_entries(&filter, after, limit).unwrap();
        let numbers = page.entries.iter().map(|e| e.id.uuid[15]).collect::<Vec<_>>();
        (numbers, page.next.is_some())
    };
    // In id order: that of the partition keys first.
    let mut all: Vec<_> = [0, 1, 3, 4, 6, 7, 8].map(id_of).into();
    all.sort_unstable();
    let all: Vec<u8> = all.iter().map(|id| id.uuid[15]).collect();
    let any = EntrySelector::default;
    assert_eq!(list(any(), None, 99), (all.clone(), false));
    assert_eq!(list(any(), None, 2), (all[..2].to_vec(), true));
    assert_eq!(list(any(), Some(id_of(all[1].into())), 99), (all[2..].to_vec(), false));
    assert_eq!(list(EntrySelector { service: text("r"), ..any() }, None, 99).0, [0, 3, 6]);
    assert_eq!(list(EntrySelector { scope: text("a"), ..any() }, None, 99).0, [1, 4, 7, 8]);
    assert_eq!(list(EntrySelector { scope: text("b"), ..any() }, None, 99).0, [0; 0]);
    let limit_key = |key| EntrySelector { limit_key: text(key), ..any() };
    assert_eq!(list(limit_key("gold"), None, 99).0, [1, 4, 7, 8]);
    assert_eq!(list(limit_key("gold/u2"), None, 99).0, [8]);
    let stage = |stage: Stage| EntrySelector { stage: Some(stage as u32), ..any() };
    assert_eq!(list(stage(Stage::Running), None, 99).0, [1]);
    assert_eq!(list(stage(Stage::Finished), None, 99).0, [0; 0]);
    let created_until = Some(Timestamp(1_003));
    let mut early = list(EntrySelector { created_until, ..any() }, None, 99).0;
    early.sort_unstable();
    assert_eq!(early, [0, 1, 3]);
    let entries = vec![id_of(8), id_of(2)];
    assert_eq!(list(EntrySelector { entries, ..any() }, None, 99).0, [8]);

    let ended = store.list_finished(&any(), None, 99).unwrap();
    assert_eq!(ended.entries.iter().map(|e| e.id.uuid[15]).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(ended.entries[0].name.limit_key(), "gold/u2");
    let result = ended.entries[0].row.outcome();
    assert_eq!(result, Outcome::Success(Bytes::new()), "results may be large, and stay out");
}

/// Entries of many vqueues in all stages; some scopes share a partition key.
fn many() -> PartitionStore {
    let base = ["s", "t"].map(VQueueName::service);
    let names: Vec<_> = base
        .iter()
        .flat_map(|name| {
            let scoped = name.clone().with_scope("a");
            let limited = |key| scoped.clone().with_limit_key(key).unwrap();
            let keyed = ["k1", "k2"].map(|key| name.clone().with_object_key(key));
            let other = name.clone().with_scope("b");
            let all = [name.clone(), limited("gold/u1"), limited("gold"), limited("golden"), other];
            keyed.into_iter().chain(all).chain([scoped])
        })
        .collect();
    let mut ids = Vec::new();
    let mut log = Vec::new();
    for n in 0..160 {
        let name = &names[n as usize % names.len()];
        let (mut id, mut name) = (routed(n, name), name.clone());
        if name.scope.as_deref() == Some("b") && n % 3 == 0 {
            // As if the hash of `z` were that of `a`.
            name = name.with_scope("z");
            id.partition_key = VQueueName::scope_key("a");
        }
        ids.push(id);
        log.push(stored(id, n, &name));
    }
    let store = in_memory();
    catch_up(&store, &log, 10);
    for (n, id) in ids.iter().enumerate() {
        match n % 5 {
            0 => start(&store, &mut log, *id, Some(Outcome::Success(Bytes::new()))),
            1 if n % 2 == 0 => start(&store, &mut log, *id, None),
            2 => {
                let these = EntrySelector { entries: vec![*id], ..EntrySelector::default() };
                log.push(record(40, Command::Pause(these)));
                catch_up(&store, &log, 1);
            }
            3 => {
                let failed = Outcome::failure(FailureKind::Exhausted, "no");
                start(&store, &mut log, *id, Some(failed));
            }
            _ => {}
        }
    }
    store
}

fn stage_of(listed: &Listed) -> Stage {
    match &listed.row {
        ListedRow::Live(row) => row.stage,
        ListedRow::Finished(_) => Stage::Finished,
    }
}

fn filters() -> Vec<EntrySelector> {
    let mut filters = Vec::new();
    for service in [None, text("s"), text("x")] {
        for (scope, limit_key) in [
            (None, None),
            (text("a"), None),
            (text("b"), None),
            (text("c"), None),
            (text("a"), text("gold")),
            (None, text("gold/u1")),
            (None, text("")),
        ] {
            for stage in [None, Some(0), Some(1), Some(2), Some(3), Some(4)] {
                for created_until in [None, Some(Timestamp(1_080))] {
                    let (service, scope, limit_key) =
                        (service.clone(), scope.clone(), limit_key.clone());
                    let entries = Vec::new();
                    filters.push(EntrySelector {
                        entries,
                        service,
                        scope,
                        limit_key,
                        stage,
                        created_until,
                        includes_suspended: false,
                    });
                }
            }
        }
    }
    filters
}

#[test]
fn pages_of_any_size_add_up_to_all_matches() {
    let store = many();
    let any = EntrySelector::default();
    let query = |filter, ended, after, rows_max| ListQuery {
        filter,
        ended,
        wants_finished: &|_| true,
        after,
        rows_max,
        bytes_max: 0,
    };
    let everything = store.list(&query(&any, Ended::Either, None, 9_999), 9_999).unwrap().entries;
    assert_eq!(everything.len(), 160);
    assert!(everything.is_sorted_by_key(|listed| listed.id));
    for filter in &filters() {
        for ended in [Ended::Either, Ended::Yes, Ended::No] {
            let expected = everything.iter().filter(|listed| {
                let is_finished = stage_of(listed) == Stage::Finished;
                let created_at = match &listed.row {
                    ListedRow::Live(row) => row.created_at,
                    ListedRow::Finished(row) => row.created_at,
                };
                filter.matches_name(&listed.name)
                    && filter.stage.is_none_or(|stage| stage == stage_of(listed) as u32)
                    && filter.created_until.is_none_or(|until| created_at <= until)
                    && (ended == Ended::Either || is_finished == (ended == Ended::Yes))
            });
            let expected: Vec<_> = expected.map(|listed| listed.id).collect();
            for (rows_max, limit) in [(1, 9), (2, 1), (7, 3), (50, 4), (9_999, 9_999)] {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let page = store.list(&query(filter, ended, after, rows_max), limit).unwrap();
                    assert!(page.looked_at <= rows_max, "{filter:?}: {}", page.looked_at);
                    assert!(page.entries.len() <= limit);
                    found.extend(page.entries.iter().map(|listed| listed.id));
                    assert!(page.next.is_none() || page.next > after, "{filter:?}: no progress");
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(found, expected, "{filter:?} {ended:?} {rows_max} {limit}");
            }
            let counted = store.count(&query(filter, ended, None, 9_999), false).unwrap();
            assert_eq!(counted.count, expected.len() as u64, "{filter:?} {ended:?}");
            assert!(counted.is_exact);
        }
    }
}

#[test]
fn a_filter_reads_only_rows_that_may_match() {
    let store = in_memory();
    let scoped = |scope: &str| VQueueName::service("s").with_scope(scope);
    let mut log = Vec::new();
    for n in 0..3_000 {
        let name = scoped(["a", "b", "c"][n as usize % 3]);
        log.push(stored(routed(n, &name), n, &name));
    }
    let few = VQueueName::service("few").with_object_key("k");
    log.push(stored(routed(9_001, &few), 9_001, &few));
    catch_up(&store, &log, 500);
    let running = routed(0, &scoped("a"));
    start(&store, &mut log, running, None);
    let look = |filter: &EntrySelector, limit| {
        let page = store.list(&super::super::list::all(filter, Ended::Either, None), limit);
        let page = page.unwrap();
        (page.entries.len(), page.looked_at)
    };
    let any = EntrySelector::default;
    // One row of a vqueue, and the entries themselves.
    assert_eq!(look(&EntrySelector { scope: text("b"), ..any() }, 10), (10, 11));
    assert_eq!(look(&EntrySelector { scope: text("unknown"), ..any() }, 10), (0, 0));
    let of_few = look(&EntrySelector { service: text("few"), ..any() }, 10);
    assert_eq!(of_few.0, 1);
    assert!(of_few.1 <= 5, "{} rows for one entry", of_few.1);
    let runs = EntrySelector { stage: Some(Stage::Running as u32), ..any() };
    assert_eq!(look(&runs, 10), (1, 1));
    let ended = EntrySelector { stage: Some(Stage::Finished as u32), scope: text("a"), ..any() };
    assert_eq!(look(&ended, 10), (0, 1), "its counts say that none has ended");

    let count = |filter: &EntrySelector, rows_max| {
        let query = ListQuery { rows_max, ..super::super::list::all(filter, Ended::Either, None) };
        store.count(&query, false).unwrap()
    };
    let of_b = count(&EntrySelector { scope: text("b"), ..any() }, 9_999);
    assert_eq!(of_b, Counted { count: 1_000, is_exact: true, looked_at: 1 });
    let early = EntrySelector { created_until: Some(Timestamp::MAX), ..any() };
    let early = count(&early, 100);
    assert_eq!(early, Counted { count: 100, is_exact: false, looked_at: 100 });
}
