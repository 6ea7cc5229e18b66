//! Aliases: which handler serves the entries of a service without a handler of its own name.
//!
//! Owns: the table of aliases, its rules and its bytes. Must always hold: following the aliases of
//! any service ends (no cycles), the table is bounded, equal tables have equal bytes. Must not
//! know: which handlers exist, where the table is stored.

use std::collections::BTreeMap;

use bilrost::{Message, OwnedMessage};
use bytestring::ByteString;
use forebay_messages::vqueue::{NameError, Part, check_component};
use thiserror::Error;

/// Maximum number of aliases in one table.
pub const ALIASES_MAX: usize = 256;
/// Version of the table's format that this code writes.
pub const ALIASES_FORMAT: u8 = 1;

/// Why an alias was refused; the table is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AliasError {
    /// An invalid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The alias names the service's own handler.
    #[error(
        "`{service}` is served by the handler `{service}` without an alias: name another handler"
    )]
    ToItself {
        /// The service.
        service: String,
    },
    /// The aliases would form a cycle.
    #[error(
        "`{handler}` is already served by `{service}` through other aliases: remove those first \
         (`forebay alias --remove {handler}`)"
    )]
    Cycle {
        /// The service.
        service: String,
        /// The handler that was to serve it.
        handler: String,
    },
    /// The table is full.
    #[error("there are {ALIASES_MAX} aliases, the maximum: remove one that is not needed")]
    TooMany,
    /// The service has no alias.
    #[error("the service `{service}` has no alias; `forebay alias` lists them")]
    Unknown {
        /// The service.
        service: String,
    },
}

/// Why bytes are not a table of aliases.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeAliasesError {
    /// No bytes, or format 0.
    #[error("the table of aliases is damaged: it does not begin with its format")]
    NoFormat,
    /// Written by a newer version of forebay.
    #[error(
        "the table of aliases has format {found}, this forebay reads formats up to \
         {ALIASES_FORMAT}: use a newer forebay"
    )]
    NewerFormat {
        /// The format found.
        found: u8,
    },
    /// The bytes do not decode.
    #[error("the table of aliases is damaged: {0}")]
    Damaged(#[source] bilrost::DecodeError),
    /// It contains an alias that could not be set.
    #[error("the table of aliases is damaged: {0}")]
    Refused(#[source] AliasError),
}

#[derive(Message)]
struct Wire {
    #[bilrost(1)]
    handlers: BTreeMap<ByteString, ByteString>,
}

/// Aliases by service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    /// By service: the name of its handler.
    handlers: BTreeMap<ByteString, ByteString>,
}

impl Aliases {
    /// Sets the handler that serves a service, replacing the service's previous alias.
    ///
    /// # Errors
    /// [`AliasError`].
    pub fn set(&mut self, service: &str, handler: &str) -> Result<(), AliasError> {
        check_component(Part::Service, service)?;
        check_component(Part::Service, handler)?;
        if service == handler {
            return Err(AliasError::ToItself { service: service.to_owned() });
        }
        if self.follow(handler).any(|served| served == service) {
            let (service, handler) = (service.to_owned(), handler.to_owned());
            return Err(AliasError::Cycle { service, handler });
        }
        if self.handlers.len() >= ALIASES_MAX && !self.handlers.contains_key(service) {
            return Err(AliasError::TooMany);
        }
        self.handlers.insert(service.into(), handler.into());
        Ok(())
    }

    /// Removes the alias of a service.
    ///
    /// # Errors
    /// [`AliasError::Unknown`] when it has none.
    pub fn remove(&mut self, service: &str) -> Result<(), AliasError> {
        let removed = self.handlers.remove(service).map(drop);
        removed.ok_or_else(|| AliasError::Unknown { service: service.to_owned() })
    }

