//! The recipes of docs/cluster.md that no other file here tests: a rolling restart under load, and
//! one node that moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use forebay::control::{BookView, Control, Request as Asked, Response, RuleEdit};

use super::*;

/// The promise, measured in the long form.
const WITHIN: Duration = Duration::from_secs(1);
/// In a normal run other tests may keep the machine busy.
const WITHIN_BUSY: Duration = Duration::from_secs(10);
/// Rounds over all nodes in a normal run, and with `FOREBAY_TEST_LONG`.
const ROUNDS: usize = 1;
const ROUNDS_LONG: usize = 17;

/// A person who sets rules and reads them, at whichever node answers.
struct Client {
    dirs: Vec<PathBuf>,
    at: usize,
}

/// What the clients did.
#[derive(Default)]
struct Load {
    /// The last acknowledged limit of each rule.
    set: Mutex<BTreeMap<String, u32>>,
    /// Versions of the book that changes were acknowledged with.
    versions: Mutex<BTreeSet<u64>>,
    /// Longest time from one write to the next of the same client, with a read between them.
    gap: Mutex<Duration>,
    ends: AtomicBool,
}

/// What a node that starts or ends says. Rules are set to one value: again does no harm.
const MAY_REPEAT: [&str; 5] = [
    "nothing was done",
    "may have been made",
    "runs no entries",
    "shut down",
    // Set, on a node that stops.
    "the rules were changed",
];

