//! Which node a command of the cluster asks: the one of a data directory, or one elsewhere.

use std::path::PathBuf;

use forebay::{
    cluster::RemoteNode,
    control::cluster::{Answer, ClusterView, Request, answers_within, ask},
};

use crate::args::{AtArgs, Global};

use super::ClusterCommandError;

/// A node that answers requests.
pub(super) enum Asked {
    /// Through the socket in its data directory.
    Here(PathBuf),
    /// Over the network.
    Remote(RemoteNode),
}

impl Asked {
    pub(super) async fn of(global: &Global, at: &AtArgs) -> Result<Self, ClusterCommandError> {
        match at.config() {
            None => Ok(Self::Here(global.data_dir.clone())),
            Some(config) => Ok(Self::Remote(RemoteNode::new(&config).await?)),
        }
    }

    /// Asks; a refusal is an error.
    pub(super) async fn ask(&self, request: Request) -> Result<Answer, ClusterCommandError> {
        let answer = match self {
            Self::Here(dir) => ask(dir, &request).await?,
            Self::Remote(node) => node.ask(&request, answers_within(&request)).await?,
        };
        match answer {
            Answer::Error { message, .. } => Err(ClusterCommandError::Refused(message)),
            answer => Ok(answer),
        }
    }

    pub(super) async fn status(&self) -> Result<Box<ClusterView>, ClusterCommandError> {
        match self.ask(Request::Status).await? {
            Answer::ClusterStatus { status } => Ok(status),
            _ => Err(ClusterCommandError::Strange),
        }
    }

    pub(super) async fn close(self) {
        if let Self::Remote(node) = self {
            node.close().await;
        }
    }
}
