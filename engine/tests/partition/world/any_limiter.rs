//! The real limiter or the strict fake.

use forebay_engine::{
    Machine,
    limiter::{Limiter, LimiterConfig, LimiterEffect},
};
use forebay_messages::{
    Generation, PermitId, Timestamp,
    actor::{Granted, LimiterMessage},
    rule::{Limits, RuleUpdate},
};

use super::fake_limiter::{FakeLimiter, SCOPE_LIMIT};

#[derive(Debug, PartialEq)]
pub(super) enum LimiterOutput {
    Granted(Granted),
    Seeded(Vec<PermitId>),
}

#[derive(Debug)]
pub(crate) enum AnyLimiter {
    Fake(FakeLimiter),
    Real(Generation, Box<Limiter>),
}

/// The one rule that both enforce.
pub(super) fn rule() -> RuleUpdate {
    let limits = Limits::concurrency(u32::try_from(SCOPE_LIMIT).unwrap());
    RuleUpdate::Upsert { pattern: "*".parse().unwrap(), limits }
}

impl AnyLimiter {
    pub(super) fn new(is_real: bool, incarnation: Generation) -> Self {
        if is_real {
            let limiter = Limiter::new(incarnation, LimiterConfig::default());
            return Self::Real(incarnation, Box::new(limiter));
        }
        Self::Fake(FakeLimiter::new(incarnation))
    }

    pub(super) fn incarnation(&self) -> Generation {
        match self {
            Self::Fake(fake) => fake.incarnation,
            Self::Real(incarnation, _) => *incarnation,
        }
    }

    /// Every permit and lock was returned, each once.
    pub(crate) fn check_empty(&self) {
        match self {
            Self::Fake(fake) => {
                assert_eq!(fake.held(), 0, "P2: every permit was returned");
                assert_eq!(fake.locks(), 0, "every lock was returned");
            }
            Self::Real(_, real) => {
                assert_eq!(real.held(), 0, "P2: every permit was returned");
                let stats = real.stats();
                assert_eq!(stats.refused_unknown, 0, "P2: each was returned once: {stats:?}");
                assert_eq!(stats.refused_incarnation, 0, "P2: each to its limiter: {stats:?}");
            }
        }
    }

    pub(super) fn step(
        &mut self,
        now: Timestamp,
        message: LimiterMessage,
        outcomes: &mut Vec<LimiterOutput>,
    ) {
        let real = match self {
            Self::Fake(fake) => return fake.step(message, outcomes),
            Self::Real(_, real) => real,
        };
        let mut effects = Vec::new();
        real.step(now, message, &mut effects);
        real.check();
        for effect in effects {
            match effect {
                LimiterEffect::Granted(granted) => outcomes.push(LimiterOutput::Granted(granted)),
                LimiterEffect::Seeded { permits } => outcomes.push(LimiterOutput::Seeded(permits)),
                // Its purpose is to forget unused counters; a missing tick is harmless.
                LimiterEffect::SetTimer(_) => {}
                other => panic!("there is no lease here: {other:?}"),
            }
        }
    }
}
