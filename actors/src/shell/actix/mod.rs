//! Actors on actix.
//!
//! An actor is spawned as a future inside `catch_unwind`, because actix neither restarts an actor
//! after a panic nor reports the panic. Its messages are in our own mailbox ([`super::mailbox`]);
//! actix's mailbox contains at most one [`Delivery`]. An actor yields its thread after
//! [`YIELD_EVERY`] messages or a slice of time, as its messages may never end.

mod pool;

use std::{
    cell::RefCell,
    collections::VecDeque,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use forebay_engine::Machine;
use futures_util::FutureExt;
use tokio::sync::Notify;

use super::{
    Clock, Core, Death, Look, OnDeath, Performer, Post, Ref, Scratch, Timers,
    mailbox::{Mail, Mailbox, Put},
    panic::panic_text,
    timers::WeakTimers,
    world::Child,
};

use pool::Pools;

/// Messages after which an actor yields its thread, however fast it was.
pub const YIELD_EVERY: u32 = 1_024;
/// Time slice of an actor: one message of a partition may take as long as thousands of its limiter,
/// and fast actors must not fall behind because of that.
pub(super) const YIELD_AFTER: Duration = Duration::from_micros(500);
/// Maximum sleep of a timer task. It bounds how late a timer fires after the wall clock stepped
/// forward.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Wakes an actor that has mail.
pub(super) struct Delivery;

impl Message for Delivery {
    type Result = ();
}

struct Shell<M: Machine, P: Performer<M>> {
    core: Core<M, P>,
    scratch: Scratch<M>,
    me: Ref<M::Input>,
    mailbox: Arc<Mailbox<M>>,
    /// Mail that was taken and is not handled yet.
    taken: VecDeque<Mail<M>>,
    stopped: Arc<AtomicBool>,
}

impl<M, P> Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    fn end(&self, context: &mut Context<Self>) {
        self.stopped.store(true, Ordering::Relaxed);
        context.stop();
    }

    /// Handles one item of mail; false when there is none.
    fn handle_one(&mut self, context: &mut Context<Self>) -> bool {
        let Some(mail) = self.taken.pop_front() else {
            return self.mailbox.take(&mut self.taken);
        };
        match mail {
            Mail::Look(look) => self.core.show(look),
            Mail::Input(input) => {
                if !self.core.receive(input, &self.me, &mut self.scratch) {
                    self.end(context);
                }
            }
        }
        true
    }
}

/// Actix requires actors that can be moved; nothing in here is pinned.
impl<M: Machine, P: Performer<M>> Unpin for Shell<M, P> {}

impl<M, P> Actor for Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.core.begin_turn();
        if !self.core.start(&self.me, &mut self.scratch) {
            self.end(context);
        }
    }
}

impl<M, P> Handler<Delivery> for Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Result = ();

    fn handle(&mut self, delivery: Delivery, context: &mut Context<Self>) {
        let begun = self.core.monotonic();
        let mut left = YIELD_EVERY;
        self.core.begin_turn_at(begun);
        while left > 0 && !self.stopped.load(Ordering::Relaxed) && self.handle_one(context) {
            left -= 1;
            if self.core.is_time_to_look() && self.core.monotonic() - begun >= YIELD_AFTER {
                left = 0;
            }
        }
        self.core.observe();
        if self.stopped.load(Ordering::Relaxed) {
            context.stop();
            return;
        }
        if left > 0 {
            return;
        }
        yield_thread(delivery, context);
    }
}

impl<M: Machine, P: Performer<M>> Drop for Shell<M, P> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

/// Yields the thread while mail is left. Sends the delivery again, because senders do not wake an
/// actor that is awake.
pub(super) fn yield_thread<A>(delivery: Delivery, context: &mut Context<A>)
where
    A: Actor<Context = Context<A>> + Handler<Delivery>,
{
    context.address().do_send(delivery);
    context.wait(actix::fut::wrap_future(tokio::task::yield_now()));
}

/// Ends an actor at the request of its parent.
struct Stop;

impl Message for Stop {
    type Result = ();
}

impl<M, P> Handler<Stop> for Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

/// Puts mail into an actor's mailbox.
struct Door<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    mailbox: Arc<Mailbox<M>>,
    address: Addr<Shell<M, P>>,
}

