//! Checks RocksDB's journals (write-ahead log and MANIFEST) before RocksDB reads them.
//!
//! Why: RocksDB's reader (seen in 11.8.1) mistakes some damage for the end of the file. A bit
//! flipped in a length field of the last block drops all records after it, one in the first
//! record's type drops the whole file, both silently; one in a later record's type makes opening
//! loop endlessly. Acknowledged records must never vanish like that.
//!
//! Must always hold: an incomplete record at the very end (a write that was never acknowledged) is
//! left for RocksDB to cut; any other deviation from a sequence of whole records is damage. Must
//! not know: the contents of the records.
//!
//! The format (RocksDB wiki, "Write Ahead Log File Format"): blocks of 32 KiB; each block contains
//! records of masked crc32c (4, little-endian, over type and data), length of the data (2), type
//! (1), data; a remainder of less than 7 bytes is zeros. A record never crosses a block.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use crate::{Fault, FaultKind};

const BLOCK_LEN: usize = 32 << 10;
const HEADER_LEN: usize = 7;
/// Mask of a checksum stored next to the data it covers (as in LevelDB).
const MASK_DELTA: u32 = 0xa282_ead8;

/// What is wrong with a journal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the record at byte {offset} is damaged: {reason}")]
pub struct JournalDamage {
    /// Position in the file.
    pub offset: u64,
    /// What is wrong.
    pub reason: &'static str,
}

/// Checks every journal in the directory of a database, if there is one.
pub(crate) fn check(database: &Path) -> Result<(), Fault> {
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(database)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let files = match list() {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Fault::from_io("list the directory", database, error)),
    };
    files.iter().filter(|path| is_journal(path)).try_for_each(|path| check_file(path))
}

fn is_journal(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.extension().is_some_and(|extension| extension == "log") || name.starts_with("MANIFEST-")
}

fn check_file(path: &Path) -> Result<(), Fault> {
    let fault = |error| Fault::from_io("check the journal", path, error);
    let mut file = File::open(path).map_err(fault)?;
    let mut checker = Checker::default();
    let mut block = Vec::with_capacity(BLOCK_LEN);
    loop {
        block.clear();
        (&mut file).take(BLOCK_LEN as u64).read_to_end(&mut block).map_err(fault)?;
        checker.block(&block).map_err(|damage| Fault {
            kind: FaultKind::Corrupt,
            action: "check the journal",
            path: path.to_owned(),
            cause: Arc::new(damage),
        })?;
        if block.len() < BLOCK_LEN {
            return Ok(());
        }
        checker.offset += BLOCK_LEN as u64;
    }
}

#[derive(Default)]
struct Checker {
    /// Offset of the block in the file.
    offset: u64,
    /// Only zeros may follow: the file was extended but not written.
    ended: bool,
}

/// A record as its header describes it.
struct Header {
    checksum: u32,
    len: usize,
    kind: u8,
}

fn header(bytes: &[u8]) -> Option<Header> {
    let [a, b, c, d, e, f, kind] = *bytes.first_chunk::<HEADER_LEN>()?;
    let checksum = u32::from_le_bytes([a, b, c, d]).wrapping_sub(MASK_DELTA).rotate_left(15);
    Some(Header { checksum, len: usize::from(u16::from_le_bytes([e, f])), kind })
}

/// Whether `bytes` start with a header whose checksum fits `len` bytes of data.
fn fits(bytes: &[u8], header: &Header, len: usize) -> bool {
    // The checksum covers the type, which is the last byte of the header.
    bytes
        .get(HEADER_LEN - 1..HEADER_LEN + len)
        .is_some_and(|covered| crc32c::crc32c(covered) == header.checksum)
}

