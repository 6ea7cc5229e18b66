//! The name of a vqueue and how it is routed.

use bilrost::Message;
use bytestring::ByteString;
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::{EntryId, PartitionKey, VQueueId};

/// Longest service, scope or limit-key component, in bytes.
pub const COMPONENT_LEN_MAX: usize = 64;
/// Longest object key, in bytes.
pub const OBJECT_KEY_LEN_MAX: usize = 512;
/// Number of vqueues over which work of one service without scope and object key is spread.
pub const KEYLESS_SPREAD: u64 = 64;

/// The part of a name that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The service (the handler's name).
    Service,
    /// The scope.
    Scope,
    /// First level of the limit key.
    L1,
    /// Second level of the limit key.
    L2,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Scope => "scope",
            Self::L1 => "limit key level 1",
            Self::L2 => "limit key level 2",
        })
    }
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// A component is empty.
    #[error("{part} is empty; it needs 1 to 64 of the characters a-z A-Z 0-9 _ . -")]
    Empty {
        /// The part.
        part: Part,
    },
    /// A component is too long.
    #[error("{part} has {len} bytes; at most 64 are allowed")]
    TooLong {
        /// The part.
        part: Part,
        /// Its length, in bytes.
        len: usize,
    },
    /// A component contains an invalid character.
    #[error(
        "{part} `{text}` has the character `{character}` at byte {position}; \
         allowed are a-z A-Z 0-9 _ . -"
    )]
    Character {
        /// The part.
        part: Part,
        /// The component.
        text: String,
        /// The first invalid character.
        character: char,
        /// Its byte position in the component.
        position: usize,
    },
    /// A limit key has more than two levels.
    #[error("limit key `{text}` has more than two levels; write `l1` or `l1/l2`")]
    TooDeep {
        /// The limit key.
        text: String,
    },
    /// A limit key without a scope.
    #[error("limit key `{text}` needs a scope: limits are written scope/l1/l2")]
    LimitKeyWithoutScope {
        /// The limit key.
        text: String,
    },
    /// The object key is too long.
    #[error("object key has {len} bytes; at most 512 are allowed")]
    ObjectKeyTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// The object key is empty.
    #[error("object key is empty; leave it out for work without one")]
    ObjectKeyEmpty,
}

/// Checks one component: 1 to 64 bytes of `[a-zA-Z0-9_.-]`.
///
/// # Errors
/// [`NameError`] naming the part and the position.
pub fn check_component(part: Part, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { part });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if let Some((position, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        return Err(NameError::Character { part, text: text.to_owned(), character, position });
    }
    if text.len() > COMPONENT_LEN_MAX {
        return Err(NameError::TooLong { part, len: text.len() });
    }
    Ok(())
}

/// The name of a virtual queue: service + scope + limit key + object key.
///
/// Order and exclusion hold per vqueue: entries of a vqueue with an object key run
/// one after the other; the object key is the vqueue's lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct VQueueName {
    /// The handler that runs the entries.
    #[bilrost(1)]
    pub service: ByteString,
    /// First dimension of the limits; no scope means no user limits.
    #[bilrost(2)]
    pub scope: Option<ByteString>,
    /// First level of the limit key; needs a scope.
    #[bilrost(3)]
    pub l1: Option<ByteString>,
    /// Second level of the limit key; needs the first.
    #[bilrost(4)]
    pub l2: Option<ByteString>,
    /// The object whose entries must not overlap.
    #[bilrost(5)]
    pub object_key: Option<ByteString>,
}

impl VQueueName {
    /// A name with a service and nothing else.
    #[must_use]
    pub fn service(service: &str) -> Self {
        Self { service: ByteString::from(service), ..Self::default() }
    }

    /// Sets the scope.
    #[must_use]
    pub fn with_scope(mut self, scope: &str) -> Self {
        self.scope = Some(ByteString::from(scope));
        self
    }

    /// Sets the object key.
    #[must_use]
    pub fn with_object_key(mut self, key: &str) -> Self {
        self.object_key = Some(ByteString::from(key));
        self
    }

    /// Sets the limit key from its written form, `l1` or `l1/l2`.
    ///
    /// # Errors
    /// [`NameError::TooDeep`] when there are more than two levels.
    pub fn with_limit_key(mut self, text: &str) -> Result<Self, NameError> {
        self.set_limit_key(text)?;
        Ok(self)
    }

    /// Like [`Self::with_limit_key`]; an error changes nothing.
    ///
    /// # Errors
    /// [`NameError::TooDeep`].
    pub fn set_limit_key(&mut self, text: &str) -> Result<(), NameError> {
        let mut levels = text.splitn(3, '/').map(ByteString::from);
        let (l1, l2) = (levels.next(), levels.next());
        if levels.next().is_some() {
            return Err(NameError::TooDeep { text: text.to_owned() });
        }
        (self.l1, self.l2) = (l1, l2);
        Ok(())
    }

