//! The output of the cluster commands.

use std::fmt::Write as _;

use forebay::{cluster::Recovery, control::cluster::ClusterView};

use crate::show::{
    format::{finish, table},
    safe,
};

use super::json;

/// The health in words, then the group, then the nodes.
pub(super) fn status_text(status: &ClusterView) -> String {
    let mut text = format!("{}\n", safe(&status.health));
    let address = status.address.as_deref().unwrap_or("-");
    let _ = writeln!(
        text,
        "node {}: {}, at {address}, storage {}, start {}",
        status.node, status.state, status.storage, status.boot
    );
    if let (Some(cluster), Some(incarnation)) = (&status.cluster, status.incarnation) {
        let format = status.format.map_or_else(String::new, |format| format!(", format {format}"));
        let _ = writeln!(text, "cluster {cluster}, incarnation {incarnation}{format}");
    }
    if let Some(group) = &status.group {
        let leader = group.leader.as_deref().unwrap_or("no node");
        let _ = writeln!(
            text,
            "metadata: {}, {leader} leads, segment {} from {}, decided {}, applied {}, accepted \
             {}, durable {}, {} bytes of log, {} bytes of metadata, {} elections",
            group.role,
            group.segment,
            group.base,
            group.decided,
            group.applied,
            group.accepted,
            group.durable,
            group.log_bytes,
            group.state_bytes,
            group.elections
        );
        if let Some(why) = &group.yielded {
            let _ = writeln!(text, "this node gave its leadership up: {why}");
        }
    }
    if status.format.is_some_and(|format| format < status.format_max) {
        let newest = status.format_max;
        let _ = writeln!(
            text,
            "this node knows format {newest}: run `forebay cluster finalize` when all nodes do"
        );
    }
    for refused in &status.refused {
        let _ = writeln!(text, "refused: {}: {}", safe(&refused.who), safe(&refused.why));
    }
    if let Some(days) = status.certificate_days.filter(|days| *days <= 30) {
        let _ = writeln!(text, "the certificate ends in {days} days: renew it");
    }
    if !status.nodes.is_empty() {
        text.push('\n');
        text.push_str(&nodes_text(status));
    }
    text
}

pub(super) fn nodes_text(status: &ClusterView) -> String {
    let mut table = table(&["NODE", "STATE", "CONNECTED", "LAG", "ADDRESS", "STORAGE"]);
    for node in &status.nodes {
        let connected = if node.is_connected { "yes" } else { "no" };
        let lag = node.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { safe(text) };
        table.add_row([
            node.name.clone(),
            if node.is_drained {
                format!("{}, drained", node.state)
            } else {
                node.state.to_string()
            },
            connected.to_owned(),
            lag,
            or_dash(&node.address),
            or_dash(&node.storage),
        ]);
    }
    let mut text = finish(&table, status.nodes.len(), "nodes");
    for node in &status.nodes {
        if let Some(error) = &node.error {
            let _ = writeln!(text, "{} is not reached: {}", node.name, safe(error));
        }
    }
    text
}

pub(super) fn recovery_text(
    recovery: &Recovery,
    as_json: bool,
) -> Result<String, serde_json::Error> {
    let (number, priority, pid) = recovery.round;
    if as_json {
        return json(&serde_json::json!({
            "cluster": format!("{:032x}", recovery.cluster),
            "incarnation": recovery.incarnation,
            "segment": recovery.segment,
            "round": [number, u64::from(priority), pid],
            "accepted": recovery.accepted,
            "decided": recovery.decided,
            "members": recovery.members,
            "is_done": recovery.is_done,
        }));
    }
    let mut text = format!(
        "cluster {:032x}, incarnation {}\nsegment {}, round {number}.{priority}.{pid}, accepted \
         {}, decided {}, members {}\n",
        recovery.cluster,
        recovery.incarnation,
        recovery.segment,
        recovery.accepted,
        recovery.decided,
        recovery.members.join(", ")
    );
    text.push_str(if recovery.is_done {
        "this node continues alone: start it; the others join with empty data directories\n"
    } else {
        "nothing was changed: compare this on all nodes that are left, take the greatest segment, \
         then round, then accepted, and repeat this there with --accept-data-loss\n"
    });
    Ok(text)
}
