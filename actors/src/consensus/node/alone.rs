//! What a data directory has from running alone, which becomes the first metadata of a cluster.
//!
//! Must always hold: reading changes nothing; what was read becomes part of the cluster in the same
//! step in which the node does, so that a crash leaves a node that runs alone or a cluster that has
//! everything. The entries stay in the directory's own log and rows.

use bytes::Bytes;
use forebay_engine::rules::{History, RuleBook};
use forebay_storage::metadata::{BlockingMetadata as _, LocalMetadata, MetaKey, Versioned};
use forebay_storage::{DataDir, Medium};

use crate::consensus::ClusterError;
use crate::node::cores;
use crate::rules::stored::{book_len_max_of, history_parts};
use crate::table::PartitionTable;

use forebay_engine::metadata::COMMAND_BYTES_MAX;

/// What a directory that ran alone has.
pub(super) struct Alone {
    table: Bytes,
    book: Option<Bytes>,
    history: Option<Bytes>,
    aliases: Option<Bytes>,
}

/// Reads a directory; `None` if no runtime has used it. Blocks.
pub(super) fn read(dir: &DataDir) -> Result<Option<Alone>, ClusterError> {
    let path = dir.metadata();
    if !path.is_dir() {
        return Ok(None);
    }
    let own = LocalMetadata::open(&path, &Medium::disk())?;
    let value = |found: Option<Versioned>| found.map(|found| found.value);
    let Some(table) = value(own.get(&MetaKey::partition_table())?) else { return Ok(None) };
    Ok(Some(Alone {
        table,
        book: value(own.get(&MetaKey::rule_book())?),
        history: value(own.get(&MetaKey::rule_book_history())?),
        aliases: value(own.get(&MetaKey::aliases())?),
    }))
}

/// The first keys of a cluster: what ran alone, or the partition table of a new one.
pub(super) fn first_keys(
    alone: Option<&Alone>,
    partitions: Option<u32>,
) -> Result<Vec<(MetaKey, Bytes)>, ClusterError> {
    let Some(Alone { table, book, history, aliases }) = alone else {
        let table = PartitionTable::equal(partitions.unwrap_or_else(cores));
        return Ok(vec![(MetaKey::partition_table(), table.encoded())]);
    };
    let refused =
        |error: String| ClusterError::Refused(format!("nothing was provisioned: {error}"));
    let decoded = PartitionTable::decoded(table.clone());
    let found = decoded.map_err(|error| refused(error.to_string()))?.rows.len();
    if let Some(wanted) = partitions.filter(|wanted| *wanted as usize != found) {
        return Err(refused(format!(
            "the data directory has {found} partitions, {wanted} were asked for: leave the number \
             out, or ask for {found}"
        )));
    }
    let mut keys = vec![(MetaKey::partition_table(), table.clone())];
    if let Some(book) = book {
        RuleBook::decode(book).map_err(|error| refused(error.to_string()))?;
        let (len, len_max) = (book.len(), book_len_max_of(COMMAND_BYTES_MAX));
        if len > len_max {
            return Err(refused(format!(
                "the rule book has {len} bytes, in a cluster at most {len_max} are possible: \
                 shorten descriptions, or use fewer rules"
            )));
        }
        keys.push((MetaKey::rule_book(), book.clone()));
    }
    if let Some(history) = history {
        let history = History::decode(history).map_err(|error| refused(error.to_string()))?;
        keys.extend(history_parts(&history));
    }
    keys.extend(aliases.iter().map(|aliases| (MetaKey::aliases(), aliases.clone())));
    Ok(keys)
}
