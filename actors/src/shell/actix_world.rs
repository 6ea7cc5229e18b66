//! The world of actix: the only `impl Actor`.
//!
//! An actor is spawned as a future inside `catch_unwind`, because actix restarts
//! nothing after a panic and tells nobody of it. It gives the thread back every
//! [`YIELD_EVERY`] messages, because actix drains a flooded mailbox without end.

use std::{
    any::Any,
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

use super::{Clock, Core, Death, Look, OnDeath, Performer, Post, Ref, Timers, world::Child};

/// Messages after which an actor gives its thread back.
pub const YIELD_EVERY: u32 = 64;
/// Longest sleep of the timer task: bounds what a step of the wall clock can do.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// A message in an actix mailbox.
struct Mail<I>(I);

impl<I> Message for Mail<I> {
    type Result = ();
}

struct Shell<M: Machine, P> {
    /// Boxed, for actix wants actors that can be moved.
    core: Box<Core<M, P>>,
    me: Ref<M::Input>,
    stopped: Arc<AtomicBool>,
    handled: u32,
}

impl<M, P> Actor for Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if !self.core.start(&self.me) {
            self.stopped.store(true, Ordering::Relaxed);
            context.stop();
        }
    }
}

impl<M, P> Handler<Mail<M::Input>> for Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Result = ();

    fn handle(&mut self, mail: Mail<M::Input>, context: &mut Context<Self>) {
        if self.stopped.load(Ordering::Relaxed) {
            context.stop();
            return;
        }
        if !self.core.receive(mail.0, &self.me) {
            self.stopped.store(true, Ordering::Relaxed);
            context.stop();
        }
        self.handled += 1;
        if self.handled.is_multiple_of(YIELD_EVERY) {
            context.wait(actix::fut::wrap_future(tokio::task::yield_now()));
        }
    }
}

/// A look in an actix mailbox.
struct Visit<M>(Look<M>);

impl<M> Message for Visit<M> {
    type Result = ();
}

impl<M, P> Handler<Visit<M>> for Shell<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Result = ();

    fn handle(&mut self, visit: Visit<M>, _: &mut Context<Self>) {
        if !self.stopped.load(Ordering::Relaxed) {
            self.core.show(visit.0);
        }
    }
}

/// Ends an actor whose parent wants it gone.
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

impl<M, P> Post<M::Input> for Addr<Shell<M, P>>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    fn post(&self, input: M::Input) -> bool {
        let alive = self.connected();
        if alive {
            self.do_send(Mail(input));
        }
        alive
    }
}

/// One arbiter thread of ours, seen from inside.
#[derive(Clone)]
pub struct ActixWorld {
    clock: Arc<dyn Clock>,
    timers: Timers,
}

impl ActixWorld {
    /// Must be called inside the `System` of the thread: it starts the timer task.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let timers = Timers::default();
        let earlier = Rc::new(Notify::new());
        let wake = Rc::clone(&earlier);
        timers.on_earlier(move || wake.notify_one());
        actix::spawn(run_timers(timers.clone(), Arc::clone(&clock), earlier));
        Self { clock, timers }
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.timers
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
        let context = Context::<Shell<M, P>>::new();
        let address = context.address();
        let me = Ref::new(address.clone());
        let stopped = Arc::new(AtomicBool::new(false));
        // The shell's own address keeps it alive: actors here end by being stopped,
        // never by being forgotten.
        let shell = Shell {
            core: Box::new(Core::new(machine, performer, Arc::clone(&self.clock))),
            me: me.clone(),
            stopped: Arc::clone(&stopped),
            handled: 0,
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
        let visited = address.clone();
        let looks = Ref::new(move |look| {
            let alive = visited.connected();
            if alive {
                visited.do_send(Visit(look));
            }
            alive
        });
        let child = Child::new(me, move || {
            stopped.store(true, Ordering::Relaxed);
            address.do_send(Stop);
        });
        (child, looks)
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

async fn run_timers(timers: Timers, clock: Arc<dyn Clock>, earlier: Rc<Notify>) {
    loop {
        timers.fire(clock.now());
        match timers.first() {
            None => earlier.notified().await,
            Some(at) => {
                let wait = at.since(clock.now()).min(SLEEP_MAX);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = earlier.notified() => {}
                }
            }
        }
    }
}
