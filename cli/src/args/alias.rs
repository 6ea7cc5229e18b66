//! `alias`.

use clap::Args;

/// List the aliases, or make the handler of another name serve a service: for handlers that were
/// renamed. Entries, their ids and locks stay as they are
#[derive(Args, Clone, Debug)]
pub(crate) struct AliasArgs {
    /// A service without a handler of its own
    #[arg(value_name = "SERVICE", requires = "handler")]
    pub(crate) service: Option<String>,
    /// The handler that serves it from now on
    #[arg(value_name = "HANDLER")]
    pub(crate) handler: Option<String>,
    /// Remove the alias of this service
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["service", "handler"])]
    pub(crate) remove: Option<String>,
}
