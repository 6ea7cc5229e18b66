//! Invariants checked after every step, under all faults.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use forebay_engine::consensus::{
    Answer, ChainHash, Entry, ProposalRefusal, RequestId, StorageId, Term,
};

#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Entries that some member reported as decided, by index.
    pub(crate) decided: Vec<Entry>,
    /// Hash of each segment, by number.
    segments: BTreeMap<u64, ChainHash>,
    leaders: BTreeMap<Term, StorageId>,
    /// Pending requests; for a read, with the end that its answer must cover.
    open: BTreeMap<RequestId, (StorageId, Option<u64>)>,
    blocks: BTreeMap<RequestId, Bytes>,
    /// End of the entries acknowledged to clients.
    pub(crate) acknowledged: u64,
    pub(crate) answers: u64,
    pub(crate) reads: u64,
    pub(crate) unknown: u64,
    pub(crate) refusals: BTreeSet<String>,
}

impl Checks {
    pub(crate) fn decided(&mut self, node: StorageId, first: u64, entries: &[Entry]) {
        for (index, entry) in (first as usize..).zip(entries) {
            match self.decided.get(index) {
                Some(known) => assert_eq!(known, entry, "{node:?}: one value at index {index}"),
                None => {
                    assert_eq!(self.decided.len(), index, "{node:?}: no index is left out");
                    self.decided.push(entry.clone());
                }
            }
        }
    }

    pub(crate) fn segment(&mut self, node: StorageId, number: u64, hash: ChainHash) {
        let known = *self.segments.entry(number).or_insert(hash);
        assert_eq!(known, hash, "{node:?}: one seal ends segment {}", number - 1);
    }

    pub(crate) fn leads(&mut self, node: StorageId, term: Term) {
        let known = *self.leaders.entry(term).or_insert(node);
        assert_eq!(known, node, "one leader in {term:?}");
    }

    pub(crate) fn asked(&mut self, node: StorageId, request: RequestId, block: Option<Bytes>) {
        let covers = block.is_none().then_some(self.acknowledged);
        self.open.insert(request, (node, covers));
        if let Some(block) = block {
            self.blocks.insert(request, block);
        }
    }

    pub(crate) fn answered(&mut self, node: StorageId, answer: &Answer) {
        let request = match answer {
            Answer::Decided { request, .. }
            | Answer::ReadAt { request, .. }
            | Answer::Refused { request, .. }
            | Answer::Unknown { request } => *request,
        };
        let Some((asked, covers)) = self.open.remove(&request) else {
            panic!("{node:?}: {request:?} was answered twice: {answer:?}");
        };
        assert_eq!(asked, node);
        match answer {
            Answer::Decided { index, .. } => {
                self.answers += 1;
                self.acknowledged = self.acknowledged.max(index + 1);
            }
            Answer::ReadAt { index, .. } => {
                self.reads += 1;
                let covers = covers.expect("a read");
                assert!(*index >= covers, "a stale read: {index}, but {covers} was acknowledged");
            }
            Answer::Refused { refusal, .. } => {
                let refusal = match refusal {
                    ProposalRefusal::NotLeader(_) => "NotLeader".to_owned(),
                    ProposalRefusal::NotReady(_) => "NotReady".to_owned(),
                    other => format!("{other:?}"),
                };
                self.refusals.insert(refusal);
            }
            Answer::Unknown { .. } => self.unknown += 1,
        }
    }

    /// Checks that the acknowledged block is the one at that index; the entry was reported before.
    pub(crate) fn acknowledged_is(&self, request: RequestId, index: u64) {
        let Some(block) = self.blocks.get(&request) else { return };
        match self.decided.get(index as usize) {
            Some(Entry::Block(decided)) => assert_eq!(&decided[..], &block[..], "at {index}"),
            other => panic!("{request:?} was acknowledged at {index}, where {other:?} is"),
        }
    }

    /// Drops the requests to a node that crashed: they get no answer.
    pub(crate) fn crashed(&mut self, node: StorageId) {
        self.open.retain(|_, (asked, _)| *asked != node);
    }

    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }
}
