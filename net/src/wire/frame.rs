//! Frames after the handshake: a length, a kind, fixed fields, a body.
//!
//! Must always hold: a frame has at most `frame_bytes_max` and [`HEAD_BYTES_MAX`] bytes; its body
//! is a slice of the read buffer, not a copy.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Maximum number of bytes of a frame before its body.
pub(crate) const HEAD_BYTES_MAX: usize = 32;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Sent when nothing else was sent for a while.
    Ping,
    /// A heartbeat of a group.
    Heartbeat { group: u32, body: Bytes },
    /// One half of the agreement on the next session of a link.
    Open { group: u32, number: u64 },
    /// The sender left the group: the session ended.
    Shut { group: u32 },
    /// A piece of a message of a link.
    Part { group: u32, is_last: bool, body: Bytes },
    /// The first piece of a request; it must be answered within this many milliseconds.
    Ask { id: u64, within_ms: u32, is_last: bool, body: Bytes },
    /// A later piece of a request.
    More { id: u64, is_last: bool, body: Bytes },
    /// A piece of an answer.
    Answer { id: u64, status: Status, is_last: bool, body: Bytes },
    /// Cancels a request or the rest of a bulk read.
    Cancel { id: u64 },
    /// Opens a bulk read.
    Read { id: u64, offset: u64, window: u32, source: Bytes },
    /// The next bytes of a bulk read.
    Chunk { id: u64, body: Bytes },
    /// The bulk read is complete.
    End { id: u64 },
    /// The bulk read failed; the body is the reason.
    Fail { id: u64, body: Bytes },
    /// This many more bytes may be sent.
    Credit { id: u64, bytes: u32 },
}

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The body is the answer.
    Done,
    /// The handler failed; the body is the reason.
    Failed,
    /// Nothing was done: too many requests or bytes are in flight.
    Busy,
    /// Nothing was done: the request is longer than the receiver allows.
    TooLong,
    /// The deadline passed; the request may have been handled.
    Late,
}

/// Bytes that are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent an invalid frame: {0}")]
pub(crate) struct BadFrame(pub(crate) &'static str);

impl Frame {
    /// Appends the length and the frame.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        let body = self.encode_head(out);
        if let Some(body) = body {
            out.put_slice(body);
        }
        let len = u32::try_from(out.len() - start - 4).expect("frames are bounded");
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    fn encode_head(&self, out: &mut BytesMut) -> Option<&Bytes> {
        match self {
            Self::Ping => out.put_u8(0),
            Self::Heartbeat { group, body } => {
                put_group(out, 1, *group);
                return Some(body);
            }
            Self::Open { group, number } => {
                put_group(out, 2, *group);
                out.put_u64(*number);
            }
            Self::Shut { group } => put_group(out, 3, *group),
            Self::Part { group, is_last, body } => {
                put_group(out, if *is_last { 5 } else { 4 }, *group);
                return Some(body);
            }
            Self::Ask { id, within_ms, is_last, body } => {
                put_id(out, if *is_last { 7 } else { 6 }, *id);
                out.put_u32(*within_ms);
                return Some(body);
            }
            Self::More { id, is_last, body } => {
                put_id(out, if *is_last { 9 } else { 8 }, *id);
                return Some(body);
            }
            Self::Answer { id, status, is_last, body } => {
                put_id(out, if *is_last { 11 } else { 10 }, *id);
                out.put_u8(*status as u8);
                return Some(body);
            }
            Self::Cancel { id } => put_id(out, 12, *id),
            Self::Read { id, offset, window, source } => {
                put_id(out, 13, *id);
                out.put_u64(*offset);
                out.put_u32(*window);
                return Some(source);
            }
            Self::Chunk { id, body } => {
                put_id(out, 14, *id);
                return Some(body);
            }
            Self::End { id } => put_id(out, 15, *id),
            Self::Fail { id, body } => {
                put_id(out, 16, *id);
                return Some(body);
            }
            Self::Credit { id, bytes } => {
                put_id(out, 17, *id);
                out.put_u32(*bytes);
            }
        }
        None
    }

    /// Reads a frame without its length.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, BadFrame> {
        let short = |_| BadFrame("it is too short");
        let from = &mut bytes;
        let kind = from.try_get_u8().map_err(short)?;
        let frame = match kind {
            0 => Self::Ping,
            1 => Self::Heartbeat { group: from.try_get_u32().map_err(short)?, body: rest(from) },
            2 => Self::Open {
                group: from.try_get_u32().map_err(short)?,
                number: from.try_get_u64().map_err(short)?,
            },
            3 => Self::Shut { group: from.try_get_u32().map_err(short)? },
            4 | 5 => Self::Part {
                group: from.try_get_u32().map_err(short)?,
                is_last: kind == 5,
                body: rest(from),
            },
            6..=12 => Self::decode_request(kind, from)?,
            13..=17 => Self::decode_bulk(kind, from)?,
            _ => return Err(BadFrame("its kind is unknown")),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(BadFrame("it is too long")) }
    }

    fn decode_request(kind: u8, from: &mut Bytes) -> Result<Self, BadFrame> {
        let short = |_| BadFrame("it is too short");
        let id = from.try_get_u64().map_err(short)?;
        Ok(match kind {
            6 | 7 => {
                let within_ms = from.try_get_u32().map_err(short)?;
                Self::Ask { id, within_ms, is_last: kind == 7, body: rest(from) }
            }
            8 | 9 => Self::More { id, is_last: kind == 9, body: rest(from) },
            10 | 11 => {
                let status = match from.try_get_u8().map_err(short)? {
                    0 => Status::Done,
                    1 => Status::Failed,
                    2 => Status::Busy,
                    3 => Status::TooLong,
                    4 => Status::Late,
                    _ => return Err(BadFrame("its status is unknown")),
                };
                Self::Answer { id, status, is_last: kind == 11, body: rest(from) }
            }
            _ => Self::Cancel { id },
        })
    }

    fn decode_bulk(kind: u8, from: &mut Bytes) -> Result<Self, BadFrame> {
        let short = |_| BadFrame("it is too short");
        let id = from.try_get_u64().map_err(short)?;
        Ok(match kind {
            13 => {
                let offset = from.try_get_u64().map_err(short)?;
                let window = from.try_get_u32().map_err(short)?;
                Self::Read { id, offset, window, source: rest(from) }
            }
            14 => Self::Chunk { id, body: rest(from) },
            15 => Self::End { id },
            16 => Self::Fail { id, body: rest(from) },
            _ => Self::Credit { id, bytes: from.try_get_u32().map_err(short)? },
        })
    }
}

