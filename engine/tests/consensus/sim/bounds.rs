//! Memory under load, with the limits of a real node.

use forebay_engine::consensus::Limits;

use crate::world::host;

use super::World;

/// A tick is 15 ms, so this is 10,000 blocks of 4 KiB per second in each group.
const BLOCKS_PER_TICK: u64 = 150;
const BLOCK_BYTES: usize = 4 << 10;

/// Bytes that one member lacks at the start, in all groups together.
const BEHIND_BYTES: usize = 100 << 20;

/// Maximum number of ticks in which it must catch up.
const CATCH_UP_TICKS_MAX: u64 = 1500;

/// Nodes 3 and 4 have no faults.
const NODES: usize = 5;
const DEAD: usize = 0;
const SLOW: usize = 1;
const BEHIND: usize = 2;

/// A node of five, a member of several groups that run one after the other on one thread.
struct Node {
    groups: Vec<World>,
    /// Maximum memory of the groups of a node.
    bytes_max: u64,
}

impl Node {
    fn new(groups: usize) -> Self {
        let groups = (0..groups as u64).map(|at| {
            let mut world = World::new(11 + 2 * at, NODES, NODES);
            world.limits = Limits::default();
            world.until("a leader", |world| world.leader().is_some_and(|leader| leader > BEHIND));
            world.ticks(50);
            world.crash(DEAD, u64::MAX);
            world.crash(BEHIND, u64::MAX);
            world
        });
        Self { groups: groups.collect(), bytes_max: 0 }
    }

    fn load(&mut self) {
        for world in &mut self.groups {
            for _ in 0..BLOCKS_PER_TICK {
                if let Some(leader) = world.leader() {
                    world.propose(leader, BLOCK_BYTES);
                }
            }
            world.tick();
        }
        self.check_memory();
    }

    /// Limit for a group: its segment and its undecided entries, and the same again for a member
    /// that copies. Groups share nothing, so a node may use this once per group.
    fn check_memory(&mut self) {
        let limits = Limits::default();
        let one = (limits.segment_bytes_max + limits.undecided_bytes_max) as u64;
        for at in 0..NODES {
            let mut sum = 0;
            for world in &self.groups {
                let Some(group) = &world.nodes[at].group else { continue };
                sum += group.memory_bytes();
                let bound = if group.term().is_some() { one } else { 2 * one };
                assert!(group.memory_bytes() <= bound, "{group:?}");
            }
            self.bytes_max = self.bytes_max.max(sum);
        }
        let queue_max = one as usize + limits.sync_bytes_max;
        for world in &mut self.groups {
            world.reset_full_links(queue_max);
        }
    }

    fn decided(&self) -> usize {
        self.groups.iter().map(|world| world.checks.decided.len()).sum()
    }

    /// Slows one node down; the one that is behind returns.
    fn disturb(&mut self) {
        for world in &mut self.groups {
            world.nodes[SLOW].disk.sync_ticks_max = 4;
            for at in 0..NODES {
                let (from, to) = (world.nodes[at].storage(), world.nodes[SLOW].storage());
                world.net.set_slow(from, to, 3);
            }
            world.nodes[BEHIND].starts_at = world.now;
        }
    }

    fn has_caught_up(&self) -> bool {
        self.groups.iter().all(|world| {
            let Some(group) = &world.nodes[BEHIND].group else { return false };
            let lag = world.checks.decided.len() as u64 - group.decided();
            group.votes() && lag < 2 * BLOCKS_PER_TICK
        })
    }
}

fn run(groups: usize) {
    host::timed(|| {
        let mut node = Node::new(groups);
        while node.decided() * BLOCK_BYTES < BEHIND_BYTES {
            node.load();
        }
        node.disturb();
        let mut ticks = 0;
        while !node.has_caught_up() {
            node.load();
            ticks += 1;
            assert!(ticks < CATCH_UP_TICKS_MAX, "it catches up under load");
        }
        let (decided, bytes_max) = (node.decided(), node.bytes_max >> 20);
        let steps: u64 = node.groups.iter().map(|world| world.steps).sum();
        format!(
            "{groups} groups, {decided} blocks, {steps} steps, at bytes_max {bytes_max} MiB per node, \
             caught up after {ticks} ticks,"
        )
    });
}

#[test]
fn a_group_keeps_its_memory_with_a_dead_a_slow_and_a_far_behind_member() {
    run(1);
}

#[test]
fn three_groups_on_one_thread_keep_their_memory_with_the_same_members() {
    run(3);
}
