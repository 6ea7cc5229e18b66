//! Clients that call the metadata through the sockets of the nodes, and their histories.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay::control::cluster::{Answer, Request};

use crate::linearizable::{Call, Condition, History, Put, Returned};

/// How long a call is tried.
const WITHIN: Duration = Duration::from_secs(2);
/// A stopped node does not answer at all: a client then gives up.
const SILENCE: Duration = Duration::from_secs(3);
/// Pause between two calls of a client.
const PAUSE: Duration = Duration::from_millis(8);
/// Keys of a history.
const KEYS: u64 = 2;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The node is not there: it got no request.
    NotAsked,
    /// It got the request, perhaps.
    Lost,
}

/// Asks a node once.
pub(super) fn ask(socket: &Path, request: &Request, within: Duration) -> Result<Answer, NoAnswer> {
    let mut stream = UnixStream::connect(socket).map_err(|_| NoAnswer::NotAsked)?;
    stream.set_read_timeout(Some(within)).unwrap();
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    stream.write_all(&line).map_err(|_| NoAnswer::Lost)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|_| NoAnswer::Lost)?;
    serde_json::from_slice(&answer).map_err(|_| NoAnswer::Lost)
}

pub(super) fn get(key: &str, within: Duration) -> Request {
    Request::Get { key: key.to_owned(), within_ms: within.as_millis() as u64 }
}

pub(super) fn put(key: &str, value: &str, within: Duration) -> Request {
    let (key, value) = (key.to_owned(), Some(value.to_owned()));
    Request::Put { key, value, if_version: None, within_ms: within.as_millis() as u64 }
}

/// Histories of all clients: a new one, with keys of its own, per round of faults.
pub(super) struct Histories {
    all: Mutex<Vec<History>>,
    values: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) unknown: AtomicU64,
    ends: AtomicBool,
}

impl Histories {
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::new(vec![History::default()]),
            values: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        }
    }

    pub(super) fn next_round(&self) {
        self.lock().push(History::default());
    }

    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<History>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics with the first history that is not linearizable.
    #[track_caller]
    pub(super) fn check(&self) {
        self.lock().iter().for_each(History::check);
    }

    pub(super) fn summary(&self) -> String {
        let all = self.lock();
        let calls: usize = all.iter().map(History::len).sum();
        let longest = all.iter().map(History::len).max().unwrap_or(0);
        format!(
            "{calls} calls in {} histories, the longest of {longest}; {} answered, {} unknown",
            all.len(),
            self.answered.load(Ordering::Relaxed),
            self.unknown.load(Ordering::Relaxed)
        )
    }

    /// Calls a node until the end.
    pub(super) fn run_client(&self, socket: PathBuf, seed: u64) {
        let mut client = Client { random: seed, versions: BTreeMap::new(), socket };
        while !self.ends.load(Ordering::Relaxed) {
            client.call(self);
            std::thread::sleep(PAUSE);
        }
    }
}

struct Client {
    random: u64,
    /// Versions that it saw.
    versions: BTreeMap<String, u64>,
    socket: PathBuf,
}

impl Client {
    fn below(&mut self, end: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.random >> 33) % end
    }

    fn call(&mut self, histories: &Histories) {
        let within_ms = WITHIN.as_millis() as u64;
        let (choice, at) = (self.below(100), self.below(KEYS));
        let (round, number, call) = {
            let mut all = histories.lock();
            let round = all.len() - 1;
            let key = format!("round-{round}/{at}");
            let value = || Some(format!("v{}", histories.values.fetch_add(1, Ordering::Relaxed)));
            let known = self.versions.get(&key).copied().unwrap_or(0);
            let swap = if known == 0 { Condition::Absent } else { Condition::Version(known) };
            let change =
                |value, condition| Call::Change(vec![Put { key: key.clone(), value, condition }]);
            let call = match choice {
                0..40 => Call::Get(key),
                40..60 => change(value(), Condition::Nothing),
                60..95 => change(value(), swap),
                _ => change(None, swap),
            };
            (round, all[round].called(call.clone()), call)
        };
        let request = match &call {
            Call::Get(key) => Request::Get { key: key.clone(), within_ms },
            Call::Change(puts) => Request::Put {
                key: puts[0].key.clone(),
                value: puts[0].value.clone(),
                if_version: match puts[0].condition {
                    Condition::Nothing => None,
                    Condition::Absent => Some(0),
                    Condition::Version(version) => Some(version),
                },
                within_ms,
            },
        };
        let answer = ask(&self.socket, &request, SILENCE);
        let returned = returned(&call, answer);
        match &returned {
            Some(Returned::Row(row)) => {
                let Call::Get(key) = &call else { unreachable!("only reads return rows") };
                let live = row.as_ref().filter(|(_, value)| value.is_some());
                self.versions.insert(key.clone(), live.map_or(0, |(version, _)| *version));
            }
            Some(Returned::Changed(versions)) => {
                let Call::Change(puts) = &call else {
                    unreachable!("only changes return versions")
                };
                let is_live = puts[0].value.is_some();
                self.versions.insert(puts[0].key.clone(), if is_live { versions[0] } else { 0 });
            }
            Some(Returned::Conflict) => self.versions.clear(),
            Some(Returned::Unknown) => drop(histories.unknown.fetch_add(1, Ordering::Relaxed)),
            None => {}
        }
        if !matches!(returned, None | Some(Returned::Unknown)) {
            histories.answered.fetch_add(1, Ordering::Relaxed);
        }
        histories.lock()[round].returned(number, returned);
    }
}

/// What a call returned; `None`: nothing was done.
fn returned(call: &Call, answer: Result<Answer, NoAnswer>) -> Option<Returned> {
    let is_change = matches!(call, Call::Change(_));
    match answer {
        Err(NoAnswer::NotAsked) => None,
        Err(NoAnswer::Lost) => is_change.then_some(Returned::Unknown),
        Ok(Answer::Key { key }) => Some(Returned::Row(key.map(|view| (view.version, view.value)))),
        Ok(Answer::Written { version }) => Some(Returned::Changed(vec![version])),
        Ok(Answer::Error { message, .. }) => match () {
            () if message.contains("the precondition does not hold") => Some(Returned::Conflict),
            () if message.contains("may have been made") => Some(Returned::Unknown),
            () if message.contains("nothing was done") => None,
            () if message.contains("part of no cluster") => None,
            () => panic!("{call:?}: {message}"),
        },
        Ok(other) => panic!("{call:?}: {other:?}"),
    }
}

/// How long it takes until a call succeeds, each attempt with all the time.
pub(super) fn time_until_done(socket: &Path, request: &Request, began: Instant) -> Duration {
    loop {
        match ask(socket, request, Duration::from_secs(30)) {
            Ok(Answer::Key { .. } | Answer::Written { .. }) => return began.elapsed(),
            other => {
                assert!(began.elapsed() < Duration::from_secs(60), "{request:?}: {other:?}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}