    /// Whether entries of this vqueue exclude each other.
    #[must_use]
    pub fn has_lock(&self) -> bool {
        self.object_key.is_some()
    }

    /// The written limit key, `l1` or `l1/l2`; empty without one.
    #[must_use]
    pub fn limit_key(&self) -> String {
        match (&self.l1, &self.l2) {
            (Some(l1), Some(l2)) => format!("{l1}/{l2}"),
            (Some(l1), None) => l1.to_string(),
            _ => String::new(),
        }
    }

    /// Whether the limit key is `limit_key` or below it: `l1` includes everything that starts with
    /// `l1/`.
    #[must_use]
    pub fn is_at_or_below(&self, limit_key: &str) -> bool {
        let (l1, l2) = match limit_key.split_once('/') {
            Some((l1, l2)) => (l1, Some(l2)),
            None => (limit_key, None),
        };
        self.l1.as_deref() == Some(l1) && l2.is_none_or(|l2| self.l2.as_deref() == Some(l2))
    }

    /// The partition key of everything with this scope: it begins the ids of the scope's vqueues
    /// and entries. Other scopes may have the same hash.
    #[must_use]
    pub fn scope_key(scope: &str) -> PartitionKey {
        PartitionKey(xxh3_64(scope.as_bytes()))
    }

    /// Checks every component.
    ///
    /// # Errors
    /// The first [`NameError`] found.
    pub fn check(&self) -> Result<(), NameError> {
        check_component(Part::Service, &self.service)?;
        let levels = [(Part::Scope, &self.scope), (Part::L1, &self.l1), (Part::L2, &self.l2)];
        for (part, text) in levels {
            if let Some(text) = text {
                check_component(part, text)?;
            }
        }
        if self.l1.is_some() && self.scope.is_none() {
            return Err(NameError::LimitKeyWithoutScope { text: self.limit_key() });
        }
        if self.l2.is_some() && self.l1.is_none() {
            return Err(NameError::Empty { part: Part::L1 });
        }
        match &self.object_key {
            Some(key) if key.is_empty() => Err(NameError::ObjectKeyEmpty),
            Some(key) if key.len() > OBJECT_KEY_LEN_MAX => {
                Err(NameError::ObjectKeyTooLong { len: key.len() })
            }
            _ => Ok(()),
        }
    }

    /// The vqueue's point of the key space.
    ///
    /// With a scope, the scope's hash, so that everything counted against a scope is in one
    /// partition. Otherwise with an object key, the hash of service and object key. Otherwise the
    /// hash of the service and one of [`KEYLESS_SPREAD`] numbers, chosen by the idempotency key or,
    /// without one, by the entry's UUID.
    #[must_use]
    pub fn partition_key(&self, idempotency_key: Option<&str>, uuid: &[u8; 16]) -> PartitionKey {
        let hash = match (&self.scope, &self.object_key) {
            (Some(scope), _) => return Self::scope_key(scope),
            (None, Some(key)) => {
                xxh3_64(&[self.service.as_ref(), "\0", key.as_ref()].concat().into_bytes())
            }
            (None, None) => {
                let spread = idempotency_key.map_or_else(
                    || xxh3_64(uuid) % KEYLESS_SPREAD,
                    |key| xxh3_64(key.as_bytes()) % KEYLESS_SPREAD,
                );
                let number = spread.to_be_bytes();
                let service: &[u8] = self.service.as_bytes();
                xxh3_64(&[service, &[1], &number].concat())
            }
        };
        PartitionKey(hash)
    }

    /// The vqueue's id for a partition key.
    ///
    /// The hash is xxh3-128 over service, scope, l1, l2 and object key, each as a
    /// presence byte, its length (4 bytes, big-endian) and its bytes.
    #[must_use]
    pub fn id(&self, partition_key: PartitionKey) -> VQueueId {
        let mut canonical = Vec::with_capacity(128);
        let service = Some(&self.service);
        let parts = [
            service,
            self.scope.as_ref(),
            self.l1.as_ref(),
            self.l2.as_ref(),
            self.object_key.as_ref(),
        ];
        for part in parts {
            canonical.push(u8::from(part.is_some()));
            let text: &[u8] = part.map_or(&[], |text| text.as_ref());
            let len = u32::try_from(text.len()).expect("a checked component is short");
            canonical.extend_from_slice(&len.to_be_bytes());
            canonical.extend_from_slice(text);
        }
        VQueueId { partition_key, hash: xxh3_128(&canonical).to_be_bytes() }
    }

    /// The id of the vqueue of this entry.
    #[must_use]
    pub fn id_for(&self, entry: EntryId) -> VQueueId {
        self.id(entry.partition_key)
    }
}
