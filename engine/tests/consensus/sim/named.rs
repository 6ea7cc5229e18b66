//! Scenarios of the machine by name: one for each row of docs/decisions/0026 that the machine
//! handles, and for each rule of 0027.

use forebay_engine::consensus::{
    Answer, Body, Envelope, GroupRows, Input, Leadership, Member, ProposalRefusal, RequestId,
    StorageId,
};

use super::World;
use crate::world::ELECTION_TICKS;
use crate::world::disk::Disk;

/// Three members with a leader that has decided an entry.
pub(super) fn three() -> (World, usize) {
    serving(3, 3)
}

pub(super) fn serving(count: usize, voting: usize) -> (World, usize) {
    let mut world = World::new(7, count, voting);
    world.until("a leader", |world| world.leader().is_some());
    world.ticks(4 * ELECTION_TICKS);
    let leader = world.leader().unwrap();
    world.propose(leader, 20);
    world.until("a decision", |world| world.checks.acknowledged > 0);
    (world, leader)
}

fn end(world: &World) -> u64 {
    world.checks.decided.len() as u64
}

fn last(world: &World) -> &Answer {
    world.answers.last().unwrap()
}

fn is_refused(answer: &Answer, why: &ProposalRefusal) -> bool {
    matches!(answer, Answer::Refused { refusal, .. } if refusal == why)
}

#[test]
fn one_node_alone_decides_by_its_own_disk_and_grows_to_three() {
    let (mut world, leader) = serving(3, 1);
    assert_eq!(leader, 0);
    world.nodes[0].disk.sync_ticks_max = 30;
    let before = world.checks.acknowledged;
    world.propose(0, 20);
    assert_eq!(world.checks.acknowledged, before, "nothing is acknowledged before the sync");
    world.nodes[0].disk.sync_ticks_max = 0;
    world.until("the sync", |world| world.checks.acknowledged > before);
    world.until("learners", |world| world.group(2).decided() == end(world));
    world.ticks(4 * ELECTION_TICKS);
    let members = (0..3).map(|at| world.nodes[at].member()).collect();
    world.roll(0, members);
    world.until("three members", |world| (0..3).all(|at| world.group(at).votes()));
    world.ticks(10);
    assert_eq!(world.leaders, [world.nodes[0].storage()], "the roll moved no leadership");
    let before = world.checks.acknowledged;
    world.propose(0, 20);
    world.until("a decision of three", |world| world.checks.acknowledged > before);
}

#[test]
fn rolls_alone_never_move_the_leadership() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 3);
        world.until("a leader", |world| world.leader().is_some());
        world.ticks(4 * ELECTION_TICKS);
        let leader = world.leader().unwrap();
        let began = world.leaders.len();
        for _ in 0..600 {
            world.propose(leader, 50);
            world.tick();
        }
        assert!(world.group(leader).segment().number > 5, "there were rolls");
        assert_eq!(world.leaders.len(), began, "seed {seed}: the term continues");
        assert_eq!(world.checks.unknown, 0);
        assert_eq!(world.leader(), Some(leader));
    }
}

#[test]
fn a_member_with_a_higher_promise_rejoins_by_the_watchdog() {
    let (mut world, leader) = serving(5, 5);
    let others: Vec<_> = (0..5).filter(|at| *at != leader).collect();
    let (campaigner, witness) = (others[0], others[1]);
    // The campaigner's Prepare reaches only the witness; then the campaigner is removed
    // permanently.
    let from = world.nodes[campaigner].storage();
    for at in (0..5).filter(|at| *at != witness && *at != campaigner) {
        let to = world.nodes[at].storage();
        world.net.set_cut(from, to, true);
    }
    world.step(leader, Input::HandOver { to: from });
    let before = world.group(witness).standing().promised;
    world.until("the promise", |world| world.group(witness).standing().promised > before);
    world.crash(campaigner, u64::MAX);
    world.crash(witness, world.now);
    world.net.heal();
    world.ticks(6 * ELECTION_TICKS);
    for _ in 0..300 {
        if let Some(leader) = world.leader() {
            world.propose(leader, 20);
        }
        world.tick();
    }
    world.ticks(30);
    assert_eq!(world.group(witness).decided(), end(&world), "it takes part again");
}

