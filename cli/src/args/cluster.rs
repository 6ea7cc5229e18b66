//! `node`, `cluster`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use forebay::cluster::RemoteConfig;

use super::{ValueError, values::seconds};

/// Run a node of a cluster: it takes part in the metadata and keeps entries, but runs no handlers
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// Its name, which is also in its certificate: lower-case letters, digits and `-`
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// Where it listens. Without --tls only loopback addresses can be used
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// Where the other nodes reach it, if that is another address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Another node. Needed until this one has joined, and when addresses have changed; repeat it
    /// for each
    #[arg(long = "peer", value_name = "NAME=HOST:PORT", value_parser = peer)]
    pub(crate) peers: Vec<(String, String)>,
    /// Directory with ca.pem, cert.pem and key.pem, as `forebay cluster init-tls` makes it
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: Option<PathBuf>,
    /// Partitions of a new cluster, if this node provisions it [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) partitions: Option<u32>,
    /// A member that was not reached for this time is replaced by a standby [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub(crate) dead_after: Option<Duration>,
}

fn peer(text: &str) -> Result<(String, String), ValueError> {
    let (name, address) = text.split_once('=').ok_or_else(|| ValueError::Peer(text.to_owned()))?;
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match has_port && !name.is_empty() {
        true => Ok((name.to_owned(), address.to_owned())),
        false => Err(ValueError::Peer(text.to_owned())),
    }
}

/// Make a cluster of several nodes, look at it, and change its nodes
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// Which node is asked.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AtArgs {
    /// Ask this node instead of the one that runs with --data-dir
    #[arg(long = "node", global = true, value_name = "NAME=HOST:PORT", value_parser = peer)]
    pub(crate) asked: Option<(String, String)>,
    /// With --node: a directory with ca.pem, cert.pem and key.pem of the cluster's authority, made
    /// for a name that no node has. Without it only loopback addresses can be asked
    #[arg(long, global = true, value_name = "DIR", requires = "asked")]
    pub(crate) tls: Option<PathBuf>,
}

impl AtArgs {
    /// How the node is reached, if one is named.
    pub(crate) fn config(&self) -> Option<RemoteConfig> {
        let (node, address) = self.asked.clone()?;
        Some(RemoteConfig { node, address, tls: self.tls.clone() })
    }
}

/// An action on a cluster. All but `init-tls` and `recover` ask the node that runs with
/// `--data-dir`, or the one of `--node`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ClusterCommand {
    /// Make certificates: an authority, unless it is there, and a directory per node
    InitTls {
        /// Where; `ca-key.pem` in it must not get to the nodes
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// A node to make a certificate for; repeat it for each
        #[arg(long = "node", value_name = "NAME", required = true)]
        nodes: Vec<String>,
        /// Days for which the certificates are valid
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Make a cluster of the node and its peers; done once
    Provision {
        #[command(flatten)]
        at: AtArgs,
        /// A peer that is not there yet; repeat it for each
        #[arg(long = "peer-absent", value_name = "NAME")]
        absent: Vec<String>,
        /// How long to wait until the peers are members
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "30s")]
        within: Duration,
    },
    /// Show whether the cluster is well, and how far its nodes are. Exit code 1: it is not
    Status {
        #[command(flatten)]
        at: AtArgs,
    },
    /// List the nodes
    Nodes {
        #[command(flatten)]
        at: AtArgs,
    },
    /// Remove a node: it is no member any more, and joins again only with an empty data directory
    Remove {
        #[command(flatten)]
        at: AtArgs,
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        /// How long to wait until it is no member
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "30s")]
        within: Duration,
    },
    /// Let a member lead a log
    Transfer {
        #[command(flatten)]
        at: AtArgs,
        /// The log: `metadata` is the one there is
        #[arg(value_name = "LOG")]
        of: String,
        /// The member
        #[arg(value_name = "NODE")]
        node: String,
        /// How long to wait until it leads
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
        within: Duration,
    },
    /// Let a node lead nothing, before it is stopped or worked on. It stays a member
    Drain {
        #[command(flatten)]
        at: AtArgs,
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        /// How long to wait until it leads nothing
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "30s")]
        within: Duration,
    },
    /// Let a drained node lead again
    Undrain {
        #[command(flatten)]
        at: AtArgs,
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        /// How long to try
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
        within: Duration,
    },
    /// After all nodes have a newer forebay: use its formats. There is no way back
    Finalize {
        #[command(flatten)]
        at: AtArgs,
        /// How long to try
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
        within: Duration,
    },
    /// Show what happened on the node since it started
    Events {
        #[command(flatten)]
        at: AtArgs,
        /// Show later ones, too, until interrupted
        #[arg(long)]
        follow: bool,
    },
    /// After a majority was lost: show how far the stopped node in --data-dir is, or let it
    /// continue alone
    Recover {
        /// The node's name
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Continue with this node alone. Decisions of the others that this one lacks are lost;
        /// the others join again with empty data directories
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Read a key of the metadata, as the last acknowledged change left it
    Get {
        #[command(flatten)]
        at: AtArgs,
        /// The key
        #[arg(value_name = "KEY")]
        key: String,
        /// How long to try
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
        within: Duration,
    },
    /// List the keys of the metadata
    Keys {
        #[command(flatten)]
        at: AtArgs,
        /// Only keys that begin with this
        #[arg(value_name = "PREFIX", default_value = "")]
        prefix: String,
        /// How long to try
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
        within: Duration,
    },
    /// Show the value of a key of the metadata and every later one, until interrupted
    Watch {
        #[command(flatten)]
        at: AtArgs,
        /// The key
        #[arg(value_name = "KEY")]
        key: String,
        /// Only versions after this one
        #[arg(long, value_name = "VERSION", default_value_t = 0)]
        after: u64,
    },
    /// Write a key of the metadata, or delete it
    Put {
        #[command(flatten)]
        at: AtArgs,
        /// The key
        #[arg(value_name = "KEY")]
        key: String,
        /// The value; without one the key is deleted
        #[arg(value_name = "VALUE")]
        value: Option<String>,
        /// Only if the key has a value of this version; 0: only if it has none
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
        /// How long to try
        #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
        within: Duration,
    },
}

impl ClusterCommand {
    /// Which node it asks; the one of the data directory where that makes no difference.
    pub(crate) fn at(&self) -> AtArgs {
        match self {
            Self::InitTls { .. } | Self::Recover { .. } => AtArgs::default(),
            Self::Provision { at, .. }
            | Self::Status { at }
            | Self::Nodes { at }
            | Self::Remove { at, .. }
            | Self::Transfer { at, .. }
            | Self::Drain { at, .. }
            | Self::Undrain { at, .. }
            | Self::Finalize { at, .. }
            | Self::Events { at, .. }
            | Self::Get { at, .. }
            | Self::Keys { at, .. }
            | Self::Watch { at, .. }
            | Self::Put { at, .. } => at.clone(),
        }
    }
}
