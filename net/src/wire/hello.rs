//! Messages of the handshake.
//!
//! The dialler sends a [`Hello`], the other side answers `Welcome` or `Refused`, the dialler
//! finishes with `Ready` or `Refused`. The first bytes of a hello (magic, oldest and newest
//! protocol) never change, so that every later version can read them.

use bilrost::Message as _;
use bilrost::OwnedMessage as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::identity::{Identity, NodeName};

/// Protocol version that this version speaks.
pub const PROTOCOL: u16 = 1;

/// Maximum length of a handshake message, in bytes.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 4 << 10;

const MAGIC: &[u8; 4] = b"FBN\x01";

/// The purpose of a connection. Each class has its own connections, so that none waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Heartbeats of the groups: small; the oldest are dropped.
    Heartbeats,
    /// Links of the groups: in order within a session.
    Consensus,
    /// Requests and their answers.
    Requests,
    /// Bulk reads.
    Bulk,
    /// Announces this node's address, so that the other side dials.
    Knock,
}

impl Class {
    /// All except [`Class::Knock`].
    pub(crate) const LASTING: [Self; 4] =
        [Self::Heartbeats, Self::Consensus, Self::Requests, Self::Bulk];

    fn from_number(number: u32) -> Option<Self> {
        let all = Self::LASTING.into_iter().chain([Self::Knock]);
        all.into_iter().find(|class| *class as u32 == number)
    }
}

/// The first message of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) oldest: u16,
    pub(crate) newest: u16,
    /// `None` when the two sides have no protocol in common.
    pub(crate) body: Option<(Class, Identity)>,
}

/// Why a node refuses another one. Sent to the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The nodes belong to different clusters.
    #[error(
        "the nodes belong to different clusters: check the address, or provision the node again"
    )]
    OtherCluster,
    /// The nodes have no protocol in common.
    #[error(
        "the nodes have no common protocol (one {oldest} to {newest}, this version {PROTOCOL}): \
         update the older one"
    )]
    Protocol {
        /// Oldest protocol of the other side.
        oldest: u16,
        /// Newest protocol of the other side.
        newest: u16,
    },
    /// Both nodes have the same name.
    #[error("both nodes are called {0}: give one of them another name")]
    SameName(String),
    /// Another node with that name is connected.
    #[error(
        "another node called {0}, with another data directory, is connected: give one of them \
         another name, or stop one"
    )]
    NameTaken(String),
    /// A process with the same data directory and a later start has connected.
    #[error(
        "a later start of the data directory has connected: this one is a copy, or it was rolled \
         back; empty it and start the node again"
    )]
    OlderBoot,
    /// Two processes run with the same data directory and the same start.
    #[error(
        "another process ran with this start of the data directory: one of the two is a copy, or \
         the directory was rolled back; empty it and start the node again"
    )]
    Copied,
    /// The node reached itself.
    #[error("the address leads to the node itself: correct it")]
    Myself,
    /// The address leads to another node.
    #[error("the address leads to the node {0}: correct it")]
    OtherNode(String),
    /// The certificate carries another name.
    #[error("the node claims to be {0}, but its certificate is for another name")]
    OtherCertificate(String),
    /// Too many nodes are known.
    #[error("too many nodes are connected: remove nodes that are gone")]
    TooManyPeers,
    /// The node is not among the added peers.
    #[error("the node is not known there yet: add it to the cluster")]
    NotKnown,
    /// The application refused the node.
    #[error("{0}")]
    NotAdmitted(String),
}

/// An answer in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Welcome(Identity),
    Refused(Refusal),
    Ready,
}

#[derive(bilrost::Message)]
struct HelloBody {
    #[bilrost(1)]
    class: u32,
    #[bilrost(2)]
    identity: IdentityBody,
}