#[test]
fn a_leader_without_a_quorum_answers_all_and_gives_up() {
    let (mut world, leader) = three();
    world.isolate(leader, true);
    for _ in 0..5 {
        world.propose(leader, 20);
        world.read(leader);
    }
    assert_eq!(world.checks.open(), 10);
    world.ticks(6 * ELECTION_TICKS);
    assert_eq!(world.group(leader).term(), None);
    assert_eq!(world.checks.open(), 0, "every request has an answer");
    assert_eq!(world.checks.unknown, 5);
    let other = world.leader().expect("the others have a leader");
    assert_ne!(other, leader);
    world.isolate(leader, false);
    world.until("it follows", |world| world.group(leader).decided() == end(world));
}

#[test]
fn a_leader_that_hears_no_quorum_refuses_requests() {
    let (mut world, leader) = three();
    world.isolate(leader, true);
    world.ticks(3 * ELECTION_TICKS);
    world.propose(leader, 20);
    assert!(is_refused(last(&world), &ProposalRefusal::NotLeader(None)), "{:?}", last(&world));
}

#[test]
fn a_read_at_a_replaced_leader_is_never_answered_with_an_index() {
    let (mut world, leader) = three();
    world.isolate(leader, true);
    world.read(leader);
    world.until("another leader", |world| world.leader().is_some_and(|other| other != leader));
    let other = world.leader().unwrap();
    world.propose(other, 20);
    world.until("a decision", |world| world.group(other).decided() == end(world));
    world.ticks(10 * ELECTION_TICKS);
    assert_eq!(world.checks.reads, 0);
    assert_eq!(world.checks.open(), 0);
}

#[test]
fn concurrent_reads_share_a_barrier() {
    let (mut world, leader) = three();
    let before = end(&world);
    for _ in 0..10 {
        world.read(leader);
    }
    world.until("the answers", |world| world.checks.reads == 10);
    assert!(end(&world) <= before + 2, "one barrier for the first, one for the others");
}

#[test]
fn an_entry_is_not_decided_before_the_leaders_own_sync() {
    let (mut world, leader) = three();
    world.nodes[leader].disk.sync_ticks_max = 1_000_000_000;
    let before = end(&world);
    world.propose(leader, 20);
    world.ticks(2 * ELECTION_TICKS);
    let accepted = |world: &World, at: usize| world.nodes[at].disk.rows.end();
    assert!((0..3).filter(|at| *at != leader).all(|at| accepted(&world, at) > before));
    assert_eq!(world.group(leader).decided(), before, "two disks have it, the leader's not");
    assert_eq!(end(&world), before);
}

#[test]
fn a_follower_with_a_slow_disk_delays_no_others() {
    let (mut world, leader) = three();
    let slow = (leader + 1) % 3;
    world.nodes[slow].disk.sync_ticks_max = 1_000_000_000;
    for _ in 0..20 {
        world.propose(leader, 20);
        world.tick();
    }
    world.ticks(10);
    assert_eq!(world.checks.unknown, 0);
    assert!(end(&world) >= 20);
    assert!(world.group(slow).decided() < end(&world), "it applies only durable entries");
}

#[test]
fn undecided_entries_of_a_leader_are_bounded() {
    let (mut world, leader) = three();
    world.nodes[leader].disk.sync_ticks_max = 1_000_000_000;
    for _ in 0..100 {
        world.propose(leader, 100);
    }
    let limits = &world.limits;
    assert!(is_refused(last(&world), &ProposalRefusal::Busy));
    assert!(world.checks.open() <= limits.undecided_entries_max);
    assert!(
        world.group(leader).memory_bytes()
            <= (limits.segment_bytes_max + limits.undecided_bytes_max) as u64
    );
    world.propose(leader, limits.block_bytes_max + 1);
    assert!(is_refused(last(&world), &ProposalRefusal::TooLong));
}

#[test]
fn a_member_far_behind_copies_blocks_and_is_sent_no_long_suffix() {
    let (mut world, leader) = three();
    let away = (leader + 1) % 3;
    world.limits.segment_bytes_max = 1 << 20;
    world.limits.segment_entries_max = 10_000;
    let mut world = {
        let mut fresh = World::new(8, 3, 3);
        fresh.limits = world.limits;
        fresh.until("a leader", |world| world.leader().is_some());
        fresh.ticks(4 * ELECTION_TICKS);
        fresh
    };
    let leader = if world.leader() == Some(away) { return } else { world.leader().unwrap() };
    world.crash(away, u64::MAX);
    for _ in 0..200 {
        world.propose(leader, 100);
        world.tick();
    }
    world.ticks(10);
    world.net.suffix_bytes_max = 0;
    world.nodes[away].starts_at = 0;
    world.until("it has everything", |world| {
        world.nodes[away].group.is_some() && world.group(away).decided() == end(world)
    });
    assert_eq!(world.group(leader).segment().number, 1, "within one segment");
    let bound = world.limits.sync_bytes_max + world.limits.undecided_bytes_max;
    assert!(world.net.suffix_bytes_max <= bound, "{}", world.net.suffix_bytes_max);
    world.until("it votes again", |world| {
        let group = world.group(away);
        group.standing().promised == world.group(leader).standing().promised
    });
}

