//! The messages between partitions at the end of a run: none is left, and each was applied once and
//! in order.

use std::collections::BTreeMap;

use forebay::testkit::LogStore;
use forebay_messages::RecordSeq;

use super::world::{Node, World};

impl World {
    /// Checks that all outboxes are empty and, where the log has everything, that each partition
    /// applied what the others sent to it.
    pub(super) fn check_messages(&self) -> Result<(), String> {
        let Some((_, runtime)) = self.nodes.iter().find_map(Node::up) else { return Ok(()) };
        let (node, disk) = (runtime.node(), &self.nodes[0].disk);
        let partitions = node.partitions().ids();
        for id in &partitions {
            let left = node.inspect().outbox(*id).map_err(|error| error.to_string())?;
            if !left.is_empty() {
                return Err(format!("partition {id} has undelivered messages: {left:?}"));
            }
        }
        // An entry that was lost with its partition may have sent messages before.
        if self.plan.replaces_partitions()
            || partitions.iter().any(|id| disk.log().trimmed(*id).0 > 0)
        {
            return Ok(());
        }
        let (mut sent, mut received) = (BTreeMap::<_, Vec<RecordSeq>>::new(), BTreeMap::new());
        for id in &partitions {
            let replayed = disk.replay(*id).map_err(|error| error.to_string())?;
            for message in replayed.sent {
                let to = node.inspect().owner(message.to).map_err(|error| error.to_string())?;
                sent.entry((*id, to)).or_default().push(message.index);
            }
            // Other sources are clients of the simulation.
            let known = replayed.received.into_iter().filter(|(from, _)| partitions.contains(from));
            received.extend(known.map(|(from, indexes)| ((from, *id), indexes)));
        }
        match sent == received {
            true => Ok(()),
            false => Err(format!("sent: {sent:?}\nreceived: {received:?}")),
        }
    }
}