#[derive(bilrost::Message)]
struct IdentityBody {
    #[bilrost(tag(1), encoding(plainbytes))]
    cluster: [u8; 16],
    #[bilrost(2)]
    name: String,
    #[bilrost(tag(3), encoding(plainbytes))]
    storage: [u8; 16],
    #[bilrost(tag(4), encoding(fixed))]
    boot: u64,
    #[bilrost(tag(5), encoding(fixed))]
    nonce: u64,
    #[bilrost(6)]
    address: Option<String>,
}

#[derive(bilrost::Message)]
struct RefusalBody {
    #[bilrost(1)]
    code: u32,
    #[bilrost(2)]
    text: String,
    #[bilrost(3)]
    oldest: u16,
    #[bilrost(4)]
    newest: u16,
}

impl From<&Identity> for IdentityBody {
    fn from(identity: &Identity) -> Self {
        Self {
            cluster: identity.cluster.to_be_bytes(),
            name: identity.name.as_str().to_owned(),
            storage: identity.storage.to_be_bytes(),
            boot: identity.boot,
            nonce: identity.nonce,
            address: identity.address.clone(),
        }
    }
}

impl IdentityBody {
    fn read(self) -> Option<Identity> {
        Some(Identity {
            cluster: u128::from_be_bytes(self.cluster),
            name: self.name.parse::<NodeName>().ok()?,
            storage: u128::from_be_bytes(self.storage),
            boot: self.boot,
            nonce: self.nonce,
            address: self.address,
        })
    }
}

impl Hello {
    pub(crate) fn encode(class: Class, identity: &Identity) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u16(PROTOCOL);
        out.put_u16(PROTOCOL);
        let body = HelloBody { class: class as u32, identity: identity.into() };
        out.put_slice(&body.encode_to_vec());
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < 8 || bytes.split_to(4) != MAGIC[..] {
            return None;
        }
        let (oldest, newest) = (bytes.get_u16(), bytes.get_u16());
        if !(oldest..=newest).contains(&PROTOCOL) {
            return Some(Self { oldest, newest, body: None });
        }
        let body = HelloBody::decode(bytes).ok()?;
        let body = (Class::from_number(body.class)?, body.identity.read()?);
        Some(Self { oldest, newest, body: Some(body) })
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        match self {
            Self::Welcome(identity) => {
                out.put_u8(0);
                out.put_slice(&IdentityBody::from(identity).encode_to_vec());
            }
            Self::Refused(refusal) => {
                out.put_u8(1);
                out.put_slice(&refusal.body().encode_to_vec());
            }
            Self::Ready => out.put_u8(2),
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < 5 || bytes.split_to(4) != MAGIC[..] {
            return None;
        }
        match bytes.get_u8() {
            0 => Some(Self::Welcome(IdentityBody::decode(bytes).ok()?.read()?)),
            1 => Some(Self::Refused(Refusal::read(RefusalBody::decode(bytes).ok()?))),
            2 => Some(Self::Ready),
            _ => None,
        }
    }
}

impl Refusal {
    fn body(&self) -> RefusalBody {
        let (code, text, oldest, newest) = match self {
            Self::OtherCluster => (1, "", 0, 0),
            Self::Protocol { oldest, newest } => (2, "", *oldest, *newest),
            Self::SameName(name) => (3, name.as_str(), 0, 0),
            Self::NameTaken(name) => (4, name.as_str(), 0, 0),
            Self::OlderBoot => (5, "", 0, 0),
            Self::Copied => (6, "", 0, 0),
            Self::Myself => (7, "", 0, 0),
            Self::OtherNode(name) => (8, name.as_str(), 0, 0),
            Self::OtherCertificate(name) => (9, name.as_str(), 0, 0),
            Self::TooManyPeers => (10, "", 0, 0),
            Self::NotKnown => (11, "", 0, 0),
            Self::NotAdmitted(text) => (0, text.as_str(), 0, 0),
        };
        let end = text.floor_char_boundary(1024);
        RefusalBody { code, text: text[..end].to_owned(), oldest, newest }
    }

