//! Events, as server-sent events.
//!
//! Must always hold: a slow reader blocks nothing: it misses events, and gets `reset`; the number
//! of readers is bounded.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response as HttpResponse},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{Receiver, error::RecvError},
    },
    time::timeout,
};

use crate::{
    auth::Reader,
    extract::Query,
    feed::{Batch, RESET},
    model::{EventBody, EventFilter, EventsQuery},
    problem::{Code, Problem},
    state::Server,
};

/// Interval of signs of life.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// A sign of life: a comment.
const ALIVE: &str = ":\n\n";
/// When to try again if there are too many readers.
const BUSY_FOR: Duration = Duration::from_secs(5);

/// Follow events: attempts that start, entries that end, changed rules, changed leaders.
///
/// The stream begins with the present: what happened before is not sent. A reader that is too slow
/// misses events and gets one named `reset`; so does one that returns with `Last-Event-ID`. It then
/// reads again what it shows.
#[utoipa::path(
    get, path = "/v1/events", tag = "views", params(EventsQuery),
    responses((status = 200, description = "Server-sent events", body = EventBody,
        content_type = "text/event-stream"))
)]
pub(super) async fn follow(
    _: Reader,
    State(server): State<Arc<Server>>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<HttpResponse, Problem> {
    let filter = EventFilter::of(query).map_err(Problem::bad_input)?;
    let permit = Arc::clone(&server.event_readers).try_acquire_owned().map_err(|_| {
        let text = "too many readers follow events";
        Problem::new(Code::Busy, text).retry_after(BUSY_FOR)
    })?;
    let batches = server.feed.subscribe(&*server.backend)?;
    let first =
        headers.contains_key("last-event-id").then_some(Bytes::from_static(RESET.as_bytes()));
    let following = Following { batches, filter, first, _permit: permit };
    let texts = stream::unfold(following, |mut following| async move {
        let text = following.next().await?;
        Some((Ok::<_, Infallible>(text), following))
    });
    let media = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((media, Body::from_stream(texts)).into_response())
}

/// A reader.
struct Following {
    batches: Receiver<Arc<Batch>>,
    filter: EventFilter,
    /// Sent before everything else.
    first: Option<Bytes>,
    /// Its place among the readers.
    _permit: OwnedSemaphorePermit,
}

impl Following {
    /// The next text to send; `None` when the runtime is gone.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            match timeout(ALIVE_EVERY, self.batches.recv()).await {
                Err(_) => return Some(Bytes::from_static(ALIVE.as_bytes())),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(_))) => {
                    return Some(Bytes::from_static(RESET.as_bytes()));
                }
                Ok(Ok(batch)) => {
                    let text = self.filtered(&batch);
                    if !text.is_empty() {
                        return Some(text);
                    }
                }
            }
        }
    }

    fn filtered(&self, batch: &Batch) -> Bytes {
        if self.filter.is_all() {
            return batch.text.clone();
        }
        let mut text = BytesMut::new();
        if batch.is_reset {
            text.extend_from_slice(RESET.as_bytes());
        }
        for (event, place) in &batch.events {
            if self.filter.matches(&event.kind) {
                text.extend_from_slice(&batch.text[place.clone()]);
            }
        }
        text.freeze()
    }
}
