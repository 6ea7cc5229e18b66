//! Which entries of a simulation are too large for a record of its log.
//!
//! Must always hold: no entry has a size at which the length of the numbers in its record decides
//! whether it fits. Must not know: how a record is encoded.

use forebay::{Outcome, testkit::SeededRandom};
use forebay_engine::partition::machine::{CUT_MARK, ERROR_TEXT_LEN_MAX};
use forebay_messages::{
    outcome::Failure,
    record::{RECORD_LEN_MAX, RECORD_ROOM},
};

use super::plan::Ending;

/// Makes the random numbers of the sizes independent of the plan: runs without a small limit did
/// not change when sizes were added.
const SALT: u64 = 0x7265_636f_7264;
/// Percentage of runs with a small limit.
const SMALL_PERCENT: u64 = 25;
/// Percentage of entries with a special size in such a run.
const LARGE_PERCENT: u64 = 30;
/// Small limits, in bytes; the partitions' own records are smaller.
const SMALL: [usize; 3] = [16 << 10, 24 << 10, 64 << 10];
/// A record of an entry has between one and this many bytes in addition to the payload.
const AROUND_MAX: usize = 512;
/// Prefix of every error text of a handler.
const PLANNED: &str = "as planned";

/// The sizes of an entry, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) payload: usize,
    pub(super) result: usize,
    pub(super) text: usize,
}

/// Only the number of the entry, and a short text.
const PLAIN: Sizes =
    Sizes { payload: size_of::<usize>(), result: size_of::<usize>(), text: PLANNED.len() };

/// The limit of a record, and the sizes that fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    pub(super) len_max: usize,
}

impl Records {
    /// Maximum size of a result.
    fn room(self) -> usize {
        self.len_max - RECORD_ROOM
    }

    fn text_max(self) -> usize {
        ERROR_TEXT_LEN_MAX.min(self.room() / 2)
    }

    /// Whether an entry with this payload can be stored.
    pub(super) fn takes(self, payload: usize) -> bool {
        payload < self.len_max
    }

    /// Whether entries with these payloads certainly fit into one record together.
    pub(super) fn takes_all(self, payloads: impl Iterator<Item = usize>) -> bool {
        payloads.map(|payload| payload + AROUND_MAX).sum::<usize>() <= self.room()
    }

    /// Whether an entry with these sizes may be stored with this outcome, given the behaviour of
    /// its handler.
    pub(super) fn is_end(
        self,
        entry: usize,
        ending: Ending,
        sizes: Sizes,
        outcome: &Outcome,
    ) -> bool {
        match (outcome, ending) {
            (Outcome::Success(bytes), Ending::Success) => {
                sizes.result <= self.room() && bytes[..] == filled(entry, sizes.result)
            }
            (Outcome::Failure(failure), Ending::Success) => {
                let prefix = format!("the result has {} bytes", sizes.result);
                sizes.result > self.room() && failure.message.starts_with(&prefix)
            }
            (Outcome::Failure(failure), Ending::Terminal) => self.is_text(failure, sizes.text),
            _ => false,
        }
    }

    /// A text that fits is stored whole, another one is cut and marked.
    fn is_text(self, failure: &Failure, len: usize) -> bool {
        let expected = text(len);
        let Some(kept) = failure.message.strip_suffix(CUT_MARK) else {
            return *failure.message == *expected && len <= self.text_max();
        };
        let is_cut_there = failure.message.len() <= self.text_max();
        len > self.text_max() && is_cut_there && expected.starts_with(kept)
    }

    /// Whether a stored text has at most the length that any writer may store.
    pub(super) fn is_short(self, text: &str) -> bool {
        text.len() <= self.text_max()
    }
}

/// The limit of a seed, and the sizes of its entries.
pub(super) fn draw(seed: u64, count: usize) -> (Records, Vec<Sizes>) {
    let random = &mut SeededRandom::new(seed ^ SALT);
    if random.next_u64() % 100 >= SMALL_PERCENT {
        return (Records { len_max: RECORD_LEN_MAX }, vec![PLAIN; count]);
    }
    let len_max = SMALL[random.below(SMALL.len())];
    let records = Records { len_max };
    let (room, text) = (records.room(), records.text_max());
    let payloads = [room / 3, room, room + 1, len_max - AROUND_MAX, len_max, 2 * len_max];
    let results = [room / 3, room - 1, room, room + 1, len_max, 2 * len_max];
    let texts = [text / 2, text - 1, text, text + 1, len_max, 2 * len_max];
    let mut one = || {
        if random.next_u64() % 100 >= LARGE_PERCENT {
            return PLAIN;
        }
        let (kind, which) = (random.below(3), random.below(6));
        match kind {
            0 => Sizes { payload: payloads[which], ..PLAIN },
            1 => Sizes { result: results[which], ..PLAIN },
            _ => Sizes { text: texts[which], ..PLAIN },
        }
    };
    let sizes = (0..count).map(|_| one()).collect();
    (records, sizes)
}

/// This many bytes, beginning with the number of an entry.
pub(super) fn filled(entry: usize, len: usize) -> Vec<u8> {
    let mut bytes = entry.to_be_bytes().to_vec();
    bytes.resize(len, 7);
    bytes
}

/// An error text of this length.
pub(super) fn text(len: usize) -> String {
    PLANNED.to_owned() + &"x".repeat(len - PLANNED.len())
}

/// The outcome of an entry, in a few words.
pub(super) fn summary(outcome: &Outcome) -> String {
    /// Maximum length shown.
    const SHOWN: usize = 120;
    match outcome {
        Outcome::Success(bytes) => {
            format!("success, {} bytes: {:?}", bytes.len(), &bytes[..bytes.len().min(16)])
        }
        Outcome::Failure(failure) => {
            let shown: String = failure.message.chars().take(SHOWN).collect();
            format!("{:?}, {} bytes: {shown}", failure.kind, failure.message.len())
        }
    }
}
