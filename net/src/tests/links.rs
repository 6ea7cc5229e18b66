//! Links between whole nodes: order, overflow, and peers that die, stop or stay silent.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::NotSent;

fn number(value: u32) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn read_number(body: &Bytes) -> u32 {
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

/// Sends, and retries while the queue is full, until the session ends.
async fn send(group: &Group, to: &str, session: u64, body: Bytes) {
    group.send(&name(to), session, body).unwrap();
    tokio::task::yield_now().await;
}

async fn linked(a: &Net, b: &Net, id: u32) -> (Group, Group) {
    let (of_a, of_b) = (a.group(id).unwrap(), b.group(id).unwrap());
    of_a.add_peer(&b.identity().name).unwrap();
    of_b.add_peer(&a.identity().name).unwrap();
    (of_a, of_b)
}

#[tokio::test]
async fn messages_arrive_in_order_in_both_directions_over_tls() {
    let bundles = Bundles::new(&["a", "b"]);
    let (a, b) = (bundles.start("a").await, bundles.start("b").await);
    connect_peers(&a, &b);
    let (of_a, of_b) = linked(&a, &b, 3).await;
    let number_of = session(&of_a, "b").await;
    assert_eq!(session(&of_b, "a").await, number_of);
    let long = Bytes::from(vec![5; 3 << 20]);
    for value in 0..1000 {
        send(&of_a, "b", number_of, number(value)).await;
        send(&of_b, "a", number_of, number(value)).await;
    }
    send(&of_a, "b", number_of, long.clone()).await;
    for value in 0..1000 {
        assert_eq!(message(&of_b).await, (number_of, number(value)));
        assert_eq!(message(&of_a).await, (number_of, number(value)));
    }
    assert_eq!(message(&of_b).await.1, long);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_whose_address_is_not_known_knocks() {
    let (a, b) = (start("a").await, start("b").await);
    // The lower name dials, but does not know the address of b.
    b.add_peer(&name("a"), Some(&address(&a))).unwrap();
    let (of_a, of_b) = linked(&a, &b, 3).await;
    assert_eq!(session(&of_a, "b").await, session(&of_b, "a").await);
    until("heartbeats", || {
        of_a.heartbeat(&name("b"), Bytes::from_static(b"beat"));
        matches!(of_b.try_next(), Some(Event::Heartbeat { body, .. }) if body == "beat")
    })
    .await;
}

#[tokio::test]
async fn an_overflow_resets_that_link_only() {
    let limits = Limits { link_messages_max: 50, ..limits() };
    let start = |node| Net::start(Config { limits: limits.clone(), ..config(node) });
    let (a, b) = (start("a").await.unwrap(), start("b").await.unwrap());
    connect_peers(&a, &b);
    let ((of_a, of_b), (busy_a, busy_b)) = (linked(&a, &b, 1).await, linked(&a, &b, 2).await);
    let (fine, first) = (session(&of_a, "b").await, session(&busy_a, "b").await);
    assert_eq!(session(&of_b, "a").await, fine);
    assert_eq!(session(&busy_b, "a").await, first);

    // Nothing is received in the busy group at b; the other group continues.
    let mut at = first;
    for value in 0..500 {
        while let Some(event) = busy_a.try_next() {
            if let Event::Connected { session, .. } = event {
                at = session;
            }
        }
        let _ = busy_a.send(&name("b"), at, number(value));
        send(&of_a, "b", fine, number(value)).await;
        assert_eq!(message(&of_b).await, (fine, number(value)));
    }
    assert!(at > first, "the busy link was reset");
    // A late receiver sees the end of the first session, then the latest one.
    let events: Vec<_> = std::iter::from_fn(|| busy_b.try_next()).take(200).collect();
    let ended = Event::Disconnected { peer: name("a"), session: first };
    assert_eq!(events.first(), Some(&ended), "{events:?}");
    assert!(events.len() <= 52, "the queue is bounded: {}", events.len());
}

#[tokio::test]
async fn a_peer_that_dies_ends_its_sessions_and_comes_back() {
    let (a, b) = (start("a").await, start("b").await);
    connect_peers(&a, &b);
    let (of_a, of_b) = linked(&a, &b, 1).await;
    let first = session(&of_a, "b").await;
    for value in 0..100 {
        send(&of_a, "b", first, number(value)).await;
    }
    let listened = address(&b);
    drop(of_b);
    b.stop().await;
    drop(b);
    let ended = async {
        loop {
            if let Event::Disconnected { session, .. } = of_a.next().await {
                return session;
            }
        }
    };
    assert_eq!(soon("the end of the session", ended).await, first);
    assert_eq!(of_a.send(&name("b"), first, number(0)), Err(NotSent::NoSession));

    let identity = Identity { boot: 2, nonce: 8, ..identity("b") };
    let again = Config { identity, listen: Some(listened), ..config("b") };
    let b = Net::start(again).await.unwrap();
    let of_b = b.group(1).unwrap();
    of_b.add_peer(&name("a")).unwrap();
    let second = session(&of_a, "b").await;
    assert!(second > first);
    assert_eq!(session(&of_b, "a").await, second);
    send(&of_a, "b", second, number(7)).await;
    assert_eq!(message(&of_b).await, (second, number(7)));
    a.stop().await;
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_bounded_memory() {
    let limits = Limits {
        link_bytes_max: 8 << 20,
        silence_max: Duration::from_secs(1),
        election_timeout: Duration::from_secs(30),
        ..limits()
    };
    let b = Net::start(Config { limits, ..config("b") }).await.unwrap();
    let of_b = b.group(1).unwrap();
    of_b.add_peer(&name("a")).unwrap();
    let mut stuck = raw_peer(&b, Class::Consensus, &identity("a")).await;
    open_link(&mut stuck, 1).await;
    let first = session(&of_b, "a").await;
    let block = Bytes::from(vec![0; 1 << 20]);
    let mut taken = 0;
    while of_b.send(&name("a"), first, block.clone()).is_ok() {
        taken += 1;
        assert!(taken < 1000, "the queue is bounded");
        tokio::task::yield_now().await;
    }
    let ended = async { while !matches!(of_b.next().await, Event::Disconnected { .. }) {} };
    soon("the end of the session", ended).await;
    until("the end of the connection", || b.peers()[0].connected.is_empty()).await;
}

/// Sends `Open` for a group, and reads that of the other side.
async fn open_link(stream: &mut Stream, group: u32) {
    let mut open = vec![0, 0, 0, 13, 2];
    open.extend(group.to_be_bytes());
    open.extend(1u64.to_be_bytes());
    stream.write_all(&open).await.unwrap();
    let mut answer = [0; 17];
    soon("the other side's open", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[4], 2);
}

#[tokio::test]
async fn a_half_open_connection_ends() {
    let limits = Limits { silence_max: Duration::from_millis(300), ..limits() };
    let b = Net::start(Config { limits, ..config("b") }).await.unwrap();
    let of_b = b.group(1).unwrap();
    of_b.add_peer(&name("a")).unwrap();
    let mut silent = raw_peer(&b, Class::Consensus, &identity("a")).await;
    open_link(&mut silent, 1).await;
    let first = session(&of_b, "a").await;
    let ended = async { while !matches!(of_b.next().await, Event::Disconnected { .. }) {} };
    soon("the end of the session", ended).await;
    assert_eq!(of_b.send(&name("a"), first, number(0)), Err(NotSent::NoSession));
}

#[tokio::test]
async fn messages_in_pieces_are_counted_by_their_values() {
    let limits = Limits { frame_bytes_max: 100, ..limits() };
    let start = |node| Net::start(Config { limits: limits.clone(), ..config(node) });
    let (a, b) = (start("a").await.unwrap(), start("b").await.unwrap());
    connect_peers(&a, &b);
    let (of_a, of_b) = linked(&a, &b, 1).await;
    let at = session(&of_a, "b").await;
    for value in 0..200u32 {
        let mut body = number(value).to_vec();
        body.resize(4 + 37 * value as usize, 9);
        send(&of_a, "b", at, body.into()).await;
    }
    for value in 0..200u32 {
        let (_, body) = message(&of_b).await;
        assert_eq!((read_number(&body), body.len()), (value, 4 + 37 * value as usize));
    }
}

#[tokio::test]
async fn a_removed_peer_ends_its_sessions_and_can_be_added_again() {
    let (a, b) = (start("a").await, start("b").await);
    connect_peers(&a, &b);
    let (of_a, of_b) = linked(&a, &b, 1).await;
    let first = session(&of_a, "b").await;
    a.remove_peer(&name("b"));
    let ended = Event::Disconnected { peer: name("b"), session: first };
    assert_eq!(soon("the end", of_a.next()).await, ended);
    assert_eq!(of_a.send(&name("b"), first, number(0)), Err(NotSent::NoSession));
    connect_peers(&a, &b);
    of_a.add_peer(&name("b")).unwrap();
    let second = session(&of_a, "b").await;
    assert!(second > first);
    // A group that leaves at one end and joins again.
    let up_to_second = async { while session(&of_b, "a").await < second {} };
    soon("the second session at b", up_to_second).await;
    of_b.remove_peer(&name("a"));
    let ended = Event::Disconnected { peer: name("b"), session: second };
    assert_eq!(soon("the end", of_a.next()).await, ended);
    of_b.add_peer(&name("a")).unwrap();
    let third = session(&of_b, "a").await;
    assert_eq!(session(&of_a, "b").await, third);
    assert!(third > second);
}

#[tokio::test]
async fn an_unknown_node_is_refused_until_it_is_added() {
    let (a, b) = (start("a").await, start("b").await);
    a.add_peer(&name("b"), Some(&address(&b))).unwrap();
    let of_a = a.group(1).unwrap();
    of_a.add_peer(&name("b")).unwrap();
    until("the reason", || a.refused().iter().any(|one| one.why.contains("not known there"))).await;
    let of_b = b.group(1).unwrap();
    of_b.add_peer(&name("a")).unwrap();
    session(&of_b, "a").await;
}
