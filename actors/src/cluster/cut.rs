//! Cutting a node off from a shared log, for tests (feature `testkit`); without that feature
//! everything is connected, at no cost.

use forebay_messages::NodeId;

use crate::log_writer::LogHandle;

/// The nodes that are cut off.
#[derive(Default)]
pub(crate) struct Cuts {
    #[cfg(feature = "testkit")]
    nodes: std::sync::Arc<dashmap::DashMap<NodeId, ()>>,
}

#[cfg(not(feature = "testkit"))]
impl Cuts {
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) fn through(&self, _: NodeId, writer: LogHandle) -> LogHandle {
        writer
    }
}

#[cfg(feature = "testkit")]
impl Cuts {
    pub(crate) fn cut(&self, node: NodeId) {
        self.nodes.insert(node, ());
    }

    /// The writer as the node reaches it. Commands sent while the node is cut off are lost, as on
    /// a network.
    pub(crate) fn through(&self, node: NodeId, writer: LogHandle) -> LogHandle {
        use std::sync::Arc;

        use crate::{log_writer::LogCommand, shell::Ref};

        let cut = Arc::clone(&self.nodes);
        Ref::new(move |mut command: LogCommand| {
            if cut.contains_key(&node) && !matches!(command, LogCommand::Barrier(_)) {
                return true;
            }
            if let LogCommand::Subscribe(subscription) = &mut command {
                let (cut, to) = (Arc::clone(&cut), subscription.to.clone());
                subscription.to = Ref::new(move |input| cut.contains_key(&node) || to.send(input));
            }
            writer.send(command)
        })
    }
}
