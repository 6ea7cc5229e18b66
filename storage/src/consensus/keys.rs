//! Keys of consensus rows.
//!
//! | key | value |
//! |---|---|
//! | `ca`, group (4) | number of times decided entries were taken over in the current segment |
//! | `cd`, group (4) | end of the entries known to be decided |
//! | `ce`, group (4), index (8) | an entry and the running hash after it |
//! | `ci` | the identity of the data directory (see `identity.rs`) |
//! | `cm`, group (4), data directory (16) | the data about a peer |
//! | `cp`, group (4) | the promise in the current segment |
//! | `cr`, group (4) | the ballot of the last accept in the current segment |
//! | `cs`, group (4), segment (8) | the record of a segment, and whether this node votes in it |
//!
//! An entry is a [`Row`](forebay_engine::consensus::Row), and every other value except the identity
//! is a [`Write`](forebay_engine::consensus::Write), encoded by the machine's codec; the first byte
//! is the codec's format. Must always hold: golden tests pin these keys; keys of other rows in the
//! database begin with another byte.

use forebay_engine::consensus::StorageId;

/// The kind of a row of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Adopted = b'a',
    Decided = b'd',
    Entry = b'e',
    Memory = b'm',
    Promise = b'p',
    Round = b'r',
    Segment = b's',
}

/// The identity of the data directory.
pub(super) const IDENTITY: &[u8] = b"ci";

const ROOM: u8 = b'c';
const GROUP_END: usize = 6;

/// Common prefix of all keys of a kind and group; for most kinds it is the whole key.
pub(super) fn of_group(kind: Kind, group: u32) -> Vec<u8> {
    let mut key = vec![ROOM, kind as u8];
    key.extend(group.to_be_bytes());
    key
}

/// End of the keys of a kind.
pub(super) fn end_of(kind: Kind) -> Vec<u8> {
    vec![ROOM, kind as u8 + 1]
}

/// End of the keys of a kind and group.
pub(super) fn end_of_group(kind: Kind, group: u32) -> Vec<u8> {
    group.checked_add(1).map_or_else(|| end_of(kind), |next| of_group(kind, next))
}

/// The key of an entry or of a segment.
pub(super) fn numbered(kind: Kind, group: u32, number: u64) -> Vec<u8> {
    let mut key = of_group(kind, group);
    key.extend(number.to_be_bytes());
    key
}

/// The key of the data about a peer.
pub(super) fn memory(group: u32, peer: StorageId) -> Vec<u8> {
    let mut key = of_group(Kind::Memory, group);
    key.extend(peer.0.to_be_bytes());
    key
}

/// The group in a key, if it has one.
pub(super) fn group_in(key: &[u8]) -> Option<u32> {
    let bytes = key.get(2..GROUP_END)?.try_into().ok()?;
    (key[0] == ROOM).then_some(u32::from_be_bytes(bytes))
}

/// The number in the key of an entry or of a segment; `None` for other keys.
pub(super) fn number_in(kind: Kind, key: &[u8]) -> Option<u64> {
    let bytes = key.get(GROUP_END..)?.try_into().ok()?;
    (key.starts_with(&[ROOM, kind as u8])).then_some(u64::from_be_bytes(bytes))
}

/// The data directory in the key of the data about a peer.
pub(super) fn storage_in(key: &[u8]) -> Option<StorageId> {
    let bytes = key.get(GROUP_END..)?.try_into().ok()?;
    key.starts_with(&[ROOM, Kind::Memory as u8]).then_some(StorageId(u128::from_be_bytes(bytes)))
}
