//! A limiter without any structure: plain lists, and a full rescan for each answer.

use std::collections::{BTreeMap, BTreeSet};

use forebay_messages::{
    EntryId, Timestamp, VQueueHandle, VQueueId, VQueueName,
    actor::{Acquire, Granted, LockWish, Release},
    rule::{Limits, Pattern, Rate, RuleUpdate},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Permit(u64, Option<EntryId>),
    Entry(EntryId),
}

struct Held {
    name: VQueueName,
    vqueue: VQueueId,
    locked: bool,
    /// Set until it is handed over.
    handle: Option<VQueueHandle>,
}

/// Tokens, in units of `1 / period`.
struct Bucket {
    rate: Rate,
    parts: u128,
    at: u64,
}

#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) now: u64,
    /// `false`: a rule that only pauses and governs nothing.
    rules: BTreeMap<Pattern, (Limits, bool)>,
    pub(crate) waits: BTreeMap<VQueueHandle, Acquire>,
    held: BTreeMap<u64, Held>,
    locks: BTreeMap<VQueueId, Holder>,
    buckets: BTreeMap<String, Bucket>,
    /// `None`: capacity is not limited.
    pub(crate) slots: Option<u32>,
}

/// The keys of the counters of a name: `s`, `s/a`, `s/a/x`.
fn keys(name: &VQueueName) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for part in [&name.scope, &name.l1, &name.l2].into_iter().flatten() {
        keys.push(keys.last().map_or_else(|| part.to_string(), |key| format!("{key}/{part}")));
    }
    keys
}

fn burst(rate: Rate) -> u128 {
    u128::from(rate.burst) * u128::from(rate.period_ms)
}

impl Bucket {
    fn full(rate: Rate, at: u64) -> Self {
        Self { rate, parts: burst(rate), at }
    }

    fn parts_at(&self, now: u64) -> u128 {
        let came = u128::from(now - self.at) * u128::from(self.rate.tokens);
        (self.parts + came).min(burst(self.rate))
    }
}

impl Naive {
    fn limits(&self, key: &str) -> Limits {
        let parts: Vec<&str> = key.split('/').collect();
        let matching = self.rules.iter().filter(|(pattern, _)| pattern.matches(&parts));
        let governing = matching.filter(|(_, (_, governs))| *governs);
        governing
            .max_by_key(|(pattern, _)| pattern.rank())
            .map(|(_, (l, _))| *l)
            .unwrap_or_default()
    }

    fn is_paused(&self, key: &str) -> bool {
        let parts: Vec<&str> = key.split('/').collect();
        let mut pausing = self.rules.iter().filter(|(_, (limits, _))| limits.paused);
        pausing.any(|(pattern, _)| pattern.matches(&parts))
    }

    fn is_service_paused(&self, service: &str) -> bool {
        let mut pausing = self.rules.iter().filter(|(_, (limits, _))| limits.paused);
        pausing.any(|(pattern, _)| {
            let paused = pattern.to_string();
            let paused = paused.strip_prefix("service:");
            paused.is_some_and(|paused| {
                service == paused || service.starts_with(&format!("{paused}."))
            })
        })
    }

    pub(crate) fn usage(&self, key: &str) -> u32 {
        let under = |held: &&Held| keys(&held.name).iter().any(|other| other == key);
        u32::try_from(self.held.values().filter(under).count()).unwrap()
    }

    fn tokens(&self, key: &str) -> u32 {
        let Some(rate) = self.limits(key).rate else { return u32::MAX };
        let parts = self.buckets.get(key).map_or(burst(rate), |bucket| bucket.parts_at(self.now));
        u32::try_from(parts / u128::from(rate.period_ms)).unwrap()
    }

    /// Adds (or removes) one token.
    fn change_tokens(&mut self, name: &VQueueName, put: bool) {
        for key in keys(name) {
            let Some(rate) = self.limits(&key).rate else { continue };
            let now = self.now;
            let bucket = self.buckets.entry(key).or_insert_with(|| Bucket::full(rate, now));
            let (parts, one) = (bucket.parts_at(now), u128::from(rate.period_ms));
            bucket.parts =
                if put { (parts + one).min(burst(rate)) } else { parts.checked_sub(one).unwrap() };
            bucket.at = now;
        }
    }

    fn lock_blocks(&self, vqueue: VQueueId, wish: LockWish) -> bool {
        match (wish, self.locks.get(&vqueue)) {
            (LockWish::None, _) | (_, None) => false,
            (LockWish::Held(entry), Some(holder)) => *holder != Holder::Entry(entry),
            (LockWish::Take, Some(_)) => true,
        }
    }

    fn room(&self, key: &str) -> u32 {
        let limit = self.limits(key).concurrency.map_or(u32::MAX, u32::from);
        limit.saturating_sub(self.usage(key))
    }

    fn free_slots(&self) -> u32 {
        let held = u32::try_from(self.held.len()).unwrap();
        self.slots.map_or(u32::MAX, |slots| slots.saturating_sub(held))
    }

