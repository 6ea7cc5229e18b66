//! What a world with one vqueue is like.

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) has_lock: bool,
    pub(crate) quantum: u32,
    pub(crate) capacity: usize,
    pub(crate) limit: usize,
    /// Every how many reads are answered at once (from the block cache); 0 for none.
    pub(crate) inline_every: usize,
    pub(crate) draining: bool,
    /// How many entries there may be at the same time: with few the queue is often
    /// empty, and its head is often a retry.
    pub(crate) entries_max: usize,
}
