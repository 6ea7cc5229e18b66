//! `forebay status`, for display.

use std::{fmt::Write as _, time::Duration};

use forebay::control::NodeView;

use super::format::{table, time};

/// Milliseconds from which on a partition's time is shown as ahead of the wall clock.
const AHEAD_SHOWN_MS: u64 = 1_000;

pub(super) fn status(node: &NodeView) -> String {
    let mut text = match node.pid {
        Some(pid) => {
            format!("forebay {} (process {pid}), {} handlers running\n", node.version, node.running)
        }
        None => format!(
            "forebay {}: no process has the data directory open, so nothing runs\n",
            node.version
        ),
    };
    let columns =
        ["PARTITION", "ROLE", "EPOCH", "APPLIED", "LOG END", "ACTIVE VQUEUES", "WAITING", "STALE"];
    let mut table = table(&columns);
    for partition in &node.partitions {
        table.add_row([
            partition.id.to_string(),
            // Without a process the partition is only led during this request.
            if node.pid.is_some() { partition.role.to_string() } else { "-".to_owned() },
            partition.epoch.to_string(),
            partition.applied.to_string(),
            partition.log_end.to_string(),
            partition.active_vqueues.to_string(),
            partition.waiting_vqueues.to_string(),
            partition.stale.to_string(),
        ]);
    }
    let _ = writeln!(text, "{}", table.trim_fmt());
    for partition in &node.partitions {
        if let Some(reason) = &partition.stopped {
            let _ = writeln!(text, "partition {} stopped: {reason}", partition.id);
        }
        if partition.ahead_ms >= AHEAD_SHOWN_MS {
            let ahead = Duration::from_secs(partition.ahead_ms / 1_000);
            let _ = writeln!(
                text,
                "partition {}: its time is {ahead:?} ahead of this machine's clock, which was \
                 set back; entries with an explicit start time may start early by as much",
                partition.id
            );
        }
    }
    for unserved in &node.unserved {
        let at_least = if unserved.has_more { "at least " } else { "" };
        let waiting = match unserved.entries {
            1 => "1 entry waits".to_owned(),
            entries => format!("{entries} entries wait"),
        };
        let _ = writeln!(
            text,
            "service {}: no handler here, {at_least}{waiting} since {}; register one, or see \
             `forebay alias`",
            unserved.service,
            time(unserved.since)
        );
    }
    text
}
