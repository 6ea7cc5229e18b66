//! Unauthenticated clients, floods and invalid bytes.

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::lane::bulk_client::BulkClient;
use crate::lane::bulk_server::BulkServer;
use crate::lane::heartbeats::Heartbeats;
use crate::lane::links::Links;
use crate::lane::request_client::RequestClient;
use crate::lane::request_server::RequestServer;
use crate::lane::{Lane, Slot};
use crate::wire::frame::Frame;

async fn is_closed_without_a_byte(mut stream: TcpStream) -> bool {
    let mut answer = Vec::new();
    let read = soon("the end", stream.read_to_end(&mut answer)).await;
    read.is_err() || answer.is_empty()
}

#[tokio::test]
async fn an_unauthenticated_client_gets_no_answer() {
    let limits = Limits { handshake_time_max: Duration::from_millis(200), ..limits() };
    let b = Net::start(Config { limits, ..config("b") }).await.unwrap();
    for bytes in
        [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x04abcd", b"\xff\xff\xff\xff", b"\0\0"]
    {
        let mut stream = TcpStream::connect(address(&b)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(is_closed_without_a_byte(stream).await, "{bytes:?}");
    }
}

#[tokio::test]
async fn the_oldest_handshake_is_dropped_for_a_new_one() {
    let limits =
        Limits { handshakes_max: 4, handshake_time_max: Duration::from_secs(600), ..limits() };
    let b = Net::start(Config { limits, ..config("b") }).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(TcpStream::connect(address(&b)).await.unwrap());
    }
    for client in clients.into_iter().take(16) {
        assert!(is_closed_without_a_byte(client).await);
    }
    raw_peer(&b, Class::Requests, &identity("c")).await;
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_thousand_idle_clients_cost_no_memory_and_block_no_node() {
    let bundles = Bundles::new(&["a", "b"]);
    let (a, b) = (bundles.start("a").await, bundles.start("b").await);
    connect_peers(&a, &b);
    let before = resident_bytes();
    let mut clients = std::collections::VecDeque::new();
    for round in 0..1000 {
        let mut stream = TcpStream::connect(address(&b)).await.unwrap();
        // Some send nothing, some begin a handshake.
        if round % 2 == 0 {
            let _ = stream.write_all(b"\x16\x03\x01\x02\x00\x01").await;
        }
        // The process may have few descriptors.
        if clients.len() >= 300 {
            clients.pop_front();
        }
        clients.push_back(stream);
        if round == 500 {
            let b = name("b");
            let asked = a.request(&b, "x".into(), TIMEOUT);
            assert_eq!(soon("an answer", asked).await.unwrap(), "x");
        }
    }
    // The clients' ends are in this process too: a socket each, and no buffer.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    drop(clients);
    assert_eq!(soon("an answer", a.request(&name("b"), "y".into(), TIMEOUT)).await.unwrap(), "y");
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_its_connection_only() {
    let b = start("b").await;
    let mut good = raw_peer(&b, Class::Requests, &identity("c")).await;
    for flood in [&b"\x7f\xff\xff\xff"[..], b"\0\x02\0\0\0", b"\0\0\0\x01\xff", b"\0\0\0\0"] {
        let mut stream = raw_peer(&b, Class::Requests, &identity("a")).await;
        let _ = stream.write_all(flood).await;
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    }
    good.write_all(b"\0\0\0\x0e\x07\0\0\0\0\0\0\0\x01\0\0\x20\0x").await.unwrap();
    let mut answer = [0; 15];
    soon("an answer", good.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[14], b'x');
}

#[tokio::test]
async fn a_flood_of_small_frames_stays_bounded() {
    let few = Limits { requests_max: 8, groups_max: 8, ..limits() };
    let b = Net::start(Config { limits: few, ..config("b") }).await.unwrap();
    b.add_peer(&name("a"), None).unwrap();
    let flood = |frame: &dyn Fn(u64) -> Frame| {
        let mut out = bytes::BytesMut::new();
        (0..20_000).for_each(|id| frame(id).encode(&mut out));
        out
    };
    let floods = [
        (Class::Consensus, flood(&|id| Frame::Open { group: id as u32, number: 1 })),
        (
            Class::Requests,
            flood(&|id| {
                let (body, within_ms) = (Bytes::from_static(b"wait"), 60_000);
                Frame::Ask { id, within_ms, is_last: true, body }
            }),
        ),
        (
            Class::Bulk,
            flood(&|id| Frame::Read {
                id,
                offset: 0,
                window: 9,
                source: Bytes::from_static(b"stuck"),
            }),
        ),
    ];
    for (class, bytes) in floods {
        // This peer does not read the answers.
        let mut stream = raw_peer(&b, class, &identity("a")).await;
        let _ = soon("the flood is taken or refused", stream.write_all(&bytes)).await;
    }
    let mut good = raw_peer(&b, Class::Requests, &identity("c")).await;
    good.write_all(b"\0\0\0\x0e\x07\0\0\0\0\0\0\0\x01\0\0\x20\0x").await.unwrap();
    let mut answer = [0; 15];
    soon("an answer", good.read_exact(&mut answer)).await.unwrap();
}

pub(super) fn lanes() -> Vec<Arc<dyn Lane>> {
    let limits = Arc::new(Limits { groups_max: 4, requests_max: 4, ..Limits::default() });
    let (peer, service) = (Arc::new(identity("a")), Arc::new(TestService::default()));
    let mut links = Links::new(name("a"), Arc::clone(&limits));
    let queue = Arc::new(crate::group::GroupQueue::new(&limits));
    links.want(1, queue);
    vec![
        Arc::new(Slot::new(links)),
        Arc::new(Slot::new(Heartbeats::new(name("a"), Arc::clone(&limits)))),
        Arc::new(Slot::new(RequestClient::new(Arc::clone(&limits)))),
        Arc::new(Slot::new(BulkClient::new(Arc::clone(&limits)))),
        RequestServer::slot(Arc::clone(&peer), service.clone(), Arc::clone(&limits)),
        BulkServer::slot(peer, service, limits),
    ]
}

/// A valid frame of any kind, with some bytes changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (0..18u8, 0..3u64, changes, 0..40usize).prop_map(|(kind, id, changes, len)| {
        let mut bytes = vec![kind];
        bytes.extend(id.to_be_bytes());
        bytes.resize(bytes.len() + len, 1);
        for (at, with) in changes {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        bytes
    })
}

#[tokio::test]
async fn no_frame_panics_in_any_lane() {
    let mut runner = TestRunner::new(Runs { failure_persistence: None, ..Runs::default() });
    let frames = prop::collection::vec(mutated(), 1..40);
    let run = runner.run(&frames, |frames| {
        for lane in lanes() {
            let number = lane.attach();
            for bytes in &frames {
                if let Ok(frame) = Frame::decode(Bytes::from(bytes.clone()))
                    && lane.receive(number, frame).is_err()
                {
                    break;
                }
                lane.fill(number, &mut bytes::BytesMut::new(), 1 << 10);
            }
            lane.detach(number);
        }
        Ok(())
    });
    run.unwrap();
}

#[tokio::test]
async fn mutated_bytes_affect_only_their_connection() {
    let b = start("b").await;
    b.add_peer(&name("a"), None).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let class = Class::LASTING[round % 4];
        let mut stream = raw_peer(&b, class, &identity("a")).await;
        let mut bytes = bytes::BytesMut::new();
        for id in 0..20 {
            let body = Bytes::from(vec![1; random.usize(0..100)]);
            Frame::Ask { id, within_ms: 1000, is_last: true, body: body.clone() }
                .encode(&mut bytes);
            Frame::Part { group: 1, is_last: false, body: body.clone() }.encode(&mut bytes);
            Frame::Heartbeat { group: 1, body }.encode(&mut bytes);
        }
        for _ in 0..random.usize(1..20) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        let _ = stream.write_all(&bytes).await;
    }
    let mut good = raw_peer(&b, Class::Requests, &identity("c")).await;
    good.write_all(b"\0\0\0\x0e\x07\0\0\0\0\0\0\0\x01\0\0\x20\0x").await.unwrap();
    let mut answer = [0; 15];
    soon("an answer", good.read_exact(&mut answer)).await.unwrap();
}