impl Checker {
    fn block(&mut self, block: &[u8]) -> Result<(), JournalDamage> {
        let mut at = 0;
        loop {
            let rest = &block[at..];
            let damaged = |reason| Err(JournalDamage { offset: self.offset + at as u64, reason });
            let zeros = rest.iter().all(|byte| *byte == 0);
            if self.ended && !zeros {
                return damaged("records follow an unwritten part");
            }
            // Shorter than a header: padding, or a header whose write was interrupted.
            let Some(header) = header(rest).filter(|_| !zeros) else {
                self.ended |= rest.len() >= HEADER_LEN;
                return Ok(());
            };
            if HEADER_LEN + header.len <= rest.len() {
                if !fits(rest, &header, header.len) {
                    return damaged("its checksum is wrong");
                }
                at += HEADER_LEN + header.len;
            } else if block.len() == BLOCK_LEN {
                return damaged("its length exceeds its block");
            } else if fits(rest, &header, rest.len() - HEADER_LEN) {
                return damaged("its length is wrong");
            } else if has_record(&rest[1..]) {
                return damaged("its length is wrong: a whole record follows");
            } else {
                return Ok(());
            }
        }
    }
}

/// Whether a complete record starts anywhere in `bytes`. The remains of a torn record contain none,
/// unless its payload is a piece of such a journal: then a torn write is reported as damage, which
/// is the safe direction.
fn has_record(bytes: &[u8]) -> bool {
    /// Whole, first, middle, last: the record types of a journal that is not recycled.
    const KINDS: std::ops::RangeInclusive<u8> = 1..=4;
    (0..bytes.len()).any(|at| {
        let rest = &bytes[at..];
        header(rest).is_some_and(|header| {
            header.len > 0 && KINDS.contains(&header.kind) && fits(rest, &header, header.len)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes records as RocksDB does.
    fn journal(records: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for record in records {
            let (mut rest, mut first) = (&record[..], true);
            while first || !rest.is_empty() {
                let mut room = BLOCK_LEN - out.len() % BLOCK_LEN;
                if room < HEADER_LEN {
                    out.extend(std::iter::repeat_n(0, room));
                    room = BLOCK_LEN;
                }
                let (data, after) = rest.split_at(rest.len().min(room - HEADER_LEN));
                let kind = match (first, after.is_empty()) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                let sum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), data);
                let masked = sum.rotate_right(15).wrapping_add(MASK_DELTA);
                out.extend_from_slice(&masked.to_le_bytes());
                out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_le_bytes());
                out.push(kind);
                out.extend_from_slice(data);
                (rest, first) = (after, false);
            }
        }
        out
    }

    fn check_bytes(bytes: &[u8]) -> Result<(), JournalDamage> {
        let mut checker = Checker::default();
        for block in bytes.chunks(BLOCK_LEN) {
            checker.block(block)?;
            checker.offset += BLOCK_LEN as u64;
        }
        Ok(())
    }

    /// Slightly more than two blocks.
    fn sample() -> Vec<u8> {
        let record = |n: usize, len: usize| (0..len).map(|i| (i * 31 + n * 7 + 1) as u8).collect();
        let lens = [100, 1, 20_000, 700, 40_000, 3_000, 90, 200];
        journal(&lens.iter().enumerate().map(|(n, len)| record(n, *len)).collect::<Vec<_>>())
    }

    #[test]
    fn whole_journals_and_every_torn_tail_pass() {
        let bytes = sample();
        assert!(bytes.len() > BLOCK_LEN);
        for len in (0..bytes.len()).step_by(37).chain(bytes.len() - 400..=bytes.len()) {
            assert_eq!(check_bytes(&bytes[..len]), Ok(()), "cut at {len}");
        }
        let mut extended = bytes;
        extended.extend([0; 70_000]);
        assert_eq!(check_bytes(&extended), Ok(()), "extended, not written");
        extended.extend([1]);
        assert!(check_bytes(&extended).is_err());
    }

    #[test]
    fn every_relevant_bit_flip_is_found() {
        let bytes = sample();
        let headers_and_some =
            (0..bytes.len()).filter(|at| at % 13 == 0 || *at > bytes.len() - 400);
        for at in headers_and_some {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(check_bytes(&flipped).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn what_rocksdb_writes_passes(
            values in proptest::collection::vec(0..90_000usize, 1..8), sync in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let medium = crate::Medium::disk();
            let db = rocksdb::DB::open(&medium.options(), dir.path()).unwrap();
            let mut options = rocksdb::WriteOptions::default();
            options.set_sync(sync);
            for (n, len) in values.iter().enumerate() {
                db.put_opt(n.to_be_bytes(), vec![n as u8 + 1; *len], &options).unwrap();
            }
            check(dir.path()).unwrap();
            drop(db);
            check(dir.path()).unwrap();
        }
    }
}
