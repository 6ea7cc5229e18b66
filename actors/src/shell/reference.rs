//! Addresses that do not depend on where an actor runs.

use std::sync::Arc;

/// Takes messages for an actor.
pub trait Post<I>: Send + Sync {
    /// Puts a message into the mailbox; false when the actor is gone. Never blocks and never
    /// refuses: limiting messages is up to the sender.
    fn post(&self, input: I) -> bool;
}

/// The address of an actor that takes `I`. Cheap to clone; messages from one thread
/// arrive in order.
pub struct Ref<I>(Arc<dyn Post<I>>);

impl<I> Ref<I> {
    /// An address that hands messages to `post`.
    pub fn new(post: impl Post<I> + 'static) -> Self {
        Self(Arc::new(post))
    }

    /// Sends; false when the actor is gone.
    pub fn send(&self, input: I) -> bool {
        self.0.post(input)
    }
}

impl<I> Clone for Ref<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I> std::fmt::Debug for Ref<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ref<{}>", std::any::type_name::<I>())
    }
}

impl<I, F: Fn(I) -> bool + Send + Sync> Post<I> for F {
    fn post(&self, input: I) -> bool {
        self(input)
    }
}