    /// Everything that blocks a waiter, narrowest first.
    pub(crate) fn reasons(&self, ask: &Acquire) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.lock_blocks(ask.vqueue, ask.lock) {
            reasons.push("lock".to_owned());
        }
        if self.is_service_paused(&ask.name.service) {
            reasons.push(format!("pause of service {}", ask.name.service));
        }
        for key in keys(&ask.name).iter().rev() {
            if self.is_paused(key) {
                reasons.push(format!("pause of {key}"));
            }
            if self.room(key) == 0 {
                reasons.push(format!("limit of {key}"));
            }
            if self.tokens(key) == 0 {
                reasons.push(format!("rate of {key}"));
            }
        }
        if self.free_slots() == 0 {
            reasons.push("capacity".to_owned());
        }
        reasons
    }

    pub(crate) fn ask(&mut self, mut ask: Acquire) {
        if ask.lock != LockWish::None {
            ask.count = 1;
        }
        self.waits.insert(ask.handle, ask);
    }

    /// Records a grant of the real limiter, which must be allowed.
    pub(crate) fn granted(&mut self, granted: Granted) {
        let ask =
            self.waits.remove(&granted.handle).expect("granted to a vqueue that does not wait");
        assert!((1..=ask.count).contains(&granted.permits.count), "{granted:?} for {ask:?}");
        for permit in granted.permits.iter() {
            assert_eq!(
                self.reasons(&ask),
                Vec::<String>::new(),
                "granted although blocked: {ask:?}"
            );
            let locked = ask.lock != LockWish::None;
            if locked {
                let kept = match self.locks.get(&ask.vqueue) {
                    Some(Holder::Entry(entry)) => Some(*entry),
                    _ => None,
                };
                self.locks.insert(ask.vqueue, Holder::Permit(permit.serial, kept));
            }
            self.change_tokens(&ask.name, false);
            let (name, vqueue) = ((*ask.name).clone(), ask.vqueue);
            let held = Held { name, vqueue, locked, handle: Some(ask.handle) };
            assert!(self.held.insert(permit.serial, held).is_none(), "granted twice: {permit:?}");
        }
    }

    pub(crate) fn release(&mut self, release: Release) {
        let Some(held) = self.held.remove(&release.permit.serial) else { return };
        let unused = held.handle.is_some();
        if unused {
            self.change_tokens(&held.name, true);
        }
        let holder = self.locks.get(&held.vqueue).copied();
        let Some(Holder::Permit(serial, kept)) = holder.filter(|_| held.locked) else { return };
        if serial != release.permit.serial {
            return;
        }
        match release.keep_lock.or(kept.filter(|_| unused)) {
            Some(entry) => self.locks.insert(held.vqueue, Holder::Entry(entry)),
            None => self.locks.remove(&held.vqueue),
        };
    }

    pub(crate) fn hand_over(&mut self, serial: u64) {
        if let Some(held) = self.held.get_mut(&serial) {
            held.handle = None;
        }
    }

    /// Removes a request; returns the permits that were not handed over.
    pub(crate) fn withdraw(&mut self, handle: VQueueHandle) -> Vec<u64> {
        self.waits.remove(&handle);
        let mine = self.held.iter().filter(|(_, held)| held.handle == Some(handle));
        mine.map(|(serial, _)| *serial).collect()
    }

    pub(crate) fn free_lock(&mut self, vqueue: VQueueId, entry: EntryId) {
        match self.locks.get_mut(&vqueue) {
            Some(Holder::Entry(holder)) if *holder == entry => {
                self.locks.remove(&vqueue);
            }
            Some(Holder::Permit(_, kept)) if *kept == Some(entry) => *kept = None,
            _ => {}
        }
    }

    pub(crate) fn update(&mut self, updates: &[RuleUpdate]) {
        for update in updates {
            match update.clone() {
                RuleUpdate::Upsert { pattern, limits } => {
                    self.rules.insert(pattern, (limits, true))
                }
                RuleUpdate::Pause { pattern } => {
                    self.rules.insert(pattern, (Limits::default().paused(), false))
                }
                RuleUpdate::Remove { pattern } => self.rules.remove(&pattern),
            };
        }
        for (key, old) in std::mem::take(&mut self.buckets) {
            let Some(rate) = self.limits(&key).rate else { continue };
            let parts = old.parts_at(self.now);
            let scaled = parts * u128::from(rate.period_ms) / u128::from(old.rate.period_ms);
            let parts = match parts {
                _ if rate == old.rate => parts,
                _ if parts == burst(old.rate) => burst(rate),
                _ => scaled.min(burst(rate)),
            };
            self.buckets.insert(key, Bucket { rate, parts, at: self.now });
        }
    }

    /// All keys with held permits.
    pub(crate) fn used_keys(&self) -> BTreeSet<String> {
        self.held.values().flat_map(|held| keys(&held.name)).collect()
    }

    pub(crate) fn serials(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    /// Every waiter is blocked by something.
    pub(crate) fn assert_no_waiter_forgotten(&self) {
        for ask in self.waits.values() {
            assert!(!self.reasons(ask).is_empty(), "{ask:?} waits although nothing blocks it");
        }
    }

    /// Whether a waiter is blocked by capacity alone.
    pub(crate) fn wants_capacity(&self) -> bool {
        self.waits.values().any(|ask| self.reasons(ask) == ["capacity"])
    }

    pub(crate) fn set_now(&mut self, now: Timestamp) {
        self.now = now.0;
    }
}
