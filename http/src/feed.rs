//! One subscription to the events of the runtime, for all readers.
//!
//! Must always hold: an event becomes text once, however many readers there are; readers are woken
//! at most every [`GATHERED_FOR`]; a reader that is too slow misses batches, and blocks nothing.

use std::{
    fmt::Write as _,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use forebay_api::Event;
use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use tokio::{sync::broadcast, time::sleep};

use crate::{
    backend::{Backend, NextEvent},
    model::EventBody,
    problem::Problem,
};

/// How long events are gathered into a batch.
const GATHERED_FOR: Duration = Duration::from_millis(25);
/// Maximum number of events in a batch.
const BATCH_LEN_MAX: usize = 1_024;
/// Number of the last batches that are kept for slow readers.
const BATCHES_KEPT: usize = 64;
/// Sent to a reader that missed events.
pub(crate) const RESET: &str = "event: reset\ndata: {}\n\n";

/// Events, and the text of all of them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) text: Bytes,
    /// Each event, and its place in the text.
    pub(crate) events: Vec<(Arc<Event>, Range<usize>)>,
    /// Events were missed before these: the text begins with [`RESET`].
    pub(crate) is_reset: bool,
}

/// The readers' side of the subscription.
#[derive(Default)]
pub(crate) struct Feed {
    /// Absent without readers.
    sender: Mutex<Option<broadcast::Sender<Arc<Batch>>>>,
}

impl Feed {
    /// The batches from now on.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        backend: &dyn Backend,
    ) -> Result<broadcast::Receiver<Arc<Batch>>, Problem> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            return Ok(sender.subscribe());
        }
        let events = backend.events()?;
        let (new, receiver) = broadcast::channel(BATCHES_KEPT);
        *sender = Some(new.clone());
        tokio::spawn(pump(Arc::clone(self), events, new));
        Ok(receiver)
    }

    /// Ends the subscription if nothing reads it any more.
    fn is_unread(&self, pumped: &broadcast::Sender<Arc<Batch>>) -> bool {
        // Locked: nothing subscribes meanwhile.
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unread = pumped.receiver_count() == 0;
        if is_unread {
            *sender = None;
        }
        is_unread
    }

    fn close(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Passes on events until they end, or nothing reads them.
async fn pump(
    feed: Arc<Feed>,
    mut events: BoxStream<'static, NextEvent>,
    sender: broadcast::Sender<Arc<Batch>>,
) {
    while let Some(first) = events.next().await {
        sleep(GATHERED_FOR).await;
        let mut gathered = vec![first];
        while gathered.len() < BATCH_LEN_MAX
            && let Some(Some(next)) = events.next().now_or_never()
        {
            gathered.push(next);
        }
        if feed.is_unread(&sender) {
            return;
        }
        // It fails when the last reader has just left.
        let _ = sender.send(Arc::new(batch(&gathered)));
    }
    feed.close();
}

fn batch(gathered: &[NextEvent]) -> Batch {
    let is_reset = gathered.iter().any(|next| matches!(next, NextEvent::Missed));
    let mut text = if is_reset { RESET.to_owned() } else { String::new() };
    let mut events = Vec::with_capacity(gathered.len());
    for next in gathered {
        let NextEvent::Event(event) = next else { continue };
        let begin = text.len();
        // Strings and numbers: it always encodes, without line breaks.
        let data = serde_json::to_string(&EventBody::from(&**event)).unwrap_or_default();
        let _ = write!(text, "event: {}\ndata: {data}\n\n", event.kind.name());
        events.push((Arc::clone(event), begin..text.len()));
    }
    Batch { text: text.into(), events, is_reset }
}

#[cfg(test)]
mod tests {
    use forebay_api::EventKind;
    use forebay_messages::PartitionId;

    use super::*;

    #[test]
    fn a_batch_is_the_text_of_its_events_after_a_reset() {
        let kind = EventKind::Rules { partition: PartitionId(1), version: 7 };
        let event = NextEvent::Event(Arc::new(Event { at: 0, kind }));
        let one = batch(std::slice::from_ref(&event));
        let text = "event: rules\ndata: {\"at\":\"1970-01-01T00:00:00Z\",\"partition\":1,\"version\":7}\n\n";
        assert_eq!((&*one.text, one.is_reset), (text.as_bytes(), false));
        let two = batch(&[event.clone(), NextEvent::Missed, event]);
        assert!(two.is_reset && two.text.starts_with(RESET.as_bytes()));
        let (_, place) = &two.events[1];
        assert_eq!(&two.text[place.clone()], text.as_bytes());
    }
}