fn put_group(out: &mut BytesMut, kind: u8, group: u32) {
    out.put_u8(kind);
    out.put_u32(group);
}

fn put_id(out: &mut BytesMut, kind: u8, id: u64) {
    out.put_u8(kind);
    out.put_u64(id);
}

fn rest(from: &mut Bytes) -> Bytes {
    from.split_to(from.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let status =
            prop::sample::select(vec![Status::Done, Status::Failed, Status::Busy, Status::TooLong]);
        let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<bool>(), body(), status);
        (0..14, numbers).prop_map(|(kind, (group, id, offset, is_last, body, status))| match kind {
            0 => Frame::Ping,
            1 => Frame::Heartbeat { group, body },
            2 => Frame::Open { group, number: id },
            3 => Frame::Shut { group },
            4 => Frame::Part { group, is_last, body },
            5 => Frame::Ask { id, within_ms: group, is_last, body },
            6 => Frame::More { id, is_last, body },
            7 => Frame::Answer { id, status, is_last, body },
            8 => Frame::Cancel { id },
            9 => Frame::Read { id, offset, window: group, source: body },
            10 => Frame::Chunk { id, body },
            11 => Frame::End { id },
            12 => Frame::Fail { id, body },
            _ => Frame::Credit { id, bytes: group },
        })
    }

    fn encoded(frame: &Frame) -> Bytes {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        let len = out.get_u32();
        assert_eq!(len as usize, out.len());
        out.freeze()
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(frame in frames()) {
            let bytes = encoded(&frame);
            prop_assert!(bytes.len() <= HEAD_BYTES_MAX + 40);
            prop_assert_eq!(Frame::decode(bytes).unwrap(), frame);
        }

        #[test]
        fn mutated_bytes_are_a_frame_or_an_error(
            frame in frames(), at in any::<prop::sample::Index>(), with in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encoded(&frame).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(read) = Frame::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(encoded(&read), bytes, "what decodes is written alike");
            }
        }
    }

    #[test]
    fn golden_bytes_of_frames() {
        let body = Bytes::from_static(b"x");
        let golden = [
            (Frame::Ping, "00"),
            (Frame::Heartbeat { group: 7, body: body.clone() }, "010000000778"),
            (Frame::Open { group: 7, number: 9 }, "02000000070000000000000009"),
            (Frame::Shut { group: 7 }, "0300000007"),
            (Frame::Part { group: 7, is_last: true, body: body.clone() }, "050000000778"),
            (
                Frame::Ask { id: 2, within_ms: 3, is_last: false, body: body.clone() },
                "0600000000000000020000000378",
            ),
            (Frame::More { id: 2, is_last: true, body: body.clone() }, "09000000000000000278"),
            (
                Frame::Answer { id: 2, status: Status::Busy, is_last: true, body: body.clone() },
                "0b00000000000000020278",
            ),
            (Frame::Cancel { id: 2 }, "0c0000000000000002"),
            (
                Frame::Read { id: 2, offset: 4, window: 5, source: body.clone() },
                "0d000000000000000200000000000000040000000578",
            ),
            (Frame::Chunk { id: 2, body: body.clone() }, "0e000000000000000278"),
            (Frame::End { id: 2 }, "0f0000000000000002"),
            (Frame::Fail { id: 2, body }, "10000000000000000278"),
            (Frame::Credit { id: 2, bytes: 6 }, "11000000000000000200000006"),
        ];
        for (frame, hex) in golden {
            let bytes: String = encoded(&frame).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(bytes, hex, "{frame:?}");
        }
    }
}
