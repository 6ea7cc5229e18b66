//! The state of a group on disk, and the row changes for its writes.
//!
//! Must always hold: rows have no gap between the base of the first kept segment and `end`;
//! decided rows are never cut off; segments are dropped whole.

use std::sync::Arc;

use forebay_engine::consensus::{RunningHash, Segment, Write};
use rocksdb::WriteBatch;

use super::keys::{self, Kind};

/// A group on disk.
#[derive(Clone, Debug)]
pub(super) struct Group {
    number: u32,
    /// Kept segments, without gaps; the last one is current. Shared, because every sync copies the
    /// group and segments rarely change.
    pub(super) segments: Arc<Vec<Segment>>,
    pub(super) votes: bool,
    /// The end of the rows.
    pub(super) end: u64,
    /// End of the entries known to be decided.
    pub(super) decided: u64,
}

/// Range of keys that a batch drops: the first key, and the one after the last.
pub(super) type Dropped = (Vec<u8>, Vec<u8>);

fn bytes_of(write: &Write) -> Vec<u8> {
    let mut bytes = Vec::new();
    write.encode(&mut bytes);
    bytes
}

impl Group {
    /// A group as read from disk.
    pub(super) fn new(
        number: u32,
        segments: Vec<Segment>,
        votes: bool,
        decided: u64,
        end: u64,
    ) -> Self {
        Self { number, segments: Arc::new(segments), votes, end, decided }
    }

    /// A group that begins with this segment; its earlier rows are deleted.
    pub(super) fn begin(
        number: u32,
        segment: Segment,
        votes: bool,
        batch: &mut WriteBatch,
    ) -> Self {
        for kind in [Kind::Entry, Kind::Segment] {
            batch.delete_range(keys::of_group(kind, number), keys::end_of_group(kind, number));
        }
        let base = segment.base;
        let mut group = Self::new(number, Vec::new(), votes, base, base);
        group.segment(&segment, votes, batch);
        batch.put(keys::of_group(Kind::Decided, number), bytes_of(&Write::Decided(base)));
        group
    }

    /// The current segment.
    pub(super) fn current(&self) -> &Segment {
        self.segments.last().expect("a group has a segment")
    }

    /// Index of the first row that may be here.
    pub(super) fn base(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.base)
    }

    /// The running hash of everything before `index`, if a segment begins there.
    pub(super) fn base_hash_at(&self, index: u64) -> Option<RunningHash> {
        self.segments.iter().find(|segment| segment.base == index).map(|segment| segment.base_hash)
    }

    /// Adds a write to a batch. Returns the range of keys that it drops.
    pub(super) fn stage(&mut self, write: &Write, batch: &mut WriteBatch) -> Option<Dropped> {
        let group = self.number;
        let one = |kind| keys::of_group(kind, group);
        match write {
            Write::Segment { segment, votes } => {
                assert_eq!(segment.base, self.end, "a segment begins at the end of the last one");
                assert_eq!(segment.number, self.current().number + 1, "segments have no gap");
                self.segment(segment, *votes, batch);
            }
            Write::Promise(_) => batch.put(one(Kind::Promise), bytes_of(write)),
            Write::Round(_) => batch.put(one(Kind::Round), bytes_of(write)),
            Write::Adopted(_) => batch.put(one(Kind::Adopted), bytes_of(write)),
            Write::Decided(index) => {
                assert!(*index <= self.end, "decided entries were written");
                assert!(*index >= self.decided, "the decided index never shrinks");
                self.decided = *index;
                batch.put(one(Kind::Decided), bytes_of(write));
            }
            Write::Append { index, row } => {
                assert_eq!(*index, self.end, "a row is appended at the end");
                self.end += 1;
                let mut bytes = Vec::new();
                row.encode(&mut bytes);
                batch.put(keys::numbered(Kind::Entry, group, *index), bytes);
            }
            Write::Truncate { from } => {
                assert!(*from >= self.decided, "decided rows are not cut off");
                self.end = self.end.min(*from);
                let first = keys::numbered(Kind::Entry, group, *from);
                batch.delete_range(first, keys::end_of_group(Kind::Entry, group));
            }
            Write::Peer(memory) => batch.put(keys::memory(group, memory.storage), bytes_of(write)),
            Write::Forget(peer) => batch.delete(keys::memory(group, *peer)),
            Write::Drop { below } => return self.drop_below(*below, batch),
        }
        None
    }

    fn segment(&mut self, segment: &Segment, votes: bool, batch: &mut WriteBatch) {
        let write = Write::Segment { segment: Box::new(segment.clone()), votes };
        let key = keys::numbered(Kind::Segment, self.number, segment.number);
        batch.put(key, bytes_of(&write));
        for kind in [Kind::Promise, Kind::Round, Kind::Adopted] {
            batch.delete(keys::of_group(kind, self.number));
        }
        self.votes = votes;
        Arc::make_mut(&mut self.segments).push(segment.clone());
    }

    fn drop_below(&mut self, below: u64, batch: &mut WriteBatch) -> Option<Dropped> {
        assert!(below <= self.current().number, "the current segment is kept");
        let (group, before) = (self.number, self.base());
        let count = self.segments.iter().take_while(|segment| segment.number < below).count();
        for segment in Arc::make_mut(&mut self.segments).drain(..count) {
            batch.delete(keys::numbered(Kind::Segment, group, segment.number));
        }
        let first = keys::numbered(Kind::Entry, group, before);
        let end = keys::numbered(Kind::Entry, group, self.base());
        (count > 0).then(|| {
            batch.delete_range(&first, &end);
            (first, end)
        })
    }
}
