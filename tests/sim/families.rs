//! Entries with children in a simulation: a parent remembers a step, calls and sends members, waits
//! for a promise and sleeps.
//!
//! Must always hold: a remembered result never changes; a child exists once; every parent ends on
//! its own, and with it all that it made; a member that was stopped before it came never runs.
//! Where partitions are replaced, entries are lost with them and may be enqueued again: there, only
//! the ends are checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use forebay::{
    ActError, Builder, Context, Entry, EntryId, ErrorKind, HandlerError, HandlerOptions, Json,
    PartitionId, ResultError, Runtime, Skip, Stage, TreeEntryView, testkit::SeededRandom,
};
use forebay_messages::{
    RecordSeq, Run,
    command::{Command, Deliver, MessageBody, OutboxMessage, StopChild},
    journal::{BranchElement, BranchKind, KeyParts, StepId, child_id},
};

use super::{
    clients::Now,
    journal::Shared,
    plan::{Ask, Event, Plan, SPAN_MS},
};

/// Maximum number of families of a run, and of members that one calls.
const FAMILIES_MAX: u64 = 5;
const MEMBERS_MAX: u64 = 6;
/// An attempt is suspended after this time.
const SUSPEND_AFTER: Duration = Duration::from_millis(150);
/// Mixed into the seed, so that the rest of its plan does not depend on families.
const SALT: u64 = 0xfa31_17e5;
const STOPS_SALT: u64 = 0x5709_fa31;
/// Ids of the sources of messages that no partition sends.
const SOURCES_FROM: u32 = 1_000;

/// What happens to a family.
#[derive(Clone, Copy, Debug)]
pub(super) enum FamilyAsk {
    Start(usize),
    Resolve(usize),
    Cancel(usize),
    /// Everything has ended.
    End(usize),
}

/// How its parent works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    members: u64,
    sleep_ms: u64,
    /// The number of the member that fails.
    fails: Option<u64>,
    /// The number of the member that is stopped before its parent starts, as by a message that
    /// overtakes the invocation.
    stopped: Option<u64>,
    /// The log fails when the parent's first step has a result.
    loses_step: bool,
}

/// Observations.
#[derive(Debug, Default)]
pub(super) struct Families {
    next_value: u64,
    values: BTreeMap<usize, u64>,
    members: BTreeMap<(usize, u64), EntryId>,
    /// Families whose parent was acknowledged.
    started: BTreeSet<usize>,
    /// Families whose first step made the log fail.
    lost: BTreeSet<usize>,
}

/// The families of a seed, and their events.
pub(super) fn draw(seed: u64, has_faults: bool) -> (Vec<Family>, Vec<(u64, Event)>) {
    let mut random = SeededRandom::new(seed ^ SALT);
    // Drawn separately, so that the rest of a seed's plan did not change when this was added.
    let mut stops = SeededRandom::new(seed ^ STOPS_SALT);
    let mut below = |bound: u64| random.next_u64() % bound;
    let mut events = Vec::new();
    let families = (0..below(FAMILIES_MAX + 1)).map(|number| {
        let number = usize::try_from(number).unwrap();
        let mut add = |at: u64, ask| events.push((at.min(SPAN_MS), Event::Ask(Ask::Family(ask))));
        let start = below(SPAN_MS / 2);
        add(start, FamilyAsk::Start(number));
        // Some promises are settled early, some when all others have ended.
        add(start + below(3_000), FamilyAsk::Resolve(number));
        if below(4) == 0 {
            add(start + below(3_000), FamilyAsk::Cancel(number));
        }
        let members = 1 + below(MEMBERS_MAX);
        let fails = (below(4) == 0).then(|| below(members));
        let sleep_ms = below(800);
        let stopped = stops.next_u64().is_multiple_of(4).then(|| stops.next_u64() % members);
        let loses_step = has_faults && stops.next_u64().is_multiple_of(4);
        Family { members, sleep_ms, fails, stopped, loses_step }
    });
    let families = families.collect();
    (families, events)
}

fn uuid(number: usize) -> [u8; 16] {
    let mut uuid = [0xfa; 16];
    uuid[8..].copy_from_slice(&(number as u64).to_be_bytes());
    uuid
}

fn entry(number: usize) -> Entry {
    Entry::to("parent").uuid(uuid(number)).json(&number).expect("a number is JSON")
}

fn member_entry(number: usize, member: u64) -> Entry {
    Entry::to("member").json(&(number, member)).expect("numbers are JSON")
}

fn id_of(number: usize) -> EntryId {
    let name = entry(number).vqueue().clone();
    EntryId { partition_key: name.partition_key(None, &uuid(number)), uuid: uuid(number) }
}

