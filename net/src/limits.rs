//! The limits and durations of the network.

use std::time::Duration;

/// Limits and durations. The defaults suit a cluster of up to some tens of nodes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of the body of a frame. Longer messages are split into several frames.
    pub frame_bytes_max: usize,
    /// Bytes of a message of a link.
    pub message_bytes_max: usize,
    /// Messages of a link that wait to be sent, or wait for the application; one more resets the
    /// link.
    pub link_messages_max: usize,
    /// The same in bytes.
    pub link_bytes_max: usize,
    /// Heartbeats that wait, per peer and group; the oldest one is dropped.
    pub heartbeats_max: usize,
    /// Bytes of a heartbeat.
    pub heartbeat_bytes_max: usize,
    /// Number of groups of this node.
    pub groups_max: usize,
    /// Requests in flight, per peer and direction.
    pub requests_max: usize,
    /// Bytes of a request or of its answer.
    pub request_bytes_max: usize,
    /// Bytes of all requests and answers in flight, per peer and direction.
    pub requests_bytes_max: usize,
    /// Maximum duration of a request; a longer deadline is shortened to it.
    pub request_time_max: Duration,
    /// Bulk reads in progress, per peer and direction.
    pub bulk_streams_max: usize,
    /// Bytes of a bulk read that are in flight or wait for its reader.
    pub bulk_window_bytes: usize,
    /// Bytes of the name of a bulk source.
    pub bulk_source_bytes_max: usize,
    /// Number of known nodes.
    pub peers_max: usize,
    /// Connections in their handshake; one more closes the oldest one.
    pub handshakes_max: usize,
    /// Maximum duration of a handshake, TLS included.
    pub handshake_time_max: Duration,
    /// Maximum duration of an attempt to reach an address.
    pub dial_time_max: Duration,
    /// First pause after a failed or lost connection; doubled each time.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// A connection that lasted this long resets the pause.
    pub backoff_reset: Duration,
    /// A connection that sent nothing for this long sends a ping.
    pub ping_interval: Duration,
    /// A connection is closed when no byte arrives, or the peer accepts none, for this long.
    pub silence_max: Duration,
    /// Election timeout of the consensus groups: a connection of heartbeats or links ends when
    /// bytes stay unacknowledged for two of them (`TCP_USER_TIMEOUT`).
    pub election_timeout: Duration,
    /// How often the certificate files are checked for changes.
    pub certificate_check_interval: Duration,
    /// Days before its end from which a certificate causes warnings.
    pub certificate_warn_days: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 64 << 10,
            message_bytes_max: 40 << 20,
            link_messages_max: 16 << 10,
            link_bytes_max: 48 << 20,
            heartbeats_max: 64,
            heartbeat_bytes_max: 4 << 10,
            groups_max: 1024,
            requests_max: 256,
            request_bytes_max: 8 << 20,
            requests_bytes_max: 64 << 20,
            request_time_max: Duration::from_secs(60),
            bulk_streams_max: 16,
            bulk_window_bytes: 1 << 20,
            bulk_source_bytes_max: 4 << 10,
            peers_max: 64,
            handshakes_max: 64,
            handshake_time_max: Duration::from_secs(2),
            dial_time_max: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            backoff_reset: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
            election_timeout: Duration::from_millis(150),
            certificate_check_interval: Duration::from_secs(10),
            certificate_warn_days: 30,
        }
    }
}
