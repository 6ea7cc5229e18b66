//! Batches whose entries succeed or fail separately.

use std::{collections::BTreeMap, sync::Arc};

use forebay_actors::error::NodeError as Cause;
use forebay_engine::partition::{apply::Reply, machine::Answer};
use forebay_messages::{
    PartitionId,
    command::{Command, EnqueueBatch, NewEntry},
};

use super::{BATCH_LEN_MAX, Runtime, Share};
use crate::{
    client::{Entry, EntryHandle},
    error::EnqueueError,
};

/// What became of one entry of a batch. Entries of one partition that were refused together share
/// the error.
pub type EachEnqueued = Result<EntryHandle, Arc<EnqueueError>>;

impl Runtime {
    /// As [`Runtime::enqueue_batch`], but an entry that is refused does not affect entries of other
    /// partitions, and an invalid one affects no other: each has its own result, in the order of
    /// the entries.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, Runtime};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let entries = vec![Entry::to("mail"), Entry::to("not a service"), Entry::to("mail")];
    /// let stored = runtime.enqueue_each(entries).await;
    /// assert!(stored[0].is_ok() && stored[1].is_err() && stored[2].is_ok());
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Not cancel-safe: a dropped call may have stored some of the shares.
    pub async fn enqueue_each(&self, entries: Vec<Entry>) -> Vec<EachEnqueued> {
        let count = entries.len();
        if count > BATCH_LEN_MAX {
            let error = Arc::new(EnqueueError::BatchTooLarge { count, count_max: BATCH_LEN_MAX });
            return vec![Err(error); count];
        }
        let mut results: Vec<Option<EachEnqueued>> = vec![None; count];
        let mut shares: BTreeMap<PartitionId, Share> = BTreeMap::new();
        for (place, entry) in entries.into_iter().enumerate() {
            match self.placed(entry) {
                Ok((partition, entry)) => {
                    let share = shares.entry(partition).or_insert_with(|| Share::with_capacity(1));
                    share.places.push(place);
                    share.entries.push(entry);
                }
                Err(error) => results[place] = Some(Err(Arc::new(error))),
            }
        }
        let stored = shares.into_values().map(|share| self.store_share(share));
        for share in futures_util::future::join_all(stored).await {
            for (place, result) in share {
                results[place] = Some(result);
            }
        }
        results.into_iter().flatten().collect()
    }

    fn placed(&self, entry: Entry) -> Result<(PartitionId, NewEntry), EnqueueError> {
        let entry = self.finish(entry)?;
        let partition = self.node.access().routing_table().owner(entry.id.partition_key)?;
        Ok((partition, entry))
    }

    /// Stores the entries for one partition, all or none.
    async fn store_share(&self, share: Share) -> Vec<(usize, EachEnqueued)> {
        let Share { places, entries } = share;
        let weight = entries.iter().map(|entry| entry.payload.len()).sum();
        let key = entries[0].id.partition_key;
        let command = Command::EnqueueBatch(EnqueueBatch { entries });
        let error = match self.node.access().propose(key, command, weight).await {
            Ok(Answer::Reply(Reply::EnqueuedBatch(stored))) => {
                let node = Arc::new(Arc::downgrade(&self.node));
                let handles =
                    stored.into_iter().map(|stored| Ok(EntryHandle::of(Arc::clone(&node), stored)));
                return places.into_iter().zip(handles).collect();
            }
            Ok(other) => Cause::unexpected(other).into(),
            Err(error) => EnqueueError::from(error),
        };
        let error = Arc::new(error);
        places.into_iter().map(|place| (place, Err(Arc::clone(&error)))).collect()
    }
}
