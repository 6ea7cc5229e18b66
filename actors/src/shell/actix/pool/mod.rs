//! Actors of which there may be a million, on actix: one actix actor per thread polls them all.
//!
//! Each is an actor like any other: it has its own mailbox and address, handles one message at a
//! time, and a panic ends only this actor. They share the cost of a wake-up: on actix that is a
//! boxed envelope, a queue, a waker, a task and its poll for one or two messages.
//!
//! Must always hold: a member with mail is in the ready queue or has its turn; a panic of one,
//! including one in its death watch, does not affect others. Must not know: the machines of the
//! members.

use std::{
    any::{Any, TypeId},
    cell::RefCell,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler, Recipient};
use forebay_engine::Machine;
use slab::Slab;

use crate::shell::{
    Clock, Core, Death, Look, OnDeath, Performer, Post, Ref, Scratch,
    mailbox::{Mail, Mailbox, Put},
    panic::panic_text,
    world::Child,
};

use super::{Delivery, YIELD_AFTER, YIELD_EVERY, yield_thread};

/// Turns between two readings of the time.
const LOOK_EVERY: usize = 16;

/// Ready members, by number, and whether their pool is awake.
#[derive(Default)]
struct Queue {
    ready: Vec<usize>,
    is_awake: bool,
}

/// Wakes members of a pool.
struct Ready {
    queue: Mutex<Queue>,
    pool: Recipient<Delivery>,
}

impl Ready {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, number: usize) {
        let mut queue = self.queue();
        queue.ready.push(number);
        if !std::mem::replace(&mut queue.is_awake, true) {
            drop(queue);
            self.pool.do_send(Delivery);
        }
    }

    /// Takes all of them into an empty list. If there are none the pool sleeps from here on.
    fn take(&self, into: &mut Vec<usize>) -> bool {
        let mut queue = self.queue();
        std::mem::swap(&mut queue.ready, into);
        queue.is_awake = !into.is_empty();
        queue.is_awake
    }
}

/// Puts mail into a member's mailbox.
struct Door<M: Machine> {
    mailbox: Mailbox<M>,
    number: usize,
    ready: Arc<Ready>,
    is_stopped: AtomicBool,
}

impl<M: Machine> Door<M> {
    fn put(&self, mail: Mail<M>) -> bool {
        let put = self.mailbox.put(mail);
        if put == Put::Wake {
            self.ready.push(self.number);
        }
        put != Put::Refused
    }
}

impl<M> Post<M::Input> for Arc<Door<M>>
where
    M: Machine,
    M::Input: Send,
{
    fn post(&self, input: M::Input) -> bool {
        self.put(Mail::Input(input))
    }
}

struct Member<M: Machine, P> {
    core: Core<M, P>,
    me: Ref<M::Input>,
    door: Arc<Door<M>>,
    has_started: bool,
    on_death: Option<OnDeath>,
}

/// The result of a turn.
enum Turn {
    /// It has no more mail.
    Sleeps,
    /// It may have more mail.
    Continues,
    Ends,
}

impl<M: Machine, P: Performer<M>> Member<M, P> {
    fn turn(&mut self, begun: Duration, scratch: &mut Scratch<M>) -> Turn {
        if self.door.is_stopped.load(Ordering::Relaxed) {
            return Turn::Ends;
        }
        self.core.begin_turn_at(begun);
        if !std::mem::replace(&mut self.has_started, true) && !self.core.start(&self.me, scratch) {
            return Turn::Ends;
        }
        let turn = self.handle_mail(scratch);
        self.core.observe();
        turn
    }

    fn handle_mail(&mut self, scratch: &mut Scratch<M>) -> Turn {
        for _ in 0..YIELD_EVERY {
            match self.door.mailbox.next() {
                None => return Turn::Sleeps,
                Some(Mail::Look(look)) => self.core.show(look),
                Some(Mail::Input(input)) => {
                    let continues = self.core.receive(input, &self.me, scratch);
                    if !continues || self.door.is_stopped.load(Ordering::Relaxed) {
                        return Turn::Ends;
                    }
                }
            }
        }
        Turn::Continues
    }
}

impl<M: Machine, P> Drop for Member<M, P> {
    fn drop(&mut self) {
        self.door.mailbox.close();
    }
}

/// Members by number. A slot is empty while its member has its turn.
type Members<M, P> = Rc<RefCell<Slab<Option<Box<Member<M, P>>>>>>;

/// The actix actor that polls them.
struct Pool<M: Machine, P> {
    members: Members<M, P>,
    ready: Arc<Ready>,
    /// Taken from `ready`, and the pool's position in it.
    turns: (Vec<usize>, usize),
    scratch: Scratch<M>,
    clock: Arc<dyn Clock>,
}

