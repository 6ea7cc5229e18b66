//! `serve`, `token`.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Subcommand};
use forebay::control::TokenRole;

use super::values::seconds;

/// Shortest and longest lease of a worker.
const LEASE_MIN: Duration = Duration::from_millis(200);
const LEASE_MAX: Duration = Duration::from_secs(3_600);

/// Serve a data directory over HTTP: enqueue, results, workers, rules, views, events, metrics. Runs
/// no entries itself: workers in other processes do
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7420")]
    pub(crate) listen: SocketAddr,
    /// A name under which clients reach this server, beside localhost and addresses; repeat it for
    /// each
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// Allow everything to every program on this machine, without a token. Only for loopback
    /// addresses
    #[arg(long)]
    pub(crate) no_auth: bool,
    /// Maximum number of connections
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// How long a worker may be silent before its entries run elsewhere: seconds, or a duration
    /// like `1m30s`
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = lease)]
    pub(crate) lease: Duration,
    /// Number of partitions of a new data directory (default: one per core)
    #[arg(long, value_name = "N")]
    pub(crate) partitions: Option<u32>,
}

/// The duration of a lease.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = seconds(text).map_err(|error| error.to_string())?;
    let allowed = LEASE_MIN..=LEASE_MAX;
    if !allowed.contains(&lease) {
        return Err(format!("a lease holds {LEASE_MIN:?} to {LEASE_MAX:?}"));
    }
    Ok(lease)
}

/// Make, list and revoke tokens for `forebay serve`
#[derive(Args, Clone, Debug)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// An action on tokens.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TokenCommand {
    /// Make a token and print it: it is stored as a hash, and cannot be printed again
    Create {
        /// Its name, which the history of rules shows
        #[arg(value_name = "NAME")]
        name: String,
        /// What it allows: read, write (also enqueue and act on entries) or admin (also change the
        /// rules)
        #[arg(long, value_name = "ROLE", default_value = "write")]
        role: TokenRole,
    },
    /// List the tokens, without their texts
    List,
    /// Remove a token: requests with it are refused from then on
    Revoke {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
}
