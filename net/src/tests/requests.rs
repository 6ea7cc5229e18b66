//! Requests between whole nodes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::RequestError;

/// A deadline beyond the end of every test: a request that ends earlier has another reason.
const LONG: Duration = Duration::from_secs(60);

async fn pair(limits: Limits, service: Arc<TestService>) -> (Net, Net) {
    let a = Net::start(Config { limits: limits.clone(), ..config("a") }).await.unwrap();
    let b = Net::start(Config { limits, service, ..config("b") }).await.unwrap();
    a.add_peer(&name("b"), Some(&address(&b))).unwrap();
    (a, b)
}

async fn ask(net: &Net, body: impl Into<Bytes>) -> Result<Bytes, RequestError> {
    soon("an answer", net.request(&name("b"), body.into(), LONG)).await
}

#[tokio::test]
async fn requests_are_answered_at_the_same_time_whatever_their_length() {
    let (a, _b) = pair(limits(), Arc::default()).await;
    let lengths = [0, 1, 100, 64 << 10, (64 << 10) + 1, 8 << 20];
    let asked = lengths.into_iter().cycle().take(30).map(|len| {
        let (a, body) = (a.clone(), Bytes::from(vec![3; len]));
        tokio::spawn(async move {
            // At most 64 MiB are in flight; refused requests are retried.
            loop {
                match ask(&a, body.clone()).await {
                    Err(RequestError::Busy) => tokio::time::sleep(Duration::from_millis(5)).await,
                    answer => return (answer, body),
                }
            }
        })
    });
    for task in asked.collect::<Vec<_>>() {
        let (answer, body) = task.await.unwrap();
        assert!(answer == Ok(body));
    }
}

#[tokio::test]
async fn each_kind_of_failure_has_its_error() {
    let (a, b) = pair(limits(), Arc::default()).await;
    let failed = |text: &str| Err(RequestError::Failed(text.to_owned()));
    assert_eq!(ask(&a, "fail").await, failed("it failed"));
    assert_eq!(ask(&a, "panic").await, failed("the handler panicked"));
    assert_eq!(ask(&a, "huge").await, failed("the answer is longer than the limit"));
    assert_eq!(ask(&a, vec![0; (8 << 20) + 1]).await, Err(RequestError::TooLong));
    let unknown = a.request(&name("x"), Bytes::new(), TIMEOUT).await;
    assert_eq!(unknown, Err(RequestError::UnknownPeer("x".to_owned())));
    let late = a.request(&name("b"), "wait".into(), Duration::from_millis(200)).await;
    assert!(matches!(late, Err(RequestError::Deadline { .. })), "{late:?}");
    b.stop().await;
    until("it is unreachable", || !a.peers()[0].connected.contains(&Class::Requests)).await;
    let gone = ask(&a, "x").await;
    assert!(matches!(gone, Err(RequestError::Unreachable(_))), "{gone:?}");
    a.stop().await;
    assert_eq!(ask(&a, "x").await, Err(RequestError::Stopped));
}

#[tokio::test]
async fn a_dropped_request_is_cancelled_at_the_peer() {
    let service = Arc::new(TestService::default());
    let (a, _b) = pair(limits(), Arc::clone(&service)).await;
    let running = || service.running.load(Ordering::SeqCst);
    {
        let b = name("b");
        let asked = a.request(&b, "wait".into(), LONG);
        tokio::select! {
            _ = asked => panic!("no node answers"),
            () = until("it runs", || running() == 1) => {}
        }
    }
    until("it was dropped", || service.dropped.load(Ordering::SeqCst) == 1).await;
    assert_eq!(running(), 0);
}

#[tokio::test]
async fn a_deadline_ends_the_handler_too() {
    let service = Arc::new(TestService::default());
    let (a, _b) = pair(limits(), Arc::clone(&service)).await;
    ask(&a, "x").await.unwrap();
    let asked = a.request(&name("b"), "wait".into(), Duration::from_millis(300)).await;
    assert_eq!(asked, Err(RequestError::Deadline { was_sent: true }));
    until("it was dropped", || service.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_peer_that_dies_answers_what_it_had() {
    let service = Arc::new(TestService::default());
    let (a, b) = pair(limits(), Arc::clone(&service)).await;
    let asked = tokio::spawn({
        let a = a.clone();
        async move { ask(&a, "wait").await }
    });
    until("it runs", || service.running.load(Ordering::SeqCst) == 1).await;
    b.stop().await;
    assert_eq!(asked.await.unwrap(), Err(RequestError::Lost));
    until("it was dropped", || service.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn too_many_requests_are_refused_at_both_sides() {
    let service = Arc::new(TestService::default());
    let few = Limits { requests_max: 3, ..limits() };
    let (a, b) = pair(few.clone(), Arc::clone(&service)).await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let a = a.clone();
            tokio::spawn(async move { ask(&a, "wait").await })
        })
        .collect();
    until("they run", || service.running.load(Ordering::SeqCst) == 3).await;
    assert_eq!(ask(&a, "x").await, Err(RequestError::Busy));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    until("they end", || service.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(ask(&a, "x").await, Ok(Bytes::from_static(b"x")));

    // A peer with a higher limit.
    let many = Net::start(Config { identity: identity("c"), ..config("c") }).await.unwrap();
    many.add_peer(&name("b"), Some(&address(&b))).unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let many = many.clone();
            tokio::spawn(async move { ask(&many, "wait").await })
        })
        .collect();
    until("they run", || service.running.load(Ordering::SeqCst) == 3).await;
    assert_eq!(ask(&many, "x").await, Err(RequestError::Busy));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Sends only the beginning of a request.
#[tokio::test]
async fn slow_bodies_are_bounded_and_dropped_at_their_deadline() {
    let few = Limits { requests_max: 4, ..limits() };
    let (_a, b) = pair(few, Arc::default()).await;
    let mut slow = raw_peer(&b, Class::Requests, &identity("c")).await;
    let ask = |id: u64, kind: u8, within_ms: u32| {
        let mut frame = vec![0, 0, 0, 14, kind];
        frame.extend(id.to_be_bytes());
        frame.extend(within_ms.to_be_bytes());
        frame.push(b'x');
        frame
    };
    for id in 0..4 {
        slow.write_all(&ask(id, 6, 50)).await.unwrap();
    }
    // There is no room until their deadline has passed.
    for id in 9.. {
        slow.write_all(&ask(id, 7, 10_000)).await.unwrap();
        let mut len = [0; 4];
        soon("an answer", slow.read_exact(&mut len)).await.unwrap();
        let mut answer = vec![0; u32::from_be_bytes(len) as usize];
        slow.read_exact(&mut answer).await.unwrap();
        if answer.ends_with(b"\0x") {
            break;
        }
        assert!(answer.ends_with(&[2]), "busy: {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
