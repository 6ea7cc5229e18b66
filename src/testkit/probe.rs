//! A recipient that records its messages.

use std::{
    collections::VecDeque,
    fmt::Debug,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use forebay_actors::shell::{Death, OnDeath, Ref};

/// Maximum number of messages that a panic shows.
const SHOWN_MAX: usize = 20;

/// Stands in for an actor: records every message, in order, from any thread.
///
/// The `expect` methods take the message that they find; if there is none, they panic and show the
/// other messages.
///
/// ```
/// use forebay::testkit::Probe;
///
/// let probe = Probe::new();
/// let address = probe.address();
/// address.send("tea");
/// address.send("biscuits");
/// assert_eq!(probe.fish(|order| *order == "biscuits"), "biscuits");
/// assert_eq!(probe.expect(), "tea", "other messages are still there");
/// probe.expect_none();
/// ```
pub struct Probe<I> {
    shared: Arc<Shared<I>>,
}

type Reply<I> = Box<dyn FnMut(&I) + Send>;

struct Shared<I> {
    received: Mutex<VecDeque<I>>,
    arrived: Condvar,
    reply: Mutex<Option<Reply<I>>>,
}

impl<I> Shared<I> {
    fn received(&self) -> MutexGuard<'_, VecDeque<I>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I> Clone for Probe<I> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<I> Default for Probe<I> {
    fn default() -> Self {
        let shared = Shared {
            received: Mutex::new(VecDeque::new()),
            arrived: Condvar::new(),
            reply: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }
}

/// Waiting messages, as a panic shows them.
fn shown<I: Debug>(received: &VecDeque<I>) -> String {
    if received.is_empty() {
        return "nothing waits".to_owned();
    }
    let mut text = format!("{} wait:", received.len());
    for message in received.iter().take(SHOWN_MAX) {
        text += &format!("\n  {message:?}");
    }
    if received.len() > SHOWN_MAX {
        text += "\n  …";
    }
    text
}

impl<I: Send + Debug + 'static> Probe<I> {
    /// A probe without messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its address, for the code under test.
    #[must_use]
    pub fn address(&self) -> Ref<I> {
        let shared = Arc::clone(&self.shared);
        Ref::new(move |message| {
            let mut reply = shared.reply.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(reply) = &mut *reply {
                reply(&message);
            }
            drop(reply);
            shared.received().push_back(message);
            shared.arrived.notify_all();
            true
        })
    }

    /// Answers every message from here on at once, like the actor it stands in for; messages are
    /// recorded anyway. The answer must not be sent to this probe.
    pub fn reply_with(&self, reply: impl FnMut(&I) + Send + 'static) {
        *self.shared.reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(reply));
    }

    /// The next message, which must have arrived already.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn expect(&self) -> I {
        self.shared.received().pop_front().expect("the probe has received nothing (more)")
    }

    /// The next message, which must arrive within this time. It waits for threads: in a simulation,
    /// run that instead, and use [`Self::expect`].
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    #[track_caller]
    pub fn expect_within(&self, within: Duration) -> I {
        match self.wait(within, VecDeque::pop_front) {
            Some(message) => message,
            None => panic!("the probe has received nothing within {within:?}"),
        }
    }

    /// No message may have arrived.
    ///
    /// # Panics
    /// When one has.
    #[track_caller]
    pub fn expect_none(&self) {
        let received = self.shared.received();
        assert!(received.is_empty(), "the probe expects nothing, but {}", shown(&received));
    }

    /// No message may arrive for this long.
    ///
    /// # Panics
    /// As soon as one does.
    #[track_caller]
    pub fn expect_none_within(&self, within: Duration) {
        let came = self.wait(within, |received| (!received.is_empty()).then(|| shown(received)));
        if let Some(shown) = came {
            panic!("the probe expects nothing within {within:?}, but {shown}");
        }
    }

    /// The first message that `is_wanted`, which must have arrived already; the others stay.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn fish(&self, is_wanted: impl Fn(&I) -> bool) -> I {
        let mut received = self.shared.received();
        match take_where(&mut received, &is_wanted) {
            Some(message) => message,
            None => panic!("the probe has received no such message: {}", shown(&received)),
        }
    }

    /// The first message that `is_wanted`, which must arrive within this time; the others stay.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    #[track_caller]
    pub fn fish_within(&self, within: Duration, is_wanted: impl Fn(&I) -> bool) -> I {
        match self.wait(within, |received| take_where(received, &is_wanted)) {
            Some(message) => message,
            None => panic!(
                "the probe has received no such message within {within:?}: {}",
                shown(&self.shared.received())
            ),
        }
    }

    /// Takes all messages that have arrived.
    #[must_use]
    pub fn drain(&self) -> Vec<I> {
        self.shared.received().drain(..).collect()
    }

    /// Waits until `take` finds something.
    fn wait<T>(
        &self,
        within: Duration,
        mut take: impl FnMut(&mut VecDeque<I>) -> Option<T>,
    ) -> Option<T> {
        // A time too far away for an `Instant` never comes.
        let deadline = Instant::now().checked_add(within);
        let mut received = self.shared.received();
        loop {
            if let Some(taken) = take(&mut received) {
                return Some(taken);
            }
            let left =
                deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.arrived.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Probe<Death> {
    /// A death watch: pass it to [`World::spawn`](super::World::spawn), and the end of that actor
    /// arrives as a message.
    #[must_use]
    pub fn watch(&self) -> OnDeath {
        let address = self.address();
        Box::new(move |death| {
            address.send(death);
        })
    }
}

fn take_where<I>(received: &mut VecDeque<I>, is_wanted: impl Fn(&I) -> bool) -> Option<I> {
    let at = received.iter().position(is_wanted)?;
    received.remove(at)
}