/// Asks once; an error is repeated by the client.
pub(super) async fn ask(
    ask: FamilyAsk,
    runtime: &Runtime,
    plan: &Plan,
    journal: &Shared,
) -> Result<(), String> {
    let is_lossy = plan.replaces_partitions();
    let has_started = |number: &usize| journal.lock().families.started.contains(number);
    match ask {
        FamilyAsk::Start(number) => {
            if let Some(member) = plan.families[number].stopped {
                stop_early(runtime, number, member).await?;
            }
            runtime.enqueue(entry(number)).await.map_err(|error| error.to_string())?;
            journal.lock().families.started.insert(number);
            Ok(())
        }
        // The client that starts it may still be trying.
        FamilyAsk::Resolve(number) | FamilyAsk::Cancel(number) | FamilyAsk::End(number)
            if !has_started(&number) =>
        {
            Err("the parent is not known yet".to_owned())
        }
        FamilyAsk::Resolve(number) => {
            match runtime.resolve(id_of(number), "go", &number).await {
                // It was settled before, or the entry has ended.
                Err(error) if error.kind() == ErrorKind::Refused => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound && is_lossy => Ok(()),
                settled => settled.map_err(|error| error.to_string()),
            }
        }
        FamilyAsk::Cancel(number) => match runtime.attach(id_of(number)).cancel().await {
            Err(ActError::NotChanged(Skip::Unknown)) if !is_lossy => {
                Err("the parent is gone".to_owned())
            }
            Err(ActError::NotChanged(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        },
        FamilyAsk::End(number) => ended(runtime, number, plan).await,
    }
}

/// The id of a member.
fn child_of(number: usize, member: u64) -> EntryId {
    let at = |position: u64| {
        let position = u32::try_from(position).expect("there are few members");
        BranchElement::at(BranchKind::Join, 0, position)
    };
    let parts = KeyParts { branch: vec![at(0), at(member)], ..KeyParts::named("member", 0) };
    let key = parts.key().expect("its parts are short");
    let step = StepId { entry: id_of(number), run: Run::default(), key };
    child_id(&step, member_entry(number, member).vqueue())
}

/// Delivers the cancellation of a member that does not exist yet, from an outbox of its own.
async fn stop_early(runtime: &Runtime, number: usize, member: u64) -> Result<(), String> {
    let child = child_of(number, member);
    let stop = MessageBody::Stop(StopChild { child, is_kill: false });
    let (index, to) = (RecordSeq(1), child.partition_key);
    let message = OutboxMessage { index, to, body: Some(stop), ..OutboxMessage::default() };
    let source = PartitionId(SOURCES_FROM + u32::try_from(number).expect("there are few families"));
    let deliver = Deliver { source, messages: vec![message], ..Deliver::default() };
    let access = runtime.node().access();
    let delivered = access.propose(to, Command::Deliver(deliver), 0).await;
    delivered.map(drop).map_err(|error| error.to_string())
}

/// Whether a parent has ended, and everything that it made.
async fn ended(runtime: &Runtime, number: usize, plan: &Plan) -> Result<(), String> {
    let is_lossy = plan.replaces_partitions();
    match runtime.attach(id_of(number)).outcome().await {
        Ok(_) => {}
        Err(ResultError::Unknown(_)) if is_lossy => return Ok(()),
        Err(error) => return Err(error.to_string()),
    }
    let tree = runtime.tree(id_of(number)).await.map_err(|error| error.to_string())?;
    // A member that was stopped before it came does not exist.
    let stopped = plan.families[number].stopped.map(|member| child_of(number, member));
    let is_left = |entry: &&TreeEntryView| match entry.stage {
        Some(stage) => stage != Stage::Finished,
        None => !is_lossy && Some(entry.id) != stopped,
    };
    match tree.entries.iter().find(is_left) {
        None => Ok(()),
        Some(left) => Err(format!("family {number}: {left:?} has not ended")),
    }
}

/// Adds the handlers.
pub(super) fn handlers(builder: Builder, plan: &Plan, journal: &Shared, now: &Now) -> Builder {
    let options = HandlerOptions {
        interruptions_max: Some(u32::MAX),
        suspend_after: Some(SUSPEND_AFTER),
        ..HandlerOptions::default()
    };
    let families = plan.families.clone();
    let is_lossy = plan.replaces_partitions();
    let (of_parent, of_member) = ((journal.clone(), now.clone()), (journal.clone(), now.clone()));
    let fails = families.clone();
    builder
        .handler_with("parent", options, move |context: Context, Json(number): Json<usize>| {
            let (journal, now) = of_parent.clone();
            let family = families[number];
            async move {
                let drawn = journal.clone();
                let compute = move |_| {
                    let mut journal = drawn.lock();
                    if family.loses_step && journal.families.lost.insert(number) {
                        journal.fail_next_write();
                    }
                    journal.families.next_value += 1;
                    let value = journal.families.next_value;
                    async move { Ok::<_, HandlerError>(value) }
                };
                let value = context.step("first", compute).await?;
                let before = *journal.lock().families.values.entry(number).or_insert(value);
                if before != value && !is_lossy {
                    let text = format!("family {number} remembers {value} after {before}");
                    journal.lock().violation(now(), text);
                }
                parent(&context, number, family).await
            }
        })
        .handler_with("member", options, move |context: Context, Json(of): Json<(usize, u64)>| {
            let (journal, now) = of_member.clone();
            let family = fails[of.0];
            let fails = family.fails == Some(of.1);
            async move {
                if family.stopped == Some(of.1) && !is_lossy {
                    let text = format!("{of:?} runs although it was stopped before it came");
                    journal.lock().violation(now(), text);
                }
                let known = *journal.lock().families.members.entry(of).or_insert(context.entry());
                if known != context.entry() && !is_lossy {
                    let text = format!("{of:?} is {known} and {}", context.entry());
                    journal.lock().violation(now(), text);
                }
                context.sleep("work", Duration::from_millis(40 * of.1)).await?;
                match fails {
                    true => Err(HandlerError::terminal("as planned")),
                    false => Ok(Json(of.1)),
                }
            }
        })
}

async fn parent(
    context: &Context,
    number: usize,
    family: Family,
) -> Result<Json<u64>, HandlerError> {
    let member = |n: u64| member_entry(number, n);
    let calls = (0..family.members).map(|n| context.call::<u64>("member", member(n)));
    let (ends, go) = context
        .join((context.join(calls.collect::<Vec<_>>()), context.promise::<usize>("go")))
        .await;
    go?;
    context.send_attached("after", member(family.members)).await?;
    context.sleep("rest", Duration::from_millis(family.sleep_ms)).await?;
    Ok(Json(ends.into_iter().flatten().sum()))
}
