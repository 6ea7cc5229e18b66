//! Allocation of leader epochs: a counter per partition, raised by compare-and-swap.

use bytes::Bytes;
use forebay_messages::{Epoch, PartitionId};

use super::{BlockingMetadata, MetaKey, MetadataError, Precondition, Versioned};

/// Maximum number of tries in a race with other candidates.
const TRIES_MAX: usize = 32;

/// Takes the next epoch of a partition: greater than `at_least` and than every epoch allocated
/// before, by any node.
///
/// # Errors
/// [`MetadataError::PreconditionFailed`] if other candidates won every time, else see
/// [`MetadataError`].
pub fn next_epoch(
    store: &dyn BlockingMetadata,
    partition: PartitionId,
    at_least: Epoch,
) -> Result<Epoch, MetadataError> {
    let key = MetaKey::leader_epoch(partition);
    let mut tries = 0;
    loop {
        let (last, precondition) = match store.get(&key)? {
            None => (Epoch::default(), Precondition::DoesNotExist),
            Some(found) => (decode(&key, &found)?, Precondition::MatchesVersion(found.version)),
        };
        let next = last.max(at_least).next();
        let value = Bytes::copy_from_slice(&next.0.to_be_bytes());
        tries += 1;
        match store.put(&key, value, precondition) {
            Ok(_) => return Ok(next),
            Err(MetadataError::PreconditionFailed { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// The last epoch allocated for a partition, by any node; 0 if none was.
///
/// # Errors
/// See [`MetadataError`].
pub fn last_epoch(
    store: &dyn BlockingMetadata,
    partition: PartitionId,
) -> Result<Epoch, MetadataError> {
    let key = MetaKey::leader_epoch(partition);
    store.get(&key)?.map_or(Ok(Epoch::default()), |found| decode(&key, &found))
}

fn decode(key: &MetaKey, found: &Versioned) -> Result<Epoch, MetadataError> {
    let bytes = found.value.as_ref().try_into().map_err(|_| MetadataError::Corrupt {
        key: key.to_string(),
        path: "the metadata store".to_owned(),
        reason: format!("an epoch has {} bytes instead of 8", found.value.len()),
    })?;
    Ok(Epoch(u64::from_be_bytes(bytes)))
}
