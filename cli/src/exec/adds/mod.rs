//! `forebay add`: adds items to a running run.
//!
//! Owns: the socket `exec/add.sock` in the data directory, and its protocol. The client sends a
//! line of JSON ([`Header`]), then its unchanged input in frames: a length (4 bytes, little-endian)
//! and that many bytes; an empty frame is the end of the input. The run answers with lines of JSON
//! ([`Answer`]).
//!
//! Must always hold: items that are reported as stored are durable; an input that ends without the
//! last frame has no last item (its client was killed in the middle of it). Must not know: the
//! results of items.
//!
//! | module | does |
//! |---|---|
//! | [`server`] | accepts connections, in the process of the run |
//! | [`client`] | the command `forebay add` |

pub(crate) mod client;
pub(crate) mod server;
mod socket;

use std::{
    io::{self, BufRead, Read, Write},
    num::NonZeroUsize,
    os::unix::net::UnixStream,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::input::Format;

/// Name of the socket, in the directory of `exec` in the data directory.
pub(crate) const SOCKET_NAME: &str = "add.sock";
/// Version of the protocol.
const VERSION: u32 = 1;
/// Maximum length of a line in either direction, in bytes.
const LINE_LEN_MAX: u64 = 1 << 20;
/// Maximum length of a frame, in bytes.
const FRAME_LEN_MAX: usize = 64 * 1024;

/// The format of the items of an `add`, and their run. Absent fields are as in the input of the
/// run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// The beginning of the run's id.
    #[serde(default)]
    pub(crate) run: Option<String>,
    #[serde(default)]
    pub(crate) format: Option<Format>,
    #[serde(default)]
    pub(crate) crlf: bool,
    #[serde(default)]
    pub(crate) per_item: Option<NonZeroUsize>,
    /// The items are words of the command line: they end with NUL, or are lines of JSON.
    #[serde(default)]
    pub(crate) are_words: bool,
}

/// An answer of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The first answer: it takes items.
    Hello {
        run: String,
        command: String,
        /// Items are JSON objects.
        is_ndjson: bool,
    },
    /// It takes no items, or no more.
    Refused { reason: String },
    /// A line that is not an item.
    Bad { reason: String },
    /// A note about the input, for the user.
    Note { text: String },
    /// These items are durable, now or already before.
    Stored(Counts),
    /// All items were taken.
    End,
}

/// The results of storing items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// They run, or will run.
    pub(crate) added: u64,
    /// The run has them already.
    pub(crate) duplicates: u64,
    /// They succeeded in an earlier run.
    pub(crate) done_before: u64,
    /// They failed in an earlier run, and are not retried.
    pub(crate) failed_before: u64,
    /// They are files of the data directory.
    pub(crate) inside: u64,
    /// They cannot be run.
    pub(crate) skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.added += other.added;
        self.duplicates += other.duplicates;
        self.done_before += other.done_before;
        self.failed_before += other.failed_before;
        self.inside += other.inside;
        self.skipped += other.skipped;
    }
}

/// Writes a line of JSON.
fn send_line(stream: &mut UnixStream, answer: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads a line of JSON; `None` at the end.
fn read_line<T: DeserializeOwned>(reader: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    reader.take(LINE_LEN_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends an input in frames.
struct FrameWriter<W>(W);

impl<W: Write> FrameWriter<W> {
    fn frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(FRAME_LEN_MAX) {
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.0.write_all(&[&len.to_le_bytes()[..], part].concat())?;
        }
        Ok(())
    }

    /// Marks the end of the input.
    fn end(&mut self) -> io::Result<()> {
        self.0.write_all(&[0; 4])
    }
}

/// An input that arrives in frames.
struct FrameReader<R> {
    reader: R,
    /// Bytes of the current frame that were not read yet.
    left: usize,
    has_ended: bool,
}

impl<R: Read> FrameReader<R> {
    fn new(reader: R) -> Self {
        Self { reader, left: 0, has_ended: false }
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut len = [0; 4];
            self.reader.read_exact(&mut len)?;
            self.left = u32::from_le_bytes(len) as usize;
            if self.left == 0 {
                self.has_ended = true;
                return Ok(0);
            }
            if self.left > FRAME_LEN_MAX {
                return Err(io::Error::other(format!("a frame of {} bytes", self.left)));
            }
        }
        let wanted = self.left.min(buffer.len());
        let len = self.reader.read(&mut buffer[..wanted])?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_whole_only_with_its_last_frame() {
        let text: Vec<u8> = (0..FRAME_LEN_MAX * 2 + 7).map(|n| (n % 251) as u8).collect();
        let mut sent = FrameWriter(Vec::new());
        sent.frame(&text).unwrap();
        sent.frame(b"").unwrap();
        let cut = sent.0.clone();
        sent.end().unwrap();
        let mut got = Vec::new();
        FrameReader::new(&sent.0[..]).read_to_end(&mut got).unwrap();
        assert_eq!(got, text);
        for cut in [&cut[..], &cut[..cut.len() - 1], &cut[..3]] {
            let error = FrameReader::new(cut).read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let error = FrameReader::new(&[0xff; 8][..]).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("a frame of 4294967295 bytes"));
    }
}
