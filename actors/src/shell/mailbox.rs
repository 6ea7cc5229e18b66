//! The mailbox of an actor, on actix and in simulations.
//!
//! Must always hold: mail of one thread is taken in the order in which it was put; exactly one
//! sender to a sleeping actor has to wake it; mail for an actor that is gone is refused.
//!
//! Not actix's own mailbox, which needs a box, an envelope and a wake-up for each message. Here a
//! burst of messages needs one of each.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_engine::Machine;

use super::Look;

/// Maximum capacity that an empty mailbox keeps.
const KEPT_MAX: usize = 4_096;
/// The same for actors of which there may be a million: the smallest capacity that a queue can
/// have.
const KEPT_BY_MANY_MAX: usize = 4;

/// An item of mail.
pub(super) enum Mail<M: Machine> {
    /// A message.
    Input(M::Input),
    /// A look at the machine.
    Look(Look<M>),
}

/// What the sender of an item has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// The actor is awake, or another sender wakes it.
    Fine,
    /// The actor sleeps: wake it.
    Wake,
    /// The actor is gone.
    Refused,
}

struct Queued<M: Machine> {
    mail: VecDeque<Mail<M>>,
    is_awake: bool,
    is_closed: bool,
}

/// The queue of one actor, with its state.
pub(super) struct Mailbox<M: Machine>(Mutex<Queued<M>>);

impl<M: Machine> Default for Mailbox<M> {
    fn default() -> Self {
        Self(Mutex::new(Queued { mail: VecDeque::new(), is_awake: false, is_closed: false }))
    }
}

impl<M: Machine> Mailbox<M> {
    /// The mailbox of an actor that gets a turn without being woken.
    pub(super) fn awake() -> Self {
        Self(Mutex::new(Queued { mail: VecDeque::new(), is_awake: true, is_closed: false }))
    }

    fn state(&self) -> MutexGuard<'_, Queued<M>> {
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

    /// Takes everything into an empty queue. If there is no mail, marks the actor as asleep, and
    /// frees memory that a burst needed.
    pub(super) fn take(&self, into: &mut VecDeque<Mail<M>>) -> bool {
        debug_assert!(into.is_empty(), "mail that was taken is not taken twice");
        let mut state = self.state();
        if !state.mail.is_empty() {
            std::mem::swap(&mut state.mail, into);
            return true;
        }
        state.is_awake = false;
        if state.mail.capacity() > KEPT_MAX {
            state.mail.shrink_to(KEPT_MAX);
        }
        drop(state);
        if into.capacity() > KEPT_MAX {
            into.shrink_to(KEPT_MAX);
        }
        false
    }

    /// Takes the first item. If there is no mail, marks the actor, one of many, as asleep, and
    /// frees nearly all memory.
    pub(super) fn next(&self) -> Option<Mail<M>> {
        let mut state = self.state();
        let next = state.mail.pop_front();
        if next.is_none() {
            state.is_awake = false;
            if state.mail.capacity() > KEPT_BY_MANY_MAX {
                state.mail = VecDeque::new();
            }
        }
        next
    }

    /// Takes the first item.
    pub(super) fn pop(&self) -> Option<Mail<M>> {
        self.state().mail.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().mail.is_empty()
    }

    /// The actor is gone: the mailbox must be emptied, as mail may hold the actor's address.
    pub(super) fn close(&self) {
        let left = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.mail)
        };
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::Timestamp;

    use super::*;

    #[derive(Debug)]
    struct Idle;

    impl Machine for Idle {
        type Input = usize;
        type Effect = ();

        fn step(&mut self, _: Timestamp, _: usize, _: &mut Vec<()>) {}
    }

    fn numbers(mail: &mut VecDeque<Mail<Idle>>) -> Vec<usize> {
        let number = |mail| match mail {
            Mail::Input(number) => number,
            Mail::Look(_) => panic!("no look was sent"),
        };
        mail.drain(..).map(number).collect()
    }

    #[test]
    fn the_first_sender_wakes_a_sleeping_actor() {
        let (mailbox, mut taken) = (Mailbox::<Idle>::default(), VecDeque::new());
        for _ in 0..2 {
            let puts: Vec<_> = (0..3).map(|number| mailbox.put(Mail::Input(number))).collect();
            assert_eq!(puts, [Put::Wake, Put::Fine, Put::Fine]);
            assert!(mailbox.take(&mut taken));
            assert_eq!(
                mailbox.put(Mail::Input(3)),
                Put::Fine,
                "it is awake until it finds nothing"
            );
            assert_eq!(numbers(&mut taken), [0, 1, 2]);
            assert!(mailbox.take(&mut taken));
            assert_eq!(numbers(&mut taken), [3]);
            assert!(!mailbox.take(&mut taken));
        }
    }

    #[test]
    fn a_flood_leaves_little_memory() {
        let (mailbox, mut taken) = (Mailbox::<Idle>::default(), VecDeque::new());
        for number in 0..3 * KEPT_MAX {
            mailbox.put(Mail::Input(number));
        }
        assert!(mailbox.take(&mut taken));
        assert_eq!(numbers(&mut taken).len(), 3 * KEPT_MAX);
        mailbox.put(Mail::Input(0));
        assert!(mailbox.take(&mut taken));
        taken.clear();
        assert!(!mailbox.take(&mut taken));
        assert!(taken.capacity() <= KEPT_MAX, "{}", taken.capacity());
        assert!(mailbox.state().mail.capacity() <= KEPT_MAX);
    }

    #[test]
    fn one_of_many_keeps_little_memory_and_sleeps_without_mail() {
        let mailbox = Mailbox::<Idle>::awake();
        for round in 0..3 {
            for number in 0..100 {
                let wakes = round > 0 && number == 0;
                assert_eq!(mailbox.put(Mail::Input(number)) == Put::Wake, wakes);
            }
            for number in 0..100 {
                assert!(matches!(mailbox.next(), Some(Mail::Input(found)) if found == number));
            }
            assert!(mailbox.next().is_none());
            assert!(mailbox.state().mail.capacity() <= KEPT_BY_MANY_MAX);
        }
    }

    #[test]
    fn late_mail_is_refused_and_waiting_mail_is_dropped() {
        let mailbox = Mailbox::<Idle>::default();
        mailbox.put(Mail::Input(1));
        mailbox.close();
        assert!(mailbox.is_empty());
        assert_eq!(mailbox.put(Mail::Input(2)), Put::Refused);
        assert!(mailbox.pop().is_none());
    }
}
