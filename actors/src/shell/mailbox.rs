//! The mailbox of an actor, the same in both worlds.
//!
//! Must always hold: mail of one thread is taken in the order in which it was put; whoever
//! puts mail where nobody is awake to take it is told to wake the actor, once; what comes
//! after the actor has gone is refused.
//!
//! Actix has mailboxes of its own, but there each message is a box, an envelope and a
//! wake-up. Here a flood of messages is one of each.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_engine::Machine;

use super::Look;

/// Places that a mailbox keeps for what comes next.
const KEPT_MAX: usize = 4_096;

/// What lies in a mailbox.
pub(super) enum Mail<M: Machine> {
    /// A message.
    Input(M::Input),
    /// Somebody wants to look.
    Look(Look<M>),
}

/// What came of putting mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// The actor is awake, or was told by somebody else.
    Fine,
    /// The actor sleeps: wake it.
    Wake,
    /// The actor is gone.
    Refused,
}

struct State<M: Machine> {
    mail: VecDeque<Mail<M>>,
    is_awake: bool,
    is_closed: bool,
}

/// See the module.
pub(super) struct Mailbox<M: Machine>(Mutex<State<M>>);

impl<M: Machine> Default for Mailbox<M> {
    fn default() -> Self {
        Self(Mutex::new(State { mail: VecDeque::new(), is_awake: false, is_closed: false }))
    }
}

impl<M: Machine> Mailbox<M> {
    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, mail: Mail<M>) -> Put {
        let mut state = self.state();
        if state.is_closed {
            return Put::Refused;
        }
        state.mail.push_back(mail);
        match std::mem::replace(&mut state.is_awake, true) {
            true => Put::Fine,
            false => Put::Wake,
        }
    }

    /// Takes everything into an empty queue. Without mail the actor sleeps from here on,
    /// and gives back the memory of a flood (all of it, if it is one of many).
    pub(super) fn take(&self, into: &mut VecDeque<Mail<M>>, is_one_of_many: bool) -> bool {
        debug_assert!(into.is_empty(), "mail that was taken is not taken twice");
        let mut state = self.state();
        if !state.mail.is_empty() {
            std::mem::swap(&mut state.mail, into);
            return true;
        }
        state.is_awake = false;
        let kept = if is_one_of_many { 0 } else { KEPT_MAX };
        if state.mail.capacity() > kept {
            state.mail.shrink_to(kept);
        }
        drop(state);
        if into.capacity() > kept {
            into.shrink_to(kept);
        }
        false
    }

    /// Takes the first.
    pub(super) fn pop(&self) -> Option<Mail<M>> {
        self.state().mail.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().mail.is_empty()
    }

    /// The actor is gone: nothing may be left in it, for mail may hold its address.
    pub(super) fn close(&self) {
        let left = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.mail)
        };
        drop(left);
    }
}
