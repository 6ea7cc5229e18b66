//! The bytes of one record in a log.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format of the record ([`RECORD_FORMAT`]) |
//! | 4 | crc32c, big-endian, over partition (4), LSN (8), format (1) and message |
//! | rest | the record, a bilrost message |
//!
//! The checksum is forebay's own, so that damage is found whatever the database below checks. It
//! covers the position, so that a record at another position is damage too. Must always hold:
//! golden tests pin these bytes, which never change.

use bilrost::{Message, OwnedMessage};
use bytes::Bytes;
use forebay_messages::{
    Lsn, PartitionId, Record,
    record::{FRAME_LEN, RECORD_FORMAT},
};
use thiserror::Error;

/// Bytes before the message.
const HEADER_LEN: usize = FRAME_LEN;

/// What is wrong with a stored record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// There is no record where one must be.
    #[error("the record is missing")]
    Missing,
    /// The record is shorter than its header.
    #[error("the record has only {len} bytes")]
    Short {
        /// How many.
        len: usize,
    },
    /// The checksum does not match the bytes.
    #[error("the checksum is {found:#010x}, it should be {expected:#010x}")]
    Checksum {
        /// Of the bytes found.
        found: u32,
        /// Stored with them.
        expected: u32,
    },
    /// The checksum is right, but a newer forebay wrote it.
    #[error(
        "the record has format {found}, this forebay reads formats up to {RECORD_FORMAT}: use a \
         newer forebay"
    )]
    Format {
        /// The format found.
        found: u8,
    },
    /// The checksum is right, but the message does not decode.
    #[error("the record does not decode: {reason}")]
    Decode {
        /// Why not.
        reason: String,
    },
    /// One of the log's own rows (fence, trim point) has the wrong length.
    #[error("the log's {row} row has {len} bytes instead of 8")]
    Row {
        /// Which row.
        row: &'static str,
        /// Its length.
        len: usize,
    },
    /// The database reported damage first.
    #[error("{reason}")]
    Database {
        /// The report.
        reason: String,
    },
}

fn checksum(partition: PartitionId, lsn: Lsn, format: u8, message: &[u8]) -> u32 {
    let mut head = [0; 13];
    head[..4].copy_from_slice(&partition.0.to_be_bytes());
    head[4..12].copy_from_slice(&lsn.0.to_be_bytes());
    head[12] = format;
    crc32c::crc32c_append(crc32c::crc32c(&head), message)
}

/// Writes the frame of a record over `buffer`, reusing its capacity.
pub(crate) fn encode(partition: PartitionId, lsn: Lsn, record: &Record, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&[RECORD_FORMAT, 0, 0, 0, 0]);
    record.encode(buffer).expect("a Vec grows as needed");
    let sum = checksum(partition, lsn, RECORD_FORMAT, &buffer[HEADER_LEN..]);
    buffer[1..HEADER_LEN].copy_from_slice(&sum.to_be_bytes());
}

/// The inverse of [`encode`]. Payloads share the memory of `frame`.
pub(crate) fn decode(partition: PartitionId, lsn: Lsn, frame: Bytes) -> Result<Record, Damage> {
    let Some((head, message)) = frame.split_first_chunk::<HEADER_LEN>() else {
        return Err(Damage::Short { len: frame.len() });
    };
    let [format, a, b, c, d] = *head;
    let expected = u32::from_be_bytes([a, b, c, d]);
    let found = checksum(partition, lsn, format, message);
    // Before the format: a flipped bit there is damage, not a newer forebay.
    if found != expected {
        return Err(Damage::Checksum { found, expected });
    }
    if format != RECORD_FORMAT {
        return Err(Damage::Format { found: format });
    }
    Record::decode(frame.slice(HEADER_LEN..))
        .map_err(|error| Damage::Decode { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use forebay_messages::{
        PartitionKey, RecordKeys, RecordSeq, Timestamp,
        command::{Command, TruncateOutbox},
        record::{ExternalSeq, Producer},
    };
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            keys: Some(RecordKeys::Single(PartitionKey(7))),
            producer: Some(Producer::External(ExternalSeq { id: 3, seq: RecordSeq(9) })),
            created_at: Timestamp(1_700_000_000_000),
            command: Some(Command::TruncateOutbox(TruncateOutbox {
                through: 300,
                delivered: Vec::new(),
            })),
        }
    }

    fn framed(partition: u32, lsn: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(PartitionId(partition), Lsn(lsn), &record(), &mut bytes);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        insta::assert_snapshot!(hex(&framed(2, 5)), @r"
        01fcea39920707000000000000001504040304090880cf94febb30590304ac01
        ");
    }

    #[test]
    fn a_record_at_another_position_is_damage() {
        let bytes = Bytes::from(framed(2, 5));
        assert_eq!(decode(PartitionId(2), Lsn(5), bytes.clone()).unwrap(), record());
        for (partition, lsn) in [(2, 6), (3, 5)] {
            let error = decode(PartitionId(partition), Lsn(lsn), bytes.clone()).unwrap_err();
            assert!(matches!(error, Damage::Checksum { .. }));
        }
    }

    #[test]
    fn a_newer_format_is_not_reported_as_damage() {
        let mut bytes = framed(2, 5);
        bytes[0] = 9;
        let error = decode(PartitionId(2), Lsn(5), bytes.clone().into()).unwrap_err();
        assert!(matches!(error, Damage::Checksum { .. }));
        let sum = checksum(PartitionId(2), Lsn(5), 9, &bytes[HEADER_LEN..]);
        bytes[1..HEADER_LEN].copy_from_slice(&sum.to_be_bytes());
        let error = decode(PartitionId(2), Lsn(5), bytes.into()).unwrap_err();
        assert_eq!(error, Damage::Format { found: 9 });
    }

    #[test]
    fn every_bit_flip_is_found() {
        let bytes = framed(2, 5);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(PartitionId(2), Lsn(5), flipped.into()).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(PartitionId(2), Lsn(5), bytes[..len].to_vec().into()).is_err());
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(decode(PartitionId(1), Lsn(1), bytes.into()).is_err());
        }
    }
}
