//! Why a subcommand that asks has no answer to print.

use forebay::control::ControlError;
use thiserror::Error;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The refusal of the other side.
    #[error("{0}")]
    Refused(String),
    #[error("the answer does not match the request (another version of forebay?)")]
    Unexpected,
    #[error("{0}")]
    Output(#[from] std::io::Error),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}
