//! Answering requests about promises, trees and journals.

use forebay_actors::{error::NodeError, node::Node};
use forebay_messages::journal::{JournalFailureKind, JournalOutcome};

use super::{Request, Response, act::view_act};

/// Answers a request for a promise or a tree; other requests are answered elsewhere.
pub(super) async fn answer(node: &Node, request: Request) -> Result<Response, NodeError> {
    match request {
        Request::Tree { entry } => {
            let tree = node.inspect().tree(entry).await?;
            Ok(Response::Tree { tree: tree.ok_or(NodeError::UnknownEntry(entry))? })
        }
        Request::Resolve { entry, name, value, reject } => {
            let outcome = match &reject {
                Some(reason) => JournalOutcome::failure(JournalFailureKind::Rejected, reason),
                None => JournalOutcome::Success(value.to_string().into()),
            };
            node.access().settle_promise(entry, &name, outcome).await?;
            Ok(Response::Resolved { entry, name, is_rejected: reject.is_some() })
        }
        Request::RestartFrom { entry, operation } => {
            let report = node.access().restart_from(entry, &operation).await?;
            Ok(Response::Acted { report: view_act(false, &report) })
        }
        other => Err(NodeError::Unexpected(format!("{other:?} is answered elsewhere"))),
    }
}
