//! Mutated bytes in every part of the protocol: handshakes, and streams of frames of each class.
//!
//! PROPTEST_CASES is the number of cases: seconds in a normal run, hours in `make test-long`.

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::untrusted::lanes;
use super::*;
use crate::handshake::{Stream, accept, dial};
use crate::wire::frame::{Frame, Status};
use crate::wire::hello::{Hello, Reply};
use crate::{HandshakeError, Refusal, connection};

/// Changes of bytes: where, and the new value. Cuts: where the bytes end. Pieces: how many bytes
/// are written at a time.
#[derive(Clone, Debug)]
struct Mutation {
    changes: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
    piece: usize,
}

impl Mutation {
    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (at, with) in &self.changes {
            let at = at.index(bytes.len());
            bytes[at] = *with;
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop::option::weighted(0.3, any::<prop::sample::Index>());
    (changes, cut, 1..200_usize).prop_map(|(changes, cut, piece)| Mutation { changes, cut, piece })
}

fn cases<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, test: impl Fn(T)) {
    let runs = Runs { failure_persistence: None, ..Runs::default() };
    let run = TestRunner::new(runs).run(strategy, |value| {
        test(value);
        Ok(())
    });
    run.unwrap();
}

/// Runs a future with a clock that jumps: no case waits for a time limit.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// Writes in pieces, then ends the stream; reads and discards the answers.
async fn write(stream: DuplexStream, bytes: &[u8], piece: usize) {
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        for piece in bytes.chunks(piece) {
            if write.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let discarding = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await };
    let _ = tokio::join!(writing, discarding);
}

fn framed(messages: &[Bytes]) -> Vec<u8> {
    let len = |message: &Bytes| (message.len() as u32).to_be_bytes();
    messages.iter().flat_map(|message| [&len(message)[..], message].concat()).collect()
}

#[test]
fn a_mutated_hello_is_accepted_or_refused() {
    let classes = prop::sample::select(Class::LASTING.to_vec());
    cases(&(classes, mutations()), |(class, mutation)| {
        let hello = framed(&[Hello::encode(class, &identity("a")), Reply::Ready.encode()]);
        let bytes = mutation.apply(&hello);
        at_once(async {
            let (here, there) = tokio::io::duplex(1 << 10);
            let me = identity("b");
            let accepted = accept(Box::new(there), None, &me, |_, _| Ok(()));
            let accepted = async { accepted.await.map(|(_, class, peer)| (class, peer)) };
            let (_, accepted) = tokio::join!(write(here, &bytes, mutation.piece), accepted);
            if bytes == hello {
                assert_eq!(accepted.unwrap(), (class, identity("a")));
            }
        });
    });
}

#[test]
fn a_mutated_answer_to_a_hello_is_taken_or_refused() {
    let refusal = || Reply::Refused(Refusal::NameTaken("b".to_owned())).encode();
    let answers = [Reply::Welcome(identity("b")).encode(), refusal()];
    let answers = prop::sample::select(answers.to_vec());
    cases(&(answers, mutations()), |(answer, mutation)| {
        let bytes = mutation.apply(&framed(std::slice::from_ref(&answer)));
        at_once(async {
            let (here, there) = tokio::io::duplex(1 << 10);
            let (me, peer) = (identity("a"), name("b"));
            let dialled = dial(Box::new(there), None, Class::Bulk, &me, &peer, |_| Ok(()));
            let dialled = async { dialled.await.map(|(_, identity)| identity) };
            let (_, dialled) = tokio::join!(write(here, &bytes, mutation.piece), dialled);
            match dialled {
                Ok(identity) => assert_eq!(identity.name, peer, "no other node is taken for it"),
                Err(HandshakeError::TimedOut) => panic!("the limits of time are the caller's"),
                Err(_) => {}
            }
        });
    });
}

