//! Long lists, page by page.
//!
//! Must always hold: no answer has more than one page; pages are requested on demand, so that a
//! reader may take its time between two of them.

use super::{Control, ControlError, Request, Response};

/// Maximum number of entries or vqueues per page.
const PAGE_LEN_MAX: usize = 1_000;

/// The pages of an answer, made with [`Control::pages`].
pub struct Pages<'a> {
    control: &'a Control,
    /// The next request; absent at the end.
    request: Option<Request>,
    /// Number of items still wanted; `None`: all.
    left: Option<usize>,
}

impl Control {
    /// Requests entries or vqueues and returns them page by page, up to the request's limit. Other
    /// requests have one page.
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
    /// The next page; `None` after the last one. A page may be empty although more follow.
    ///
    /// # Errors
    /// [`ControlError`]; a refusal by the other side is a [`Response::Error`], and the end.
    pub async fn next(&mut self) -> Result<Option<Response>, ControlError> {
        let Some(mut request) = self.request.take() else { return Ok(None) };
        if let Request::Entries { filter, .. } | Request::Queues { filter, .. } = &mut request {
            filter.limit = self.left.unwrap_or(PAGE_LEN_MAX).min(PAGE_LEN_MAX);
        }
        let response = self.control.ask(request.clone()).await?;
        let (found, has_next) = match (&mut request, &response) {
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
        if has_next && self.left != Some(0) {
            self.request = Some(request);
        }
        Ok(Some(response))
    }
}
