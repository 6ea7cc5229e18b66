//! The identity of a node, as the network needs it.
//!
//! Must always hold: a node name is a valid DNS label, because the certificate of a node carries it
//! as a DNS name. Storage id, boot and nonce are values of the caller: the network only compares
//! them.

use std::fmt;
use std::str::FromStr;

/// Longest node name, in bytes: the longest label that DNS allows.
pub const NODE_NAME_LEN_MAX: usize = 63;

/// The name of a node: lower-case letters, digits and `-`, which is neither first nor last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = !text.is_empty()
            && text.len() <= NODE_NAME_LEN_MAX
            && text.bytes().all(is_inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_name { Ok(Self(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }
}

/// The text is not a node name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a node name: use 1 to 63 lower-case letters, digits and '-', \
     with a letter or digit first and last"
)]
pub struct BadName(pub String);

/// What a node reports about itself in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; both sides must name the same one. 0: none yet. Such a node exchanges requests
    /// and bulk reads with any node, and has no links.
    pub cluster: u128,
    /// The name; with TLS the certificate must carry it.
    pub name: NodeName,
    /// Id of the data directory.
    pub storage: u128,
    /// Number of starts of the node with this data directory.
    pub boot: u64,
    /// Random number of that start: distinguishes two processes with copies of one directory.
    pub nonce: u64,
    /// Address at which the node can be dialled, if any.
    pub address: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for valid in ["a", "n1", "node-7", &"x".repeat(63)] {
            assert_eq!(valid.parse::<NodeName>().unwrap().as_str(), valid);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<NodeName>(), Err(BadName(bad.to_owned())), "{bad:?}");
        }
    }
}
