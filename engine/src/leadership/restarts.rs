//! Limits how often something may be restarted.
//!
//! Must always hold: at most [`RESTARTS_MAX`] restarts are allowed within [`RESTART_WINDOW_MS`];
//! after a refusal the count starts again.

use std::collections::VecDeque;

use forebay_messages::Timestamp;

/// Number of restarts allowed within the window.
pub const RESTARTS_MAX: usize = 3;
/// The window, in milliseconds.
pub const RESTART_WINDOW_MS: u64 = 30_000;

/// The recent restarts.
#[derive(Clone, Debug, Default)]
pub struct Restarts(VecDeque<Timestamp>);

impl Restarts {
    /// Records a death and returns whether a restart is allowed at once. If not, the caller must
    /// give up, at least for a while.
    pub fn may_restart(&mut self, now: Timestamp) -> bool {
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now.0.saturating_sub(at.0) > RESTART_WINDOW_MS) {
            self.0.pop_front();
        }
        let may = self.0.len() <= RESTARTS_MAX;
        if !may {
            self.0.clear();
        }
        may
    }
}
