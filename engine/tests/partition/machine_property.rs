//! One or two nodes over one log, with all possible faults in any order; then the faults stop, and
//! everything must complete.
//!
//! The checks are in `world`: P1 to P5 of the partition's machine, limits, locks, one
//! attempt at a time, the rows' own invariants after every record.

use forebay_engine::{
    leadership::LeadershipInput,
    partition::{
        machine::{Phase, VQueueLimits},
        rows::Stage,
    },
};
use forebay_messages::{
    Epoch, Timestamp,
    command::{
        Command, Enqueue, EntrySelector, NewEntry, Purge, Reschedule, RetryPolicy, VQueueSelector,
    },
};
use proptest::prelude::*;

use super::{
    fixture::{NAMES, entry, new_entry, these, this_vqueue, vqueue},
    world::{Setting, World},
};

const CASES_DEFAULT: u32 = 400;
const ACTS_MAX: usize = 250;

/// Number of entries.
const ENTRIES: u8 = 10;

/// An action on the nodes. Numbers choose among the existing items.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Performs this many possible events.
    Steps(u16, u8),
    Enqueue(u8, u8, u8),
    Attach(u8),
    Change(What, u8),
    PauseVQueue(u8, bool),
    EndHandler(u8, u8),
    KillVQueue(u8),
    /// Changes which names have a handler, one bit each.
    Serve(u8),
    KillLimiter,
    Run,
    StepDown,
    Leave(u8),
    /// A node reads the lease.
    Lease,
    /// The lease expires: its holder is slow, or dead.
    LeaseEnds,
    Fail(u8),
    Flush,
    Crash,
    Advance(u8),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Cancel,
    Kill,
    Pause,
    Resume,
    Reschedule(u8),
    Redrive,
    Purge,
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => Just(What::Cancel),
        2 => Just(What::Kill),
        4 => Just(What::Pause),
        4 => Just(What::Resume),
        3 => (0..60_u8).prop_map(What::Reschedule),
        1 => Just(What::Redrive),
        1 => Just(What::Purge),
    ]
}

fn act() -> impl Strategy<Value = (u8, Act)> {
    let act = prop_oneof![
        40 => (any::<u16>(), 1..24_u8).prop_map(|(choice, count)| Act::Steps(choice, count)),
        12 => (0..ENTRIES, 0..NAMES, any::<u8>())
            .prop_map(|(id, name, how)| Act::Enqueue(id, name, how)),
        2 => (0..ENTRIES).prop_map(Act::Attach),
        8 => (what(), 0..ENTRIES).prop_map(|(what, id)| Act::Change(what, id)),
        2 => (0..NAMES, any::<bool>()).prop_map(|(name, paused)| Act::PauseVQueue(name, paused)),
        14 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Act::EndHandler(which, how)),
        4 => any::<u8>().prop_map(Act::KillVQueue),
        3 => any::<u8>().prop_map(Act::Serve),
        2 => Just(Act::KillLimiter),
        2 => Just(Act::Run),
        1 => Just(Act::StepDown),
        2 => any::<u8>().prop_map(Act::Leave),
        4 => Just(Act::Lease),
        1 => Just(Act::LeaseEnds),
        1 => (1..3_u8).prop_map(Act::Fail),
        1 => Just(Act::Flush),
        1 => Just(Act::Crash),
        4 => any::<u8>().prop_map(Act::Advance),
    ];
    (0..4_u8, act)
}

fn new(world: &World, id: u8, name: u8, how: u8) -> NewEntry {
    let later = Timestamp(world.shared.now.0 + u64::from(how));
    NewEntry {
        run_at: how.is_multiple_of(4).then_some(later),
        idempotency_key: (how % 16 == 1).then(|| "key".into()),
        retry: match how % 5 {
            0 => None,
            1 => Some(RetryPolicy::NONE),
            _ => Some(RetryPolicy { attempts_max: 0, backoff_max_ms: 200, ..Default::default() }),
        },
        retention_ms: how.is_multiple_of(3).then_some(0),
        ..new_entry(id, name)
    }
}

fn change(what: What, now: Timestamp, selector: EntrySelector) -> Command {
    match what {
        What::Cancel => Command::Cancel(selector),
        What::Kill => Command::Kill(selector),
        What::Pause => Command::Pause(selector),
        What::Resume => Command::Resume(selector),
        What::Redrive => Command::Redrive(selector),
        What::Reschedule(ahead) => {
            let run_at = Timestamp((now.0 + u64::from(ahead)).saturating_sub(20));
            Command::Reschedule(Reschedule { selector, run_at })
        }
        What::Purge => Command::Purge(Purge { entries: selector.entries, ..Purge::default() }),
    }
}

