//! Bytes on the wire: frames, and the messages of the handshake.
//!
//! Must always hold: a decoded value is bounded by the limit of its frame; bytes that do not decode
//! are an error, never a panic.

pub(crate) mod frame;
pub(crate) mod hello;