impl<M, P> Door<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    fn put(&self, mail: Mail<M>) -> bool {
        let put = self.mailbox.put(mail);
        if put == Put::Wake {
            self.address.do_send(Delivery);
        }
        put != Put::Refused
    }
}

impl<M, P> Post<M::Input> for Arc<Door<M, P>>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    fn post(&self, input: M::Input) -> bool {
        self.put(Mail::Input(input))
    }
}

/// One arbiter thread, for the actors on it.
#[derive(Clone)]
pub struct ActixWorld {
    clock: Arc<dyn Clock>,
    timers: Timers,
    pools: Pools,
    /// Timers of this thread that follow other clocks.
    others: Rc<RefCell<Vec<WeakTimers>>>,
}

impl ActixWorld {
    /// Must be called inside the `System` of the thread: it starts the timer task.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let timers = start_timers(&clock);
        Self { clock, timers, pools: Pools::default(), others: Rc::default() }
    }

    /// The same thread with another clock, and separate timers.
    pub(super) fn with_clock(&self, clock: Arc<dyn Clock>) -> Self {
        let timers = start_timers(&clock);
        let mut others = self.others.borrow_mut();
        others.retain(|other| other.upgrade().is_some());
        others.push(timers.downgrade());
        Self { clock, timers, pools: self.pools.clone(), others: Rc::clone(&self.others) }
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// The thread ends. Timers that set themselves again and actors that hold their thread form
    /// cycles: nothing else frees them.
    pub(crate) fn clear(&self) {
        self.timers.clear();
        let others = std::mem::take(&mut *self.others.borrow_mut());
        others.iter().filter_map(WeakTimers::upgrade).for_each(|timers| timers.clear());
        self.pools.clear();
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
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
        if P::IS_ONE_OF_MANY {
            return self.pools.spawn(&self.clock, machine, performer, on_death);
        }
        let context = Context::<Shell<M, P>>::new();
        let address = context.address();
        let mailbox = Arc::new(Mailbox::default());
        let door = Door { mailbox: Arc::clone(&mailbox), address: address.clone() };
        let door = Arc::new(door);
        let me = Ref::new(Arc::clone(&door));
        let stopped = Arc::new(AtomicBool::new(false));
        // The shell's own address keeps it alive: actors end when they are stopped, never by being
        // unreferenced.
        let shell = Shell {
            core: Core::new(machine, performer, Arc::clone(&self.clock)),
            scratch: Scratch::default(),
            me: me.clone(),
            mailbox,
            taken: VecDeque::new(),
            stopped: Arc::clone(&stopped),
        };
        let run = AssertUnwindSafe(context.into_future(shell)).catch_unwind();
        actix::spawn(async move {
            let death = match run.await {
                Ok(()) => Death::Stopped,
                Err(panic) => Death::Panicked(panic_text(panic.as_ref())),
            };
            if let Death::Panicked(reason) = &death {
                tracing::error!(actor = name, reason, "an actor panicked");
            }
            on_death(death);
        });
        let looks = Ref::new(move |look| door.put(Mail::Look(look)));
        let child = Child::new(me, move || {
            stopped.store(true, Ordering::Relaxed);
            address.do_send(Stop);
        });
        (child, looks)
    }
}

/// A queue of timers and the task that fires them.
fn start_timers(clock: &Arc<dyn Clock>) -> Timers {
    let timers = Timers::new(Arc::clone(clock));
    let earlier = Rc::new(Notify::new());
    let wake = Rc::clone(&earlier);
    timers.on_earlier(move || wake.notify_one());
    actix::spawn(run_timers(timers.downgrade(), earlier));
    timers
}

/// Fires timers until their queue is dropped.
async fn run_timers(timers: WeakTimers, earlier: Rc<Notify>) {
    loop {
        let Some(queue) = timers.upgrade() else { return };
        queue.fire();
        let wait = queue.first_in();
        drop(queue);
        match wait {
            None => earlier.notified().await,
            Some(wait) => tokio::select! {
                () = tokio::time::sleep(wait.min(SLEEP_MAX)) => {}
                () = earlier.notified() => {}
            },
        }
    }
}
