//! What must always hold, for tests.

use super::{Due, LeaseBook, offers::Place};

impl LeaseBook {
    /// Checks the invariants.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check(&self) {
        for (id, lease) in &self.leases {
            assert!(self.due.contains(&(lease.until, Due::Lease(*id))), "a lease has a timer");
            if let Some(key) = &lease.key {
                assert_eq!(self.offers.held.get(key), Some(id), "a lease holds its key");
            }
            assert!(!self.offers.by_id.contains_key(id), "what is leased is not offered");
        }
        let is_full = self.leases.len() >= self.limits.leases_max;
        for (number, waiting) in &self.offers.all {
            assert!(self.due.contains(&(waiting.at, Due::Offer(*number))), "an offer has a timer");
            assert_eq!(self.offers.by_id.get(&waiting.offer.id), Some(number));
            let ready = self.offers.ready.get(&waiting.offer.service);
            let is_ready = ready.is_some_and(|ready| ready.contains(number));
            assert_eq!(is_ready, waiting.place == Place::Ready);
            if let Some(key) = &waiting.offer.key {
                let holds = self.offers.held.get(key) == Some(&waiting.offer.id);
                assert_eq!(holds, waiting.place != Place::Key, "one holder per key");
                assert!(self.offers.held.contains_key(key), "a key that is waited for is held");
            }
            let has_taker = self.polls.is_waiting_for(&waiting.offer.service);
            assert!(
                !(is_ready && has_taker && !is_full),
                "an attempt and a worker wait for each other"
            );
        }
        for (key, id) in &self.offers.held {
            let of_lease = self.leases.get(id).and_then(|lease| lease.key.as_ref());
            let number = self.offers.by_id.get(id);
            let of_offer =
                number.and_then(|number| self.offers.all.get(number)?.offer.key.as_ref());
            assert_eq!(of_lease.or(of_offer), Some(key), "a key is held by what exists");
        }
        for (service, interest) in &self.services {
            let leases = self.leases.values().filter(|lease| lease.service == *service).count();
            assert_eq!(interest.leases as usize, leases);
        }
        let limits = &self.limits;
        assert!(self.offers.all.len() <= limits.offers_max + limits.leases_max);
        assert!(self.polls.len() <= limits.polls_max);
        assert!(self.services.len() <= limits.services_max);
        assert!(self.ended.len() <= limits.remembered_max);
        assert_eq!(self.ended.len(), self.ended_at.len());
        assert!(self.requests.len() <= limits.remembered_max);
    }
}
