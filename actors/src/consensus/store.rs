//! The metadata of a cluster, behind the port that a node's rules, aliases and partition table use.
//!
//! Must always hold: an error says whether the change may have been made. Must not know: what the
//! keys mean.

use std::time::Duration;

use forebay_engine::metadata::{COMMAND_BYTES_MAX, Change as Wanted, Expected, Row};
use forebay_storage::metadata::{
    Change, KeyWrite, MetaKey, MetadataError, MetadataFuture, MetadataStore, OnChange,
    Precondition, Version, Versioned, Watch,
};

use super::client::Metadata;
use super::error::MetadataCallError;

/// How long a call tries to reach a leader.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// The metadata of a cluster as a [`MetadataStore`].
pub struct ClusterStore {
    metadata: Metadata,
    within: Duration,
}

impl ClusterStore {
    /// Calls fail after ten seconds without an answer.
    #[must_use]
    pub fn new(metadata: Metadata) -> Self {
        Self { metadata, within: CALL_WITHIN }
    }

    /// Calls fail after this time without an answer.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

fn versioned(row: Option<Row>) -> Option<Versioned> {
    let Row { version, value } = row?;
    Some(Versioned { version: Version(version), value: value? })
}

fn failed(error: MetadataCallError) -> MetadataError {
    match error {
        MetadataCallError::OutcomeUnknown => MetadataError::OutcomeUnknown,
        MetadataCallError::Unavailable(why) => {
            MetadataError::Unavailable(format!("{why}; nothing was done, try again"))
        }
        MetadataCallError::NotProvisioned => MetadataError::Unavailable(error.to_string()),
        error => MetadataError::Refused(error.to_string()),
    }
}

fn wanted(write: &KeyWrite) -> Wanted {
    let expected = match write.precondition {
        Precondition::None => Expected::Anything,
        Precondition::DoesNotExist => Expected::Absent,
        Precondition::MatchesVersion(version) => Expected::Version(version.0),
    };
    Wanted { key: write.key.as_str().into(), value: write.value.clone(), expected }
}

impl MetadataStore for ClusterStore {
    fn get_all<'a>(&'a self, keys: &'a [MetaKey]) -> MetadataFuture<'a, Vec<Option<Versioned>>> {
        Box::pin(async move {
            if let [key] = keys {
                let row = self.metadata.get(key.as_str(), self.within).await.map_err(failed)?;
                return Ok(vec![versioned(row)]);
            }
            let texts: Vec<_> = keys.iter().map(MetaKey::as_str).collect();
            let rows = self.metadata.get_all(&texts, self.within).await.map_err(failed)?;
            Ok(rows.into_iter().map(versioned).collect())
        })
    }

    fn get_applied<'a>(&'a self, key: &'a MetaKey) -> MetadataFuture<'a, Option<Versioned>> {
        Box::pin(async move {
            Ok(versioned(self.metadata.get_applied(key.as_str()).await.map_err(failed)?))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> MetadataFuture<'a, Vec<(MetaKey, Versioned)>> {
        Box::pin(async move {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let listed = self.metadata.list(prefix, after.as_deref(), self.within);
                let listed = listed.await.map_err(failed)?;
                after = listed.rows.last().map(|(key, _)| key.clone()).filter(|_| listed.more);
                for (key, row) in listed.rows {
                    let key = MetaKey::new(key);
                    let key = key.map_err(|error| MetadataError::Refused(error.to_string()))?;
                    all.extend(versioned(Some(row)).map(|found| (key, found)));
                }
                if after.is_none() {
                    return Ok(all);
                }
            }
        })
    }

    fn put_all(&self, writes: Vec<KeyWrite>) -> MetadataFuture<'_, Vec<Version>> {
        Box::pin(async move {
            let changes = writes.iter().map(wanted).collect();
            match self.metadata.put_all(changes, self.within).await {
                Ok(versions) => Ok(versions.into_iter().map(Version).collect()),
                Err(MetadataCallError::Conflict { key, found }) => {
                    let write = writes.into_iter().find(|write| write.key.as_str() == key);
                    let Some(KeyWrite { key, precondition: expected, .. }) = write else {
                        return Err(MetadataError::OutcomeUnknown);
                    };
                    let found = found.map(Version);
                    Err(MetadataError::PreconditionFailed { key, expected, found })
                }
                Err(error) => Err(failed(error)),
            }
        })
    }

    fn watch<'a>(&'a self, key: &'a MetaKey, on_change: OnChange) -> MetadataFuture<'a, Watch> {
        let reported = key.clone();
        let on_row = move |row: &Row| {
            let (key, version) = (reported.clone(), Version(row.version));
            on_change(&Change { key, version, value: row.value.clone() });
        };
        Box::pin(async move {
            let watch = self.metadata.watch_now(key.as_str(), on_row).await.map_err(failed)?;
            Ok(Watch::new(key.clone(), watch))
        })
    }

    fn write_bytes_max(&self) -> usize {
        COMMAND_BYTES_MAX
    }

    fn is_shared(&self) -> bool {
        true
    }
}
