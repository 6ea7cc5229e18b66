//! The book of a run, `exec/runs/ID`: its items, and which of their results users have seen.
//!
//! Owns: the file's format. It is append-only: a head with the run's identity, then records of 25
//! bytes: a tag, the item's identity, a number.
//!
//! Must always hold: an item is in the book before it is stored, under the partition key it is
//! stored with (so that it is found even if its next input gives it another scope and key); an end
//! is in the book as printed only after it was printed. Records need no sync: a kill loses none,
//! and records lost by a power failure are found in the stored entries or printed once more. Must
//! not know: how items run.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use bilrost::{Message, OwnedMessage};
use forebay_messages::{EntryId, PartitionKey};
use thiserror::Error;

use super::{
    Identity, RunId, books_dir,
    items::{ASIDE, Items, STORED},
};

/// First bytes of a book.
const MAGIC: &[u8; 16] = b"forebay run 1\n\0\0";
/// Maximum length of a head: a command line has at most 2 MiB.
const HEAD_LEN_MAX: u32 = 4 << 20;
const RECORD_LEN: usize = 25;
/// Records read at a time.
const READ_BYTES: usize = RECORD_LEN * 4096;

/// A book cannot be used.
#[derive(Debug, Error)]
#[error("cannot use {}: {source}; check its permissions and free space", .path.display())]
pub(crate) struct BookError {
    path: PathBuf,
    source: io::Error,
}

/// The tag of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    /// The item is stored under this partition key.
    Stored = 1,
    /// Its end at this time was printed.
    Printed = 2,
    /// It is set aside.
    Aside = 3,
    /// It is no longer set aside.
    Back = 4,
}

