//! What the two ends of the spawner's socket say to each other, and how: frames of a
//! length (4 bytes, little-endian) and that many bytes of bilrost.

use bilrost::{Message, Oneof, OwnedMessage};
use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use thiserror::Error;

use crate::exec::report::Report;

/// Longest frame: a command with the longest item in its arguments, or a report with
/// two full outputs, fits well.
pub(super) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// Starts a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(super) struct Start {
    /// Its number, never used twice.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// Program and arguments.
    #[bilrost(2)]
    pub(super) argv: Vec<Bytes>,
    /// Where it runs; empty is where the spawner is.
    #[bilrost(3)]
    pub(super) directory: Bytes,
    /// What its environment has besides that of the spawner, each `NAME=VALUE`.
    #[bilrost(4)]
    pub(super) environment: Vec<Bytes>,
    /// How long it may take, in milliseconds; 0 is without limit.
    #[bilrost(5)]
    pub(super) timeout_ms: u64,
    /// How long it has after that, between SIGTERM and SIGKILL, in milliseconds.
    #[bilrost(6)]
    pub(super) grace_ms: u64,
}

/// Ends a command: SIGTERM to its group, SIGKILL after a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(super) struct Stop {
    /// Which one; unknown or ended ones are passed over.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// How long it has, in milliseconds; 0 is SIGKILL at once.
    #[bilrost(2)]
    pub(super) grace_ms: u64,
}

/// A command has ended, or could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub(super) struct Ended {
    /// Which one.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// How.
    #[bilrost(2)]
    pub(super) report: Report,
}

/// A command that was not run, for want of something that forebay itself needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(super) struct NotRun {
    /// Which one.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// What is missing, and what to do.
    #[bilrost(2)]
    pub(super) reason: ByteString,
}

/// To the spawner.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub(super) enum Request {
    #[bilrost(tag(1))]
    Start(Start),
    #[bilrost(tag(2))]
    Stop(Stop),
    /// Ends all commands, those included that have not started and those still to come:
    /// SIGTERM, and SIGKILL after so many milliseconds; 0 is SIGKILL at once.
    #[bilrost(tag(3))]
    StopAll(u64),
    /// Stops all commands as SIGSTOP does (true), or continues them. Deadlines wait
    /// meanwhile.
    #[bilrost(tag(4))]
    Pause(bool),
}

/// From the spawner.
#[expect(clippy::large_enum_variant, reason = "nearly all are reports, and none is kept")]
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub(super) enum Reply {
    /// The first word when all is well: how many orphans were ended.
    #[bilrost(tag(1))]
    Ready(u64),
    /// The first and last word when it cannot serve.
    #[bilrost(tag(2))]
    Refused(ByteString),
    #[bilrost(tag(3))]
    Ended(Ended),
    #[bilrost(tag(4))]
    NotRun(NotRun),
    /// Commands wait to be started: what for. Said once.
    #[bilrost(tag(5))]
    Waits(ByteString),
    /// All commands are stopped (true), or continued.
    #[bilrost(tag(6))]
    Paused(bool),
}

#[derive(Clone, Debug, PartialEq, Eq, Message)]
struct RequestFrame {
    #[bilrost(oneof(1, 2, 3, 4))]
    request: Option<Request>,
}

#[derive(Clone, Debug, PartialEq, Eq, Message)]
struct ReplyFrame {
    #[bilrost(oneof(1, 2, 3, 4, 5, 6))]
    reply: Option<Reply>,
}

/// The other end said what this one does not understand. Both are the same program,
/// so this is a broken invariant of ours, reported instead of trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("damaged message on the spawner's socket: {0}")]
pub(super) struct LinkError(String);

fn framed(message: &impl Message) -> Vec<u8> {
    let len = message.encoded_len();
    assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes on the spawner's socket");
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + len);
    bytes.extend_from_slice(&(len as u32).to_le_bytes());
    message.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}

/// Takes a whole frame from the front of what was received.
fn unframed(received: &mut BytesMut) -> Result<Option<Bytes>, LinkError> {
    let Some(length) = received.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*length) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(LinkError(format!("a frame of {len} bytes")));
    }
    if received.len() < LENGTH_BYTES + len {
        received.reserve(LENGTH_BYTES + len - received.len());
        return Ok(None);
    }
    received.advance(LENGTH_BYTES);
    Ok(Some(received.split_to(len).freeze()))
}

fn decoded<M: OwnedMessage>(frame: Bytes) -> Result<M, LinkError> {
    M::decode(frame).map_err(|error| LinkError(error.to_string()))
}

impl Request {
    /// The frame of it.
    pub(super) fn into_frame(self) -> Vec<u8> {
        framed(&RequestFrame { request: Some(self) })
    }

    /// The next whole one of what was received.
    pub(super) fn take(received: &mut BytesMut) -> Result<Option<Self>, LinkError> {
        let Some(frame) = unframed(received)? else { return Ok(None) };
        let RequestFrame { request } = decoded(frame)?;
        request.map(Some).ok_or_else(|| LinkError("an empty request".to_owned()))
    }
}

impl Reply {
    /// The frame of it.
    pub(super) fn into_frame(self) -> Vec<u8> {
        framed(&ReplyFrame { reply: Some(self) })
    }

    /// The next whole one of what was received.
    pub(super) fn take(received: &mut BytesMut) -> Result<Option<Self>, LinkError> {
        let Some(frame) = unframed(received)? else { return Ok(None) };
        let ReplyFrame { reply } = decoded(frame)?;
        reply.map(Some).ok_or_else(|| LinkError("an empty reply".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{BytesMut, FRAME_BYTES_MAX, Reply, Request, Start, Stop};

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let start = Start {
            serial: 0,
            argv: vec!["x".into(), vec![0xff; 300].into()],
            directory: "/".into(),
            environment: vec!["A=b=c".into()],
            ..Start::default()
        };
        let sent = [
            Request::Start(start),
            Request::Stop(Stop { serial: 7, grace_ms: 0 }),
            Request::StopAll(0),
            Request::Pause(false),
        ];
        let stream: Vec<u8> = sent.iter().cloned().flat_map(Request::into_frame).collect();
        for cut in 1..stream.len() {
            let (mut received, mut got) = (BytesMut::new(), Vec::new());
            for part in stream.chunks(cut) {
                received.extend_from_slice(part);
                while let Some(request) = Request::take(&mut received).unwrap() {
                    got.push(request);
                }
            }
            assert_eq!(got, sent, "cut every {cut} bytes");
        }
    }

    #[test]
    fn a_ready_of_nothing_is_a_ready() {
        let mut received = BytesMut::from(&Reply::Ready(0).into_frame()[..]);
        assert_eq!(Reply::take(&mut received).unwrap(), Some(Reply::Ready(0)));
    }

    #[test]
    fn damage_is_reported() {
        let mut received = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(Reply::take(&mut received).unwrap_err().to_string().contains("4294967295 bytes"));
        let mut received = BytesMut::from(&[0, 0, 0, 0][..]);
        assert!(Reply::take(&mut received).is_err());
        let mut received = BytesMut::from(&[1, 0, 0, 0, 0xff][..]);
        assert!(Request::take(&mut received).is_err());
        assert!(FRAME_BYTES_MAX < u32::MAX as usize);
    }
}
