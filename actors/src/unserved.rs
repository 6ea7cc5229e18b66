//! Services with waiting entries and without a handler on this node: since when, and how many
//! entries wait, for display.
//!
//! Must always hold: memory is bounded, whatever names clients choose; each service is reported at
//! most once a minute, in one line. Must not know: how entries are counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use forebay_messages::{PartitionId, Timestamp, VQueueId};

/// Maximum number of reported services; entries of others wait as well.
const SERVICES_MAX: usize = 64;
/// Maximum number of vqueues per service whose entries are counted: without scopes and object keys
/// these are all.
const VQUEUES_MAX: usize = 128;
/// Delay between a service's first waiting entry and its first report, so that a burst is one line.
pub(crate) const FIRST_REPORT_MS: u64 = 1_000;
/// Interval between reports of a service.
pub(crate) const REPORT_INTERVAL_MS: u64 = 60_000;

struct Service {
    since: Timestamp,
    vqueues: BTreeSet<(PartitionId, VQueueId)>,
    /// There are more vqueues than are counted.
    has_more: bool,
    /// When the next line about it is due.
    due: Timestamp,
}

/// A report on one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) service: String,
    pub(crate) entries: u64,
    /// There are more entries, in vqueues that are not counted.
    pub(crate) has_more: bool,
}

/// A service without a handler.
pub(crate) struct UnservedService {
    pub(crate) service: String,
    pub(crate) since: Timestamp,
    pub(crate) vqueues: Vec<(PartitionId, VQueueId)>,
    pub(crate) has_more: bool,
}

/// The services without a handler.
#[derive(Default)]
pub(crate) struct Unserved(Mutex<Known>);

#[derive(Default)]
struct Known {
    services: BTreeMap<String, Service>,
    /// A timer is set.
    is_armed: bool,
}

impl Unserved {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vqueue waits for a handler. Returns the time for which a timer must be set, if none is.
    pub(crate) fn add(
        &self,
        now: Timestamp,
        service: &str,
        vqueue: (PartitionId, VQueueId),
    ) -> Option<Timestamp> {
        let mut known = self.known();
        let due = Timestamp(now.0 + FIRST_REPORT_MS);
        if !known.services.contains_key(service) {
            if known.services.len() >= SERVICES_MAX {
                return None;
            }
            let new = Service { since: now, vqueues: BTreeSet::new(), has_more: false, due };
            known.services.insert(service.to_owned(), new);
        }
        if let Some(of) = known.services.get_mut(service) {
            if of.vqueues.len() < VQUEUES_MAX {
                of.vqueues.insert(vqueue);
            } else {
                of.has_more |= !of.vqueues.contains(&vqueue);
            }
        }
        (!std::mem::replace(&mut known.is_armed, true)).then_some(due)
    }

    /// Since when entries of a service wait for a handler, if known.
    pub(crate) fn since(&self, service: &str) -> Option<Timestamp> {
        self.known().services.get(service).map(|of| of.since)
    }

    /// The services, each with the time since when it waits, the vqueues whose entries are counted,
    /// and whether there are more.
    pub(crate) fn services(&self) -> Vec<UnservedService> {
        let known = self.known();
        let services = known.services.iter().map(|(service, of)| UnservedService {
            service: service.clone(),
            since: of.since,
            vqueues: of.vqueues.iter().copied().collect(),
            has_more: of.has_more,
        });
        services.collect()
    }

    /// Services that have a handler no longer wait.
    pub(crate) fn forget_served(&self, has_handler: impl Fn(&str) -> bool) {
        self.known().services.retain(|service, _| !has_handler(service));
    }

    /// The reports that are due; `count` returns the number of waiting entries of a vqueue. Vqueues
    /// without any are forgotten, and services without vqueues. Also returns the time of the next
    /// call, if there is one.
    pub(crate) fn due_reports(
        &self,
        now: Timestamp,
        count: impl Fn((PartitionId, VQueueId)) -> u64,
    ) -> (Vec<Report>, Option<Timestamp>) {
        let mut known = self.known();
        let mut reports = Vec::new();
        known.services.retain(|service, of| {
            if of.due > now {
                return true;
            }
            let mut entries = 0;
            of.vqueues.retain(|vqueue| {
                let waiting = count(*vqueue);
                entries += waiting;
                waiting > 0
            });
            if entries == 0 {
                return false;
            }
            of.due = Timestamp(now.0 + REPORT_INTERVAL_MS);
            reports.push(Report { service: service.clone(), entries, has_more: of.has_more });
            true
        });
        let next = known.services.values().map(|of| of.due).min();
        known.is_armed = next.is_some();
        (reports, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vqueue(n: u8) -> (PartitionId, VQueueId) {
        (PartitionId(0), VQueueId { hash: [n; 16], ..VQueueId::default() })
    }

    #[test]
    fn a_service_is_reported_once_a_minute_with_all_its_entries() {
        let unserved = Unserved::default();
        let first = unserved.add(Timestamp(10), "mail", vqueue(1));
        assert_eq!(first, Some(Timestamp(10 + FIRST_REPORT_MS)));
        for n in [1, 2, 2] {
            assert_eq!(unserved.add(Timestamp(20), "mail", vqueue(n)), None, "a timer runs");
        }
        let now = Timestamp(10 + FIRST_REPORT_MS);
        let again = Timestamp(now.0 + REPORT_INTERVAL_MS);
        let report = Report { service: "mail".into(), entries: 14, has_more: false };
        assert_eq!(unserved.due_reports(now, |_| 7), (vec![report], Some(again)));
        assert_eq!(unserved.due_reports(Timestamp(now.0 + 1), |_| 7), (vec![], Some(again)));
        assert_eq!(unserved.since("mail"), Some(Timestamp(10)));

        assert_eq!(unserved.due_reports(again, |_| 0), (vec![], None), "nothing waits any more");
        assert_eq!(unserved.since("mail"), None);
        assert!(unserved.add(again, "mail", vqueue(1)).is_some(), "and the timer is set again");
    }

    #[test]
    fn names_that_clients_choose_take_a_bounded_amount_of_memory() {
        let unserved = Unserved::default();
        for n in 0..2 * SERVICES_MAX {
            unserved.add(Timestamp(1), &format!("s{n}"), vqueue(1));
        }
        assert_eq!(unserved.known().services.len(), SERVICES_MAX);
        for n in 0..2 * VQUEUES_MAX {
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let vqueue = (PartitionId(0), VQueueId { hash, ..VQueueId::default() });
            unserved.add(Timestamp(1), "s0", vqueue);
        }
        let (reports, _) = unserved.due_reports(Timestamp(1 + FIRST_REPORT_MS), |_| 1);
        let first = reports.iter().find(|reports| reports.service == "s0").unwrap();
        assert_eq!((first.entries, first.has_more), (VQUEUES_MAX as u64, true));
        unserved.forget_served(|service| service == "s0");
        assert_eq!(unserved.since("s0"), None);
    }
}
