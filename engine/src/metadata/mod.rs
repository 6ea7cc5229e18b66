//! The state machine of the metadata store: versioned keys, changed by decided commands.
//!
//! Owns: the state (rows and remembered requests), what a command changes, and their bytes. Must
//! always hold: applying the same commands gives the same state everywhere; the version of a key
//! only grows, also over its deletion and return; the changes of a command are made together or
//! not at all; a request that was applied is never applied again. Must not know: the meaning of
//! the values, how commands are agreed on.

mod command;
mod requests;
mod snapshot;
mod state;

pub use command::{
    BLOCK_COMMANDS_MAX, CHANGES_MAX, COMMAND_BYTES_MAX, Change, ClientId, Command, Expected,
    InvalidCommand, KEY_BYTES_MAX, decode_block, encode_block,
};
pub use requests::{CLIENT_REQUESTS_MAX, CLIENTS_MAX, REQUESTS_MAX};
pub use snapshot::{Snapshot, SnapshotError};
pub use state::{Changed, Outcome, Row, STATE_BYTES_MAX, State};