impl Client {
    /// Asks one node after the other until one answers.
    async fn ask(&mut self, request: Asked) -> BookView {
        loop {
            let node = Control::Running(self.dirs[self.at].clone());
            match node.ask(request.clone()).await {
                Ok(Response::Rules { book }) => return book,
                Ok(Response::Error { message, .. }) => {
                    let may_repeat = MAY_REPEAT.iter().any(|part| message.contains(part));
                    assert!(may_repeat, "{request:?}: {message}");
                }
                Ok(other) => panic!("{request:?}: {other:?}"),
                Err(_) => {}
            }
            self.at = (self.at + 1) % self.dirs.len();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn run(mut self, name: usize, load: Arc<Load>) {
        let mut last = Instant::now();
        for number in 1_u32.. {
            if load.ends.load(Ordering::Relaxed) {
                return;
            }
            let pattern = format!("tenant-{name}-{}", number % 20);
            let limits = forebay::Limits::concurrency(number);
            let limits = forebay::rules::LimitsPatch::keeping_others(limits);
            let request = Asked::RuleSet {
                pattern: pattern.clone(),
                change: RuleEdit { limits, ..RuleEdit::default() },
                if_version: None,
                author: format!("client {name}"),
            };
            let book = self.ask(request).await;
            load.set.lock().unwrap().insert(pattern.clone(), number);
            load.versions.lock().unwrap().insert(book.version);
            let read = self.ask(Asked::Rules).await;
            assert_eq!(limit_of(&read, &pattern), Some(number), "a client reads what it wrote");
            let gap = last.elapsed();
            last = Instant::now();
            {
                let mut longest = load.gap.lock().unwrap();
                *longest = gap.max(*longest);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn limit_of(book: &BookView, pattern: &str) -> Option<u32> {
    let rule = book.rules.iter().find(|rule| rule.pattern == pattern)?;
    rule.limits.concurrency.map(std::num::NonZeroU32::get)
}

/// The recipe as it is written: drain, restart, undrain, wait until the status is healthy.
fn restart_by_the_recipe(cluster: &mut Cluster, at: usize) {
    let (name, other) = (cluster.names[at].clone(), (at + 1) % 3);
    cluster.ask(other, &["drain", &name]).expect(0, &[]);
    cluster.stop(at);
    cluster.start(at);
    cluster.ask(other, &["undrain", &name]).expect(0, &[]);
    cluster.all_healthy();
}

#[test]
fn nodes_are_restarted_one_after_the_other_while_rules_are_set_and_read() {
    let mut cluster = Cluster::provisioned();
    for at in 0..3 {
        until("rules are answered", || {
            let asked = ["rules", "list", "--data-dir", &cluster.names[at]];
            (cluster.place.run(&asked).code == 0).then_some(())
        });
    }
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let load = Arc::new(Load::default());
    let dirs: Vec<_> = cluster.names.iter().map(|name| cluster.place.path(name)).collect();
    let clients: Vec<_> = (0..3)
        .map(|at| runtime.spawn(Client { dirs: dirs.clone(), at }.run(at, Arc::clone(&load))))
        .collect();
    until("rules are set", || (load.versions.lock().unwrap().len() > 10).then_some(()));
    let mut longest = Duration::ZERO;
    for _ in 0..if is_long { ROUNDS_LONG } else { ROUNDS } {
        for at in 0..3 {
            *load.gap.lock().unwrap() = Duration::ZERO;
            let before = load.versions.lock().unwrap().len();
            restart_by_the_recipe(&mut cluster, at);
            until("rules are set after the restart", || {
                (load.versions.lock().unwrap().len() > before + 5).then_some(())
            });
            let gap = *load.gap.lock().unwrap();
            let name = &cluster.names[at];
            crate::place::say(&format!("restart of {name}: at most {gap:?} between two writes"));
            longest = longest.max(gap);
        }
    }
    load.ends.store(true, Ordering::Relaxed);
    for client in clients {
        runtime.block_on(client).unwrap();
    }
    let (set, versions) = (load.set.lock().unwrap(), load.versions.lock().unwrap());
    crate::place::say(&format!("{} versions, at most {longest:?} between two", versions.len()));
    for dir in dirs {
        let mut client = Client { dirs: vec![dir], at: 0 };
        let book = runtime.block_on(client.ask(Asked::Rules));
        assert!(book.version >= *versions.last().unwrap(), "{} {versions:?}", book.version);
        for (pattern, number) in &*set {
            assert_eq!(limit_of(&book, pattern), Some(*number), "{pattern}");
        }
    }
    let promised = if is_long { WITHIN } else { WITHIN_BUSY };
    assert!(longest < promised, "{longest:?}");
}

#[test]
fn one_node_moves_to_another_address() {
    let mut cluster = Cluster::provisioned();
    cluster.put(0, "key", "kept");
    let moved = (cluster.leader() + 1) % 3;
    cluster.stop(moved);
    cluster.addresses[moved] = free_address();
    // The others are not told: they learn it from the cluster.
    cluster.start(moved);
    cluster.all_healthy();
    let (name, address) = (cluster.names[moved].clone(), cluster.addresses[moved].clone());
    for at in 0..3 {
        cluster.until_status("the new address is known", at, |status| {
            let nodes = status["nodes"].as_array().unwrap();
            nodes.iter().any(|node| node["name"] == name.as_str() && node["address"] == *address)
        });
    }
    // It is dialled there, too: a node that starts later finds it by the cluster alone.
    let other = (moved + 1) % 3;
    cluster.stop(other);
    cluster.start(other);
    cluster.all_healthy();
    assert_eq!(cluster.get(moved, "key"), "kept");
}

#[test]
fn a_node_that_is_gone_is_removed_and_joins_again_with_an_empty_directory_only() {
    let mut cluster = Cluster::provisioned();
    cluster.put(0, "key", "kept");
    let gone = (cluster.leader() + 1) % 3;
    let (name, other) = (cluster.names[gone].clone(), (gone + 1) % 3);
    cluster.kill(gone);
    cluster.ask(other, &["remove", &name, "--within", "80s"]).expect(0, &[]);
    cluster.until_status("two members are left", other, |status| {
        status["group"]["members"].as_array().unwrap().len() == 2
    });
    // Its directory is that of a removed node.
    cluster.start(gone);
    cluster.until_status("it is removed", gone, |status| status["state"] == "removed");
    cluster.stop(gone);
    cluster.wipe(gone);
    cluster.start(gone);
    cluster.until_status("it votes again", gone, |status| status["state"] == "member");
    assert_eq!(cluster.get(gone, "key"), "kept");
}
