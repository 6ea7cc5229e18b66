//! Clients and handlers of a simulation. A client repeats a request until it is answered; if the
//! client dies with its node, its request is repeated on another node.

use std::time::Duration;

use bytes::Bytes;
use forebay::{
    Builder, Context, EnqueueError, Entry, EntryId, HandlerError, HandlerOptions, PartitionId,
    RetryPolicy, Rules, Runtime, Timestamp, rules::RulesError,
};
use forebay_actors::{error::NodeError, node::KeyRange};
use forebay_messages::command::{Command, EntrySelector, VQueueSelector};

use super::{
    families,
    journal::{DROPPED, FAILS, Run, Shared},
    plan::{ATTEMPTS_MAX, Ask, Ending, FailureMode, Plan, Spec},
    sizes,
};

/// Delay before a client repeats a request.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Time limit of an attempt.
const TIMEOUT: Duration = Duration::from_millis(1_500);

/// A partition to drop, and the new owners of its keys.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) id: PartitionId,
    pub(super) after: Duration,
    pub(super) ranges: Vec<KeyRange>,
}

/// The source of the time.
pub(super) type Now = std::sync::Arc<dyn Fn() -> Timestamp + Send + Sync>;

fn uuid(entry: usize) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[8..].copy_from_slice(&(entry as u64 + 1).to_be_bytes());
    uuid
}

fn entry_of(spec: &Spec, number: usize, start: Timestamp) -> Entry {
    let mut entry =
        Entry::to("work").uuid(uuid(number)).payload(sizes::filled(number, spec.sizes.payload));
    if let Some(scope) = spec.scope {
        entry = entry.scope(scope);
    }
    if let Some(limit_key) = spec.limit_key {
        entry = entry.limit_key(limit_key);
    }
    if let Some(key) = spec.key {
        entry = entry.key(key);
    }
    if let Some(delay) = spec.delay_ms {
        entry = entry.run_at(Timestamp(start.0 + delay));
    }
    if let Some(key) = &spec.idempotency_key {
        entry = entry.idempotency_key(key);
    }
    entry
}

/// The id of an entry.
pub(super) fn id_of(spec: &Spec, number: usize) -> EntryId {
    let name = entry_of(spec, number, Timestamp(0)).vqueue().clone();
    let key = name.partition_key(spec.idempotency_key.as_deref(), &uuid(number));
    EntryId { partition_key: key, uuid: uuid(number) }
}

