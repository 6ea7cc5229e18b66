//! The numbers for monitoring.
//!
//! Must always hold: they are read at most once in a few seconds, however often they are scraped.

use std::{sync::Arc, time::Duration};

use forebay_api::MetricsView;
use tokio::time::Instant;

use crate::{backend::Backend, problem::Problem};

/// How long numbers are used again.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// The last numbers.
#[derive(Default)]
pub(crate) struct Scrape {
    last: tokio::sync::Mutex<Option<(Instant, Arc<MetricsView>)>>,
}

impl Scrape {
    /// The numbers, as of a moment ago.
    pub(crate) async fn read(&self, backend: &dyn Backend) -> Result<Arc<MetricsView>, Problem> {
        // Scrapes at the same time wait for one another, and read once.
        let mut last = self.last.lock().await;
        if let Some((at, view)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(backend.metrics().await?);
        *last = Some((Instant::now(), Arc::clone(&view)));
        Ok(view)
    }
}
