//! Tokens as text.

use forebay::control::TokenView;

use super::format::{finish, table, time};

/// The tokens, without their texts.
pub(crate) fn token_table(tokens: &[TokenView]) -> String {
    let mut table = table(&["NAME", "ROLE", "CREATED"]);
    for token in tokens {
        table.add_row([token.name.clone(), token.role.to_string(), time(token.created_at)]);
    }
    finish(&table, tokens.len(), "tokens")
}