/// Repeats a request until it is answered.
pub(super) async fn ask(
    ask: Ask,
    runtime: Runtime,
    plan: std::sync::Arc<Plan>,
    start: Timestamp,
    journal: Shared,
    now: Now,
) {
    loop {
        let answered = match ask {
            Ask::Family(ask) => families::ask(ask, &runtime, &plan, &journal).await,
            ref ask => once(ask, &runtime, &plan.specs, start, &journal, &now).await,
        };
        match answered {
            Ok(()) => return,
            Err(error) => {
                journal.lock().note(now(), format!("client of {ask:?} gets: {error}"));
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn change_rules(ask: &Ask, rules: &Rules) -> Result<(), RulesError> {
    match ask {
        Ask::SetRule(pattern, limits) => rules.replace(pattern, *limits).await,
        Ask::DropRule(pattern) => rules.delete(pattern).await.map(drop),
        Ask::PauseRule(pattern) => rules.pause(pattern).await,
        Ask::ResumeRule(pattern) => rules.resume(pattern).await.map(drop),
        _ => unreachable!("rules only"),
    }
}

/// Requests the entries of a batch that is too large one by one.
async fn enqueue(
    numbers: &[usize],
    runtime: &Runtime,
    specs: &[Spec],
    start: Timestamp,
    journal: &Shared,
    now: &Now,
) -> Result<(), String> {
    let entry = |number: usize| entry_of(&specs[number], number, start);
    numbers.iter().for_each(|number| journal.lock().asked(now(), *number));
    let is_batch = numbers.len() > 1;
    if is_batch {
        let batch = numbers.iter().map(|number| entry(*number)).collect();
        match runtime.enqueue_batch(batch).await {
            Ok(_) => numbers.iter().for_each(|number| journal.lock().acked(now(), *number)),
            Err(EnqueueError::TooLarge { .. }) => journal.lock().refused(now(), numbers),
            Err(error) => return Err(error.to_string()),
        }
    }
    // An entry refused with others may be stored alone.
    for number in numbers {
        if is_batch && journal.lock().observed[*number].acked.is_some() {
            continue;
        }
        match runtime.enqueue(entry(*number)).await {
            Ok(_) => journal.lock().acked(now(), *number),
            Err(EnqueueError::TooLarge { .. }) => journal.lock().refused(now(), &[*number]),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

async fn once(
    ask: &Ask,
    runtime: &Runtime,
    specs: &[Spec],
    start: Timestamp,
    journal: &Shared,
    now: &Now,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let propose = async |number: usize, command: Command| {
        let key = id_of(&specs[number], number).partition_key;
        journal.lock().note(now(), format!("client asks {ask:?}"));
        runtime
            .node()
            .access()
            .propose(key, command, 0)
            .await
            .map(drop)
            .map_err(|error| text(&error))
    };
    let entries = |number: usize| EntrySelector {
        entries: vec![id_of(&specs[number], number)],
        ..EntrySelector::default()
    };
    let vqueue = |number: usize| {
        let id = id_of(&specs[number], number);
        let name = entry_of(&specs[number], number, start).vqueue().clone();
        VQueueSelector { vqueues: vec![name.id_for(id)], ..VQueueSelector::default() }
    };
    match ask {
        Ask::Enqueue(numbers) => enqueue(numbers, runtime, specs, start, journal, now).await,
        Ask::Attach(number) => {
            let id = id_of(&specs[*number], *number);
            match runtime.attach(id).outcome().await {
                Ok(outcome) => journal.lock().ended(now(), *number, outcome),
                Err(forebay::ResultError::Unknown(_)) => {
                    let observed = &journal.lock().observed[*number];
                    if observed.acked.is_some() && !observed.was_dropped {
                        return Err(format!("#{number} is not known"));
                    }
                }
                Err(error) => return Err(text(&error)),
            }
            Ok(())
        }
        Ask::Cancel(number) => propose(*number, Command::Cancel(entries(*number))).await,
        Ask::Kill(number) => propose(*number, Command::Kill(entries(*number))).await,
        Ask::Pause(number) => propose(*number, Command::Pause(entries(*number))).await,
        Ask::Resume(number) => propose(*number, Command::Resume(entries(*number))).await,
        Ask::PauseVQueue(number) => propose(*number, Command::PauseVQueue(vqueue(*number))).await,
        Ask::ResumeVQueue(number) => propose(*number, Command::ResumeVQueue(vqueue(*number))).await,
        Ask::Family(_) => unreachable!("asked by `ask`"),
        Ask::SetRule(..) | Ask::DropRule(_) | Ask::PauseRule(_) | Ask::ResumeRule(_) => {
            change_rules(ask, &runtime.rules()).await.map_err(|error| text(&error))?;
            journal.lock().rules_acked(now());
            Ok(())
        }
        Ask::Explain(number) => {
            let id = id_of(&specs[*number], *number);
            runtime.explain(id).await.map(drop).map_err(|error| text(&error))
        }
    }
}

/// Drops a partition, and assigns its keys to others after a while.
pub(super) async fn replace(what: &Replacement, runtime: &Runtime) -> Result<(), NodeError> {
    match runtime.node().drop_partition(what.id).await {
        // An earlier request may have died with its node.
        Ok(()) | Err(NodeError::UnknownPartition(_)) => {}
        Err(error) => return Err(error),
    }
    tokio::time::sleep(what.after).await;
    for range in &what.ranges {
        match runtime.node().spawn_partition(*range).await {
            Ok(_) | Err(NodeError::RangeOverlaps { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Records the end of a handler when it returns or is dropped.
struct Guard {
    run: Run,
    token: u64,
    journal: Shared,
    now: Now,
    how: &'static str,
    /// Time of its timeout. If it is dropped earlier, it was stopped.
    times_out_at: Option<Timestamp>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let now = (self.now)();
        let how = if self.times_out_at.is_some_and(|at| now < at) { DROPPED } else { self.how };
        self.journal.lock().stopped(now, self.run, self.token, how);
    }
}

/// The runtime of one incarnation of a node.
pub(super) fn runtime(
    plan: &Plan,
    partitions: Option<u32>,
    incarnation: u32,
    journal: &Shared,
    now: &Now,
) -> Builder {
    let (journal, now) = (journal.clone(), now.clone());
    let specs = plan.specs.clone();
    let retry = RetryPolicy {
        attempts_max: ATTEMPTS_MAX,
        backoff_first_ms: 20,
        backoff_max_ms: 400,
        ..RetryPolicy::default()
    };
    let options = HandlerOptions { retry, timeout: Some(TIMEOUT), ..HandlerOptions::default() };
    let mut builder = Runtime::builder().idle_vqueues_max(plan.idle_vqueues_max);
    if let Some(partitions) = partitions {
        builder = builder.partitions(partitions);
    }
    if incarnation.is_multiple_of(3) {
        // Calls wait for the delivery of others.
        builder = builder.outbox_per_target_max(2);
    }
    if incarnation.is_multiple_of(2) {
        // Most vqueues that wait for a permit have no actor.
        builder = builder.active_vqueues_max(2);
    }
    if let Some(running_max) = plan.running_max {
        builder = builder.max_running(running_max);
    }
    builder = families::handlers(builder, plan, &journal, &now);
    builder.handler_with("work", options, move |context: Context, payload: Bytes| {
        let number = usize::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
        let run = Run { incarnation, entry: number };
        if payload[..] != sizes::filled(number, specs[number].sizes.payload) {
            journal.lock().violation(now(), format!("#{number} has another payload"));
        }
        work(context, run, specs[number].clone(), journal.clone(), now.clone())
    })
}

async fn work(
    context: Context,
    run: Run,
    spec: Spec,
    journal: Shared,
    now: Now,
) -> Result<Bytes, HandlerError> {
    let token = context.token().seq;
    journal.lock().last_failure(now(), run.entry, context.last_failure());
    journal.lock().started(now(), run, token);
    let began = now();
    let mut guard = Guard {
        run,
        token,
        journal: journal.clone(),
        now: now.clone(),
        how: DROPPED,
        times_out_at: None,
    };
    tokio::select! {
        biased;
        () = context.canceled() => {
            guard.how = "gives in to cancellation";
            return Err(HandlerError::canceled("as asked"));
        }
        () = tokio::time::sleep(Duration::from_millis(spec.works_ms)) => {}
    }
    {
        let observed = &mut journal.lock().observed[run.entry];
        if observed.snoozed < spec.snoozes {
            observed.snoozed += 1;
            guard.how = "snoozes";
            return Err(HandlerError::snooze(Duration::from_millis(300)));
        }
    }
    if context.attempt() <= spec.failures {
        guard.how = FAILS;
        match spec.failure_mode {
            FailureMode::Error => return Err(HandlerError::retry(sizes::text(spec.sizes.text))),
            FailureMode::Panic => std::panic::panic_any("as planned".to_owned()),
            FailureMode::Timeout => {
                guard.times_out_at = Some(began.after(TIMEOUT));
                tokio::time::sleep(10 * TIMEOUT).await;
            }
        }
    }
    guard.how = "ends";
    match spec.ending {
        Ending::Terminal => Err(HandlerError::terminal(sizes::text(spec.sizes.text))),
        Ending::Success | Ending::Exhausted => {
            Ok(sizes::filled(run.entry, spec.sizes.result).into())
        }
    }
}
