//! Messages between the two ends of the spawner's socket, and their encoding: frames of a length (4
//! bytes, little-endian) and that many bytes of bilrost.

use bilrost::{Message, Oneof, OwnedMessage};
use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use thiserror::Error;

use crate::exec::report::Report;

/// Maximum length of a frame: a command with the longest item in its arguments, or a report with
/// two full outputs, fits well.
pub(super) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// Starts a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(super) struct Start {
    /// Its number, never reused.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// Program and arguments.
    #[bilrost(2)]
    pub(super) argv: Vec<Bytes>,
    /// Its working directory; empty is the spawner's.
    #[bilrost(3)]
    pub(super) directory: Bytes,
    /// Additions to the spawner's environment, each `NAME=VALUE`.
    #[bilrost(4)]
    pub(super) environment: Vec<Bytes>,
    /// Time limit, in milliseconds; 0 is no limit.
    #[bilrost(5)]
    pub(super) timeout_ms: u64,
    /// Time between SIGTERM and SIGKILL after that, in milliseconds.
    #[bilrost(6)]
    pub(super) grace_ms: u64,
}

/// Stops a command: SIGTERM to its group, SIGKILL after a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(super) struct Stop {
    /// Its number; unknown or ended ones are ignored.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// Time until SIGKILL, in milliseconds; 0 is at once.
    #[bilrost(2)]
    pub(super) grace_ms: u64,
}

/// A command has ended, or could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub(super) struct Ended {
    /// Its number.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// The report.
    #[bilrost(2)]
    pub(super) report: Report,
}

/// A command that was not run because forebay itself lacks something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(super) struct NotRun {
    /// Its number.
    #[bilrost(1)]
    pub(super) serial: u64,
    /// The reason, and what to do.
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
    /// Stops all commands, including ones that have not started and later ones: SIGTERM, and
    /// SIGKILL after this many milliseconds; 0 is SIGKILL at once.
    #[bilrost(tag(3))]
    StopAll(u64),
    /// Pauses all commands as SIGSTOP does (true), or continues them. Deadlines wait meanwhile.
    #[bilrost(tag(4))]
    Pause(bool),
}

/// From the spawner.
#[expect(clippy::large_enum_variant, reason = "nearly all are reports, and none is kept")]
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub(super) enum Reply {
    /// The first message when all is well: the number of killed orphans.
    #[bilrost(tag(1))]
    Ready(u64),
    /// The first and last message when it cannot work.
    #[bilrost(tag(2))]
    Refused(ByteString),
    #[bilrost(tag(3))]
    Ended(Ended),
    #[bilrost(tag(4))]
    NotRun(NotRun),
    /// Commands wait to be started: the reason. Sent once.
    #[bilrost(tag(5))]
    Waits(ByteString),
    /// All commands are paused (true), or continued.
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

/// The other end sent something that this one does not understand. Both are the same program, so
/// this is a broken invariant, reported instead of ignored.
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

/// Takes a whole frame from the front of the received bytes.
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
    /// Its frame.
    pub(super) fn into_frame(self) -> Vec<u8> {
        framed(&RequestFrame { request: Some(self) })
    }

    /// The next whole one of the received bytes.
    pub(super) fn take(received: &mut BytesMut) -> Result<Option<Self>, LinkError> {
        let Some(frame) = unframed(received)? else { return Ok(None) };
        let RequestFrame { request } = decoded(frame)?;
        request.map(Some).ok_or_else(|| LinkError("an empty request".to_owned()))
    }
}

impl Reply {
    /// Its frame.
    pub(super) fn into_frame(self) -> Vec<u8> {
        framed(&ReplyFrame { reply: Some(self) })
    }

    /// The next whole one of the received bytes.
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
    fn frames_are_decoded_however_they_are_cut() {
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
