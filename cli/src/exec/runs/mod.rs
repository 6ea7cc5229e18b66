//! What a run is, and the books of all runs in a data directory.
//!
//! Owns: a run's identity (command template, directory, and the name given with `--again`) and the
//! name of its service. Must always hold: the same command line in the same directory is the same
//! run, in every version of forebay; two runs share no service, so that a process serves the
//! requested runs and no others. Must not know: the runtime.
//!
//! | module | does |
//! |---|---|
//! | [`book`] | the append-only file of a run |
//! | [`items`] | its items in memory, in few bytes each |

pub(crate) mod book;
pub(crate) mod items;

use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bilrost::Message;
use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{PartitionKey, VQueueName};

/// Service of versions without runs; the services of runs begin with it and a dot.
pub(crate) const SERVICE: &str = "exec";
/// The run of the items left by versions without runs.
pub(crate) const BEFORE: &str = "before";
/// Base 32 without letters that look like digits. In the order of their values.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in base 32.
const ID_LEN: usize = 26;

/// The id of a run: 26 characters, or [`BEFORE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RunId(ByteString);

impl RunId {
    /// The run of the items left by versions without runs.
    pub(crate) fn before() -> Self {
        Self(ByteString::from_static(BEFORE))
    }

    /// The run of a service's name, if it is one of `exec`.
    pub(crate) fn of_service(service: &str) -> Option<Self> {
        if service == SERVICE {
            return Some(Self::before());
        }
        let id = service.strip_prefix(SERVICE)?.strip_prefix('.')?;
        Self::parse(id)
    }

    /// A whole id as printed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == ID_LEN && text.bytes().all(|digit| DIGITS.contains(&digit));
        (is_id || text == BEFORE).then(|| Self(ByteString::from(text)))
    }

    /// The service of its entries.
    pub(crate) fn service(&self) -> String {
        if self.is_before() { SERVICE.to_owned() } else { format!("{SERVICE}.{}", self.0) }
    }

    /// Whether it is the run of items left by versions without runs.
    pub(crate) fn is_before(&self) -> bool {
        self.0 == BEFORE
    }

    /// The part of it that users type.
    pub(crate) fn short(&self) -> &str {
        &self.0[..self.0.len().min(8)]
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a run; the head of its book.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(crate) struct Identity {
    /// The command's words with their templates.
    #[bilrost(1)]
    pub(crate) command: Vec<Bytes>,
    /// The directory where it was started.
    #[bilrost(2)]
    pub(crate) directory: Bytes,
    /// The name given with `--again`.
    #[bilrost(3)]
    pub(crate) again: Option<ByteString>,
    /// When it was first started, in milliseconds since 1970. Not part of the id.
    #[bilrost(4)]
    pub(crate) started_at: u64,
    /// `--chdir`, with its templates.
    #[bilrost(5)]
    pub(crate) chdir: Option<Bytes>,
}

impl Identity {
    /// Its id: a hash that every data directory depends on.
    pub(crate) fn id(&self) -> RunId {
        let mut canonical = Vec::with_capacity(256);
        put(&mut canonical, b'd', &self.directory);
        for word in &self.command {
            put(&mut canonical, b'w', word);
        }
        if let Some(again) = &self.again {
            put(&mut canonical, b'n', again.as_bytes());
        }
        if let Some(chdir) = &self.chdir {
            put(&mut canonical, b'c', chdir);
        }
        let mut bits = xxhash_rust::xxh3::xxh3_128(&canonical);
        let mut id = [0; ID_LEN];
        for digit in id.iter_mut().rev() {
            *digit = DIGITS[(bits & 31) as usize];
            bits >>= 5;
        }
        RunId(ByteString::from(String::from_utf8_lossy(&id).into_owned()))
    }

    /// The command for display: its words, with quotes where a shell needs them.
    pub(crate) fn command_line(&self) -> String {
        let words = self.command.iter().map(|word| quoted(&String::from_utf8_lossy(word)));
        words.collect::<Vec<_>>().join(" ")
    }

    /// The directory as a path.
    pub(crate) fn directory(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.directory))
    }
}

/// A word, quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:={}@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The partition key of a run's entries without scope and key: all are in one vqueue, so that they
/// start in the order of the input.
pub(crate) fn place_of(service: &str) -> PartitionKey {
    VQueueName::service(service).partition_key(None, &[0; 16])
}

/// A short name for `--again` that no earlier run has.
pub(crate) fn fresh_name() -> ByteString {
    let mut bits = uuid::Uuid::new_v4().as_u128();
    let mut name = String::new();
    for _ in 0..6 {
        name.push(char::from(DIGITS[(bits & 31) as usize]));
        bits >>= 5;
    }
    ByteString::from(name)
}

/// Appends a tagged text so that different sequences of texts have different bytes.
pub(super) fn put(canonical: &mut Vec<u8>, tag: u8, text: &[u8]) {
    canonical.push(tag);
    canonical.extend_from_slice(&(text.len() as u64).to_be_bytes());
    canonical.extend_from_slice(text);
}

/// The directory of the books.
pub(crate) fn books_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("exec").join("runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(words: &[&str], directory: &str) -> Identity {
        let command = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let directory = Bytes::copy_from_slice(directory.as_bytes());
        Identity { command, directory, ..Identity::default() }
    }

    /// These characters are in users' data directories.
    #[test]
    fn a_run_is_its_command_and_its_directory() {
        let base = identity(&["gzip", "-k", "{}"], "/x");
        let id = base.id();
        assert_eq!(id.to_string(), PINNED);
        assert_eq!(Identity { started_at: 7, ..base.clone() }.id(), id);
        assert_ne!(identity(&["gzip", "-k", "{}"], "/y").id(), id);
        assert_ne!(identity(&["gzip", "-k {}"], "/x").id(), id);
        assert_ne!(Identity { again: Some("a".into()), ..base }.id(), id);
        assert_eq!(RunId::of_service(&id.service()), Some(id));
    }

    const PINNED: &str = "398j62j4xx25xksw9ffa7q41ey";

    #[test]
    fn the_service_of_earlier_versions_is_a_run_too() {
        assert_eq!(RunId::of_service("exec"), Some(RunId::before()));
        assert_eq!(RunId::before().service(), "exec");
        for other in ["execute", "exec.", "exec.x", "mail"] {
            assert_eq!(RunId::of_service(other), None, "{other}");
        }
    }

    #[test]
    fn a_command_is_shown_quoted_for_a_shell() {
        let shown = identity(&["sh", "-c", "rm \"$1\" it's", "_", "{}"], "/").command_line();
        assert_eq!(shown, r#"sh -c 'rm "$1" it'\''s' _ {}"#);
    }
}
