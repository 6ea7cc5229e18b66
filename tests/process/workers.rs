//! Workers in Python, killed in the middle, and a server that is killed too: every entry ends, and
//! entries of one key never overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    http_client::Client,
    place::{Place, Running, say, until},
};

/// Writes a line with key, lease and time every few milliseconds of its work.
const WORKER: &str = r#"
import os, sys, time, logging
sys.path.insert(0, os.environ["CLIENT"])
import forebay
logging.basicConfig(level=logging.WARNING)
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def handle(job):
    for _ in range(job.payload):
        job.check()
        os.write(log, f"{job.key} {job.lease} {time.monotonic()}\n".encode())
        time.sleep(0.02)
    return job.payload
client = forebay.Client(os.environ["URL"], timeout=5)
forebay.Worker(client, {"work": handle}, slots=3, wait=1).run()
"#;
const WORKERS: usize = 3;
const ENTRIES: usize = 40;
const KEYS: usize = 8;

fn python_is_missing() -> bool {
    let missing = Command::new("python3").arg("-V").stdout(Stdio::null()).status().is_err();
    if missing {
        say("python3 is not installed: its workers are not tested");
    }
    missing
}

struct World {
    place: Place,
    client: Client,
    server: Option<Running>,
    workers: Vec<Child>,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        place.write("worker.py", WORKER);
        place.write("log", "");
        // Free: nothing else on this machine picks it at once.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client { address, token: None };
        let mut world = Self { place, client, server: None, workers: Vec::new() };
        world.start_server();
        for _ in 0..WORKERS {
            world.start_worker();
        }
        world
    }

    fn start_server(&mut self) {
        let listen = self.client.address.to_string();
        let arguments =
            ["serve", "--data-dir", "data", "--listen", &listen, "--no-auth", "--lease", "2s"];
        let server = self.place.start(&arguments);
        until("it listens", || server.stderr().contains("listening on"));
        self.server = Some(server);
    }

    fn start_worker(&mut self) {
        let mut python = Command::new("python3");
        python.arg("worker.py").current_dir(self.place.path(""));
        python.env("CLIENT", crate::root().join("clients/python"));
        python.env("PYTHONDONTWRITEBYTECODE", "1");
        python.env("URL", format!("http://{}", self.client.address));
        let stderr = std::fs::File::create(self.place.path("worker.err")).unwrap();
        self.workers.push(python.stderr(stderr).spawn().unwrap());
    }

    /// Kills the worker that was started first, and starts another one.
    fn kill_worker(&mut self) {
        let mut worker = self.workers.remove(0);
        worker.kill().unwrap();
        worker.wait().unwrap();
        self.start_worker();
    }

    fn enqueue(&self) {
        let mut lines = String::new();
        for number in 0..ENTRIES {
            let _ = writeln!(
                lines,
                "{{\"payload\":{},\"scope\":\"a\",\"key\":\"k{}\"}}",
                10 + number % 20,
                number % KEYS
            );
        }
        let ndjson = [("content-type", "application/x-ndjson")];
        let target = "/v1/services/work/entries";
        self.client.send("POST", target, &ndjson, lines.as_bytes()).expect(200);
    }

    fn succeeded(&self) -> u64 {
        let count = self.client.get("/v1/entries/count?service=work&outcome=success");
        count.expect(200)["count"].as_u64().unwrap()
    }

    fn worked(&self) -> usize {
        self.place.lines("log").len()
    }

    /// Waits until this many more lines were written.
    fn work(&self, lines: usize) {
        let before = self.worked();
        until("the workers work", || self.worked() >= before + lines);
    }

    /// Every entry ended well, and the lines of each lease are without those of others of its key.
    fn check(&self) {
        for _ in 0..4 {
            // Each wait has its own time limit.
            let before = self.succeeded();
            if before == ENTRIES as u64 {
                break;
            }
            until("more entries end", || self.succeeded() > before.min(ENTRIES as u64 - 1));
        }
        until("all end", || self.succeeded() == ENTRIES as u64);
        let mut keys: BTreeMap<String, Vec<(f64, String)>> = BTreeMap::new();
        for line in self.place.lines("log") {
            let parts: Vec<_> = line.split(' ').collect();
            let [key, lease, at] = parts[..] else { panic!("{line}") };
            keys.entry(key.to_owned()).or_default().push((at.parse().unwrap(), lease.to_owned()));
        }
        assert_eq!(keys.len(), KEYS);
        for (key, mut lines) in keys {
            lines.sort_by(|one, other| one.0.total_cmp(&other.0));
            lines.dedup_by(|one, other| one.1 == other.1);
            let leases: BTreeSet<_> = lines.iter().map(|(_, lease)| lease).collect();
            assert_eq!(leases.len(), lines.len(), "entries of {key} overlapped");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

#[test]
fn killed_workers_lose_no_entry_and_keys_never_overlap() {
    if python_is_missing() {
        return;
    }
    let mut world = World::new();
    world.enqueue();
    for _ in 0..4 {
        world.work(25);
        world.kill_worker();
    }
    world.check();
    let Some(server) = world.server.take() else { panic!() };
    server.signal("TERM");
    server.end().expect(0, &[]);
}

#[test]
fn a_killed_server_loses_no_entry_and_keys_never_overlap() {
    if python_is_missing() {
        return;
    }
    let mut world = World::new();
    world.enqueue();
    for is_killed in [true, false] {
        world.work(40);
        let Some(server) = world.server.take() else { panic!() };
        if is_killed {
            drop(server.kill());
        } else {
            server.signal("TERM");
            // The leases have time to end, the next ones are given by the new server.
            server.end().expect(0, &[]);
        }
        std::thread::sleep(Duration::from_millis(300));
        world.start_server();
    }
    world.check();
}
