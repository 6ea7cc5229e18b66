//! Rows of a node's consensus groups, in the database of its log: one sync for all groups.
//!
//! Owns: consensus rows and their keys (`keys.rs` has the table), the identity of the data
//! directory, and the thread that syncs (`writer.rs`). Must always hold: when [`Groups::commit`]
//! returns, its writes are durable, and all or none of them survive a crash; a missing or damaged
//! row is an error that names group and index; a start is counted durably before anything else is
//! done with the groups. Must not know: the content of a block, which node leads, networks.
//!
//! A node that runs alone has no such rows and no cost.

mod base;
mod error;
mod group;
mod identity;
mod keys;
mod load;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use forebay_engine::consensus::{GroupRows, Recovered, Row, Segment, Write};
use rocksdb::WriteBatch;

use crate::{
    DataDir,
    dir::CONSENSUS_FORMAT,
    log::{Database, LocalLog},
    sync,
};

use group::Group;

pub use base::Bases;
pub use error::ConsensusError;
pub use identity::{Node, Start};
pub use writer::{Listener, Writer};

/// Writes of one group.
#[derive(Clone, Debug)]
pub struct GroupWrites<'a> {
    /// The group.
    pub group: u32,
    /// The writes of its machine, in order.
    pub writes: &'a [Write],
}

/// The consensus groups of a node on its disk.
#[derive(Debug)]
pub struct Groups {
    database: Arc<Database>,
    node: Node,
    /// The durable state of every group. Changed only while holding the right to write.
    groups: Mutex<BTreeMap<u32, Group>>,
}

impl Groups {
    /// Begins a start of the node: counts the boot and stores the nonce durably before it returns.
    /// The first start of a data directory gives it its identity and raises its format, so that an
    /// older forebay refuses it from then on. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError`].
    pub fn start(dir: &DataDir, log: &LocalLog, start: &Start<'_>) -> Result<Self, ConsensusError> {
        let database = Arc::clone(log.database());
        database.finish_writes()?;
        dir.raise_format(CONSENSUS_FORMAT).map_err(ConsensusError::from_open)?;
        let node = identity::next(&database, start)?;
        let groups = load::groups(&database)?;
        let mut batch = WriteBatch::default();
        batch.put(keys::IDENTITY, node.encode());
        database.begin()?.write(batch, "count the start of the node")?;
        Ok(Self { database, node, groups: Mutex::new(groups) })
    }

    /// The identity of this node in this start.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The groups with rows in this data directory.
    #[must_use]
    pub fn groups(&self) -> Vec<u32> {
        sync::lock(&self.groups).keys().copied().collect()
    }

    /// Begins a group with a segment: a new group, or one whose applied state was copied from a
    /// peer. Deletes its earlier rows, except those about peers. Durable when it returns. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError::Log`].
    pub fn begin_group(
        &self,
        number: u32,
        segment: Segment,
        votes: bool,
    ) -> Result<(), ConsensusError> {
        let mut writing = self.database.begin()?;
        let mut batch = WriteBatch::default();
        let group = Group::begin(number, segment, votes, &mut batch);
        writing.write(batch, "begin a consensus group")?;
        sync::lock(&self.groups).insert(number, group);
        Ok(())
    }

    /// Writes everything in one sync: all of it is durable and can be read when it returns. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError::Log`]. Then every group of this node must stop, and later writes fail:
    /// only the next start shows whether these writes are on disk.
    ///
    /// # Panics
    /// On writes that do not continue the rows of the group, which is a bug of its machine.
    pub fn commit(&self, all: &[GroupWrites<'_>]) -> Result<(), ConsensusError> {
        let mut writing = self.database.begin()?;
        let mut batch = WriteBatch::default();
        let mut staged: BTreeMap<u32, Group> = BTreeMap::new();
        let mut dropped = Vec::new();
        for GroupWrites { group: number, writes } in all {
            let known = || self.group(*number).expect("the group has begun here");
            let group = staged.entry(*number).or_insert_with(known);
            for write in *writes {
                dropped.extend(group.stage(write, &mut batch));
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        writing.log(batch, "write consensus rows")?;
        sync::lock(&self.groups).extend(staged);
        drop(writing);
        for (first, end) in dropped {
            load::drop_files(&self.database, &first, &end)?;
        }
        Ok(())
    }

    /// Puts the last commit into the database. The writer does this after it has answered, and
    /// every read does it first.
    ///
    /// # Errors
    /// [`ConsensusError::Log`].
    pub fn finish_writes(&self) -> Result<(), ConsensusError> {
        Ok(self.database.finish_writes()?)
    }

    /// The data from which [`Group`](forebay_engine::consensus::Group) is opened.
    ///
    /// # Errors
    /// [`ConsensusError::Damaged`], [`ConsensusError::Newer`], [`ConsensusError::NoGroup`],
    /// [`ConsensusError::Log`].
    pub fn recover(&self, number: u32) -> Result<Recovered, ConsensusError> {
        self.database.finish_writes()?;
        let group = self.group(number)?;
        load::recover(&self.database, number, &group)
    }

    /// Rows from `first` to `end` (exclusive), at most `bytes_max` bytes but at least one row: for
    /// a peer that copies, and for a driver that has not applied them. Each row is checked to
    /// continue the running hash of the row before it.
    ///
    /// # Errors
    /// [`ConsensusError::Gone`] when the segment of `first` was dropped;
    /// [`ConsensusError::Damaged`], [`ConsensusError::NoGroup`], [`ConsensusError::Log`].
    pub fn read(
        &self,
        number: u32,
        first: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Row>, ConsensusError> {
        self.database.finish_writes()?;
        let group = self.group(number)?;
        let rows = load::rows(&self.database, number, &group, first, end, bytes_max);
        let oldest = self.group(number)?.base();
        match rows {
            // The segment was dropped during the read.
            Err(ConsensusError::Damaged { .. }) if oldest > first => {
                Err(ConsensusError::Gone { group: number, index: first, oldest })
            }
            rows => rows,
        }
    }

    fn group(&self, number: u32) -> Result<Group, ConsensusError> {
        let known = sync::lock(&self.groups).get(&number).cloned();
        known.ok_or(ConsensusError::NoGroup { group: number })
    }

    /// After a lost quorum, continues the group with this node alone and everything it accepted.
    /// See [`GroupRows::continue_alone`]. Blocks.
    ///
    /// # Errors
    /// As [`Self::recover`] and [`Self::commit`].
    pub fn continue_alone(&self, number: u32) -> Result<(), ConsensusError> {
        let writes = GroupRows::alone(&self.recover(number)?, self.node.member());
        self.commit(&[GroupWrites { group: number, writes: &writes }])?;
        self.finish_writes()
    }
}