    /// All aliases, ordered by service: the service and the name of its handler.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.handlers.iter().map(|(service, handler)| (&**service, &**handler))
    }

    /// The names of handlers that may serve a service, in order: each is tried if there is no
    /// handler for the previous name. The service's own name is not included.
    pub fn follow<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a str> {
        let first = self.handlers.get(service);
        std::iter::successors(first, |name| self.handlers.get(*name)).map(|name| &**name)
    }

    /// The table's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![ALIASES_FORMAT];
        bytes.extend(Wire { handlers: self.handlers.clone() }.encode_to_vec());
        bytes
    }

    /// The inverse of [`Self::encode`]. Accepts any bytes; never panics on them.
    ///
    /// # Errors
    /// [`DecodeAliasesError`] saying what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeAliasesError> {
        let body = match bytes.split_first() {
            None | Some((0, _)) => return Err(DecodeAliasesError::NoFormat),
            Some((&ALIASES_FORMAT, body)) => body,
            Some((&found, _)) => return Err(DecodeAliasesError::NewerFormat { found }),
        };
        let wire = Wire::decode(body).map_err(DecodeAliasesError::Damaged)?;
        let mut aliases = Self::default();
        for (service, handler) in wire.handlers {
            aliases.set(&service, &handler).map_err(DecodeAliasesError::Refused)?;
        }
        Ok(aliases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, &str)]) -> Aliases {
        let mut aliases = Aliases::default();
        for (service, handler) in pairs {
            aliases.set(service, handler).unwrap();
        }
        aliases
    }

    #[test]
    fn aliases_can_be_chained() {
        let aliases = table(&[("a", "b"), ("b", "c"), ("x", "c")]);
        assert_eq!(aliases.follow("a").collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(aliases.follow("c").count(), 0);
    }

    #[test]
    fn cycles_and_invalid_names_are_refused() {
        let mut aliases = table(&[("a", "b"), ("b", "c")]);
        let before = aliases.clone();
        assert!(matches!(aliases.set("c", "a"), Err(AliasError::Cycle { .. })));
        assert!(matches!(aliases.set("c", "b"), Err(AliasError::Cycle { .. })));
        assert!(matches!(aliases.set("c", "c"), Err(AliasError::ToItself { .. })));
        assert!(matches!(aliases.set("a", &"n".repeat(65)), Err(AliasError::Name(_))));
        assert!(matches!(aliases.set("", "a"), Err(AliasError::Name(_))));
        assert!(matches!(aliases.remove("c"), Err(AliasError::Unknown { .. })));
        assert_eq!(aliases, before);
        aliases.remove("a").unwrap();
        aliases.set("c", "a").unwrap();
    }

    #[test]
    fn the_table_is_bounded_and_an_alias_can_be_replaced() {
        let mut aliases = Aliases::default();
        for n in 0..ALIASES_MAX {
            aliases.set(&format!("s{n}"), "handler").unwrap();
        }
        assert_eq!(aliases.set("more", "handler"), Err(AliasError::TooMany));
        aliases.set("s0", "other").unwrap();
    }

    #[test]
    fn the_bytes_are_stable_and_others_are_refused() {
        let aliases = table(&[("a", "b"), ("c", "b")]);
        let bytes = aliases.encode();
        assert_eq!(bytes, b"\x01\x05\x08\x01a\x01b\x01c\x01b");
        assert_eq!(Aliases::decode(&bytes), Ok(aliases));
        assert_eq!(Aliases::decode(&[]), Err(DecodeAliasesError::NoFormat));
        assert_eq!(Aliases::decode(&[2]), Err(DecodeAliasesError::NewerFormat { found: 2 }));
        assert!(matches!(Aliases::decode(&[1, 5]), Err(DecodeAliasesError::Damaged(_))));
        let circle = [1, 5, 8, 1, b'a', 1, b'b', 1, b'b', 1, b'a'];
        assert!(matches!(Aliases::decode(&circle), Err(DecodeAliasesError::Refused(_))));
    }
}