    /// A reason that this version does not know is reported by its text.
    fn read(body: RefusalBody) -> Self {
        match body.code {
            1 => Self::OtherCluster,
            2 => Self::Protocol { oldest: body.oldest, newest: body.newest },
            3 => Self::SameName(body.text),
            4 => Self::NameTaken(body.text),
            5 => Self::OlderBoot,
            6 => Self::Copied,
            7 => Self::Myself,
            8 => Self::OtherNode(body.text),
            9 => Self::OtherCertificate(body.text),
            10 => Self::TooManyPeers,
            11 => Self::NotKnown,
            0 => Self::NotAdmitted(body.text),
            code => Self::NotAdmitted(format!("reason {code} of a newer version {}", body.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: 0x0102,
            name: "n1".parse().unwrap(),
            storage: 0x0304,
            boot: 5,
            nonce: 6,
            address: Some("127.0.0.1:7".to_owned()),
        }
    }

    fn refusals() -> Vec<Refusal> {
        vec![
            Refusal::OtherCluster,
            Refusal::Protocol { oldest: 2, newest: 3 },
            Refusal::SameName("a".to_owned()),
            Refusal::NameTaken("a".to_owned()),
            Refusal::OlderBoot,
            Refusal::Copied,
            Refusal::Myself,
            Refusal::OtherNode("a".to_owned()),
            Refusal::OtherCertificate("a".to_owned()),
            Refusal::TooManyPeers,
            Refusal::NotKnown,
            Refusal::NotAdmitted("removed".to_owned()),
        ]
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        for class in Class::LASTING.into_iter().chain([Class::Knock]) {
            let read = Hello::decode(Hello::encode(class, &identity())).unwrap();
            assert_eq!(read.body, Some((class, identity())));
        }
        let refused = refusals().into_iter().map(Reply::Refused);
        for reply in refused.chain([Reply::Welcome(identity()), Reply::Ready]) {
            assert_eq!(Reply::decode(reply.encode()), Some(reply));
        }
    }

    #[test]
    fn the_longest_refusal_fits_a_message() {
        let text = "é".repeat(HANDSHAKE_BYTES_MAX);
        let bytes = Reply::Refused(Refusal::NotAdmitted(text)).encode();
        assert!(bytes.len() < HANDSHAKE_BYTES_MAX);
        assert!(matches!(Reply::decode(bytes), Some(Reply::Refused(_))));
    }

    #[test]
    fn a_newer_hello_is_read_as_far_as_its_protocols() {
        let mut out = BytesMut::from(&MAGIC[..]);
        out.put_u16(2);
        out.put_u16(9);
        out.put_slice(b"whatever a newer version says");
        assert_eq!(Hello::decode(out.freeze()), Some(Hello { oldest: 2, newest: 9, body: None }));
    }

    #[test]
    fn golden_bytes_of_a_hello() {
        let bytes = Hello::encode(Class::Consensus, &identity());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let golden = "46424e0100010001\
            0401054705100000000000000000000000000000010205026e3105100000000000000000000000000000\
            0304070500000000000000070600000000000000050b3132372e302e302e313a37";
        assert_eq!(hex, golden);
    }

    proptest! {
        #[test]
        fn mutated_messages_are_read_or_refused(
            at in any::<prop::sample::Index>(), with in any::<u8>(),
            cut in any::<prop::sample::Index>(), kind in 0..3,
        ) {
            let bytes = match kind {
                0 => Hello::encode(Class::Bulk, &identity()),
                1 => Reply::Welcome(identity()).encode(),
                _ => Reply::Refused(Refusal::NameTaken("n".to_owned())).encode(),
            };
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            bytes.truncate(cut.index(bytes.len() + 1));
            let bytes = Bytes::from(bytes);
            let _ = Hello::decode(bytes.clone());
            let _ = Reply::decode(bytes);
        }
    }
}
