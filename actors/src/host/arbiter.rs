//! Actor threads: each is a thread of this library with an actix `System`, started and joined by
//! the node. Actors never run on the application's own runtime.

use std::{sync::Arc, thread::JoinHandle};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::shell::{ActixWorld, Clock, Ref, World};

/// A job for an arbiter's thread.
pub(crate) type Job = Box<dyn FnOnce(&World) + Send>;

/// One actor thread.
pub(crate) struct Arbiter {
    jobs: Option<Ref<Job>>,
    /// `None` in a simulation, which runs the jobs itself.
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
        let jobs = Ref::new(move |job| jobs.send(job).is_ok());
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Actors without a thread of their own: a simulation runs their jobs.
    #[cfg(feature = "testkit")]
    pub(crate) fn without_thread(jobs: Ref<Job>) -> Self {
        Self { jobs: Some(jobs), thread: None }
    }

    /// Runs a job on the thread, in order; false when the thread is gone.
    pub(crate) fn run(&self, job: impl FnOnce(&World) + Send + 'static) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(Box::new(job)))
    }

    /// Waits until the thread has finished its jobs so far. Without a thread it does not wait: jobs
    /// are done in order anyway.
    pub(crate) fn finish_jobs(&self) {
        if self.thread.is_none() {
            return;
        }
        let (done, wait) = std::sync::mpsc::channel();
        self.run(move |_| {
            // The receiver is gone when the node is being dropped.
            let _ = done.send(());
        });
        // An error means that the thread is gone, which its next user will see.
        let _ = wait.recv();
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
