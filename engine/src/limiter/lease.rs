//! This partition's share of the node's capacity.
//!
//! Must always hold: no permit is granted beyond the leased slots (permits that existed before may
//! exceed them); a slot is returned at most once. Must not know: the node's other partitions, or
//! the order of clients within this one.

use forebay_messages::Timestamp;

use super::counter::UNLIMITED;

/// Whether the node limits how many entries run at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapacityMode {
    /// It does not: capacity never blocks.
    #[default]
    Unlimited,
    /// It does: every permit needs a slot that the node leased to this partition.
    Leased,
}

#[derive(Debug)]
pub(super) struct Lease {
    mode: CapacityMode,
    /// Unused slots kept for later entries while no other partition wants them.
    spare_max: u32,
    leased: u32,
    /// Permits that are held.
    used: u32,
    full_since: Timestamp,
    /// Asked for capacity and not answered. Not withdrawn when the need has passed: near saturation
    /// the need comes and goes with every entry.
    asked: bool,
    /// Another partition wants capacity: unused slots are returned at once.
    recalled: bool,
    /// It is another partition's turn: the next slot is returned even if a client waits here.
    claimed: bool,
}

/// Messages for the node after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Balance {
    /// Slots to ask for, at least one.
    pub(super) want: Option<u32>,
    /// Slots to return, at least one.
    pub(super) give_back: Option<u32>,
}

impl Lease {
    pub(super) fn new(mode: CapacityMode, spare_max: u32) -> Self {
        Self {
            mode,
            spare_max,
            leased: 0,
            used: 0,
            full_since: Timestamp::default(),
            asked: false,
            recalled: false,
            claimed: false,
        }
    }

    /// How many more permits may be granted.
    pub(super) fn free(&self) -> u32 {
        match self.mode {
            CapacityMode::Unlimited => UNLIMITED,
            CapacityMode::Leased => self.leased.saturating_sub(self.used),
        }
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn leased(&self) -> u32 {
        self.leased
    }

    /// Whether the node was asked for slots and has not answered.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    pub(super) fn full_since(&self) -> Timestamp {
        self.full_since
    }

    pub(super) fn take(&mut self, count: u32, now: Timestamp) {
        self.used = self.used.checked_add(count).expect("more permits than a u32 counts");
        if self.free() == 0 {
            self.full_since = now;
        }
    }

    /// Takes a permit back. Returns how many slots go back to the node.
    pub(super) fn put(&mut self) -> Option<u32> {
        self.used = self.used.checked_sub(1).expect("more permits came back than were held");
        self.pay_claim()
    }

    /// The node leased slots.
    pub(super) fn add(&mut self, count: u32) {
        self.leased = self.leased.saturating_add(count);
        self.asked = false;
        self.recalled = false;
    }

    /// Another partition wants the unused slots, now and until the next lease.
    pub(super) fn recall(&mut self) {
        self.recalled = true;
    }

    /// It is another partition's turn. Returns how many slots go back to the node at once.
    pub(super) fn claim(&mut self) -> Option<u32> {
        self.claimed = self.leased > 0;
        self.pay_claim()
    }

    fn pay_claim(&mut self) -> Option<u32> {
        if !self.claimed || self.free() == 0 || self.mode == CapacityMode::Unlimited {
            return None;
        }
        self.claimed = false;
        self.leased -= 1;
        Some(1)
    }

    /// The messages for the node once every client that could proceed has done so; `wanted` groups
    /// could use more capacity.
    pub(super) fn balance(&mut self, wanted: u32) -> Balance {
        let give_back = |slots| (slots > 0).then_some(slots);
        if self.mode == CapacityMode::Unlimited {
            // An unrequested lease.
            let unused = std::mem::take(&mut self.leased);
            return Balance { want: None, give_back: give_back(unused) };
        }
        let missing = wanted.saturating_add(self.used.saturating_sub(self.leased));
        let want = (missing > 0 && !std::mem::replace(&mut self.asked, true)).then_some(missing);
        let keep = if self.recalled { 0 } else { self.spare_max };
        let surplus = if missing > 0 { 0 } else { self.free().saturating_sub(keep) };
        self.leased -= surplus;
        Balance { want, give_back: give_back(surplus) }
    }
}
