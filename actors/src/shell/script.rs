//! Scripts: dropping, duplicating and delaying messages on the way to an actor of a simulation.
//!
//! Owns: which messages a script matches, and counting those it has acted on. Must always hold:
//! messages that no script matches are delivered at once, in order. Must not know: what any message
//! means.

use std::{
    fmt::{self, Debug, Write},
    mem::take,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::Ref;

/// What happens to some messages to actors of one kind.
///
/// Created by [`drop`](Self::drop), [`duplicate`](Self::duplicate), [`delay`](Self::delay) or
/// [`replay`](Self::replay), each with the kind of actor (`partition`, `supervisor`, `limiter`,
/// `vqueue`, `shuffle`, `capacity`, or the name of a custom one) and the type of message: the
/// variant of its enum, as `Debug` prints it. It acts on every such message unless limited by
/// [`skip`](Self::skip) and [`times`](Self::times).
///
/// ```
/// use std::time::Duration;
/// use forebay_actors::shell::script::Script;
///
/// // The second and the third permit that a vqueue receives arrive a second late.
/// let late = Script::delay("vqueue", "Granted", Duration::from_secs(1)).skip(1).times(2);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a script does nothing before it is handed to a simulation"]
pub struct Script {
    actor: String,
    kind: String,
    fate: Fate,
    skip: u64,
    times: u64,
}

/// What happens to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Drop,
    Duplicate,
    Delay(Duration),
    Replay(Duration),
}

impl Script {
    fn new(actor: &str, kind: &str, fate: Fate) -> Self {
        Self { actor: actor.to_owned(), kind: kind.to_owned(), fate, skip: 0, times: u64::MAX }
    }

    /// Drops the messages.
    pub fn drop(actor: &str, kind: &str) -> Self {
        Self::new(actor, kind, Fate::Drop)
    }

    /// Delivers the messages twice in a row.
    pub fn duplicate(actor: &str, kind: &str) -> Self {
        Self::new(actor, kind, Fate::Duplicate)
    }

    /// Delivers the messages later, behind messages sent meanwhile; not at all if the actor is gone
    /// by then.
    pub fn delay(actor: &str, kind: &str, by: Duration) -> Self {
        Self::new(actor, kind, Fate::Delay(by))
    }

    /// Delivers the messages, and once more after this time: like a sender that repeats itself when
    /// things have changed (another leader, another attempt).
    pub fn replay(actor: &str, kind: &str, after: Duration) -> Self {
        Self::new(actor, kind, Fate::Replay(after))
    }

    /// Lets this many messages pass first.
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Acts on this many messages, then on no more.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    fn concerns(&self, actor: &str, input: &impl Debug) -> bool {
        self.actor == actor && is_named(input, &self.kind)
    }
}

/// Whether the name of a value, as `Debug` prints it, equals this one. Formats no further than
/// that.
fn is_named(value: &impl Debug, name: &str) -> bool {
    struct Name<'a> {
        rest: &'a str,
        differs: bool,
    }
    impl Write for Name<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for char in text.chars() {
                if !(char.is_alphanumeric() || char == '_') {
                    return Err(fmt::Error);
                }
                match self.rest.strip_prefix(char) {
                    Some(rest) => self.rest = rest,
                    None => {
                        self.differs = true;
                        return Err(fmt::Error);
                    }
                }
            }
            Ok(())
        }
    }
    let mut found = Name { rest: name, differs: false };
    // An error means that enough was read.
    let _ = write!(found, "{value:?}");
    !found.differs && found.rest.is_empty()
}

/// A running script: how often it has acted, and a way to end it.
#[derive(Clone, Debug)]
pub struct Scripted(Arc<Playing>);

#[derive(Debug)]
struct Playing {
    script: Script,
    seen: AtomicU64,
    acted: AtomicU64,
    is_over: AtomicBool,
}

impl Scripted {
    /// Number of messages that it has acted on.
    #[must_use]
    pub fn acted(&self) -> u64 {
        self.0.acted.load(Ordering::Relaxed)
    }

    /// Delivers messages normally again. Delayed ones still arrive.
    pub fn end(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// The running scripts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripts(Arc<Mutex<Vec<Arc<Playing>>>>);

impl Scripts {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Playing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn play(&self, script: Script) -> Scripted {
        let playing = Arc::new(Playing {
            script,
            seen: AtomicU64::new(0),
            acted: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        self.lock().push(Arc::clone(&playing));
        Scripted(playing)
    }

    /// What happens to a message; `None`: it is delivered. If several scripts match, the one that
    /// was added first decides.
    fn fate(&self, actor: &str, input: &impl Debug) -> Option<Fate> {
        let mut playing = self.lock();
        playing.retain(|playing| !playing.is_over.load(Ordering::Relaxed));
        playing.iter().find_map(|playing| {
            let script = &playing.script;
            if !script.concerns(actor, input) {
                return None;
            }
            let seen = playing.seen.fetch_add(1, Ordering::Relaxed);
            let acts = seen >= script.skip && seen - script.skip < script.times;
            acts.then(|| {
                playing.acted.fetch_add(1, Ordering::Relaxed);
                script.fate
            })
        })
    }
}

/// A delayed message: by how much, and its delivery.
type Late = (Duration, Box<dyn FnOnce() + Send>);

/// The route of messages to the actors of one world. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Route {
    scripts: Scripts,
    /// Messages delayed since the world last checked.
    late: Arc<Mutex<Vec<Late>>>,
}

impl Route {
    pub(super) fn under(scripts: Scripts) -> Self {
        Self { scripts, late: Arc::default() }
    }

    pub(super) fn play(&self, script: Script) -> Scripted {
        self.scripts.play(script)
    }

    /// Messages for the world to deliver later.
    pub(super) fn take_late(&self) -> Vec<Late> {
        take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The address of an actor for senders, in front of its mailbox.
    pub(super) fn to<I>(&self, actor: &'static str, mailbox: Ref<I>) -> Ref<I>
    where
        I: Clone + Debug + Send + 'static,
    {
        let route = self.clone();
        Ref::new(move |input: I| match route.scripts.fate(actor, &input) {
            None => mailbox.send(input),
            Some(Fate::Drop) => true,
            Some(Fate::Duplicate) => {
                mailbox.send(input.clone());
                mailbox.send(input)
            }
            Some(Fate::Delay(by)) => {
                route.later(by, input, &mailbox);
                true
            }
            Some(Fate::Replay(after)) => {
                route.later(after, input.clone(), &mailbox);
                mailbox.send(input)
            }
        })
    }

    fn later<I: Send + 'static>(&self, by: Duration, input: I, mailbox: &Ref<I>) {
        let mailbox = mailbox.clone();
        let deliver = Box::new(move || {
            mailbox.send(input);
        });
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push((by, deliver));
    }
}
