//! A limiter's initial state, and rule changes while it runs.

use forebay_messages::{
    PermitId,
    actor::Seed,
    rule::{Component, Pattern, RuleUpdate},
};

use crate::machine::Set;

use super::{Effects, Limiter, LimiterEffect, counter::CounterIndex, locks::Holder};

/// With more patterns than this in one update, each counter looks up its rule instead of being
/// compared with each pattern.
const PATTERNS_COMPARED_MAX: usize = 8;

impl Limiter {
    /// Takes over the state a limiter must know before the first acquire. Running entries already
    /// count, whatever the limits are: the excess drains.
    pub(super) fn seed(&mut self, seed: Seed, effects: &mut Effects) {
        self.seeded = true;
        for update in &seed.rules {
            self.rules.apply(update);
        }
        self.update_pauses(&seed.rules);
        seed.services.into_iter().for_each(|service| self.slots.announce(service));
        for (vqueue, entry) in seed.locks {
            self.locks.seed(vqueue, Holder::Entry(entry), self.now);
        }
        let mut permits = Vec::with_capacity(seed.running.len());
        for running in seed.running {
            let home = self.counters.home(&running.name, None, &self.rules, self.now).index;
            self.counters.hold(home);
            self.counters.take_over(home, self.now);
            self.lease.take(1, self.now);
            let lock = running.name.has_lock().then_some(running.vqueue);
            let serial = self.permits.next_serial();
            let slot = self.slots.find(&running.name.service);
            if let Some(slot) = slot {
                self.slots.take(slot, 1, self.now);
            }
            self.permits.insert(home, None, lock, slot);
            let holder =
                lock.and_then(|vqueue| self.locks.held.get(&vqueue)).map(|lock| lock.holder);
            let mine = holder.is_none_or(|holder| holder == Holder::Entry(running.entry));
            if let Some(vqueue) = lock.filter(|_| mine) {
                self.locks.seed(vqueue, Holder::Permit { serial, kept: None }, self.now);
            }
            permits.push(PermitId { incarnation: self.incarnation, serial });
        }
        effects.push(LimiterEffect::Seeded { permits });
    }

    /// Applies changed rules in order, then lets every affected counter look up its rule (each
    /// once). The step grants afterwards.
    pub(super) fn update_rules(&mut self, updates: &[RuleUpdate]) {
        for update in updates {
            self.rules.apply(update);
        }
        let concerned = self.concerned(updates);
        for index in &concerned {
            self.counters.govern(*index, &self.rules, self.now);
            self.counters.update_ready(&self.clients.slab, *index, self.now);
        }
        self.update_pauses(updates);
        // Only now, because forgetting a counter may forget its parents, which may be affected too
        // (but do not linger while they have children).
        let lingering = concerned.into_iter().filter(|index| self.counters.lingers(*index));
        for index in lingering.collect::<Vec<_>>() {
            self.counters.reconsider(index, self.now);
        }
    }

    /// The counters that a changed pattern matches, each once: one for an exact pattern; for others
    /// all counters of that depth are examined.
    fn concerned(&self, updates: &[RuleUpdate]) -> Vec<CounterIndex> {
        let mut found = Vec::new();
        let mut listed = Set::default();
        let mut wide: Vec<&Pattern> = Vec::new();
        for update in updates {
            let pattern = update.pattern();
            if pattern.service().is_some() {
                continue;
            }
            match exact_key(pattern) {
                Some((key, depth)) => {
                    let counter = self.counters.find(&key[..depth]);
                    found.extend(counter.filter(|index| listed.insert(*index)));
                }
                None => wide.push(pattern),
            }
        }
        if wide.is_empty() {
            return found;
        }
        let depths = wide.iter().fold(0_u8, |depths, pattern| depths | 1 << pattern.depth());
        let compare = wide.len() <= PATTERNS_COMPARED_MAX;
        let matched = self.counters.slab.iter().filter(|(index, counter)| {
            depths >> counter.depth & 1 == 1 && {
                let key = self.counters.key(*index);
                let key = &key[..usize::from(counter.depth)];
                !compare || wide.iter().any(|pattern| pattern.matches(key))
            }
        });
        found.extend(matched.map(|(index, _)| index).filter(|index| !listed.contains(index)));
        found
    }
}

/// The only key that a pattern without `*` governs.
fn exact_key(pattern: &Pattern) -> Option<([&str; 3], usize)> {
    let mut key = [""; 3];
    for (component, part) in pattern.components().iter().zip(&mut key) {
        let Component::Exact(value) = component else { return None };
        *part = value;
    }
    Some((key, pattern.depth()))
}
