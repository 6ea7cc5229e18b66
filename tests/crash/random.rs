//! Random numbers from a seed that is printed.

use crate::place::say;

/// The generator known as `SplitMix64`.
pub(super) struct Random(u64);

impl Random {
    /// From `FOREBAY_SEED`, else from the clock.
    pub(super) fn from_environment() -> Self {
        let given = std::env::var("FOREBAY_SEED").ok();
        let seed = given.map_or_else(
            || u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()),
            |text| text.parse().expect("FOREBAY_SEED is a number"),
        );
        say(&format!("FOREBAY_SEED={seed} repeats the choices of this run"));
        Self(seed)
    }

    /// 0 to `end` - 1.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}
