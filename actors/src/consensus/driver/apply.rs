//! Applying decided entries, and the snapshots at the beginning of segments.

use std::sync::PoisonError;

use forebay_engine::cluster::{Base, NODES_KEY, NodesConfig};
use forebay_engine::consensus::{Entry, Input, Segment};
use forebay_engine::metadata::{Snapshot, decode_block};
use forebay_storage::consensus::ConsensusError;

use crate::consensus::ClusterError;

use super::{Driver, Ended, Event};

impl Driver {
    pub(super) fn decided(&mut self, first: u64, entries: Vec<Entry>) {
        let mut changed = Vec::new();
        for (index, entry) in (first..).zip(entries) {
            // Sealed entries were applied before the group was opened.
            if index >= self.applied
                && let Entry::Block(block) = entry
            {
                let commands = match decode_block(block) {
                    Ok(commands) => commands,
                    Err(error) => {
                        let error = ClusterError::Block { index, reason: error.to_string() };
                        self.ended = Some(Ended::Failed(error));
                        return;
                    }
                };
                let apply = |command| self.state.apply(index, command, &mut changed);
                let outcomes = commands.iter().map(apply).collect();
                self.waiting.applied(index, outcomes);
            }
            self.applied = self.applied.max(index + 1);
        }
        if changed.iter().any(|one| one.key == NODES_KEY) {
            self.read_nodes();
        }
        self.parts.watches.notify(&changed);
        self.inputs.push_back(Input::Applied { index: self.applied });
    }

    /// Takes over the configuration of the nodes from the state.
    pub(super) fn read_nodes(&mut self) {
        let value = self.state.get(NODES_KEY).and_then(|row| row.value.clone());
        match value.map(NodesConfig::decode) {
            Some(Ok(nodes)) => self.set_nodes(nodes),
            Some(Err(error)) => {
                let reason = format!("the configuration of the nodes: {error}");
                let error = ClusterError::Block { index: self.applied, reason };
                self.ended = Some(Ended::Failed(error));
            }
            None => self.set_nodes(NodesConfig::default()),
        }
    }

    /// A segment began: the state, which has everything before it, is written.
    pub(super) fn rolled(&mut self, segment: Segment) {
        let members: Vec<_> =
            segment.members.iter().map(|member| member.name.to_string()).collect();
        let (number, base, members) = (segment.number, segment.base, members.join(", "));
        let text = format!("segment {number} begins at {base} with the members {members}");
        self.parts.events.note("segment", Some(number), text);
        assert_eq!(segment.base, self.applied, "everything before a segment is applied");
        let (cluster, incarnation) = (self.cluster, self.incarnation);
        let state = self.state.clone();
        self.next_base = Some(Snapshot { cluster, incarnation, segment, state });
        self.write_base();
    }

    fn write_base(&mut self) {
        if self.is_writing {
            return;
        }
        let Some(snapshot) = self.next_base.take() else { return };
        self.is_writing = true;
        let (bases, events) = (self.parts.bases.clone(), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let (segment, end) = (snapshot.segment.number, snapshot.segment.base);
            let written = bases.write(&snapshot).map(|bytes| Base { segment, bytes });
            let _ = events.send(Event::BaseWritten(end, written));
        });
    }

    /// Drops entries that the snapshot contains.
    pub(super) fn base_written(&mut self, end: u64, written: Result<Base, ConsensusError>) {
        self.is_writing = false;
        match written {
            Ok(base) => {
                self.base_error = None;
                *self.parts.base.lock().unwrap_or_else(PoisonError::into_inner) = base;
                self.step(Input::DropBelow { index: end });
            }
            Err(error) => {
                self.warn("snapshot", format!("no snapshot was written: {error}"));
                self.base_error = Some(error.to_string());
            }
        }
        self.write_base();
    }
}
