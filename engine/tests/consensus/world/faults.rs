//! One run of a world: a period with clients, a controller and faults, then healing, then the final
//! checks.

use std::collections::BTreeMap;
use std::fmt;

use forebay_engine::consensus::{GroupRows, Input, Member, StorageId};

use super::disk::{Backend, Disk};
use super::{ELECTION_TICKS, Node, World};

/// Duration of the period with faults, and the maximum duration of healing.
pub(crate) const FAULT_TICKS: u64 = 400;
const HEAL_TICKS_MAX: u64 = 1500;

/// Minimum age of a restored backup: peers must have received later data of the disk in the
/// meantime.
const BACKUP_TICKS: u64 = 8 * ELECTION_TICKS;

pub(crate) struct Run<B> {
    pub(crate) world: World<B>,
    /// Kinds of faults in this run.
    kinds: u64,
}

impl<B: Backend> Run<B> {
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut run = Self::begin(seed);
        for _ in 0..FAULT_TICKS {
            run.disturb();
            run.work();
            run.manage();
            run.world.tick();
        }
        run.heal(&mut |world, tick| {
            if let Some(tick) = tick
                && tick % 4 == 0
                && let Some(leader) = world.leader()
            {
                world.propose(leader, 20);
            }
            world.tick();
        });
        run
    }

    /// A world of nodes, and the kinds of its faults.
    pub(crate) fn begin(seed: u64) -> Self {
        let mut world = World::new(seed, 0, 0);
        let count = 3 + world.random.below(3) as usize;
        let voting = if world.random.permille(300) { 1 } else { 3 };
        let random = world.random.clone();
        world = World::new(seed, count, voting);
        world.random = random;
        let kinds = world.random.next();
        Self { world, kinds }
    }

    pub(crate) fn trace(&self) -> u64 {
        self.world.trace
    }

    fn has(&self, kind: u64) -> bool {
        self.kinds >> kind & 1 == 1
    }

    fn node(&mut self) -> usize {
        self.world.random.below(self.world.nodes.len() as u64) as usize
    }

    /// Requests of clients.
    fn work(&mut self) {
        let world = &mut self.world;
        for _ in 0..2 {
            let at = match world.leader() {
                Some(leader) if world.random.permille(900) => leader,
                _ => world.random.below(world.nodes.len() as u64) as usize,
            };
            if world.nodes[at].group.is_none() {
                continue;
            }
            if world.random.permille(450) {
                let length = if world.random.permille(100) { 600 } else { 40 };
                let length = 8 + world.random.below(length) as usize;
                world.propose(at, length);
            }
            if world.random.permille(150) {
                world.read(at);
            }
        }
    }

    /// Requests of the controller.
    pub(crate) fn manage(&mut self) {
        if self.world.random.permille(40) {
            self.control();
        }
        if self.world.random.permille(20) {
            let at = self.node();
            let index = self.world.nodes[at].disk.applied;
            self.world.step(at, Input::DropBelow { index });
        }
        if self.world.random.permille(5) {
            let to = self.node();
            let to = self.world.nodes[to].storage();
            if let Some(leader) = self.world.leader() {
                self.world.step(leader, Input::HandOver { to });
            }
        }
    }

    /// Asks a leader for a roll: growth, a replacement, a removal, or the same members.
    fn control(&mut self) {
        let Some(leader) = self.world.leader() else { return };
        let world = &self.world;
        let mut members = world.group(leader).segment().members.clone();
        let lost = |member: &Member| world.at(member.storage).is_none();
        let barred = |member: &Member| world.lost.contains(&member.storage);
        let others: Vec<Member> = world
            .nodes
            .iter()
            .map(Node::member)
            .filter(|member| !members.contains(member) && !barred(member))
            .collect();
        let gone = members.iter().position(|member| lost(member) || barred(member));
        let choice = self.world.random.below(6);
        let other = match others.len() as u64 {
            0 => None,
            count => Some(others[self.world.random.below(count) as usize].clone()),
        };
        match (gone, other) {
            (Some(gone), Some(other)) => members[gone] = other,
            _ if members.len() == 1 && others.len() >= 2 => members.extend_from_slice(&others[..2]),
            (_, Some(other)) if choice < 2 => members.push(other),
            (_, Some(other)) if choice == 2 => {
                let at = self.world.random.below(members.len() as u64) as usize;
                members[at] = other;
            }
            _ if choice == 3 && members.len() > 1 => {
                let at = self.world.random.below(members.len() as u64) as usize;
                members.remove(at);
            }
            _ => {}
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        self.world.roll(leader, members);
    }

    pub(crate) fn disturb(&mut self) {
        let (one, other) = (self.node(), self.node());
        let now = self.world.now;
        let world = &mut self.world;
        let (from, to) = (world.nodes[one].storage(), world.nodes[other].storage());
        let is_up = world.nodes[one].group.is_some();
        if self.kinds & 1 == 1 && world.random.permille(15) && is_up {
            let back_at = now + world.random.below(60);
            world.crash(one, back_at);
            return;
        }
        if self.kinds >> 1 & 1 == 1 && world.random.permille(30) {
            let is_cut = world.random.permille(500);
            world.net.set_cut(from, to, is_cut);
        }
        if self.kinds >> 2 & 1 == 1 && world.random.permille(40) {
            world.net.reset(now, from, to, &mut world.random);
        }
        if self.kinds >> 3 & 1 == 1 && world.random.permille(20) {
            let ticks = world.random.below(25);
            world.net.set_slow(from, to, ticks);
        }
        if self.kinds >> 4 & 1 == 1 && world.random.permille(20) {
            world.nodes[one].disk.sync_ticks_max = world.random.below(12);
        }
        if self.kinds >> 5 & 1 == 1 {
            world.net.loss_permille = 100;
        }
        if self.has(6) && self.world.random.permille(6) {
            self.wipe(one);
        }
        if self.has(7) {
            self.back_up(one);
        }
    }

    /// Whether one more disk may lose data: a majority must keep theirs.
    fn may_lose(&self, at: usize) -> bool {
        let world = &self.world;
        let storage = world.nodes[at].storage();
        let fine =
            |storage: StorageId| !world.lost.contains(&storage) && world.at(storage).is_some();
        // The newest segment, and earlier ones in which some node may still be.
        let groups = world.nodes.iter().filter_map(|node| node.group.as_ref());
        let segments = groups.map(forebay_engine::consensus::Group::segment);
        let is_enough = |members: &[Member]| {
            let left = members.iter().map(|member| member.storage);
            let left = left.filter(|other| fine(*other) && *other != storage).count();
            left > members.len() / 2
        };
        segments.chain([&world.newest]).all(|segment| is_enough(&segment.members))
    }

    fn wipe(&mut self, at: usize) {
        if self.world.nodes[at].group.is_none() || !self.may_lose(at) {
            return;
        }
        let now = self.world.now;
        let first = self.world.nodes.iter().find_map(|node| {
            let segment = node.disk.rows.recover().segments.first()?.clone();
            (segment.number == 1).then_some(segment)
        });
        let Some(first) = first else { return };
        self.world.count("wiped");
        self.world.crash(at, now + 5);
        let node = &mut self.world.nodes[at];
        let storage = StorageId(node.storage().0 + 1);
        let member = Member { name: node.name.as_str().into(), storage };
        let votes = first.pid_of(&member).is_some();
        node.disk = Disk::new(&member, GroupRows::new(first, votes));
        node.backup = None;
    }

    fn back_up(&mut self, at: usize) {
        let now = self.world.now;
        let Some(backup) = self.world.nodes[at].backup.take() else {
            // If the node was alone, no other node can notice the loss: not covered.
            let rows = self.world.nodes[at].disk.rows.recover();
            let is_alone = rows.segments.last().is_none_or(|segment| segment.members.len() == 1);
            if self.world.random.permille(50) && !is_alone {
                self.world.nodes[at].backup = Some((now, self.world.nodes[at].disk.copy()));
            }
            return;
        };
        let is_old = now >= backup.0 + BACKUP_TICKS;
        let is_up = self.world.nodes[at].group.is_some();
        let may = is_old && is_up && self.world.random.permille(100) && self.may_lose(at);
        if !may || !self.everyone_hears(at) {
            self.world.nodes[at].backup = Some(backup);
            return;
        }
        let mut old = backup.1;
        old.crash(&mut self.world.random);
        let before = self.world.nodes[at].disk.rows.clone();
        self.world.crash(at, now + 5);
        let forgot = has_promised(&old.rows) != has_promised(&before);
        self.world.count("rolled back");
        let storage = old.storage;
        self.world.nodes[at].disk = old;
        self.world.lost.insert(storage);
        for (_, witnesses) in self.world.witnesses.values_mut() {
            witnesses.remove(&storage);
        }
        let rows = before.recover();
        if !forgot || rows.promise.is_none() {
            // It may be refused, but it had no vote to forget.
            return;
        }
        let others = self.world.nodes.iter().map(Node::storage);
        let others = others.filter(|other| *other != storage).collect();
        self.world.witnesses.insert(storage, (before.newest(), others));
    }

    /// Whether all other nodes are up and have stored what this one has: otherwise none of them can
    /// notice that it was rolled back.
    fn everyone_hears(&self, at: usize) -> bool {
        let world = &self.world;
        let node = &world.nodes[at];
        let mine = world.group(at).standing();
        let boots = node.disk.boots;
        let mut others = world.nodes.iter().filter(|other| other.storage() != node.storage());
        others.all(|other| {
            let peers = other.disk.rows.recover().peers;
            peers.iter().any(|peer| {
                (peer.storage, peer.boot, peer.standing) == (node.storage(), boots, mine)
            })
        })
    }

    /// Ends all faults; then all members that may take part must agree, and the group must serve.
    /// `pass` passes a tick; with a number, clients make requests in it.
    pub(crate) fn heal(&mut self, pass: &mut dyn FnMut(&mut World<B>, Option<u64>)) {
        let world = &mut self.world;
        world.net.heal();
        for node in &mut world.nodes {
            node.disk.sync_ticks_max = 1;
            if !world.lost.contains(&node.disk.storage) {
                node.starts_at = node.starts_at.min(world.now);
            }
        }
        let before = world.checks.acknowledged;
        for tick in 0..HEAL_TICKS_MAX {
            pass(world, Some(tick));
            if tick > 20 && world.checks.acknowledged > before + 3 && is_converged(world) {
                break;
            }
        }
        if !has_majority(world) {
            // A seal in progress named a member that lost its disk meanwhile.
            world.count("lives without a majority in the end");
            return;
        }
        assert!(world.checks.acknowledged > before, "after healing it serves: {}", summary(world));
        for _ in 0..HEAL_TICKS_MAX {
            if is_converged(world) && world.checks.open() == 0 {
                return;
            }
            pass(world, None);
        }
        panic!("after healing it converges: {}", summary(world));
    }
}

