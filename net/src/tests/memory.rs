//! The in-memory network with faults, under the paused clock.

use std::collections::BTreeMap;

use super::*;
use crate::{Conditions, MemoryNet, NotSent, RequestError};

async fn nodes(net: &MemoryNet, names: &[&str]) -> Vec<Net> {
    let mut nodes = Vec::new();
    for node in names {
        nodes.push(net.start(config(node)).await.unwrap());
    }
    for one in &nodes {
        for other in names.iter().filter(|other| **other != one.identity().name.as_str()) {
            one.add_peer(&name(other), Some(other)).unwrap();
        }
    }
    nodes
}

fn groups(nodes: &[Net], id: u32) -> Vec<Group> {
    let groups: Vec<_> = nodes.iter().map(|node| node.group(id).unwrap()).collect();
    for (group, node) in groups.iter().zip(nodes) {
        for other in nodes.iter().filter(|other| other.identity().name != node.identity().name) {
            group.add_peer(&other.identity().name).unwrap();
        }
    }
    groups
}

/// Events of one node, as text; checks their order and sessions.
#[derive(Default)]
struct NodeEvents {
    up: BTreeMap<NodeName, u64>,
    last: BTreeMap<NodeName, u64>,
    next: BTreeMap<NodeName, u64>,
    trace: Vec<String>,
    received: usize,
}

impl NodeEvents {
    fn event(&mut self, event: Event) {
        match &event {
            Event::Connected { peer, session } => {
                assert_eq!(self.up.insert(peer.clone(), *session), None);
                let before = self.last.insert(peer.clone(), *session);
                assert!(before.is_none_or(|before| before < *session), "numbers grow");
                self.next.insert(peer.clone(), 0);
            }
            Event::Disconnected { peer, session } => {
                assert_eq!(self.up.remove(peer), Some(*session));
            }
            Event::Message { peer, session, body } => {
                assert_eq!(self.up.get(peer), Some(session));
                let (in_session, number) = body.split_at(8);
                assert_eq!(in_session, session.to_be_bytes(), "of this session");
                let next = self.next.get_mut(peer).unwrap();
                assert_eq!(number[..8], next.to_be_bytes(), "a gap, or out of order");
                *next += 1;
                self.received += 1;
                self.trace.push(format!("{peer} {session} {next} {}", body.len()));
                return;
            }
            Event::Progress { .. } | Event::Heartbeat { .. } => {}
        }
        self.trace.push(format!("{event:?}"));
    }
}

/// Three nodes send to each other while connections break; returns their events.
async fn run(seed: u64) -> Vec<String> {
    let net = MemoryNet::new(seed);
    net.set_all_conditions(Conditions {
        delay: Duration::from_millis(1)..=Duration::from_millis(30),
        bytes_per_second: Some(2_000_000),
    });
    net.break_after(Some(Duration::from_millis(700)));
    let nodes = nodes(&net, &["a", "b", "c"]).await;
    let groups = groups(&nodes, 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut seen: Vec<NodeEvents> = groups.iter().map(|_| NodeEvents::default()).collect();
    let mut sent: BTreeMap<(usize, NodeName, u64), u64> = BTreeMap::new();
    for step in 0..4000 {
        let at = random.usize(0..3);
        while let Some(event) = groups[at].try_next() {
            seen[at].event(event);
        }
        for (peer, session) in seen[at].up.clone() {
            let number = sent.entry((at, peer.clone(), session)).or_default();
            let mut body = session.to_be_bytes().to_vec();
            body.extend(number.to_be_bytes());
            body.resize(16 + random.usize(0..3000), 0);
            if groups[at].send(&peer, session, body.into()).is_ok() {
                *number += 1;
            }
            if random.u32(0..300) == 0 {
                groups[at].reset(&peer, session);
            }
        }
        if step == 2000 {
            net.cut("a", "b");
        }
        if step == 2500 {
            net.mend_all();
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..4))).await;
    }
    net.mend_all();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for (group, seen) in groups.iter().zip(&mut seen) {
        while let Some(event) = group.try_next() {
            seen.event(event);
        }
        assert_eq!(seen.up.len(), 2, "all links are up again");
        assert!(seen.received > 100, "{}", seen.received);
    }
    seen.into_iter().flat_map(|seen| seen.trace).collect()
}

#[test]
fn seeds_hold_and_the_same_seed_gives_the_same_trace() {
    let run_alone = |seed| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(run(seed))
    };
    for seed in 0..4 {
        let trace = run_alone(seed);
        assert_eq!(trace, run_alone(seed), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_ends_the_session_and_heals() {
    let net = MemoryNet::new(1);
    let nodes = nodes(&net, &["a", "b"]).await;
    let groups = groups(&nodes, 1);
    let first = session(&groups[0], "b").await;
    assert_eq!(session(&groups[1], "a").await, first);
    net.cut("a", "b");
    groups[0].send(&name("b"), first, Bytes::from_static(b"x")).unwrap();
    for group in &groups {
        let ended = async { while !matches!(group.next().await, Event::Disconnected { .. }) {} };
        soon("the end of the session", ended).await;
    }
    assert_eq!(groups[1].try_next(), None, "nothing came through");
    let sent = groups[0].send(&name("b"), first, Bytes::new());
    assert_eq!(sent, Err(NotSent::NoSession));
    net.mend("a", "b");
    let second = session(&groups[0], "b").await;
    assert!(second > first);
    assert_eq!(session(&groups[1], "a").await, second);
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_delays_and_loses_nothing() {
    let net = MemoryNet::new(1);
    let nodes = nodes(&net, &["a", "b"]).await;
    let slow = Conditions { bytes_per_second: Some(100_000), ..Conditions::default() };
    net.set_conditions("b", "a", slow);
    let began = tokio::time::Instant::now();
    let body = Bytes::from(vec![1; 1_000_000]);
    let answer = nodes[0].request(&name("b"), body.clone(), Duration::from_secs(60)).await;
    assert_eq!(answer.map(|answer| answer.len()), Ok(body.len()));
    let took = began.elapsed();
    assert!((8..20).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn broken_connections_answer_requests_as_over_tcp() {
    let net = MemoryNet::new(1);
    let nodes = nodes(&net, &["a", "b"]).await;
    let b = name("b");
    let asked = nodes[0].request(&b, "wait".into(), Duration::from_secs(50));
    let broken = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        net.break_connections("b", "a");
    };
    let (answer, ()) = tokio::join!(asked, broken);
    assert_eq!(answer, Err(RequestError::Lost));
    nodes[1].stop().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = nodes[0].request(&name("b"), "x".into(), Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(RequestError::Unreachable(_))), "{answer:?}");
    nodes[0].stop().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(net.connections(), 0, "everything ended");
}
