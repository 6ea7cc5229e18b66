//! `forebay node` and `forebay cluster`: three processes on loopback with mutual TLS.

mod calls;
mod cuts;
mod disks;
mod entries;
mod failover;
mod linear;
mod loss;
mod operate;
mod proxies;
mod recipes;
mod refused;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay::control::cluster::{Answer, Request};
use serde_json::Value;

use crate::place::{Done, Place, Running};

use proxies::Proxies;

/// How long a test waits for an expected event.
const PATIENCE: Duration = Duration::from_secs(90);

/// Nodes, each with a data directory of its name, and certificates in `tls`.
struct Cluster {
    place: Place,
    names: Vec<String>,
    addresses: Vec<String>,
    processes: Vec<Option<Running>>,
    /// Between the nodes, if connections are to be cut.
    proxies: Option<Proxies>,
    /// More arguments of every node.
    more: Vec<String>,
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Cluster {
    fn new(names: &[&str]) -> Self {
        let place = Place::new();
        let nodes = names.iter().flat_map(|name| ["--node", name]);
        let arguments: Vec<_> = ["cluster", "init-tls", "tls"].into_iter().chain(nodes).collect();
        place.run(&arguments).expect(0, &["keep tls/ca-key.pem away from the nodes"]);
        let addresses = names.iter().map(|_| free_address()).collect();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let processes = names.iter().map(|_| None).collect();
        Self { place, names, addresses, processes, proxies: None, more: Vec::new() }
    }

    /// Three nodes, provisioned at the first one.
    fn provisioned() -> Self {
        Self::new(&["a", "b", "c"]).provision()
    }

    /// The same, with a proxy between any two.
    fn with_proxies() -> Self {
        let mut cluster = Self::new(&["a", "b", "c"]);
        cluster.proxies = Some(Proxies::new(&cluster.addresses));
        cluster.provision()
    }

    fn provision(self) -> Self {
        let mut cluster = self;
        cluster.start_all();
        let done = cluster.ask(0, &["provision", "--within", "80s"]).expect(0, &["is provisioned"]);
        assert!(done.text().starts_with("healthy: a leads, 3 of 3 members"), "{done:?}");
        cluster.all_healthy();
        cluster
    }

    /// The arguments of a node's process.
    fn arguments(&self, at: usize) -> Vec<String> {
        let name = &self.names[at];
        let mut all: Vec<String> = ["node", "--data-dir", name, "--name", name, "--listen"]
            .iter()
            .map(|text| (*text).to_owned())
            .collect();
        // A node that listens everywhere announces no address: it is dialled at the proxies only.
        let everywhere = || self.addresses[at].replace("127.0.0.1", "0.0.0.0");
        all.push(self.proxies.as_ref().map_or(self.addresses[at].clone(), |_| everywhere()));
        all.extend(["--tls".to_owned(), format!("tls/{name}")]);
        for other in (0..self.names.len()).filter(|other| *other != at) {
            all.push("--peer".to_owned());
            let proxy = self.proxies.as_ref().map(|proxies| proxies.address(at, other));
            let address = proxy.unwrap_or_else(|| self.addresses[other].clone());
            all.push(format!("{}={address}", self.names[other]));
        }
        all.extend(self.more.iter().cloned());
        all
    }

    fn start_with(&self, arguments: &[String]) -> Running {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.place.start(&arguments)
    }

    fn start(&mut self, at: usize) {
        self.processes[at] = Some(self.start_with(&self.arguments(at)));
        let listens = || self.process(at).stderr().contains("listens at");
        until("the node listens", || listens().then_some(()));
    }

    fn start_all(&mut self) {
        for at in 0..self.names.len() {
            self.start(at);
        }
    }

    fn process(&self, at: usize) -> &Running {
        self.processes[at].as_ref().unwrap()
    }

    fn kill(&mut self, at: usize) {
        self.processes[at].take().unwrap().kill();
    }

    /// Ends it by SIGTERM.
    fn stop(&mut self, at: usize) {
        let process = self.processes[at].take().unwrap();
        process.signal("TERM");
        process.end().expect(0, &[]);
    }

    fn wipe(&self, at: usize) {
        std::fs::remove_dir_all(self.place.path(&self.names[at])).unwrap();
    }

    /// The socket of a node's process.
    fn socket(&self, at: usize) -> PathBuf {
        self.place.path(&self.names[at]).join("control.sock")
    }

    /// The leader, as a node sees it now, if the node answers in time.
    fn leader_now(&self, at: usize) -> Option<usize> {
        let answer = calls::ask(&self.socket(at), &Request::Status, Duration::from_secs(1)).ok()?;
        let Answer::ClusterStatus { status } = answer else { return None };
        let leader = status.group?.leader?;
        self.names.iter().position(|name| *name == leader)
    }

    /// `forebay cluster` at a node.
    fn ask(&self, at: usize, arguments: &[&str]) -> Done {
        let head = ["cluster", "--data-dir", &self.names[at]];
        self.place.run(&[&head[..], arguments].concat())
    }

    /// The status of a node, if it answers.
    fn status(&self, at: usize) -> Option<Value> {
        let done = self.ask(at, &["status", "--json"]);
        serde_json::from_slice(&done.stdout).ok()
    }

    #[track_caller]
    fn until_status(&self, what: &str, at: usize, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = until_or(|| {
            last = self.status(at);
            last.clone().filter(&is_so)
        });
        found.unwrap_or_else(|| {
            let stderr = self.processes[at].as_ref().map(Running::stderr);
            panic!("never: {what}: {last:#?} {stderr:?}")
        })
    }

    #[track_caller]
    fn all_healthy(&self) {
        for at in 0..self.names.len() {
            if self.processes[at].is_some() {
                self.until_status("a healthy cluster", at, |status| status["is_healthy"] == true);
            }
        }
    }

    /// The leader, as the first running node sees it; it runs.
    #[track_caller]
    fn leader(&self) -> usize {
        let led = |status: &Value| {
            let leader = status["group"]["leader"].as_str()?;
            let at = self.names.iter().position(|name| name == leader)?;
            self.processes[at].is_some().then_some(at)
        };
        let at = (0..self.names.len()).find(|at| self.processes[*at].is_some()).unwrap();
        led(&self.until_status("a leader", at, |status| led(status).is_some())).unwrap()
    }

    /// Writes a key at a node and returns its version.
    #[track_caller]
    fn put(&self, at: usize, key: &str, value: &str) -> u64 {
        let done = self.ask(at, &["put", key, value, "--within", "60s", "--json"]).expect(0, &[]);
        let written: Value = serde_json::from_slice(&done.stdout).unwrap();
        written["version"].as_u64().unwrap()
    }

    #[track_caller]
    fn get(&self, at: usize, key: &str) -> String {
        self.ask(at, &["get", key, "--within", "60s"]).expect(0, &[]).text().trim_end().to_owned()
    }
}

/// Waits for a value; `None` after [`PATIENCE`].
fn until_or<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(value) = look() {
            return Some(value);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

#[track_caller]
fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_or(look).unwrap_or_else(|| panic!("never: {what}"))
}

#[test]
fn three_processes_serve_and_continue_without_the_killed_leader() {
    let mut cluster = Cluster::provisioned();
    assert_eq!(cluster.put(1, "greeting", "hello"), 1);
    assert_eq!(cluster.get(2, "greeting"), "hello");
    let text = cluster.ask(1, &["status"]).expect(0, &[]).text();
    let first = text.lines().next().unwrap();
    assert_eq!(first, "healthy: a leads, 3 of 3 members are connected, 1 of them may be lost");
    assert!(text.contains("metadata: follower, a leads, segment"), "{text}");

    let leader = cluster.leader();
    cluster.kill(leader);
    let began = Instant::now();
    let other = (leader + 1) % 3;
    assert_eq!(cluster.put(other, "greeting", "again"), 2);
    crate::place::say(&format!("a write succeeds {:?} after the leader's death", began.elapsed()));
    assert_eq!(cluster.get((leader + 2) % 3, "greeting"), "again");
    let status = cluster.until_status("a lost member is shown", other, |status| {
        status["health"].as_str().unwrap().starts_with("a is not reached: 2 of 3 members")
    });
    assert_eq!((&status["serves"], &status["is_healthy"]), (&true.into(), &false.into()));
    let done = cluster.ask(other, &["status"]);
    assert_eq!(done.code, 1, "{done:?}");

    cluster.start(leader);
    cluster.all_healthy();
    assert_eq!(cluster.get(leader, "greeting"), "again");
    // A planned stop.
    for at in 0..3 {
        cluster.stop(at);
    }
    let gone = cluster.ask(0, &["status"]);
    gone.expect_refused(&["no `forebay node` runs with the data directory a"]);
    // All of them start again with their data.
    cluster.start_all();
    cluster.all_healthy();
    assert_eq!(cluster.get(0, "greeting"), "again");
}

#[test]
fn keys_are_written_under_conditions_listed_and_deleted() {
    let cluster = Cluster::provisioned();
    cluster.ask(0, &["put", "k/1", "one", "--if-version", "0"]).expect(0, &[]);
    let conflict = cluster.ask(1, &["put", "k/1", "other", "--if-version", "0"]);
    conflict.expect_refused(&["`k/1`", "it has version 1"]);
    cluster.ask(2, &["put", "k/1", "two", "--if-version", "1"]).expect(0, &[]);
    cluster.put(2, "k/2", "x");
    let keys = cluster.ask(1, &["keys", "k/", "--json"]).expect(0, &[]).text();
    let keys: Vec<Value> = keys.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&keys[0]["key"], &keys[0]["version"]), (&"k/1".into(), &2.into()));
    assert_eq!(keys.len(), 2);
    cluster.ask(1, &["put", "k/1"]).expect(0, &[]);
    let deleted = cluster.ask(0, &["get", "k/1"]);
    assert_eq!((deleted.code, deleted.text()), (1, String::new()));
    cluster.ask(0, &["put", "a b", "x"]).expect_refused(&["is not a metadata key"]);
}

