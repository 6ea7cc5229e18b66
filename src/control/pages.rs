//! Long lists, page after page.
//!
//! Must always hold: no answer has more than one page; pages are asked for when they are
//! wanted, so that a reader may take its time between two of them.

use super::{Control, ControlError, Request, Response};

/// Most entries or vqueues of one page.
const PAGE_LEN_MAX: usize = 1_000;

/// The pages of an answer, made with [`Control::pages`].
pub struct Pages<'a> {
    control: &'a Control,
    /// What is asked next; absent at the end.
    request: Option<Request>,
    /// How many are still wanted; `None`: all.
    left: Option<usize>,
}

impl Control {
    /// Asks for entries or vqueues and gives page after page of them, as many as the
    /// request's limit says. Other requests have one page.
    #[must_use]
    pub fn pages(&self, request: Request) -> Pages<'_> {
        let left = match &request {
            Request::Entries { filter, .. } | Request::Queues { filter, .. } => filter.limit,
            _ => 0,
        };
        Pages { control: self, request: Some(request), left: (left != 0).then_some(left) }
    }
}

impl Pages<'_> {
    /// The next page; `None` behind the last one. A page may be empty although others
    /// follow.
    ///
    /// # Errors
    /// [`ControlError`]; what the other side refuses is a [`Response::Error`], and the end.
    pub async fn next(&mut self) -> Result<Option<Response>, ControlError> {
        let Some(mut request) = self.request.take() else { return Ok(None) };
        if let Request::Entries { filter, .. } | Request::Queues { filter, .. } = &mut request {
            filter.limit = self.left.unwrap_or(PAGE_LEN_MAX).min(PAGE_LEN_MAX);
        }
        let response = self.control.ask(request.clone()).await?;
        let (found, goes_on) = match (&mut request, &response) {
            (Request::Entries { after, .. }, Response::Entries { entries, next }) => {
                *after = *next;
                (entries.len(), next.is_some())
            }
            (Request::Queues { after, .. }, Response::Queues { queues, next }) => {
                *after = *next;
                (queues.len(), next.is_some())
            }
            _ => (0, false),
        };
        self.left = self.left.map(|left| left.saturating_sub(found));
        if goes_on && self.left != Some(0) {
            self.request = Some(request);
        }
        Ok(Some(response))
    }
}