#[test]
fn a_member_that_missed_rolls_copies_and_joins_the_current_segment() {
    let (mut world, leader) = three();
    let away = (leader + 1) % 3;
    world.crash(away, u64::MAX);
    for _ in 0..300 {
        world.propose(leader, 50);
        world.tick();
    }
    world.ticks(10);
    let number = world.group(leader).segment().number;
    assert!(number > 3);
    world.nodes[away].starts_at = 0;
    world.until("it has everything", |world| {
        world.nodes[away].group.is_some() && world.group(away).decided() == end(world)
    });
    assert_eq!(world.group(away).segment().number, number);
    assert!(world.group(away).votes());
}

#[test]
fn leadership_is_handed_over_without_an_election_timeout() {
    let (mut world, leader) = three();
    let to = (leader + 1) % 3;
    let (storage, began) = (world.nodes[to].storage(), world.now);
    world.step(leader, Input::HandOver { to: storage });
    world.until("the other leads", |world| world.leader() == Some(to));
    assert!(world.now - began < 4 * ELECTION_TICKS, "{} ticks", world.now - began);
    assert_eq!(world.checks.unknown, 0);
}

#[test]
fn a_forbidden_roll_is_refused() {
    let (mut world, leader) = serving(5, 3);
    let member = |world: &World, at: usize| world.nodes[at].member();
    let all = |world: &World| (0..3).map(|at| member(world, at)).collect::<Vec<_>>();
    let refused = |world: &mut World, members, why: ProposalRefusal| {
        world.roll(leader, members);
        assert!(is_refused(last(world), &why), "{:?} instead of {why:?}", last(world));
    };
    let mut members = all(&world);
    members.push(member(&world, 3));
    members.push(member(&world, 4));
    refused(&mut world, members.clone(), ProposalRefusal::TooManyChanges);
    members = all(&world);
    members.remove(leader);
    refused(&mut world, members, ProposalRefusal::HandOverFirst);
    // Node 3 is cut off: no member has received a message from it, or it is behind.
    world.isolate(3, true);
    for _ in 0..60 {
        world.propose(leader, 100);
        world.tick();
    }
    world.ticks(5);
    let mut members = all(&world);
    members.push(member(&world, 3));
    let why = ProposalRefusal::NotReady(world.nodes[3].storage());
    refused(&mut world, members, why);
    let members = all(&world);
    let (request, version) = (RequestId(u64::MAX), world.version + 10);
    world.checks.asked(world.nodes[leader].storage(), request, None);
    world.step(leader, Input::Roll { request, members: members.clone(), version });
    world.ticks(20);
    world.version = 0;
    refused(&mut world, members, ProposalRefusal::OldVersion);
}

#[test]
fn a_mismatched_message_is_dropped_and_counted() {
    let (mut world, leader) = three();
    let here = (leader + 1) % 3;
    let (from, to) = (world.nodes[leader].storage(), world.nodes[here].storage());
    let group = world.group(here);
    let right = Envelope {
        cluster: super::world::CLUSTER,
        incarnation: 1,
        group: super::world::GROUP,
        segment: group.segment().hash,
        from,
        to,
        session: forebay_engine::consensus::Session(1),
        body: Body::TakeOver,
    };
    let wrong: [fn(&mut Envelope); 6] = [
        |envelope| envelope.cluster += 1,
        |envelope| envelope.incarnation += 1,
        |envelope| envelope.group += 1,
        |envelope| envelope.from = StorageId(4),
        |envelope| envelope.to = StorageId(4),
        |envelope| envelope.session.0 += 1000,
    ];
    for change in wrong {
        let mut envelope = right.clone();
        change(&mut envelope);
        let before = world.group(here).dropped();
        world.step(here, Input::Message(Box::new(envelope)));
        assert_eq!(world.group(here).dropped(), before + 1);
    }
    world.ticks(4 * ELECTION_TICKS);
    assert_eq!(world.leader(), Some(leader), "none of them made it campaign");
}

