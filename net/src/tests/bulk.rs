//! Bulk reads between whole nodes.

use super::*;
use crate::{BulkRead, RequestError};

async fn pair(limits: Limits) -> (Net, Net) {
    let a = Net::start(Config { limits: limits.clone(), ..config("a") }).await.unwrap();
    let b = Net::start(Config { limits, ..config("b") }).await.unwrap();
    connect_peers(&a, &b);
    (a, b)
}

/// Reads until the end or an error; checks every byte.
async fn read_on(read: &mut BulkRead) -> Result<u64, RequestError> {
    loop {
        let offset = read.offset();
        match soon("a chunk", read.next()).await? {
            None => return Ok(offset),
            Some(chunk) => {
                assert!(chunk.iter().zip(offset..).all(|(byte, at)| *byte == byte_at(at)));
            }
        }
    }
}

#[tokio::test]
async fn a_source_is_read_from_any_offset() {
    let (a, _b) = pair(limits()).await;
    for (len, from) in [(0u64, 0), (1, 0), (3_000_000, 0), (3_000_000, 2_999_999), (10, 10)] {
        let mut read = a.read(&name("b"), len.to_string().into(), from).unwrap();
        assert_eq!(read_on(&mut read).await, Ok(len));
        assert_eq!(read.next().await, Ok(None), "the end stays the end");
    }
}

#[tokio::test]
async fn an_interrupted_read_continues_where_it_was() {
    let (a, b) = pair(limits()).await;
    let len = 20_000_000u64;
    let mut offset = 0;
    let mut interruptions = 0;
    while offset < len {
        let started = a.read(&name("b"), len.to_string().into(), offset);
        let Ok(mut read) = started else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let goal = (offset + 4_000_000).min(len);
        let error = loop {
            if interruptions < 3 && read.offset() >= goal {
                // A peer that is added again has new connections.
                a.remove_peer(&name("b"));
                connect_peers(&a, &b);
                interruptions += 1;
            }
            match soon("a chunk", read.next()).await {
                Ok(None) => break None,
                Ok(Some(_)) => {}
                Err(error) => break Some(error),
            }
        };
        offset = read.offset();
        assert_eq!(error.is_none(), offset == len, "{error:?}");
    }
    assert_eq!((offset, interruptions), (len, 3));
}

#[tokio::test]
async fn a_source_error_reaches_its_reader_only() {
    let (a, b) = pair(limits()).await;
    let start = |source: &'static str| a.read(&name("b"), source.into(), 0).unwrap();
    let mut broken = start("broken");
    assert_eq!(soon("a chunk", broken.next()).await.unwrap().unwrap().len(), 1000);
    let failed = RequestError::Failed("the disk is broken".to_owned());
    assert_eq!(soon("an error", broken.next()).await, Err(failed.clone()));
    assert_eq!(broken.next().await, Err(failed));
    let greedy = soon("an error", start("greedy").next()).await;
    assert!(matches!(greedy, Err(RequestError::Failed(_))), "{greedy:?}");
    let mut stuck = start("stuck");
    assert_eq!(read_on(&mut start("500000")).await, Ok(500_000));
    b.stop().await;
    assert_eq!(soon("an error", stuck.next()).await, Err(RequestError::Lost));
}

#[tokio::test]
async fn a_slow_reader_delays_no_others_and_gets_one_window() {
    let (a, b) = pair(Limits { bulk_window_bytes: 100_000, ..limits() }).await;
    let mut slow = a.read(&name("b"), "50000000".into(), 0).unwrap();
    assert!(soon("a chunk", slow.next()).await.unwrap().is_some());
    assert_eq!(read_on(&mut a.read(&name("b"), "5000000".into(), 0).unwrap()).await, Ok(5_000_000));
    // The slow reader can take everything that was sent without another byte from the peer.
    let id = slow.offset();
    b.stop().await;
    let rest = loop {
        match soon("a chunk", slow.next()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it did not read all"),
            Err(error) => break (slow.offset() - id, error),
        }
    };
    assert_eq!(rest.1, RequestError::Lost);
    assert!(rest.0 <= 150_000, "{} bytes waited", rest.0);
}

#[tokio::test]
async fn reads_in_progress_are_bounded_and_heartbeats_pass() {
    let (a, b) = pair(Limits { bulk_streams_max: 2, ..limits() }).await;
    let (of_a, of_b) = (a.group(1).unwrap(), b.group(1).unwrap());
    of_a.add_peer(&name("b")).unwrap();
    of_b.add_peer(&name("a")).unwrap();
    session(&of_a, "b").await;
    let readers: Vec<_> = (0..2)
        .map(|_| a.read(&name("b"), "18446744073709551615".into(), 0).unwrap())
        .map(|mut read| tokio::spawn(async move { while let Ok(Some(_)) = read.next().await {} }))
        .collect();
    let third = a.read(&name("b"), "1".into(), 0);
    assert!(matches!(third, Err(RequestError::Busy)));
    for beat in 0..50u8 {
        let sent = tokio::time::Instant::now();
        let arrived = async {
            loop {
                of_a.heartbeat(&name("b"), Bytes::from(vec![beat]));
                let next = tokio::time::timeout(Duration::from_millis(500), of_b.next()).await;
                if matches!(next, Ok(Event::Heartbeat { body, .. }) if body[0] == beat) {
                    return;
                }
            }
        };
        soon("a heartbeat", arrived).await;
        assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    }
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    until("a read ends with its reader", || a.read(&name("b"), "1".into(), 0).is_ok()).await;
}
