//! Everything known about one entry, for display.
//!
//! Must always hold: inspection changes nothing; an answer has a bounded number of bytes, whatever
//! clients stored.

use forebay_api::{DETAIL_BYTES_MAX, EntryDetails, FailedAttemptView};
use forebay_engine::partition::rows::{EntryRow, FailedAttempt, FinishedRow};
use forebay_messages::{EntryId, Outcome};
use forebay_storage::partition::BytesHead;

use crate::{error::NodeError, peers::ReplicaRows};

use super::{
    Inspect,
    query::{bytes_view, name_of, view_finished, view_live},
};

fn failed_view(failed: &FailedAttempt) -> FailedAttemptView {
    let FailedAttempt { number, started_at, ended_at, text } = failed;
    let (started_at, ended_at) = (started_at.0, ended_at.0);
    FailedAttemptView { number: *number, started_at, ended_at, text: text.to_string() }
}

fn live(id: EntryId, row: &EntryRow, of: &ReplicaRows) -> Result<EntryDetails, NodeError> {
    Ok(EntryDetails {
        entry: view_live(id, row, &name_of(of, row.vqueue)?),
        failed_attempts: row.failures().iter().map(failed_view).collect(),
        detail: None,
        retry: row.retry.unwrap_or_default().into(),
        idempotency_key: row.idempotency_key.as_ref().map(ToString::to_string),
        retention_ms: row.retention_ms,
        expires_at: None,
        cancel_requested: row.cancel_requested,
        interrupted: row.interrupted,
    })
}

fn ended(
    id: EntryId,
    row: &FinishedRow,
    of: &ReplicaRows,
    bytes_max: usize,
) -> Result<EntryDetails, NodeError> {
    let mut entry = view_finished(id, row, &name_of(of, row.vqueue)?);
    let mut detail = None;
    match row.outcome() {
        Outcome::Success(bytes) => {
            entry.result = Some(bytes_view(BytesHead::of(&bytes, bytes_max)))
        }
        Outcome::Failure(failure) if failure.detail.is_empty() => {}
        Outcome::Failure(failure) => {
            detail = Some(bytes_view(BytesHead::of(&failure.detail, bytes_max)));
        }
    }
    Ok(EntryDetails {
        entry,
        failed_attempts: row.failures().iter().map(failed_view).collect(),
        detail,
        retry: row.retry.unwrap_or_default().into(),
        idempotency_key: row.idempotency_key.as_ref().map(ToString::to_string),
        retention_ms: row.retention_ms,
        expires_at: Some(row.expires_at.0).filter(|at| *at < forebay_messages::Timestamp::MAX.0),
        cancel_requested: false,
        interrupted: 0,
    })
}

fn details(
    partition: &ReplicaRows,
    id: EntryId,
    bytes_max: usize,
) -> Result<Option<EntryDetails>, NodeError> {
    let store = &partition.store;
    let mut found = match (store.entry(id)?, store.finished(id)?) {
        (Some(row), _) => live(id, &row, partition)?,
        (None, Some(row)) => ended(id, &row, partition, bytes_max)?,
        (None, None) => return Ok(None),
    };
    let payload = store.payload(id)?;
    found.entry.payload = payload.map(|payload| bytes_view(BytesHead::of(&payload, bytes_max)));
    Ok(Some(found))
}

impl Inspect {
    /// Everything known about an entry, with at most `bytes_max` bytes of its payload and of its
    /// result (never more than [`DETAIL_BYTES_MAX`]); `None` when there is no such entry.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When a read fails or no partition owns its key.
    pub async fn entry_details(
        &self,
        id: EntryId,
        bytes_max: usize,
    ) -> Result<Option<EntryDetails>, NodeError> {
        let partition = self.registry.newest_rows(self.registry.route(id.partition_key)?)?;
        let bytes_max = bytes_max.min(DETAIL_BYTES_MAX);
        self.registry.blocking(move || details(&partition, id, bytes_max)).await?
    }
}
