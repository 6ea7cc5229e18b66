//! Ids of new entries: UUIDv7 (RFC 9562, section 5.7).

use std::{cell::RefCell, time::SystemTime};

/// Random bytes of an id; 74 bits of them are used.
const RANDOM_LEN: usize = 10;
/// Number of ids whose random bytes are requested from the operating system at once: one request
/// takes as long as the rest of an enqueue.
const DRAWN_AT_ONCE: usize = 64;

struct Drawn {
    bytes: [u8; DRAWN_AT_ONCE * RANDOM_LEN],
    used: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const {
        RefCell::new(Drawn {
            bytes: [0; DRAWN_AT_ONCE * RANDOM_LEN],
            used: DRAWN_AT_ONCE * RANDOM_LEN,
        })
    };
}

impl Drawn {
    fn next(&mut self) -> [u8; RANDOM_LEN] {
        if self.used == self.bytes.len() {
            getrandom::fill(&mut self.bytes).expect("the operating system has random bytes");
            self.used = 0;
        }
        let mut random = [0; RANDOM_LEN];
        random.copy_from_slice(&self.bytes[self.used..self.used + RANDOM_LEN]);
        self.used += RANDOM_LEN;
        random
    }
}

/// A unique UUID.
pub(super) fn fresh_uuid() -> [u8; 16] {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let random = DRAWN.with_borrow_mut(Drawn::next);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use uuid::{Uuid, Variant};

    use super::*;

    #[test]
    fn ids_differ_and_say_when_they_were_made() {
        let make = || (0..1_000).map(|_| fresh_uuid()).collect::<Vec<_>>();
        let other = std::thread::spawn(make);
        let (mine, others) = (make(), other.join().unwrap());
        let all: BTreeSet<_> = mine.iter().chain(&others).collect();
        assert_eq!(all.len(), 2_000);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        for uuid in all {
            let uuid = Uuid::from_bytes(*uuid);
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, Variant::RFC4122));
            assert!(now.abs_diff(uuid.get_timestamp().unwrap().to_unix().0) < 60);
        }
    }
}
