//! Configuration of a world with one vqueue.

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) has_lock: bool,
    pub(crate) quantum: u32,
    pub(crate) capacity: usize,
    pub(crate) limit: usize,
    /// Every how many reads one is answered at once (from the block cache); 0: none.
    pub(crate) inline_every: usize,
    pub(crate) draining: bool,
    /// Maximum number of entries at the same time: with few, the queue is often empty, and its head
    /// is often a retry.
    pub(crate) entries_max: usize,
}
