//! Ids that contain their partition key, so that any id can be routed without a lookup. 24 bytes,
//! big-endian: partition key (8), then 16 bytes of identity.

use crate::wire::wire_bytes;

use super::PartitionKey;

/// One unit of work. Partition key (8 bytes) and a UUIDv7 (16 bytes), created by the client;
/// enqueueing the same id again changes nothing. Printed `ent_…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Determines its partition.
    pub partition_key: PartitionKey,
    /// A UUIDv7 (or any other 16 bytes that are unique under the key).
    pub uuid: [u8; 16],
}

/// A virtual queue: partition key and xxh3-128 of its name. Printed `vq_…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VQueueId {
    /// Determines its partition.
    pub partition_key: PartitionKey,
    /// xxh3-128 of the canonical bytes of the vqueue's name.
    pub hash: [u8; 16],
}

macro_rules! wide_id {
    ($name:ident, $rest:ident) => {
        impl $name {
            /// Length of the encoded form.
            pub const LEN: usize = 24;

            /// Big-endian bytes; their order is the order of the ids.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 24] {
                let mut bytes = [0; 24];
                bytes[..8].copy_from_slice(&self.partition_key.0.to_be_bytes());
                bytes[8..].copy_from_slice(&self.$rest);
                bytes
            }

            /// The inverse of [`Self::to_bytes`].
            #[must_use]
            pub fn from_bytes(bytes: [u8; 24]) -> Self {
                let (mut key, mut $rest) = ([0; 8], [0; 16]);
                key.copy_from_slice(&bytes[..8]);
                $rest.copy_from_slice(&bytes[8..]);
                Self { partition_key: PartitionKey(u64::from_be_bytes(key)), $rest }
            }

            pub(super) fn rest_as_u128(self) -> u128 {
                u128::from_be_bytes(self.$rest)
            }

            pub(super) fn from_parts(partition_key: PartitionKey, rest: u128) -> Self {
                Self { partition_key, $rest: rest.to_be_bytes() }
            }
        }

        wire_bytes!($name, 24);
    };
}

wide_id!(EntryId, uuid);
wide_id!(VQueueId, hash);