#[test]
fn a_rolled_back_disk_is_refused_by_every_peer_that_remembers() {
    let (mut world, leader) = three();
    let at = (leader + 1) % 3;
    let old = world.nodes[at].disk.copy();
    for _ in 0..20 {
        world.propose(leader, 20);
        world.ticks(2);
    }
    world.ticks(4 * ELECTION_TICKS);
    world.crash(at, world.now);
    world.nodes[at].disk = old;
    world.lost.insert(world.nodes[at].storage());
    world.ticks(100);
    assert!(world.counts["refused peers"] > 0);
    assert!(world.group(at).decided() < end(&world), "it takes no part");
    assert_eq!(world.leader(), Some(leader));
}

/// Regression (seed 6574): the simulation blamed the leader for a disk that was rolled back in the
/// same instant.
#[test]
fn a_leader_may_seal_when_a_disk_was_just_rolled_back() {
    let (mut world, leader) = three();
    let (at, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let old = world.nodes[at].disk.copy();
    world.crash(other, u64::MAX);
    for _ in 0..20 {
        world.propose(leader, 100);
        world.ticks(2);
    }
    world.ticks(2);
    let lacks = end(&world) - old.rows.end();
    assert!(lacks * 100 > world.limits.ready_lag_bytes_max as u64, "it is not ready any more");
    world.crash(at, world.now);
    world.nodes[at].disk = old;
    world.lost.insert(world.nodes[at].storage());
    let members = (0..3).map(|at| world.nodes[at].member()).collect();
    let answers = world.answers.len();
    world.roll(leader, members);
    assert_eq!(world.answers.len(), answers, "it was not refused: the seal is proposed");
}

#[test]
fn a_copied_directory_is_refused_at_its_first_boot_elsewhere() {
    let (mut world, leader) = three();
    let at = (leader + 1) % 3;
    // The copy is made while the node is down; both processes count the same boot, and draw
    // different nonces.
    world.crash(at, world.now);
    let copy = world.nodes[at].disk.copy();
    world.ticks(6 * ELECTION_TICKS);
    world.crash(at, world.now);
    world.nodes[at].disk = copy;
    world.lost.insert(world.nodes[at].storage());
    world.ticks(60);
    assert!(world.counts["refused peers"] > 0);
}

#[test]
fn a_restart_of_all_members_loses_nothing() {
    let (mut world, leader) = three();
    for _ in 0..30 {
        world.propose(leader, 20);
        world.tick();
    }
    world.ticks(5);
    let acknowledged = world.checks.acknowledged;
    for at in 0..3 {
        world.crash(at, world.now);
    }
    world.until("a leader", |world| world.leader().is_some());
    world.ticks(20);
    let leader = world.leader().unwrap();
    world.propose(leader, 20);
    world.until("a decision", |world| world.checks.acknowledged > acknowledged);
}

#[test]
fn changes_of_the_leader_are_reported() {
    use forebay_engine::Machine;
    use forebay_engine::consensus::Effect;
    let (mut world, leader) = three();
    world.isolate(leader, true);
    let mut reported = Vec::new();
    for _ in 0..10 * ELECTION_TICKS {
        let group = world.nodes[leader].group.as_mut().unwrap();
        let mut effects = Vec::new();
        group.step(forebay_messages::Timestamp(0), Input::Tick, &mut effects);
        reported.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Leadership(leadership) => Some(leadership),
            _ => None,
        }));
        world.propose(leader, 20);
    }
    assert!(matches!(reported.first(), None | Some(Leadership::Follows(_))), "{reported:?}");
}

#[test]
fn data_about_peers_without_a_vote_is_bounded() {
    let (mut world, leader) = serving(5, 3);
    world.limits.peers_max = 3;
    for at in 0..5 {
        world.crash(at, world.now);
    }
    world.ticks(20);
    for round in 1..10 {
        // Node 4 loses its disk repeatedly and is a new peer each time.
        world.crash(4, world.now);
        let storage = StorageId(world.nodes[4].storage().0 + round);
        let first = world.nodes[leader].disk.rows.recover().segments[0].clone();
        let member = Member { storage, ..world.nodes[4].member() };
        world.nodes[4].disk = Disk::new(&member, GroupRows::new(first, false));
        world.ticks(20);
    }
    let peers = world.nodes[leader].disk.rows.recover().peers;
    assert!(peers.len() <= 3, "{peers:?}");
    let members = &world.group(leader).segment().members;
    let voters = peers.iter().filter(|peer| members.iter().any(|m| m.storage == peer.storage));
    assert_eq!(voters.count(), 2, "both other voters are remembered: {peers:?}");
}
