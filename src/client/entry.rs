//! A new entry.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{
    EntryId, PartitionKey, Timestamp, VQueueName,
    command::{self, NewChild, NewEntry, RetryPolicy},
    record::{RECORD_LEN_MAX, RECORD_ROOM},
    vqueue::NameError,
};
use serde::Serialize;

use super::ids::fresh_uuid;
use crate::{
    error::{EncodeError, EnqueueError},
    handler::HandlerOptions,
};

/// Maximum size of a payload, in bytes, unless
/// [`Builder::payload_max`](crate::Builder::payload_max) changes it.
pub const PAYLOAD_LEN_DEFAULT: usize = 1 << 20;
/// Upper bound of the maximum size of a payload, in bytes: a payload is stored in one record of the
/// log, with the entry's names. It is in memory several times while it is stored, and one record
/// contains a whole batch of a partition.
pub const PAYLOAD_LEN_MAX: usize = RECORD_LEN_MAX - RECORD_ROOM;
/// Maximum length of an idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_LEN_MAX: usize = 512;

/// An entry to be enqueued.
///
/// ```
/// use forebay::{Entry, RetryPolicy};
///
/// let entry = Entry::to("resize")
///     .scope("tenant-a")
///     .limit_key("gold/user-7")
///     .key("img-42")
///     .retry(RetryPolicy::NONE)
///     .payload("img-42.png");
/// ```
#[derive(Clone, Debug)]
pub struct Entry {
    name: VQueueName,
    payload: Bytes,
    run_at: Option<Timestamp>,
    idempotency_key: Option<ByteString>,
    retry: Option<RetryPolicy>,
    retention: Option<Duration>,
    uuid: Option<[u8; 16]>,
    partition_key: Option<PartitionKey>,
    refused: Option<NameError>,
}

impl Entry {
    /// An entry for the handler registered under this name.
    #[must_use]
    pub fn to(service: &str) -> Self {
        Self {
            name: VQueueName::service(service),
            payload: Bytes::new(),
            run_at: None,
            idempotency_key: None,
            retry: None,
            retention: None,
            uuid: None,
            partition_key: None,
            refused: None,
        }
    }

    /// The first dimension of the limits (for example a tenant). Without one no user limits apply.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.name = self.name.with_scope(scope);
        self
    }

    /// The further dimensions of the limits: `l1` or `l1/l2`; needs a scope.
    #[must_use]
    pub fn limit_key(mut self, limit_key: &str) -> Self {
        if let Err(error) = self.name.set_limit_key(limit_key) {
            self.refused = Some(error);
        }
        self
    }

    /// The object the entry is about: entries of one object (with the same service,
    /// scope and limit key) run one after the other, in order, retries included.
    #[must_use]
    pub fn key(mut self, object_key: &str) -> Self {
        self.name = self.name.with_object_key(object_key);
        self
    }

    /// The payload as JSON.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn json(self, payload: &impl Serialize) -> Result<Self, EncodeError> {
        Ok(self.payload(serde_json::to_vec(payload)?))
    }

    /// The payload as bytes, at most [`PAYLOAD_LEN_DEFAULT`] (see there).
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Earliest start. It is also the position in the queue: earlier times go first.
    #[must_use]
    pub fn run_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.run_at = Some(time.into());
        self
    }

    /// Another enqueue with the same key, to the same service and scope, adds nothing and returns
    /// this entry, while its result is kept;
    /// [`EntryHandle::payload_differs`](crate::EntryHandle::payload_differs) tells whether the
    /// payload was a different one. With an object key it needs a scope: without one, entries of
    /// different object keys are stored in different partitions, which do not know each other's
    /// keys.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency_key = Some(ByteString::from(key));
        self
    }

    /// Retries after failed attempts; default: the handler's policy.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// How long the result is kept; default: the handler's retention. Expired results are removed
    /// every 30 s, so a result may exist for that much longer. `Duration::MAX` keeps it until it is
    /// purged, zero keeps nothing.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Sets the identity of the entry: enqueueing the same one again adds nothing. Without it a
    /// UUIDv7 is made.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// Position in the key space of an entry without a scope and a key, instead of one of the 64
    /// positions over which such entries of a service are spread. Entries of one service and
    /// position share one vqueue: first come, first served. The position is part of the entry's id.
    /// It has no effect on an entry with a scope or a key.
    #[must_use]
    pub fn partition_key(mut self, key: PartitionKey) -> Self {
        self.partition_key = Some(key);
        self
    }

    /// The vqueue it goes to.
    #[must_use]
    pub fn vqueue(&self) -> &VQueueName {
        &self.name
    }

    /// Checks everything for the child of an entry, whose id is derived from its parent. Errors are
    /// messages for display.
    pub(crate) fn into_child(
        self,
        defaults: &HandlerOptions,
        payload_len_max: usize,
        is_attached: bool,
    ) -> Result<NewChild, String> {
        if self.uuid.is_some() || self.partition_key.is_some() || self.idempotency_key.is_some() {
            return Err(
                "a child gets its id from its parent and exists once: leave out the uuid, \
                        the partition key and the idempotency key"
                    .to_owned(),
            );
        }
        let child = self.finish(defaults, payload_len_max).map_err(|error| error.to_string())?;
        let NewEntry { vqueue, payload, run_at, retry, retention_ms, .. } = child;
        Ok(NewChild { vqueue, payload, run_at, retry, retention_ms, is_attached })
    }

    /// Checks everything and gives the entry its id.
    pub(crate) fn finish(
        self,
        defaults: &HandlerOptions,
        payload_len_max: usize,
    ) -> Result<NewEntry, EnqueueError> {
        if let Some(error) = self.refused {
            return Err(error.into());
        }
        self.name.check()?;
        if self.payload.len() > payload_len_max {
            let (len, len_max) = (self.payload.len(), payload_len_max);
            return Err(EnqueueError::PayloadTooLarge { len, len_max });
        }
        let mut payload_hash = None;
        if let Some(key) = &self.idempotency_key {
            if key.is_empty() || key.len() > IDEMPOTENCY_KEY_LEN_MAX {
                return Err(EnqueueError::IdempotencyKey { len: key.len() });
            }
            if self.name.scope.is_none() && self.name.has_lock() {
                return Err(EnqueueError::IdempotencyNeedsScope);
            }
            payload_hash = Some(command::payload_hash(&self.payload));
        }
        let is_fresh = self.uuid.is_none();
        let uuid = self.uuid.unwrap_or_else(fresh_uuid);
        let partition_key = match self.partition_key {
            Some(key) if self.name.scope.is_none() && !self.name.has_lock() => key,
            _ => self.name.partition_key(self.idempotency_key.as_deref(), &uuid),
        };
        let retention = self.retention.or(defaults.retention);
        Ok(NewEntry {
            id: EntryId { partition_key, uuid },
            vqueue: self.name,
            payload: self.payload,
            run_at: self.run_at,
            idempotency_key: self.idempotency_key,
            retry: Some(self.retry.unwrap_or(defaults.retry)),
            retention_ms: retention
                .map(|retention| u64::try_from(retention.as_millis()).unwrap_or(u64::MAX)),
            is_fresh,
            payload_hash,
        })
    }
}
