//! `Enqueue` and `EnqueueBatch`: new entries into their inboxes.
//!
//! The same id, or the same idempotency key under the same service and scope, adds nothing: the
//! reply names the existing entry.
//!
//! Must always hold: if a backlog is full, nothing of the command is stored; an existing entry is
//! never refused.

use std::collections::BTreeSet;

use forebay_messages::{
    EntryId, VQueueName,
    command::{Enqueue, EnqueueBatch, NewEntry},
    journal::ParentLink,
};

use super::{
    super::{
        backlog::More,
        rows::{EntryExtra, EntryRow, IdempotencyKey, IdempotencyRow},
        state::NewKey,
        store::Tables,
    },
    ApplyError, Context, Enqueued, Reply,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Enqueue,
) -> Result<Reply, ApplyError> {
    if let Some(full) = refusal(context, std::slice::from_ref(&command.entry))? {
        return Ok(full);
    }
    Ok(Reply::Enqueued(put(context, &command.entry)?))
}

pub(super) fn apply_batch<T: Tables>(
    context: &mut Context<'_, T>,
    command: &EnqueueBatch,
) -> Result<Reply, ApplyError> {
    if let Some(full) = refusal(context, &command.entries)? {
        return Ok(full);
    }
    let mut replies = Vec::with_capacity(command.entries.len());
    for entry in &command.entries {
        replies.push(put(context, entry)?);
    }
    Ok(Reply::EnqueuedBatch(replies))
}

/// The row key of an idempotency key of this vqueue.
pub(super) fn idempotency_key(name: &VQueueName, key: &bytestring::ByteString) -> IdempotencyKey {
    let domain = VQueueName {
        service: name.service.clone(),
        scope: name.scope.clone(),
        ..VQueueName::default()
    };
    IdempotencyKey { domain: domain.id(Default::default()).hash, key: key.clone() }
}

/// Why these entries are refused, if a rule limits the backlog.
fn refusal<T: Tables>(
    context: &Context<'_, T>,
    entries: &[NewEntry],
) -> Result<Option<Reply>, ApplyError> {
    let Some(backlog) = &context.state.backlog else { return Ok(None) };
    let (mut ids, mut keys, mut more) = (BTreeSet::new(), BTreeSet::new(), More::new());
    for new in entries {
        // An entry that is stored already, or occurs earlier in the batch, adds nothing.
        let key = new.idempotency_key.as_ref().map(|key| idempotency_key(&new.vqueue, key));
        if let Some(key) = &key
            && (keys.contains(key) || context.tables.idempotency(key)?.is_some())
        {
            continue;
        }
        if ids.contains(&new.id) || (!new.is_fresh && is_known(context, new.id)?) {
            continue;
        }
        if let Some(full) = backlog.refusal(&new.vqueue, &more) {
            return Ok(Some(Reply::BacklogFull(Box::new(full))));
        }
        backlog.expect(&new.vqueue, &mut more);
        ids.insert(new.id);
        keys.extend(key);
    }
    Ok(None)
}

fn is_known<T: Tables>(context: &Context<'_, T>, id: EntryId) -> Result<bool, ApplyError> {
    Ok(context.tables.entry(id)?.is_some() || context.tables.finished(id)?.is_some())
}

fn put<T: Tables>(context: &mut Context<'_, T>, new: &NewEntry) -> Result<Enqueued, ApplyError> {
    if let Some(key) = &new.idempotency_key {
        let key = idempotency_key(&new.vqueue, key);
        if let Some(first) = context.tables.idempotency(&key)? {
            let hashes = first.payload_hash.zip(new.payload_hash);
            let payload_differs = hashes.map(|(stored, asked)| stored != asked);
            return Ok(Enqueued { entry: first.entry, existing: true, payload_differs });
        }
    }
    if !new.is_fresh && is_known(context, new.id)? {
        return Ok(Enqueued { entry: new.id, existing: true, payload_differs: None });
    }
    if let Some(key) = &new.idempotency_key {
        let key = idempotency_key(&new.vqueue, key);
        let row = IdempotencyRow { entry: new.id, payload_hash: new.payload_hash };
        context.tables.put_idempotency(key, row);
    }
    store(context, new, None)?;
    Ok(Enqueued { entry: new.id, existing: false, payload_differs: Some(false) })
}

/// Stores a child that does not exist: it has no idempotency key.
pub(super) fn put_child<T: Tables>(
    context: &mut Context<'_, T>,
    new: &NewEntry,
    parent: &ParentLink,
) -> Result<(), ApplyError> {
    let parent = Some(Box::new(parent.clone()));
    store(context, new, Some(Box::new(EntryExtra { parent, ..EntryExtra::default() })))
}

/// Writes the rows of an entry that does not exist.
fn store<T: Tables>(
    context: &mut Context<'_, T>,
    new: &NewEntry,
    extra: Option<Box<EntryExtra>>,
) -> Result<(), ApplyError> {
    let vqueue = new.vqueue.id_for(new.id);
    let mut row = EntryRow {
        vqueue,
        created_at: context.now,
        retry: new.retry,
        retention_ms: new.retention_ms,
        idempotency_key: new.idempotency_key.clone(),
        extra,
        ..EntryRow::default()
    };
    let key = NewKey { entry: new.id, run_at: new.run_at, has_lock: false };
    context.enter_inbox(&mut row, key);
    if new.is_fresh {
        context.tables.put_new_entry(new.id, row);
    } else {
        context.tables.put_entry(new.id, row);
    }
    context.tables.put_payload(new.id, new.payload.clone());
    context.count_new(vqueue, &new.vqueue)
}
