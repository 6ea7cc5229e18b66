//! `forebay partitions`: the request, and the table.

use forebay::{PartitionId, PartitionView, ReplicaRole, control::Request};

use super::{
    args::{PartitionsArgs, PartitionsCommand},
    show::format::{finish, table},
};

/// The request of `forebay partitions …`.
pub(super) fn request(args: &PartitionsArgs) -> Request {
    match args.command {
        None => Request::Partitions,
        Some(PartitionsCommand::Lead { id }) => Request::Lead { partition: PartitionId(id) },
        Some(PartitionsCommand::StepDown { id, within }) => Request::StepDown {
            partition: PartitionId(id),
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        },
    }
}

/// The partitions, for display.
pub(super) fn partition_table(partitions: &[PartitionView]) -> String {
    let mut table = table(&[
        "PARTITION",
        "ROLE",
        "EPOCH",
        "APPLIED",
        "DURABLE",
        "LOG",
        "VQUEUES",
        "INBOX",
        "RUNNING",
        "PARKED",
        "FINISHED",
    ]);
    for partition in partitions {
        let role = if partition.role == ReplicaRole::Leader && !partition.open {
            "leader (closed)".to_owned()
        } else {
            partition.role.to_string()
        };
        table.add_row([
            partition.id.to_string(),
            role,
            partition.epoch.to_string(),
            partition.applied.to_string(),
            partition.durable.to_string(),
            format!("{}..{}", partition.log_first, partition.log_end),
            partition.vqueues.to_string(),
            partition.inbox.to_string(),
            partition.running.to_string(),
            partition.parked.to_string(),
            partition.finished.to_string(),
        ]);
    }
    let mut text = finish(&table, partitions.len(), "partitions");
    for partition in partitions {
        if let Some(reason) = &partition.stopped {
            text.push_str(&format!("partition {} stopped: {reason}\n", partition.id));
        }
    }
    text
}
