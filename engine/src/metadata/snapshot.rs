//! The state at the beginning of a segment, with everything that a member needs to begin there.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::consensus::{DecodeError, Put, Reader, Segment, put_segment, read_segment};

use super::State;
use super::command::FORMAT;

const HASH_BYTES: usize = 16;

/// The state after all entries before a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The cluster.
    pub cluster: u128,
    /// Grows when the cluster was recovered by hand.
    pub incarnation: u32,
    /// The segment; every entry before its base is applied.
    pub segment: Segment,
    /// The state.
    pub state: State,
}

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The hash does not match.
    #[error("its checksum does not match")]
    Damaged,
    /// The bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Snapshot {
    /// Its bytes; a hash of them follows at the end.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        out.put_u128(self.cluster);
        out.put_u32(self.incarnation);
        put_segment(&mut out, &self.segment);
        self.state.encode(&mut out);
        let hash = xxh3_128(&out);
        out.put_u128(hash);
        out.into()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are damaged, or written by a newer version.
    pub fn decode(mut bytes: Bytes) -> Result<Self, SnapshotError> {
        if bytes.len() < HASH_BYTES {
            return Err(DecodeError::Truncated.into());
        }
        let hash = bytes.split_off(bytes.len() - HASH_BYTES);
        if xxh3_128(&bytes).to_be_bytes() != hash[..] {
            return Err(SnapshotError::Damaged);
        }
        let mut reader = Reader::of_format(bytes, FORMAT)?;
        let snapshot = Self {
            cluster: reader.u128()?,
            incarnation: reader.u32()?,
            segment: read_segment(&mut reader)?,
            state: State::read(&mut reader)?,
        };
        reader.end()?;
        Ok(snapshot)
    }
}
