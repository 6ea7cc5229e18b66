//! Patterns and limits, as written in rules and as sent between actors.

use std::{fmt, str::FromStr};

use bytestring::ByteString;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    RuleId,
    vqueue::{NameError, Part, check_component},
};

pub use crate::limits::{Edit, Limits, LimitsPatch, Rate};

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `*`: every value, each counted separately.
    Any,
    /// Exactly this value.
    Exact(ByteString),
}

/// Longest period of a rate, in milliseconds: 366 days.
pub const RATE_PERIOD_MS_MAX: u64 = 366 * 86_400_000;
/// Prefix of a pattern for a service.
const SERVICE_PREFIX: &str = "service:";

/// Left-hand side of a rule: `scope`, `scope/l1` or `scope/l1/l2`; each component an exact value or
/// `*`. It only applies to keys of its own depth.
///
/// `service:NAME` is a pattern too: it matches all work of a service, whatever its scope.
/// A rule for it can only pause the service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    components: Vec<Component>,
    /// The only component is a service name.
    is_service: bool,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// A component is not a valid name (nor `*`).
    #[error("pattern `{text}`: component {index}: {source}")]
    Component {
        /// The whole pattern.
        text: String,
        /// Number of the component, from 1.
        index: usize,
        /// What is wrong with it.
        source: NameError,
    },
    /// An invalid service name.
    #[error("pattern `{text}`: {source}; a service is written `service:NAME`")]
    Service {
        /// The whole pattern.
        text: String,
        /// What is wrong with the name.
        source: NameError,
    },
    /// More than three components.
    #[error("pattern `{text}` has {depth} components; at most 3 (scope/l1/l2) are allowed")]
    TooDeep {
        /// The whole pattern.
        text: String,
        /// Its number of components.
        depth: usize,
    },
}

impl Pattern {
    /// The pattern that matches all work of a service.
    ///
    /// # Errors
    /// [`PatternError::Service`] if this is not a valid service name.
    pub fn for_service(name: &str) -> Result<Self, PatternError> {
        check_component(Part::Service, name).map_err(|source| PatternError::Service {
            text: format!("{SERVICE_PREFIX}{name}"),
            source,
        })?;
        let components = vec![Component::Exact(ByteString::from(name))];
        Ok(Self { components, is_service: true })
    }

    /// The service, if the pattern is for one.
    #[must_use]
    pub fn service(&self) -> Option<&ByteString> {
        match &self.components[..] {
            [Component::Exact(name)] if self.is_service => Some(name),
            _ => None,
        }
    }

    /// The components, one to three; none if the pattern is for a service.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        if self.is_service { &[] } else { &self.components }
    }

    /// Number of components: 1 (scope), 2 (l1) or 3 (l2); 0 for a service.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().len()
    }

    /// Precedence among patterns of the same depth: one bit per component, scope most
    /// significant, exact = 1.
    #[must_use]
    pub fn rank(&self) -> u8 {
        self.components().iter().fold(0, |rank, component| {
            (rank << 1) | u8::from(matches!(component, Component::Exact(_)))
        })
    }

    /// Identity of the rule with this pattern: xxh3-64 of the display form.
    #[must_use]
    pub fn rule_id(&self) -> RuleId {
        RuleId(xxh3_64(self.to_string().as_bytes()))
    }

    /// The components if all are exact: the only key that the pattern matches. `None` for a
    /// service, which has no key.
    #[must_use]
    pub fn as_key(&self) -> Option<Vec<ByteString>> {
        if self.is_service {
            return None;
        }
        let exact = |component: &Component| match component {
            Component::Any => None,
            Component::Exact(value) => Some(value.clone()),
        };
        self.components.iter().map(exact).collect()
    }

    /// Whether the pattern matches a key.
    #[must_use]
    pub fn matches(&self, key: &[&str]) -> bool {
        !self.is_service
            && self.components.len() == key.len()
            && self.components.iter().zip(key).all(|(component, value)| match component {
                Component::Any => true,
                Component::Exact(exact) => exact == value,
            })
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Some(name) = text.strip_prefix(SERVICE_PREFIX) {
            return Self::for_service(name);
        }
        let depth = text.split('/').count();
        if depth > 3 {
            return Err(PatternError::TooDeep { text: text.to_owned(), depth });
        }
        let parts = [Part::Scope, Part::L1, Part::L2];
        let mut components = Vec::with_capacity(depth);
        for (index, (component, part)) in text.split('/').zip(parts).enumerate() {
            if component == "*" {
                components.push(Component::Any);
                continue;
            }
            check_component(part, component).map_err(|source| PatternError::Component {
                text: text.to_owned(),
                index: index + 1,
                source,
            })?;
            components.push(Component::Exact(ByteString::from(component)));
        }
        Ok(Self { components, is_service: false })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = self.service() {
            return write!(f, "{SERVICE_PREFIX}{service}");
        }
        for (index, component) in self.components.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            match component {
                Component::Any => f.write_str("*")?,
                Component::Exact(value) => f.write_str(value)?,
            }
        }
        Ok(())
    }
}

/// One change of the rules, as sent to the limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleUpdate {
    /// From now on these limits govern the pattern.
    Upsert {
        /// The pattern.
        pattern: Pattern,
        /// Its limits.
        limits: Limits,
    },
    /// Nothing starts under the pattern from now on. It has no other rule: the limits of less
    /// specific rules hold.
    Pause {
        /// The pattern.
        pattern: Pattern,
    },
    /// The pattern's rule was removed (deleted or disabled).
    Remove {
        /// The pattern.
        pattern: Pattern,
    },
}

impl RuleUpdate {
    /// The pattern whose rule changes.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        match self {
            Self::Upsert { pattern, .. } | Self::Pause { pattern } | Self::Remove { pattern } => {
                pattern
            }
        }
    }
}
