//! Entries with children in a simulation: a parent remembers a step, calls and sends members, waits
//! for a promise and sleeps.
//!
//! Must always hold: a remembered result never changes; a child exists once; every parent ends, and
//! with it all that it made. Not checked where partitions are replaced: their entries are lost, and
//! may be enqueued again.

use std::{collections::BTreeMap, time::Duration};

use forebay::{
    ActError, Builder, Context, Entry, EntryId, ErrorKind, HandlerError, HandlerOptions, Json,
    ResultError, Runtime, Skip, Stage, testkit::SeededRandom,
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
}

/// Observations.
#[derive(Debug, Default)]
pub(super) struct Families {
    next_value: u64,
    values: BTreeMap<usize, u64>,
    members: BTreeMap<(usize, u64), EntryId>,
}

/// The families of a seed, and their events.
pub(super) fn draw(seed: u64) -> (Vec<Family>, Vec<(u64, Event)>) {
    let mut random = SeededRandom::new(seed ^ SALT);
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
        Family { members, sleep_ms: below(800), fails }
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

fn id_of(number: usize) -> EntryId {
    let name = entry(number).vqueue().clone();
    EntryId { partition_key: name.partition_key(None, &uuid(number)), uuid: uuid(number) }
}

/// Asks once; an error is repeated by the client.
pub(super) async fn ask(ask: FamilyAsk, runtime: &Runtime, is_lossy: bool) -> Result<(), String> {
    match ask {
        FamilyAsk::Start(number) => {
            runtime.enqueue(entry(number)).await.map(drop).map_err(|error| error.to_string())
        }
        FamilyAsk::Resolve(number) => {
            match runtime.resolve(id_of(number), "go", &number).await {
                // It was settled before, or the entry has ended.
                Err(error) if error.kind() == ErrorKind::Refused => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound && is_lossy => Ok(()),
                settled => settled.map_err(|error| error.to_string()),
            }
        }
        FamilyAsk::Cancel(number) => cancel(runtime, number, is_lossy).await,
        FamilyAsk::End(number) => ended(runtime, number, is_lossy).await,
    }
}

async fn cancel(runtime: &Runtime, number: usize, is_lossy: bool) -> Result<(), String> {
    match runtime.attach(id_of(number)).cancel().await {
        Err(ActError::NotChanged(Skip::Unknown)) if !is_lossy => {
            Err("the parent is not known yet".to_owned())
        }
        Err(ActError::NotChanged(_)) | Ok(()) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a parent has ended, and everything that it made.
async fn ended(runtime: &Runtime, number: usize, is_lossy: bool) -> Result<(), String> {
    if is_lossy {
        // The parent may have started after the clients that resolve its promise and cancel it.
        cancel(runtime, number, true).await?;
    }
    match runtime.attach(id_of(number)).outcome().await {
        Ok(_) => {}
        Err(ResultError::Unknown(_)) if is_lossy => return Ok(()),
        Err(error) => return Err(error.to_string()),
    }
    let tree = runtime.tree(id_of(number)).await.map_err(|error| error.to_string())?;
    let is_left = |stage: Option<Stage>| match stage {
        Some(stage) => stage != Stage::Finished,
        None => !is_lossy,
    };
    match tree.entries.iter().find(|entry| is_left(entry.stage)) {
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
                    let families = &mut drawn.lock().families;
                    families.next_value += 1;
                    let value = families.next_value;
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
            let fails = fails[of.0].fails == Some(of.1);
            async move {
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
    let member = |n: u64| Entry::to("member").json(&(number, n)).expect("numbers are JSON");
    let calls = (0..family.members).map(|n| context.call::<u64>("member", member(n)));
    let (ends, go) = context
        .join((context.join(calls.collect::<Vec<_>>()), context.promise::<usize>("go")))
        .await;
    go?;
    context.send_attached("after", member(family.members)).await?;
    context.sleep("rest", Duration::from_millis(family.sleep_ms)).await?;
    Ok(Json(ends.into_iter().flatten().sum()))
}
