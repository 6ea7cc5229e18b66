//! Parts of other layers that are attached to a runtime, and end before its node.
//!
//! Must not know: what they do.

use std::{any::Any, sync::Arc};

use futures_util::future::BoxFuture;

use crate::error::NodeError;

use super::{Attached, Runtime};

/// A part that is attached to a runtime.
pub(crate) trait Closing: Any + Send + Sync {
    /// Ends it.
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl Attached {
    fn part<T: Closing>(&self) -> Option<Arc<T>> {
        self.others.iter().find_map(|part| {
            let part: Arc<dyn Any + Send + Sync> = Arc::<dyn Closing>::clone(part);
            part.downcast().ok()
        })
    }
}

impl Runtime {
    /// The attached part of this type.
    pub(crate) fn part<T: Closing>(&self) -> Option<Arc<T>> {
        self.attached().part()
    }

    /// The attached part of this type; it is made and attached if there is none.
    pub(crate) fn part_or_attach<T: Closing>(
        &self,
        make: impl FnOnce() -> Result<Arc<T>, NodeError>,
    ) -> Result<Arc<T>, NodeError> {
        let mut attached = self.attached();
        if let Some(part) = attached.part() {
            return Ok(part);
        }
        let part = make()?;
        attached.others.push(Arc::clone(&part) as Arc<dyn Closing>);
        Ok(part)
    }

    /// Ends the attached parts.
    pub(super) async fn close_parts(&self) {
        let others = self.attached().others.clone();
        for other in others {
            other.close().await;
        }
    }
}
