//! How often something may be restarted before it is given up.
//!
//! Must always hold: at most [`RESTARTS_MAX`] restarts are allowed within
//! [`RESTART_WINDOW_MS`]; whoever is refused starts counting anew.

use std::collections::VecDeque;

use forebay_messages::Timestamp;

/// Restarts that are allowed within the window.
pub const RESTARTS_MAX: usize = 3;
/// The window, in milliseconds.
pub const RESTART_WINDOW_MS: u64 = 30_000;

/// The restarts of late.
#[derive(Clone, Debug, Default)]
pub struct Restarts(VecDeque<Timestamp>);

impl Restarts {
    /// Something died: whether it may be restarted at once. If not, it is to be given
    /// up, for a while at least.
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
