//! `forebay alias`: the request, and the table.

use forebay::control::{AliasView, Request};

use super::{
    args::AliasArgs,
    show::format::{finish, table},
};

/// The request of `forebay alias …`.
pub(super) fn request(args: &AliasArgs) -> Request {
    let AliasArgs { service, handler, remove } = args;
    match (service, handler, remove) {
        (_, _, Some(service)) => Request::AliasSet { service: service.clone(), handler: None },
        (Some(service), handler @ Some(_), None) => {
            Request::AliasSet { service: service.clone(), handler: handler.clone() }
        }
        _ => Request::Aliases,
    }
}

/// The aliases, for display.
pub(super) fn alias_table(aliases: &[AliasView]) -> String {
    let mut table = table(&["SERVICE", "HANDLER"]);
    for alias in aliases {
        table.add_row([&alias.service, &alias.handler]);
    }
    finish(&table, aliases.len(), "aliases")
}
