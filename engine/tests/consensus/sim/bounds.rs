//! Memory under load, with the limits that a node has.

use forebay_engine::consensus::Limits;

use super::world::World;

/// A tick is 15 ms, so this is 10,000 blocks of 4 KiB in a second.
const BLOCKS_PER_TICK: u64 = 150;
const BLOCK_BYTES: usize = 4 << 10;

/// What one member lacks in the beginning.
const BEHIND_BYTES: usize = 100 << 20;

/// Memory of a group: its segment and what is undecided, and as much for a member that
/// copies. Groups share nothing, so a node with three of them holds three times as much.
fn check_memory(world: &mut World, most: &mut u64) {
    let limits = Limits::default();
    let one = (limits.segment_bytes_max + limits.undecided_bytes_max) as u64;
    for at in 0..world.nodes.len() {
        let Some(group) = &world.nodes[at].group else { continue };
        *most = group.memory_bytes().max(*most);
        let bound = if group.term().is_some() { one } else { 2 * one };
        assert!(group.memory_bytes() <= bound, "{group:?}");
    }
    let queue_max = one as usize + limits.sync_bytes_max;
    world.reset_full_links(queue_max);
}

/// Five members: one is dead, one is slow, one is 100 MiB behind.
#[test]
fn a_group_keeps_its_memory_with_a_dead_a_slow_and_a_far_behind_member() {
    let mut world = World::new(11, 5, 5);
    world.limits = Limits::default();
    world.until("a leader", |world| world.leader().is_some());
    world.ticks(50);
    let leader = world.leader().unwrap();
    let others: Vec<_> = (0..5).filter(|at| *at != leader).collect();
    let (dead, slow, behind) = (others[0], others[1], others[2]);
    world.crash(dead, u64::MAX);
    world.crash(behind, u64::MAX);
    let mut most = 0;
    let load = |world: &mut World| {
        for _ in 0..BLOCKS_PER_TICK {
            if let Some(leader) = world.leader() {
                world.propose(leader, BLOCK_BYTES);
            }
        }
        world.tick();
    };
    while world.checks.decided.len() * BLOCK_BYTES < BEHIND_BYTES {
        load(&mut world);
        check_memory(&mut world, &mut most);
    }
    world.nodes[slow].disk.sync_ticks_max = 4;
    for at in 0..5 {
        let (from, to) = (world.nodes[at].storage(), world.nodes[slow].storage());
        world.net.set_slow(from, to, 3);
    }
    world.nodes[behind].starts_at = world.now;
    let mut ticks = 0;
    loop {
        load(&mut world);
        check_memory(&mut world, &mut most);
        ticks += 1;
        let Some(group) = &world.nodes[behind].group else { continue };
        let lag = world.checks.decided.len() as u64 - group.decided();
        if group.votes() && lag < 2 * BLOCKS_PER_TICK {
            break;
        }
        assert!(ticks < 1500, "it catches up under load: {group:?}");
    }
    let decided = world.checks.decided.len();
    super::host::print(format_args!(
        "{decided} blocks, at most {} MiB per group, caught up after {ticks} ticks",
        most >> 20
    ));
}
