//! Actor threads: each is a thread of this library with an actix `System`, started and joined by
//! the node. Actors never run on the application's own runtime.

use std::{sync::Arc, thread::JoinHandle};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::shell::{ActixWorld, Clock, World};
#[cfg(feature = "testkit")]
use crate::sim::Host;

/// A job for an arbiter's thread.
type Job = Box<dyn FnOnce(&World) + Send>;

/// Where jobs are sent.
enum Jobs {
    Thread(UnboundedSender<Job>),
    #[cfg(feature = "testkit")]
    Sim(Host),
}

/// One actor thread.
pub(crate) struct Arbiter {
    jobs: Option<Jobs>,
    thread: Option<JoinHandle<()>>,
}

impl Arbiter {
    /// Starts an actor thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(index: usize, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let (jobs, receiver) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(format!("forebay-{index}"))
            .spawn(move || actix::System::new().block_on(run(receiver, clock)))?;
        Ok(Self { jobs: Some(Jobs::Thread(jobs)), thread: Some(thread) })
    }

    /// Actors in a simulation.
    #[cfg(feature = "testkit")]
    pub(crate) fn simulated(host: Host) -> Self {
        Self { jobs: Some(Jobs::Sim(host)), thread: None }
    }

    /// Runs a job on the thread, in order; false when the thread is gone.
    pub(crate) fn run(&self, job: impl FnOnce(&World) + Send + 'static) -> bool {
        match &self.jobs {
            None => false,
            Some(Jobs::Thread(jobs)) => jobs.send(Box::new(job)).is_ok(),
            #[cfg(feature = "testkit")]
            Some(Jobs::Sim(host)) => host.run(Box::new(job)),
        }
    }

    /// Ends the thread and everything on it, and waits for its end.
    pub(crate) fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("an arbiter thread panicked");
        }
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        self.join();
    }
}

async fn run(mut jobs: UnboundedReceiver<Job>, clock: Arc<dyn Clock>) {
    let actix = ActixWorld::new(clock);
    let world = World::Actix(actix.clone());
    let _ends = Ends(actix);
    while let Some(job) = jobs.recv().await {
        job(&world);
    }
}

/// Clears everything on a thread when the thread ends, also by a panic.
struct Ends(ActixWorld);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use forebay_engine::Machine;
    use forebay_messages::Timestamp;

    use super::*;
    use crate::shell::{Cx, Performer, WallClock};

    #[derive(Debug)]
    struct Idle;

    impl Machine for Idle {
        type Input = ();
        type Effect = ();

        fn step(&mut self, _: Timestamp, (): (), _: &mut Vec<()>) {}
    }

    struct Counted(Arc<AtomicUsize>);

    impl Performer<Idle> for Counted {
        const IS_ONE_OF_MANY: bool = true;

        fn perform(&mut self, (): (), _: &mut Cx<'_, ()>) {}
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Regression: a timer that held its thread kept the actors alive, and their files open.
    #[test]
    fn no_actor_survives_a_thread_that_ends_or_panics() {
        for panics in [false, true] {
            let dropped = Arc::new(AtomicUsize::new(0));
            let mut arbiter = Arbiter::start(0, Arc::new(WallClock)).unwrap();
            let counted = Counted(Arc::clone(&dropped));
            arbiter.run(move |world| {
                drop(world.spawn("idle", Idle, counted, Box::new(|_| {})));
                let knows = world.clone();
                world.timers().set(Timestamp(u64::MAX), move || drop(knows));
                assert!(!panics, "as asked");
            });
            arbiter.join();
            assert_eq!(dropped.load(Ordering::SeqCst), 1, "panics: {panics}");
        }
    }
}
