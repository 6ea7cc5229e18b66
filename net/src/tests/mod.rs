//! Whole nodes: over TCP on loopback, with and without TLS, and over the in-memory network.
//!
//! Owns the helpers of these tests. No test depends on the speed of the machine: each waits for a
//! condition, for [`TIMEOUT`] at most.

mod bulk;
mod fuzz;
mod handshakes;
mod links;
mod memory;
mod requests;
mod untrusted;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::handshake::{self, Stream};
use crate::{
    Answer, Class, Config, Event, Group, Identity, Limits, Net, NodeName, Service, TlsFiles,
    init_tls,
};

/// How long a test waits for an expected event.
const TIMEOUT: Duration = Duration::from_secs(30);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// A node with a data directory of its own, in its first boot.
fn identity(node: &str) -> Identity {
    let storage = node.bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte));
    Identity { cluster: 1, name: name(node), storage, boot: 1, nonce: 7, address: None }
}

/// Limits with short pauses, so that tests are short.
fn limits() -> Limits {
    Limits {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(100),
        election_timeout: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn config(node: &str) -> Config {
    Config {
        identity: identity(node),
        listen: Some("127.0.0.1:0".to_owned()),
        tls: None,
        limits: limits(),
        service: Arc::new(TestService::default()),
        seed: Some(1),
    }
}

async fn start(node: &str) -> Net {
    Net::start(config(node)).await.unwrap()
}

fn address(net: &Net) -> String {
    net.identity().address.clone().unwrap()
}

/// Adds each node as a peer of the other, with its address.
fn connect_peers(a: &Net, b: &Net) {
    for (one, other) in [(a, b), (b, a)] {
        one.add_peer(&other.identity().name, Some(&address(other))).unwrap();
    }
}

/// Certificate bundles of one authority.
struct Bundles(tempfile::TempDir);

impl Bundles {
    fn new(nodes: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let nodes: Vec<_> = nodes.iter().map(|node| name(node)).collect();
        init_tls(directory.path(), &nodes, 90).unwrap();
        Self(directory)
    }

    fn files(&self, node: &str) -> TlsFiles {
        TlsFiles::in_directory(&self.0.path().join(node))
    }

    async fn start(&self, node: &str) -> Net {
        let tls = Some(self.files(node));
        Net::start(Config { tls, ..config(node) }).await.unwrap()
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "timed out: {what}");
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out: {what}"),
    }
}

/// Waits for the session with a peer; skips all earlier events.
async fn session(group: &Group, with: &str) -> u64 {
    let wanted = name(with);
    let connected = async {
        loop {
            if let Event::Connected { peer, session } = group.next().await
                && peer == wanted
            {
                return session;
            }
        }
    };
    soon("a session", connected).await
}

/// Waits for the next message; skips all other events.
async fn message(group: &Group) -> (u64, Bytes) {
    let message = async {
        loop {
            if let Event::Message { session, body, .. } = group.next().await {
                return (session, body);
            }
        }
    };
    soon("a message", message).await
}

/// A service whose answer depends on the request.
#[derive(Default)]
struct TestService {
    running: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    refuses: Option<String>,
}

struct Running(Arc<AtomicUsize>, Arc<AtomicUsize>, bool);

impl Running {
    fn end(&mut self) {
        self.2 = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        if !self.2 {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The byte at this offset of every source.
fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

impl Service for TestService {
    fn admit(&self, peer: &Identity) -> Result<(), String> {
        match &self.refuses {
            Some(node) if peer.name.as_str() == node => Err(format!("{node} was removed")),
            _ => Ok(()),
        }
    }

    fn request(&self, _peer: Arc<Identity>, body: Bytes) -> Answer {
        self.running.fetch_add(1, Ordering::SeqCst);
        let mut running = Running(Arc::clone(&self.running), Arc::clone(&self.dropped), false);
        Box::pin(async move {
            let answer = match &body[..] {
                b"wait" => std::future::pending().await,
                b"fail" => Err("it failed".to_owned()),
                b"panic" => panic!("as asked"),
                b"huge" => Ok(Bytes::from(vec![0; (8 << 20) + 1])),
                _ => Ok(body),
            };
            running.end();
            answer
        })
    }

    /// A source is named by its length, or `broken`, `greedy` or `stuck`.
    fn read(&self, _peer: Arc<Identity>, source: Bytes, offset: u64, len_max: usize) -> Answer {
        Box::pin(async move {
            let text = String::from_utf8(source.to_vec()).map_err(|_| "no text".to_owned())?;
            match text.as_str() {
                "broken" if offset >= 1000 => return Err("the disk is broken".to_owned()),
                "broken" => return Ok(Bytes::from(vec![0; 1000.min(len_max)])),
                "greedy" => return Ok(Bytes::from(vec![0; len_max + 1])),
                "stuck" => return std::future::pending().await,
                _ => {}
            }
            let len: u64 = text.parse().map_err(|_| "no such source".to_owned())?;
            let end = len.min(offset + len_max as u64);
            Ok((offset..end).map(byte_at).collect())
        })
    }
}

/// A peer driven by the test: it completes the handshake, then the test owns the stream.
async fn raw_peer(net: &Net, class: Class, me: &Identity) -> Stream {
    let stream = TcpStream::connect(address(net)).await.unwrap();
    let peer = &net.identity().name;
    let outcome = handshake::dial(Box::new(stream), None, class, me, peer, |_| Ok(()));
    soon("a handshake", outcome).await.unwrap().0
}
