//! Bytes on the wire: frames, and the messages of the handshake.
//!
//! Must always hold: what is decoded is bounded by the limit of its frame; bytes that do
//! not decode are an error and never a panic.

pub(crate) mod frame;
pub(crate) mod hello;
