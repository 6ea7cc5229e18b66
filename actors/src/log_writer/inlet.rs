//! The writer's queue of commands.
//!
//! Must always hold: commands of one thread are taken in the order in which they were put, all
//! waiting ones at once; at most [`QUEUE_LEN_MAX`] wait, and senders block while the queue is full;
//! sends fail when the writer is gone, and the writer learns when there are no senders left.
//!
//! Not a crossbeam channel: it spins before it sleeps, and yields its processor in between. The
//! scheduler then treats the thread as one with nothing urgent to do: with 64 entries in flight
//! each round of the writer waited 40 us for its next time slice.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{LogCommand, QUEUE_LEN_MAX};

#[derive(Default)]
struct Inbox {
    waiting: Vec<LogCommand>,
    /// The writer sleeps: the next sender wakes it.
    is_asleep: bool,
    is_writer_gone: bool,
    are_senders_gone: bool,
}

#[derive(Default)]
struct Inlet {
    state: Mutex<Inbox>,
    came: Condvar,
    room: Condvar,
}

impl Inlet {
    fn state(&self) -> MutexGuard<'_, Inbox> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The senders' end.
pub(super) struct Sender(Arc<Inlet>);

/// The writer's end.
pub(super) struct Receiver(Arc<Inlet>);

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There were commands.
    Some,
    /// No commands until the deadline.
    Nothing,
    /// No commands, and no senders left.
    Over,
}

/// Both ends.
pub(super) fn inlet() -> (Sender, Receiver) {
    let inlet = Arc::<Inlet>::default();
    (Sender(Arc::clone(&inlet)), Receiver(inlet))
}

impl Sender {
    /// Puts a command, and blocks while the queue is full; false when the writer is gone.
    pub(super) fn send(&self, command: LogCommand) -> bool {
        let mut state = self.0.state();
        while state.waiting.len() >= QUEUE_LEN_MAX && !state.is_writer_gone {
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_writer_gone {
            return false;
        }
        state.waiting.push(command);
        let is_asleep = std::mem::take(&mut state.is_asleep);
        drop(state);
        if is_asleep {
            self.0.came.notify_one();
        }
        true
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state().are_senders_gone = true;
        self.0.came.notify_one();
    }
}

impl Receiver {
    /// Takes all waiting commands, appending them to `into`. Sleeps until there are some, or until
    /// the deadline.
    pub(super) fn take(&self, into: &mut Vec<LogCommand>, deadline: Option<Instant>) -> Taken {
        let mut state = self.0.state();
        loop {
            if !state.waiting.is_empty() {
                let was_full = state.waiting.len() >= QUEUE_LEN_MAX;
                if into.is_empty() {
                    std::mem::swap(into, &mut state.waiting);
                } else {
                    into.append(&mut state.waiting);
                }
                drop(state);
                if was_full {
                    self.0.room.notify_all();
                }
                return Taken::Some;
            }
            if state.are_senders_gone {
                return Taken::Over;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Taken::Nothing;
            }
            state.is_asleep = true;
            state = match left {
                None => self.0.came.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.0.came.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.is_asleep = false;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let lost = {
            let mut state = self.0.state();
            state.is_writer_gone = true;
            std::mem::take(&mut state.waiting)
        };
        self.0.room.notify_all();
        // Callbacks may send.
        drop(lost);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_messages::{Lsn, NodeId, PartitionId};

    use super::*;

    fn command(number: u64) -> LogCommand {
        LogCommand::Durable { partition: PartitionId(0), node: NodeId(0), through: Lsn(number) }
    }

    fn number(command: &LogCommand) -> u64 {
        match command {
            LogCommand::Durable { through, .. } => through.0,
            _ => unreachable!("this is never sent"),
        }
    }

    #[test]
    fn commands_arrive_once_and_in_order_and_senders_wait_for_room() {
        const COUNT: u64 = 3 * QUEUE_LEN_MAX as u64;
        let (sender, receiver) = inlet();
        let mut found = Vec::new();
        std::thread::scope(|threads| {
            threads.spawn(move || (0..COUNT).for_each(|n| assert!(sender.send(command(n)))));
            let mut taken = Vec::new();
            while receiver.take(&mut taken, None) == Taken::Some {
                assert!(taken.len() <= QUEUE_LEN_MAX);
                found.extend(taken.drain(..).map(|command| number(&command)));
            }
        });
        assert!(found.into_iter().eq(0..COUNT), "all of it, then it is over");
    }

    #[test]
    fn a_wait_ends_at_its_deadline_or_with_a_command() {
        let (sender, receiver) = inlet();
        let mut taken = vec![command(1)];
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(receiver.take(&mut taken, Some(soon)), Taken::Nothing);
        assert!(Instant::now() >= soon);
        let late = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                assert!(sender.send(command(2)));
            });
            assert_eq!(receiver.take(&mut taken, Some(late)), Taken::Some);
        });
        assert!(taken.iter().map(number).eq([1, 2]));
    }

    #[test]
    fn nothing_can_be_put_when_the_writer_is_gone() {
        let (sender, receiver) = inlet();
        std::thread::scope(|threads| {
            let full = threads.spawn(|| (0..).take_while(|n| sender.send(command(*n))).count());
            std::thread::sleep(Duration::from_millis(50));
            drop(receiver);
            assert_eq!(full.join().unwrap(), QUEUE_LEN_MAX, "waiting senders are woken");
        });
        assert!(!sender.send(command(0)));
    }
}
