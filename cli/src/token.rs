//! `forebay token`.
//!
//! Must always hold: the text of a token is printed once and not sent to the process that has the
//! data directory, which gets a hash.

use std::process::ExitCode;

use forebay::{
    control::{Request, Response},
    http::{token_hash, token_text},
};

use super::{
    args::{Global, TokenArgs, TokenCommand},
    ask_error::AskError,
    console::print,
    inspect::answered,
    serve::random,
    show::token_table,
};

/// Runs `forebay token …`.
///
/// # Errors
/// [`AskError`]
pub(crate) async fn run(global: &Global, args: &TokenArgs) -> Result<ExitCode, AskError> {
    let (request, text) = match &args.command {
        TokenCommand::List => (Request::Tokens, None),
        TokenCommand::Revoke { name } => (Request::TokenRevoke { name: name.clone() }, None),
        TokenCommand::Create { name, role } => {
            let random = random().map_err(|error| AskError::Refused(error.to_string()))?;
            let text = token_text(&random);
            let sha256: String =
                token_hash(&text).iter().map(|byte| format!("{byte:02x}")).collect();
            let (name, role) = (name.clone(), *role);
            (Request::TokenCreate { name, role, sha256 }, Some(text))
        }
    };
    let Response::Tokens { tokens } = answered(global, request).await? else {
        return Err(AskError::Unexpected);
    };
    let printed = match (text, global.json) {
        (Some(text), false) => format!("{text}\n"),
        (Some(text), true) => serde_json::json!({ "token": text }).to_string() + "\n",
        (None, true) => serde_json::to_string(&tokens)? + "\n",
        (None, false) => token_table(&tokens),
    };
    Ok(print(printed.as_bytes())?)
}
