//! The services that this node has handlers for, by the handler's own name or by an alias.
//!
//! Must always hold: a lookup is one hash under a read lock that is never held for long; a handler
//! with the service's own name takes precedence over an alias. Must not know: waiting entries,
//! where aliases are stored.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use forebay_engine::aliases::Aliases;
use rustc_hash::FxBuildHasher;

use super::Handler;

type ByName = HashMap<String, Arc<dyn Handler>, FxBuildHasher>;

/// How a change affected which services have a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// A service that had no handler has one now.
    pub(crate) gained: bool,
    /// A service has no handler any more.
    pub(crate) lost: bool,
}

#[derive(Default)]
struct Tables {
    own: ByName,
    aliases: Aliases,
    /// Own names and aliases. It contains only names that the application or an operator chose:
    /// clients cannot fill it.
    serving: ByName,
}

impl Tables {
    /// Recomputes which handler serves which service.
    fn rebuild(&mut self) -> Changed {
        let mut serving = self.own.clone();
        for (service, _) in self.aliases.iter() {
            let handler = self.aliases.follow(service).find_map(|name| self.own.get(name));
            if let (Some(handler), false) = (handler, self.own.contains_key(service)) {
                serving.insert(service.to_owned(), Arc::clone(handler));
            }
        }
        let before = std::mem::replace(&mut self.serving, serving);
        Changed {
            gained: self.serving.keys().any(|service| !before.contains_key(service)),
            lost: before.keys().any(|service| !self.serving.contains_key(service)),
        }
    }
}

/// The handlers of this process, by service.
#[derive(Default)]
pub(super) struct Handlers(RwLock<Tables>);

impl Handlers {
    pub(super) fn new(own: HashMap<String, Arc<dyn Handler>>) -> Self {
        let mut tables = Tables { own: own.into_iter().collect(), ..Tables::default() };
        tables.rebuild();
        Self(RwLock::new(tables))
    }

    pub(super) fn get(&self, service: &str) -> Option<Arc<dyn Handler>> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.serving.get(service).map(Arc::clone)
    }

    pub(super) fn has(&self, service: &str) -> bool {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.serving.contains_key(service)
    }

    /// `None` when there is one of this name.
    pub(super) fn add(&self, service: &str, handler: Arc<dyn Handler>) -> Option<Changed> {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tables.own.contains_key(service) {
            return None;
        }
        tables.own.insert(service.to_owned(), handler);
        Some(tables.rebuild())
    }

    pub(super) fn set_aliases(&self, aliases: Aliases) -> Changed {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.aliases = aliases;
        tables.rebuild()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{AttemptContext, HandlerFuture};

    struct Nothing;

    impl Handler for Nothing {
        fn call(&self, _: AttemptContext, _: bytes::Bytes) -> HandlerFuture {
            Box::pin(std::future::pending())
        }
    }

    fn aliases(pairs: &[(&str, &str)]) -> Aliases {
        let mut aliases = Aliases::default();
        for (service, handler) in pairs {
            aliases.set(service, handler).unwrap();
        }
        aliases
    }

    #[test]
    fn an_alias_is_served_once_its_handler_is_there_and_an_own_handler_comes_first() {
        let handlers = Handlers::default();
        let changed = handlers.set_aliases(aliases(&[("old", "middle"), ("middle", "new")]));
        assert_eq!(changed, Changed::default(), "neither is served");
        let new: Arc<dyn Handler> = Arc::new(Nothing);
        assert_eq!(
            handlers.add("new", Arc::clone(&new)),
            Some(Changed { gained: true, lost: false })
        );
        assert!(Arc::ptr_eq(&handlers.get("old").unwrap(), &new));
        let old: Arc<dyn Handler> = Arc::new(Nothing);
        handlers.add("middle", Arc::clone(&old)).unwrap();
        assert!(handlers.add("middle", new).is_none(), "a second one of the same name");
        assert!(Arc::ptr_eq(&handlers.get("old").unwrap(), &old), "the nearest name");
        let lost = handlers.set_aliases(Aliases::default());
        assert_eq!(lost, Changed { gained: false, lost: true });
        assert!(!handlers.has("old") && handlers.has("middle"));
    }
}
