//! Tokens for the HTTP server: names, roles, and hashes of their texts.
//!
//! Owns: the table of tokens, its rules and its bytes. Must always hold: a token's text is not in
//! it; the table is bounded; equal tables have equal bytes. Must not know: how a text is made or
//! hashed, where the table is stored.

use std::collections::BTreeMap;

use bilrost::{Message, OwnedMessage};
use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{
    Timestamp,
    vqueue::{NameError, Part, check_component},
};
use thiserror::Error;

/// Maximum number of tokens in one table.
pub const TOKENS_MAX: usize = 256;
/// Version of the table's format that this code writes.
pub const TOKENS_FORMAT: u8 = 1;
/// Length of the hash of a token's text, in bytes.
pub const TOKEN_HASH_LEN: usize = 32;

/// Why a token was refused; the table is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// An invalid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is a token of this name.
    #[error("there is a token `{0}` already: choose another name, or revoke it first")]
    Exists(String),
    /// There is none.
    #[error("there is no token `{0}`; `forebay token list` lists them")]
    Unknown(String),
    /// The table is full.
    #[error("there are {TOKENS_MAX} tokens, the maximum: revoke one that is not needed")]
    TooMany,
}

/// Why bytes are not a table of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeTokensError {
    /// No bytes, or format 0.
    #[error("the table of tokens is damaged: it does not begin with its format")]
    NoFormat,
    /// Written by a newer version of forebay.
    #[error(
        "the table of tokens has format {found}, this forebay reads formats up to {TOKENS_FORMAT}: \
         use a newer forebay"
    )]
    NewerFormat {
        /// The format found.
        found: u8,
    },
    /// The bytes do not decode.
    #[error("the table of tokens is damaged: {0}")]
    Damaged(#[source] bilrost::DecodeError),
    /// A hash has another length, or there are too many tokens.
    #[error("the table of tokens is damaged: it contains a token that could not be added")]
    Refused,
}

/// What a token allows; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reading.
    Read,
    /// Changing entries.
    Write,
    /// Changing rules.
    Admin,
}

/// A token, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it allows.
    pub role: Role,
    /// SHA-256 of its text.
    pub hash: [u8; TOKEN_HASH_LEN],
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Message)]
struct WireToken {
    #[bilrost(1)]
    role: u32,
    #[bilrost(2)]
    hash: Bytes,
    #[bilrost(3)]
    created_at: u64,
}

#[derive(Message)]
struct Wire {
    #[bilrost(1)]
    tokens: BTreeMap<ByteString, WireToken>,
}

/// Tokens by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    tokens: BTreeMap<ByteString, Token>,
}

impl Tokens {
    /// Adds a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn add(&mut self, name: &str, token: Token) -> Result<(), TokenError> {
        check_component(Part::Scope, name)?;
        if self.tokens.contains_key(name) {
            return Err(TokenError::Exists(name.to_owned()));
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        self.tokens.insert(name.into(), token);
        Ok(())
    }

    /// Removes a token.
    ///
    /// # Errors
    /// [`TokenError::Unknown`] when there is none of this name.
    pub fn remove(&mut self, name: &str) -> Result<(), TokenError> {
        let removed = self.tokens.remove(name).map(drop);
        removed.ok_or_else(|| TokenError::Unknown(name.to_owned()))
    }

    /// All tokens, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.tokens.iter().map(|(name, token)| (&**name, token))
    }

    /// The table's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = |token: &Token| WireToken {
            role: match token.role {
                Role::Read => 1,
                Role::Write => 2,
                Role::Admin => 3,
            },
            hash: Bytes::copy_from_slice(&token.hash),
            created_at: token.created_at.0,
        };
        let tokens = self.tokens.iter().map(|(name, token)| (name.clone(), wire(token)));
        let mut bytes = vec![TOKENS_FORMAT];
        bytes.extend(Wire { tokens: tokens.collect() }.encode_to_vec());
        bytes
    }

    /// The inverse of [`Self::encode`]. Accepts any bytes; never panics on them.
    ///
    /// # Errors
    /// [`DecodeTokensError`] saying what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeTokensError> {
        let body = match bytes.split_first() {
            None | Some((0, _)) => return Err(DecodeTokensError::NoFormat),
            Some((&TOKENS_FORMAT, body)) => body,
            Some((&found, _)) => return Err(DecodeTokensError::NewerFormat { found }),
        };
        let wire = Wire::decode(body).map_err(DecodeTokensError::Damaged)?;
        let mut tokens = Self::default();
        for (name, token) in wire.tokens {
            let role = match token.role {
                1 => Role::Read,
                2 => Role::Write,
                3 => Role::Admin,
                _ => return Err(DecodeTokensError::Refused),
            };
            let hash = <[u8; TOKEN_HASH_LEN]>::try_from(&*token.hash);
            let hash = hash.map_err(|_| DecodeTokensError::Refused)?;
            let token = Token { role, hash, created_at: Timestamp(token.created_at) };
            tokens.add(&name, token).map_err(|_| DecodeTokensError::Refused)?;
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: Role) -> Token {
        Token { role, hash: [7; TOKEN_HASH_LEN], created_at: Timestamp(9) }
    }

    fn two() -> Tokens {
        let mut tokens = Tokens::default();
        tokens.add("ci", token(Role::Write)).unwrap();
        tokens.add("prometheus", token(Role::Read)).unwrap();
        tokens
    }

    #[test]
    fn names_are_unique_and_the_table_is_bounded() {
        let mut tokens = two();
        assert_eq!(tokens.add("ci", token(Role::Read)), Err(TokenError::Exists("ci".to_owned())));
        assert!(matches!(tokens.add("a b", token(Role::Read)), Err(TokenError::Name(_))));
        assert_eq!(tokens.remove("x"), Err(TokenError::Unknown("x".to_owned())));
        assert_eq!(tokens.remove("ci"), Ok(()));
        for number in 1..TOKENS_MAX {
            tokens.add(&format!("t{number}"), token(Role::Read)).unwrap();
        }
        assert_eq!(tokens.add("one-more", token(Role::Read)), Err(TokenError::TooMany));
        assert_eq!(Tokens::decode(&tokens.encode()), Ok(tokens));
    }

    /// These bytes are stored in data directories: they must not change.
    #[test]
    fn golden_bytes() {
        let bytes = two().encode();
        assert_eq!(Tokens::decode(&bytes), Ok(two()));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = "07".repeat(TOKEN_HASH_LEN);
        let ci = format!("02636926{}{hash}{}", "04020520", "0409");
        let prometheus = format!("0a70726f6d65746865757326{}{hash}{}", "04010520", "0409");
        let body = format!("{ci}{prometheus}");
        assert_eq!(hex, format!("0105{:02x}{body}", body.len() / 2));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        assert_eq!(Tokens::decode(&[]), Err(DecodeTokensError::NoFormat));
        assert_eq!(Tokens::decode(&[9]), Err(DecodeTokensError::NewerFormat { found: 9 }));
        let mut bytes = two().encode();
        for at in 1..bytes.len() {
            // No panic, whatever it says.
            let _ = Tokens::decode(&bytes[..at]);
        }
        bytes.push(0xff);
        assert!(Tokens::decode(&bytes).is_err());
    }
}