/// A book being written.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Book {
    /// Opens or creates the book of a run; also returns its items.
    ///
    /// # Errors
    /// [`BookError`] when the file cannot be used.
    pub(crate) fn open(data_dir: &Path, identity: &Identity) -> Result<(Self, Items), BookError> {
        Self::open_at(&books_dir(data_dir).join(identity.id().to_string()), identity)
    }

    /// Opens the book of a run that has one, or of the items left by versions without runs.
    ///
    /// # Errors
    /// [`BookError`] when the file cannot be used.
    pub(crate) fn of(data_dir: &Path, id: &RunId) -> Result<(Self, Items), BookError> {
        Self::open_at(&books_dir(data_dir).join(id.to_string()), &Identity::default())
    }

    fn open_at(path: &Path, identity: &Identity) -> Result<(Self, Items), BookError> {
        let at = |source| BookError { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(at)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(path).map_err(at)?;
        let mut items = Items::default();
        let len = match read(&mut file, &mut items).map_err(at)? {
            Some((_, len)) => len,
            None => {
                // It was empty: an earlier process did not get further.
                file.set_len(0).map_err(at)?;
                let head = head(identity);
                file.write_all(&head).map_err(at)?;
                head.len() as u64
            }
        };
        // Half a record, left by a crash.
        file.set_len(len).map_err(at)?;
        Ok((Self { path: path.to_owned(), file, len }, items))
    }

    /// These items are about to be stored.
    ///
    /// # Errors
    /// [`BookError`]: then they must not be stored.
    pub(crate) fn store(&mut self, items: impl Iterator<Item = EntryId>) -> Result<(), BookError> {
        self.append(items.map(|id| (Tag::Stored, id.uuid, id.partition_key.0)))
    }

    /// This end of an item was printed.
    ///
    /// # Errors
    /// [`BookError`]
    pub(crate) fn set_printed(&mut self, id: EntryId, ended_at: u64) -> Result<(), BookError> {
        self.append(std::iter::once((Tag::Printed, id.uuid, ended_at)))
    }

    /// These items are about to be set aside. Durable: otherwise they would look like items paused
    /// by users.
    ///
    /// # Errors
    /// [`BookError`]: then they must not be set aside.
    pub(crate) fn set_aside(&mut self, items: &[EntryId]) -> Result<(), BookError> {
        self.append(items.iter().map(|id| (Tag::Aside, id.uuid, id.partition_key.0)))?;
        self.file.sync_data().map_err(|source| BookError { path: self.path.clone(), source })
    }

    /// These items are back at their positions.
    ///
    /// # Errors
    /// [`BookError`]
    pub(crate) fn take_back(&mut self, items: &[EntryId]) -> Result<(), BookError> {
        self.append(items.iter().map(|id| (Tag::Back, id.uuid, id.partition_key.0)))
    }

    fn append(
        &mut self,
        records: impl Iterator<Item = (Tag, [u8; 16], u64)>,
    ) -> Result<(), BookError> {
        let mut bytes = Vec::with_capacity(records.size_hint().0 * RECORD_LEN);
        for (tag, uuid, number) in records {
            bytes.push(tag as u8);
            bytes.extend_from_slice(&uuid);
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        if let Err(source) = self.file.write_all(&bytes) {
            // A full disk leaves half a record; records after it could not be read.
            let _ = self.file.set_len(self.len);
            return Err(BookError { path: self.path.clone(), source });
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn head(identity: &Identity) -> Vec<u8> {
    let message = identity.encode_to_vec();
    let len = u32::try_from(message.len()).unwrap_or(HEAD_LEN_MAX);
    [&MAGIC[..], &len.to_be_bytes(), &message].concat()
}

/// Reads a book. `None` without a whole head; otherwise the number of bytes of whole records.
fn read(file: &mut impl Read, items: &mut Items) -> io::Result<Option<(Identity, u64)>> {
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let Some((identity, mut len)) = read_head(&mut reader)? else { return Ok(None) };
    let mut record = [0; RECORD_LEN];
    loop {
        match reader.read_exact(&mut record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        len += RECORD_LEN as u64;
        take(&record, items);
    }
    Ok(Some((identity, len)))
}

fn read_head(reader: &mut impl Read) -> io::Result<Option<(Identity, u64)>> {
    let (mut magic, mut len) = ([0; MAGIC.len()], [0; 4]);
    let whole = reader.read_exact(&mut magic).and_then(|()| reader.read_exact(&mut len));
    let len = u32::from_be_bytes(len);
    match whole {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
        Ok(()) if magic != *MAGIC || len > HEAD_LEN_MAX => {
            let text = "it is not a book of this version of forebay; use a newer one, or move \
                        the file away";
            return Err(io::Error::other(text));
        }
        Ok(()) => {}
    }
    let mut message = vec![0; len as usize];
    match reader.read_exact(&mut message) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let identity = Identity::decode(&*message).map_err(io::Error::other)?;
    Ok(Some((identity, (MAGIC.len() + 4 + message.len()) as u64)))
}

fn take(record: &[u8; RECORD_LEN], items: &mut Items) {
    let (mut uuid, mut number) = ([0; 16], [0; 8]);
    uuid.copy_from_slice(&record[1..17]);
    number.copy_from_slice(&record[17..]);
    let number = u64::from_be_bytes(number);
    match record[0] {
        1 => {
            let id = EntryId { partition_key: PartitionKey(number), uuid };
            let place = items.find_or_add(id);
            items.moved(place, id.partition_key);
            items.set(place, STORED);
        }
        2 => {
            if let Some(place) = items.find(&uuid) {
                items.set_printed(place, number);
            }
        }
        3 | 4 => {
            let place = items.find_or_add(EntryId { partition_key: PartitionKey(number), uuid });
            items.unset(place, ASIDE);
            if record[0] == 3 {
                items.set(place, ASIDE | STORED);
            }
        }
        // Zeros left by a power failure.
        _ => {}
    }
}

/// A run that has a book.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: RunId,
    pub(crate) identity: Identity,
}

/// The runs that have a book, oldest first.
///
/// # Errors
/// [`BookError`] when the directory cannot be read. A book that cannot be read is omitted.
pub(crate) fn list(data_dir: &Path) -> Result<Vec<Listed>, BookError> {
    let path = books_dir(data_dir);
    let at = |source| BookError { path: path.clone(), source };
    let found = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(at)?,
    };
    let mut runs = Vec::new();
    for file in found {
        let file = file.map_err(at)?;
        let Some(id) = file.file_name().to_str().and_then(RunId::parse) else { continue };
        let identity = File::open(file.path()).and_then(|mut book| read_head(&mut book));
        if let Ok(Some((identity, _))) = identity {
            runs.push(Listed { id, identity });
        }
    }
    runs.sort_by_key(|run| (run.identity.started_at, run.id.clone()));
    Ok(runs)
}

/// The items in the book of a run.
///
/// # Errors
/// [`BookError`] when it cannot be read.
pub(crate) fn items(data_dir: &Path, id: &RunId) -> Result<Items, BookError> {
    let path = books_dir(data_dir).join(id.to_string());
    let mut items = Items::default();
    match File::open(&path).and_then(|mut book| read(&mut book, &mut items)) {
        Ok(_) => Ok(items),
        Err(source) => Err(BookError { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn identity() -> Identity {
        let command = vec![Bytes::from_static(b"echo")];
        Identity { command, directory: "/d".into(), started_at: 3, ..Identity::default() }
    }

    fn id(n: u8) -> EntryId {
        EntryId { partition_key: PartitionKey(u64::from(n) << 56), uuid: [n; 16] }
    }

    #[test]
    fn records_are_read_back_and_half_a_record_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, items) = Book::open(dir.path(), &identity()).unwrap();
        assert_eq!(items.places().count(), 0);
        book.store([id(1), id(2), id(3)].into_iter()).unwrap();
        book.set_printed(id(2), 77).unwrap();
        book.set_aside(&[id(1), id(3)]).unwrap();
        book.take_back(&[id(3)]).unwrap();
        let whole = fs::read(&book.path).unwrap();
        for cut in 0..RECORD_LEN {
            fs::write(&book.path, &whole[..whole.len() - cut]).unwrap();
            let (_, items) = Book::open(dir.path(), &identity()).unwrap();
            let of = |n: u8| items.find(&id(n).uuid).unwrap();
            assert_eq!(
                (items.places().count(), items.id(of(1)), items.printed_at(of(2))),
                (3, id(1), 77)
            );
            assert!(items.has(of(1), ASIDE) && !items.has(of(2), ASIDE));
            assert_eq!(items.has(of(3), ASIDE), cut > 0, "the last record is whole only uncut");
            let records = whole.len() - if cut > 0 { RECORD_LEN } else { 0 };
            assert_eq!(fs::metadata(&book.path).unwrap().len(), records as u64);
        }
        assert_eq!(list(dir.path()).unwrap()[0].identity, identity());
    }

    #[test]
    fn a_torn_head_is_rewritten_and_another_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (book, _) = Book::open(dir.path(), &identity()).unwrap();
        let whole = fs::read(&book.path).unwrap();
        fs::write(&book.path, &whole[..whole.len() - 1]).unwrap();
        drop(Book::open(dir.path(), &identity()).unwrap());
        assert_eq!(fs::read(&book.path).unwrap(), whole);
        fs::write(&book.path, "something else of some length").unwrap();
        let error = Book::open(dir.path(), &identity()).unwrap_err().to_string();
        assert!(error.contains("not a book"), "{error}");
    }
}