fn perform(world: &mut World, node: u8, act: Act) {
    // Mostly the leader, sometimes another node.
    let leader = world.leader().unwrap_or(0);
    let n = if node == 0 { world.nodes.len() - 1 } else { leader };
    match act {
        Act::Steps(choice, count) => {
            for step in 0..usize::from(count) {
                world.step(usize::from(choice).wrapping_mul(2 * step + 1).wrapping_add(step));
            }
        }
        Act::Enqueue(id, name, how) => {
            let entry = new(world, id, name, how);
            world.propose(n, Command::Enqueue(Enqueue { entry }));
        }
        Act::Attach(id) => {
            world.attach(n, entry(id));
        }
        Act::Change(what, id) => {
            let command = change(what, world.shared.now, these(&[id]));
            world.propose(n, command);
        }
        Act::PauseVQueue(name, paused) => {
            let selector = this_vqueue(name);
            world.propose(
                n,
                match paused {
                    true => Command::PauseVQueue(selector),
                    false => Command::ResumeVQueue(selector),
                },
            );
        }
        Act::EndHandler(which, how) => world.end_handler(n, usize::from(which), how),
        Act::KillVQueue(which) => world.kill_vqueue(n, usize::from(which)),
        Act::Serve(served) => world.nodes[n].serve(served),
        Act::KillLimiter => world.kill_limiter(n),
        Act::Run => world.order(n, LeadershipInput::Run),
        Act::Leave(within) => {
            let by = Timestamp(world.shared.now.0 + u64::from(within));
            world.order(n, LeadershipInput::Leave { by });
        }
        Act::StepDown => world.order(n, LeadershipInput::StepDown),
        Act::Lease => {
            let held = world.shared.lease;
            world.order(n, LeadershipInput::Lease { held });
        }
        Act::LeaseEnds => world.shared.lease = None,
        Act::Fail(count) => world.shared.log.failures += usize::from(count),
        Act::Flush => world.flush(n),
        Act::Crash => world.crash(n),
        Act::Advance(millis) => world.advance(u64::from(millis)),
    }
}

/// From now on there are no faults.
fn come_to_an_end(world: &mut World) {
    world.shared.log.failures = 0;
    for node in &mut world.nodes {
        node.serve(u8::MAX);
    }
    let mut resumed_under = Epoch(0);
    for _ in 0..2_000 {
        world.run_all();
        let Some(leader) = world.leader() else {
            if !world.advance_to_timer() {
                // L6: one standing replica is enough, whatever has happened.
                world.order(0, LeadershipInput::Stand { rank: 0 });
                world.order(0, LeadershipInput::Lease { held: None });
            }
            continue;
        };
        let epoch = world.nodes[leader].replica.state.leader_epoch;
        if epoch != resumed_under {
            resumed_under = epoch;
            let vqueues = (0..NAMES).map(vqueue).collect();
            let all = VQueueSelector { vqueues, ..VQueueSelector::default() };
            world.propose(leader, Command::ResumeVQueue(all));
            world.propose(leader, Command::Resume(these(&(0..ENTRIES).collect::<Vec<_>>())));
            continue;
        }
        let tokens: Vec<_> = world.nodes[leader].handlers.keys().copied().collect();
        for token in &tokens {
            world.end_attempt(leader, *token, 0);
        }
        if tokens.is_empty() && !world.advance_to_timer() {
            return check_end(world, leader);
        }
    }
    panic!("it never completes: {}", world.roles());
}

fn check_end(world: &World, leader: usize) {
    let node = &world.nodes[leader];
    assert_eq!(node.partition.phase(), Phase::Leading);
    let left: Vec<_> = node.replica.tables.entries.values().collect();
    assert!(left.is_empty(), "forgotten: {left:?}");
    node.limiter.as_ref().unwrap().check_empty();
    assert_eq!(node.partition.active_vqueues(), 0, "every vqueue is passivated");
    assert!(node.vqueues.is_empty(), "and is gone");
    for (reply, answer) in &world.shared.answers {
        assert!(answer.is_some(), "P3: {reply} is answered");
    }
    for node in &world.nodes {
        assert!(node.drained.values().all(|count| *count <= node.seeds), "reported too often");
        assert_eq!(node.replica.tables, world.nodes[leader].replica.tables, "equal replicas");
    }
    assert!(node.replica.tables.vqueues.values().all(|meta| {
        [Stage::Inbox, Stage::Running, Stage::Paused]
            .into_iter()
            .all(|stage| *meta.clone().count_mut(stage) == 0)
    }));
}

fn setting() -> impl Strategy<Value = Setting> {
    let vqueues =
        (0..4_usize, 0..3_usize, 1..3_usize).prop_map(|(active_max, idle_max, sleepers_max)| {
            VQueueLimits { active_max, idle_max, sleepers_max }
        });
    (any::<[bool; 2]>(), vqueues).prop_map(|([reads_block, limiter_is_real], vqueues)| Setting {
        reads_block,
        vqueues,
        limiter_is_real,
    })
}

fn run(world: &mut World, acts: &[(u8, Act)]) {
    world.order(0, LeadershipInput::Run);
    for (node, act) in acts {
        perform(world, *node, *act);
    }
    come_to_an_end(world);
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000,
        ..super::apply_property::config(CASES_DEFAULT)
    })]

    #[test]
    fn one_node_loses_nothing(
        acts in prop::collection::vec(act(), 1..ACTS_MAX),
        setting in setting(),
    ) {
        run(&mut World::new(1, setting), &acts);
    }

    #[test]
    fn two_nodes_lose_nothing(
        acts in prop::collection::vec(act(), 1..ACTS_MAX),
        setting in setting(),
    ) {
        run(&mut World::new(2, setting), &acts);
    }
}
