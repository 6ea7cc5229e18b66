//! Actors without actix: one thread, mailboxes polled in a seeded order, virtual time. The same
//! seed gives the same trace.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_engine::Machine;
use forebay_messages::Timestamp;

use super::{
    Clock, Core, Death, Look, OnDeath, Performer, Post, Ref, Scratch, Timers,
    mailbox::{Mail, Mailbox, Put},
    panic::panic_text,
    script::{Route, Script, Scripted, Scripts},
    timers::WeakTimers,
    world::Child,
};

/// A clock that moves only by an explicit call.
#[derive(Debug, Default)]
pub struct VirtualClock(AtomicU64);

impl VirtualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self(AtomicU64::new(start.0))
    }

    /// Moves the clock forward; never back.
    pub fn advance_to(&self, to: Timestamp) {
        self.0.fetch_max(to.0, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Duration {
        self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// The clocks of one simulated machine: its wall clock can be stepped and can run slow or fast; its
/// monotonic clock is the time of the simulation.
#[derive(Debug)]
pub struct MachineClock {
    time: Arc<VirtualClock>,
    wall: Mutex<Wall>,
}

#[derive(Clone, Copy, Debug)]
struct Wall {
    /// The time that it showed at its last change.
    shown: Duration,
    /// When it was last changed.
    changed_at: Duration,
    /// Its speed in percent of true time.
    rate_percent: u32,
}

impl MachineClock {
    /// A wall clock that shows the time of the simulation.
    #[must_use]
    pub fn new(time: Arc<VirtualClock>) -> Self {
        let now = time.monotonic();
        let wall = Wall { shown: now, changed_at: now, rate_percent: 100 };
        Self { time, wall: Mutex::new(wall) }
    }

    fn change(&self, change: impl FnOnce(&mut Wall)) {
        let shown = self.wall();
        let mut wall = self.wall.lock().unwrap_or_else(PoisonError::into_inner);
        (wall.shown, wall.changed_at) = (shown, self.time.monotonic());
        change(&mut wall);
    }

    /// Moves the wall clock forward by this many milliseconds (back, if negative).
    pub fn step(&self, by_ms: i64) {
        let by = Duration::from_millis(by_ms.unsigned_abs());
        self.change(|wall| {
            wall.shown = match by_ms < 0 {
                true => wall.shown.saturating_sub(by),
                false => wall.shown + by,
            };
        });
    }

    /// Sets the speed of the wall clock from here on: with 50 it advances by half of the time that
    /// passes, with 0 it stands still.
    pub fn set_rate_percent(&self, rate_percent: u32) {
        self.change(|wall| wall.rate_percent = rate_percent);
    }

    /// Sets the wall clock to the time of the simulation again, at normal speed.
    pub fn set_right(&self) {
        let now = self.time.monotonic();
        self.change(|wall| (wall.shown, wall.rate_percent) = (now, 100));
    }
}

impl Clock for MachineClock {
    fn wall(&self) -> Duration {
        let wall = *self.wall.lock().unwrap_or_else(PoisonError::into_inner);
        wall.shown + (self.time.monotonic() - wall.changed_at) * wall.rate_percent / 100
    }

    fn monotonic(&self) -> Duration {
        self.time.monotonic()
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// A generator; equal seeds give equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which must not be zero).
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).unwrap_or(0)
    }
}

/// An actor as the executor sees it.
trait AnyActor {
    /// Handles one message; `None` when the mailbox is empty.
    fn poll(&mut self) -> Option<Polled>;
    fn has_mail(&self) -> bool;
    fn is_stopped(&self) -> bool;
}

enum Polled {
    Continues,
    Ended(Death),
}

impl<M: Machine> Post<M::Input> for Arc<Mailbox<M>>
where
    M::Input: Send,
{
    fn post(&self, input: M::Input) -> bool {
        self.put(Mail::Input(input)) != Put::Refused
    }
}

struct Actor<M: Machine, P> {
    core: Core<M, P>,
    scratch: Scratch<M>,
    me: Ref<M::Input>,
    mailbox: Arc<Mailbox<M>>,
    stopped: Arc<AtomicBool>,
    started: bool,
}

impl<M, P> AnyActor for Actor<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    fn poll(&mut self) -> Option<Polled> {
        let (core, scratch, me) = (&mut self.core, &mut self.scratch, &self.me);
        let polled = if self.started {
            let mail = self.mailbox.pop()?;
            catch_unwind(AssertUnwindSafe(|| {
                core.begin_turn();
                let continues = match mail {
                    Mail::Input(input) => core.receive(input, me, scratch),
                    Mail::Look(look) => {
                        core.show(look);
                        true
                    }
                };
                core.observe();
                continues
            }))
        } else {
            self.started = true;
            catch_unwind(AssertUnwindSafe(|| {
                core.begin_turn();
                core.start(me, scratch)
            }))
        };
        Some(match polled {
            Ok(true) => Polled::Continues,
            Ok(false) => Polled::Ended(Death::Stopped),
            Err(panic) => Polled::Ended(Death::Panicked(panic_text(panic.as_ref()))),
        })
    }

    fn has_mail(&self) -> bool {
        !self.started || !self.mailbox.is_empty()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl<M: Machine, P> Drop for Actor<M, P> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

struct Slot {
    name: &'static str,
    actor: Option<Box<dyn AnyActor>>,
    on_death: Option<OnDeath>,
}

struct Executor {
    slots: BTreeMap<u64, Slot>,
    next_slot: u64,
    random: SeededRandom,
    trace: Vec<(Timestamp, u64, &'static str)>,
    panics: Vec<String>,
}

/// A seeded, single-threaded executor of actors. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct SimWorld {
    executor: Rc<RefCell<Executor>>,
    /// The time of the simulation.
    time: Arc<VirtualClock>,
    /// The actors' clock.
    clock: Arc<dyn Clock>,
    timers: Timers,
    /// All timers of this thread, with any clock.
    all_timers: Rc<RefCell<Vec<WeakTimers>>>,
    route: Route,
}

impl SimWorld {
    /// An empty world at a start time.
    #[must_use]
    pub fn new(seed: u64, start: Timestamp) -> Self {
        let time = Arc::new(VirtualClock::new(start));
        let clock = Arc::clone(&time) as _;
        Self::beside(seed, time, clock, Scripts::default())
    }

    /// An empty world that shares the time and scripts with others. `clock`: the clock of its
    /// actors.
    pub(crate) fn beside(
        seed: u64,
        time: Arc<VirtualClock>,
        clock: Arc<dyn Clock>,
        scripts: Scripts,
    ) -> Self {
        let timers = Timers::new(Arc::clone(&clock));
        let all_timers = Rc::new(RefCell::new(vec![timers.downgrade()]));
        Self {
            executor: Rc::new(RefCell::new(Executor {
                slots: BTreeMap::new(),
                next_slot: 0,
                random: SeededRandom::new(seed),
                trace: Vec::new(),
                panics: Vec::new(),
            })),
            time,
            clock,
            timers,
            all_timers,
            route: Route::under(scripts),
        }
    }

    /// Applies a script to messages from now on.
    pub fn script(&self, script: Script) -> Scripted {
        self.route.play(script)
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The same world with another clock, and separate timers.
    pub(super) fn with_clock(&self, clock: Arc<dyn Clock>) -> Self {
        let timers = Timers::new(Arc::clone(&clock));
        let mut all = self.all_timers.borrow_mut();
        all.retain(|timers| timers.upgrade().is_some());
        all.push(timers.downgrade());
        Self { clock, timers, ..self.clone() }
    }

    /// All timers of this world.
    fn all_timers(&self) -> Vec<Timers> {
        self.all_timers.borrow().iter().filter_map(WeakTimers::upgrade).collect()
    }

    /// The time of the simulation at which the first timer is due.
    pub(crate) fn first_timer(&self) -> Option<Timestamp> {
        let first = self.all_timers().iter().filter_map(Timers::first_in).min()?;
        Some(self.time.now().after(first))
    }

    /// Fires the timers that are due; false when none is.
    pub(crate) fn fire_timers(&self) -> bool {
        let mut due = self.all_timers();
        due.retain(|timers| timers.first_in().is_some_and(|wait| wait.is_zero()));
        due.iter().for_each(Timers::fire);
        !due.is_empty()
    }

    pub(super) fn spawn<M, P>(
        &self,
        name: &'static str,
        machine: M,
        performer: P,
        on_death: OnDeath,
    ) -> (Child<M::Input>, Ref<Look<M>>)
    where
        M: Machine + 'static,
        M::Input: Send + 'static,
        P: Performer<M>,
    {
        let mailbox = Arc::new(Mailbox::<M>::default());
        let me = self.route.to(name, Ref::new(Arc::clone(&mailbox)));
        let stopped = Arc::new(AtomicBool::new(false));
        let actor = Actor {
            core: Core::new(machine, performer, Arc::clone(&self.clock)),
            scratch: Scratch::default(),
            me: me.clone(),
            mailbox: Arc::clone(&mailbox),
            stopped: Arc::clone(&stopped),
            started: false,
        };
        let mut executor = self.executor.borrow_mut();
        let number = executor.next_slot;
        executor.next_slot += 1;
        executor
            .slots
            .insert(number, Slot { name, actor: Some(Box::new(actor)), on_death: Some(on_death) });
        let visited = Arc::clone(&mailbox);
        let looks = Ref::new(move |look| visited.put(Mail::Look(look)) != Put::Refused);
        let child = Child::new(me, move || {
            stopped.store(true, Ordering::Relaxed);
            mailbox.close();
        });
        (child, looks)
    }

    /// Lets one actor, chosen by the seed, handle one message. False when no actor has
    /// mail.
    pub fn step(&self) -> bool {
        let ready = self.ready();
        if ready.is_empty() {
            return false;
        }
        let chosen = self.executor.borrow_mut().random.below(ready.len());
        self.step_actor(ready[chosen]);
        true
    }

    /// The numbers of the actors that have mail. Removes stopped actors and notifies their parents
    /// first.
    pub(crate) fn ready(&self) -> Vec<u64> {
        while self.remove_stopped() {}
        for (by, deliver) in self.route.take_late() {
            self.timers.set(self.clock.now().after(by), deliver);
        }
        let executor = self.executor.borrow();
        let is_ready = |slot: &Slot| slot.actor.as_ref().is_some_and(|actor| actor.has_mail());
        let ready = executor.slots.iter().filter(|(_, slot)| is_ready(slot));
        ready.map(|(number, _)| *number).collect()
    }

    /// Lets an actor handle one message; returns its name.
    pub(crate) fn step_actor(&self, number: u64) -> &'static str {
        let (name, actor) = {
            let mut executor = self.executor.borrow_mut();
            let now = self.time.now();
            let Some(slot) = executor.slots.get_mut(&number) else { return "" };
            let (name, actor) = (slot.name, slot.actor.take());
            executor.trace.push((now, number, name));
            (name, actor)
        };
        let Some(mut actor) = actor else { return name };
        match actor.poll() {
            Some(Polled::Ended(death)) => {
                drop(actor);
                if let Death::Panicked(panic) = &death {
                    self.executor.borrow_mut().panics.push(format!("{name} {number}: {panic}"));
                }
                self.report_death(number, death);
            }
            Some(Polled::Continues) | None => {
                if let Some(slot) = self.executor.borrow_mut().slots.get_mut(&number) {
                    slot.actor = Some(actor);
                }
            }
        }
        name
    }

    /// The actors in this world: number and name.
    #[must_use]
    pub fn actors(&self) -> Vec<(u64, &'static str)> {
        let executor = self.executor.borrow();
        executor.slots.iter().map(|(number, slot)| (*number, slot.name)).collect()
    }

    /// Ends an actor as a panic would: its parent is notified. False when there is no actor with
    /// this number.
    pub fn kill(&self, number: u64) -> bool {
        let is_there = self.executor.borrow().slots.contains_key(&number);
        if is_there {
            self.report_death(number, Death::Panicked("killed by the test".to_owned()));
        }
        is_there
    }

    /// Drops all actors at once without notifying their parents, as in a crash.
    pub fn clear(&self) {
        let slots = std::mem::take(&mut self.executor.borrow_mut().slots);
        drop(slots);
        self.all_timers().iter().for_each(Timers::clear);
    }

    /// Steps until no actor has mail, firing timers that are due now.
    pub fn settle(&self) {
        loop {
            while self.step() {}
            if !self.fire_timers() {
                return;
            }
        }
    }

    /// Advances the time, stopping at every timer on the way, and settles.
    pub fn advance(&self, by: Duration) {
        let until = self.time.now().after(by);
        self.settle();
        while let Some(at) = self.first_timer().filter(|at| *at <= until) {
            self.time.advance_to(at);
            self.settle();
        }
        self.time.advance_to(until);
        self.settle();
    }

    /// Actors that panicked by themselves, with the messages. [Killed](Self::kill) ones are not
    /// included.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        self.executor.borrow().panics.clone()
    }

    /// Which actor handled a message when: time, actor number, actor name.
    #[must_use]
    pub fn trace(&self) -> Vec<(Timestamp, u64, &'static str)> {
        self.executor.borrow().trace.clone()
    }

    fn report_death(&self, number: u64, death: Death) {
        let slot = self.executor.borrow_mut().slots.remove(&number);
        if let Some(on_death) = slot.and_then(|slot| slot.on_death) {
            on_death(death);
        }
    }

    /// Whether any actor was removed: the parents may have stopped others.
    fn remove_stopped(&self) -> bool {
        let stopped: Vec<u64> = self
            .executor
            .borrow()
            .slots
            .iter()
            .filter(|(_, slot)| slot.actor.as_ref().is_some_and(|r| r.is_stopped()))
            .map(|(number, _)| *number)
            .collect();
        for number in &stopped {
            self.report_death(*number, Death::Stopped);
        }
        !stopped.is_empty()
    }
}
