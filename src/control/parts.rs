//! Answers in parts.
//!
//! Must always hold: a part has a bounded size, however long the whole answer is; each part but the
//! last says that more follow. Lists with a cursor need no parts: their readers request one page
//! after the other, at their own pace.

use std::collections::VecDeque;

use forebay_actors::node::Node;
use forebay_api::LimitView;

use super::{
    BookView, Request, Response,
    answer::{Refused, answer, history, limits, refuse},
};

/// Maximum number of limit counters in one part.
const LIMITS_PER_PART: usize = 1_000;

/// The unsent rest of an answer.
pub(super) enum Parts {
    /// Everything, in one part.
    Whole(Option<Box<Request>>),
    /// All counters, read at once.
    Limits { scope: Option<String> },
    /// Counters that were read.
    LimitsRead(VecDeque<LimitView>),
    /// Earlier rule books, read at once.
    History,
    /// Books that were read.
    HistoryRead(VecDeque<BookView>),
}

impl Parts {
    pub(super) fn of(request: Request) -> Self {
        match request {
            Request::Limits { scope, in_parts: true } => Self::Limits { scope },
            Request::RulesHistory { in_parts: true } => Self::History,
            request => Self::Whole(Some(Box::new(request))),
        }
    }

    /// All parts, joined.
    pub(super) async fn whole(mut self, node: &Node) -> Response {
        let mut whole = self.next(node).await;
        while whole.has_more() {
            let part = self.next(node).await;
            whole = joined(whole, part);
        }
        whole
    }

    /// The next part. Must not be called after the last one.
    pub(super) async fn next(&mut self, node: &Node) -> Response {
        match self.try_next(node).await {
            Ok(response) => response,
            Err(refusal) => refuse(refusal),
        }
    }

    async fn try_next(&mut self, node: &Node) -> Result<Response, Refused> {
        match self {
            Self::Whole(request) => match request.take() {
                Some(request) => Ok(answer(node, *request).await),
                None => Err(Refused::Usage("the answer is complete".to_owned())),
            },
            Self::Limits { scope } => {
                let mut read = limits(node, scope.as_deref()).await?.into();
                let part = limits_part(&mut read);
                *self = Self::LimitsRead(read);
                Ok(part)
            }
            Self::LimitsRead(read) => Ok(limits_part(read)),
            Self::History => {
                let mut read = history(node).await?.into();
                let part = history_part(&mut read);
                *self = Self::HistoryRead(read);
                Ok(part)
            }
            Self::HistoryRead(read) => Ok(history_part(read)),
        }
    }
}

fn limits_part(left: &mut VecDeque<LimitView>) -> Response {
    let limits = left.drain(..left.len().min(LIMITS_PER_PART)).collect();
    Response::Limits { limits, more: !left.is_empty() }
}

/// One book, as it may have many rules.
fn history_part(left: &mut VecDeque<BookView>) -> Response {
    let books = left.pop_front().into_iter().collect();
    Response::RulesHistory { books, more: !left.is_empty() }
}

/// An answer joined with its next part. A part of another answer replaces it.
pub(super) fn joined(mut whole: Response, part: Response) -> Response {
    match (&mut whole, part) {
        (Response::Limits { limits, more }, Response::Limits { limits: others, more: follows }) => {
            limits.extend(others);
            *more = follows;
            whole
        }
        (
            Response::RulesHistory { books, more },
            Response::RulesHistory { books: others, more: follows },
        ) => {
            books.extend(others);
            *more = follows;
            whole
        }
        (_, other) => other,
    }
}