impl<M, P> Pool<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    fn next(&mut self) -> Option<usize> {
        let (turns, at) = &mut self.turns;
        if *at == turns.len() {
            turns.clear();
            *at = 0;
            if !self.ready.take(turns) {
                return None;
            }
        }
        *at += 1;
        Some(turns[*at - 1])
    }

    fn turn_of(&mut self, number: usize, begun: Duration) {
        let place = |members: &mut Slab<Option<_>>| members.get_mut(number).and_then(Option::take);
        // A wake-up may be left of a member that is gone.
        let Some(mut member) = place(&mut self.members.borrow_mut()) else { return };
        let scratch = &mut self.scratch;
        let death = match catch_unwind(AssertUnwindSafe(|| member.turn(begun, scratch))) {
            Ok(Turn::Ends) => Death::Stopped,
            Ok(turn) => {
                self.members.borrow_mut()[number] = Some(member);
                if matches!(turn, Turn::Continues) {
                    self.ready.push(number);
                }
                return;
            }
            Err(panic) => {
                self.scratch = Scratch::default();
                Death::Panicked(panic_text(panic.as_ref()))
            }
        };
        self.members.borrow_mut().remove(number);
        report_death(member, death);
    }
}

/// Tells the parent of a member, after the member is gone.
fn report_death<M: Machine, P: Performer<M>>(mut member: Box<Member<M, P>>, death: Death) {
    if let Death::Panicked(reason) = &death {
        tracing::error!(machine = std::any::type_name::<M>(), reason, "an actor panicked");
    }
    let on_death = member.on_death.take();
    guarded(|| drop(member));
    if let Some(on_death) = on_death {
        guarded(|| on_death(death));
    }
}

/// Keeps a panic at the end of one member from affecting others.
fn guarded(what: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(what)) {
        let reason = panic_text(panic.as_ref());
        tracing::error!(reason, "the end of an actor panicked");
    }
}

/// Actix requires actors that can be moved; nothing in here is pinned.
impl<M: Machine, P> Unpin for Pool<M, P> {}

impl<M: Machine + 'static, P: Performer<M>> Actor for Pool<M, P> {
    type Context = Context<Self>;
}

impl<M, P> Handler<Delivery> for Pool<M, P>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    type Result = ();

    fn handle(&mut self, delivery: Delivery, context: &mut Context<Self>) {
        let begun = self.clock.monotonic();
        let mut turns = 0_usize;
        while let Some(number) = self.next() {
            self.turn_of(number, begun);
            turns += 1;
            let looks = turns.is_multiple_of(LOOK_EVERY);
            if looks && self.clock.monotonic() - begun >= YIELD_AFTER {
                return yield_thread(delivery, context);
            }
        }
    }
}

/// A pool as stored per thread.
struct Known<M: Machine, P> {
    members: Members<M, P>,
    ready: Arc<Ready>,
}

/// A pool of any kind.
trait AnyPool: Any {
    fn clear(&self);
}

impl<M: Machine + 'static, P: Performer<M>> AnyPool for Known<M, P> {
    fn clear(&self) {
        // Members may send to each other when they are dropped.
        let members = self.members.take();
        drop(members);
    }
}

/// The pools of a thread, one per kind of actor.
#[derive(Clone, Default)]
pub(super) struct Pools(Rc<RefCell<HashMap<TypeId, Box<dyn AnyPool>>>>);

impl Pools {
    /// Starts an actor. Called on the thread, inside its `System`.
    pub(super) fn spawn<M, P>(
        &self,
        clock: &Arc<dyn Clock>,
        machine: M,
        performer: P,
        on_death: OnDeath,
    ) -> (Child<M::Input>, Ref<Look<M>>)
    where
        M: Machine + 'static,
        M::Input: Send + 'static,
        P: Performer<M>,
    {
        let mut pools = self.0.borrow_mut();
        let known = pools.entry(TypeId::of::<(M, P)>()).or_insert_with(|| start::<M, P>(clock));
        let known: &dyn Any = &**known;
        let known: &Known<M, P> = known.downcast_ref().expect("pools are known by their type");
        let mut members = known.members.borrow_mut();
        let place = members.vacant_entry();
        let ready = Arc::clone(&known.ready);
        let (mailbox, is_stopped) = (Mailbox::awake(), AtomicBool::new(false));
        let door = Arc::new(Door { mailbox, number: place.key(), ready, is_stopped });
        let me = Ref::new(Arc::clone(&door));
        place.insert(Some(Box::new(Member {
            core: Core::new(machine, performer, Arc::clone(clock)),
            me: me.clone(),
            door: Arc::clone(&door),
            has_started: false,
            on_death: Some(on_death),
        })));
        door.ready.push(door.number);
        let visited = Arc::clone(&door);
        let looks = Ref::new(move |look| visited.put(Mail::Look(look)));
        let child = Child::new(me, move || {
            door.is_stopped.store(true, Ordering::Relaxed);
            door.ready.push(door.number);
        });
        (child, looks)
    }

    /// Drops all members without telling their parents: their thread ends. They and the thread
    /// reference each other.
    pub(super) fn clear(&self) {
        self.0.take().values().for_each(|pool| pool.clear());
    }
}

/// Starts a pool without members.
fn start<M, P>(clock: &Arc<dyn Clock>) -> Box<dyn AnyPool>
where
    M: Machine + 'static,
    M::Input: Send + 'static,
    P: Performer<M>,
{
    let context = Context::<Pool<M, P>>::new();
    let pool = context.address().recipient();
    let members = Members::default();
    let ready = Arc::new(Ready { queue: Mutex::default(), pool });
    actix::spawn(context.into_future(Pool {
        members: Rc::clone(&members),
        ready: Arc::clone(&ready),
        turns: Default::default(),
        scratch: Scratch::default(),
        clock: Arc::clone(clock),
    }));
    Box::new(Known { members, ready })
}

#[cfg(test)]
mod tests;