/// The part of a disk that must not be forgotten.
fn has_promised(rows: &GroupRows) -> impl PartialEq + use<> {
    let recovered = rows.recover();
    let number = recovered.segments.last().map(|segment| segment.number);
    (number, recovered.promise, recovered.adopted, recovered.round, rows.end())
}

fn has_majority<B: Backend>(world: &World<B>) -> bool {
    let members = &world.newest.members;
    let fine = members.iter().filter(|member| {
        world.at(member.storage).is_some() && !world.lost.contains(&member.storage)
    });
    fine.count() > members.len() / 2
}

fn is_converged<B: Backend>(world: &World<B>) -> bool {
    let fine = |node: &&Node<B>| !world.lost.contains(&node.storage());
    let mut ends = world.nodes.iter().filter(fine).map(|node| {
        let group = node.group.as_ref()?;
        Some((group.decided(), group.segment().number))
    });
    let first = ends.next().flatten();
    first.is_some() && ends.all(|end| end == first)
}

fn summary<B: Backend>(world: &World<B>) -> String {
    let nodes = world.nodes.iter().map(|node| match &node.group {
        None => format!("{} is down", node.name),
        Some(group) => format!("{} {group:?}", node.name),
    });
    let nodes: Vec<_> = nodes.collect();
    format!("{}; lost {:?}; newest {:?}", nodes.join("\n"), world.lost, world.newest)
}

/// Totals over all seeds.
#[derive(Default)]
pub(crate) struct Sum {
    seeds: u64,
    steps: u64,
    ticks: u64,
    decided: u64,
    answers: u64,
    reads: u64,
    unknown: u64,
    counts: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<String, u64>,
}

impl Sum {
    pub(crate) fn add<B>(&mut self, run: &Run<B>) {
        let world = &run.world;
        self.seeds += 1;
        self.steps += world.steps;
        self.ticks += world.now;
        self.decided += world.checks.decided.len() as u64;
        self.answers += world.checks.answers;
        self.reads += world.checks.reads;
        self.unknown += world.checks.unknown;
        for (what, count) in &world.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for refusal in &world.checks.refusals {
            *self.refusals.entry(refusal.clone()).or_default() += 1;
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, steps, ticks, decided, answers, reads, unknown, .. } = self;
        write!(
            f,
            "{seeds} seeds, {steps} steps, {ticks} ticks, {decided} entries, {answers} \
             acknowledged, {unknown} unknown, {reads} reads, {:?}, seeds with refusals {:?}",
            self.counts, self.refusals
        )
    }
}