fn some_frame() -> impl Strategy<Value = Frame> {
    let statuses = [Status::Done, Status::Failed, Status::Busy, Status::TooLong, Status::Late];
    let body = prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from);
    let numbers = (0..18_u8, 0..4_u32, any::<bool>(), prop::sample::select(statuses.to_vec()));
    (numbers, body).prop_map(|((kind, small, is_last, status), body)| {
        let (group, id, bytes) = (small, u64::from(small), small << 14);
        match kind {
            0 => Frame::Ping,
            1 => Frame::Heartbeat { group, body },
            2 => Frame::Open { group, number: id },
            3 => Frame::Shut { group },
            4..6 => Frame::Part { group, is_last, body },
            6..8 => Frame::Ask { id, within_ms: 1000, is_last, body },
            8..10 => Frame::More { id, is_last, body },
            10..12 => Frame::Answer { id, status, is_last, body },
            12 => Frame::Cancel { id },
            13 => {
                Frame::Read { id, offset: id, window: bytes, source: Bytes::from_static(b"9000") }
            }
            14 => Frame::Chunk { id, body },
            15 => Frame::End { id },
            16 => Frame::Fail { id, body },
            _ => Frame::Credit { id, bytes },
        }
    })
}

/// Whole connections, each with the lane of a class behind it: the bytes end the connection or
/// are taken, and what is sent back stays bounded.
#[test]
fn a_mutated_stream_ends_its_connection_or_is_taken() {
    let frames = prop::collection::vec(some_frame(), 1..30);
    cases(&(frames, mutations()), |(frames, mutation)| {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let bytes = mutation.apply(&bytes);
        at_once(async {
            for lane in lanes() {
                let (mut here, there) = tokio::io::duplex(1 << 10);
                let (limits, stop) = (Limits::default(), CancellationToken::new());
                let stream = Stream::Plain(Box::new(there));
                let number = lane.attach();
                let run = connection::run(stream, &*lane, number, Class::Requests, &limits, &stop);
                let feed = async {
                    write_some(&mut here, &bytes, mutation.piece).await;
                    let mut sent = 0;
                    let mut buffer = vec![0; 4 << 10];
                    // What is sent for a second of the peer's silence.
                    let read = async {
                        while let Ok(read @ 1..) = here.read(&mut buffer).await {
                            sent += read;
                        }
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
                    stop.cancel();
                    sent
                };
                let (sent, _) = tokio::join!(feed, run);
                assert!(sent < 1 << 20, "{sent} bytes for {} bytes", bytes.len());
            }
        });
    });
}

/// Writes in pieces, while the other side may send: what it sends is read and discarded.
async fn write_some(stream: &mut DuplexStream, bytes: &[u8], piece: usize) {
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        for piece in bytes.chunks(piece) {
            if write.write_all(piece).await.is_err() {
                return;
            }
        }
    };
    let discarding = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await };
    tokio::select! {
        biased;
        () = writing => {}
        _ = discarding => {}
    }
}

#[tokio::test]
async fn a_client_that_sends_a_byte_at_a_time_is_dropped_in_time() {
    let limits = Limits { handshake_time_max: Duration::from_millis(300), ..limits() };
    let b = Net::start(Config { limits, ..config("b") }).await.unwrap();
    let hello = framed(&[Hello::encode(Class::Requests, &identity("a"))]);
    let mut slow = TcpStream::connect(address(&b)).await.unwrap();
    let began = std::time::Instant::now();
    let dropped = async {
        for byte in hello.iter().cycle() {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the end of the slow client", dropped).await;
    assert!(began.elapsed() < TIMEOUT);
    raw_peer(&b, Class::Requests, &identity("c")).await;
}

#[tokio::test]
async fn frames_that_are_announced_and_never_sent_are_bounded_and_delay_no_other_node() {
    let b = start("b").await;
    b.add_peer(&name("a"), None).unwrap();
    let mut waiting = Vec::new();
    for class in Class::LASTING {
        let mut stream = raw_peer(&b, class, &identity("a")).await;
        // The longest frame, of which only the kind arrives.
        let _ = stream.write_all(b"\x00\x01\x00\x20\x07").await;
        waiting.push(stream);
    }
    let mut good = raw_peer(&b, Class::Requests, &identity("c")).await;
    good.write_all(b"\0\0\0\x0e\x07\0\0\0\0\0\0\0\x01\0\0\x20\0x").await.unwrap();
    let mut answer = [0; 15];
    soon("an answer", good.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[14], b'x');
    // A frame that is never completed ends its connection, when nothing more arrives.
    for mut stream in waiting {
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    }
}