#[test]
fn commands_about_entries_wait_for_the_cluster() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start(0);
    let early = cluster.place.run(&["status", "--data-dir", "a"]);
    early.expect_refused(&["runs no entries", "part of no cluster yet", "forebay cluster status"]);
    cluster.ask(0, &["provision"]).expect(0, &[]);
    until("entries are answered", || {
        (cluster.place.run(&["status", "--data-dir", "a"]).code == 0).then_some(())
    });
}

/// Sockets and threads of a process.
fn open_of(id: u32) -> (Vec<String>, Vec<String>) {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    let threads = tasks.filter_map(|task| name(task.ok()?)).collect();
    let links = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    let sockets = links.filter_map(|link| {
        let link = link.to_string_lossy().into_owned();
        Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    });
    let sockets: Vec<_> = sockets.collect();
    let tables = ["tcp", "tcp6", "udp", "udp6"];
    let lines = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{id}/net/{table}")).ok());
    let inet: String = lines.collect();
    let is_inet = |inode: &String| inet.split_whitespace().any(|word| word == inode);
    (sockets.into_iter().filter(is_inet).collect(), threads)
}

#[test]
fn a_single_node_opens_no_port_and_has_no_thread_of_a_cluster() {
    let place = Place::new();
    place.write("items", "30\n");
    let mut command = place.command(&["exec", "--data-dir", "data", "--", "sleep"]);
    command.stdin(std::fs::File::open(place.path("items")).unwrap());
    let mut running = place.start_command(command);
    crate::place::until("it runs", || place.path("data/control.sock").exists());
    let (ports, threads) = open_of(running.id());
    assert!(ports.is_empty(), "{ports:?}");
    let of_cluster = |name: &&String| name.contains("-cluster") || name.contains("forebay-sync");
    assert_eq!(threads.iter().find(of_cluster), None);
    assert!(!place.path("data/cluster").exists());
    assert!(running.is_running());
}
