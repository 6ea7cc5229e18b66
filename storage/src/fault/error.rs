//! The error of an injected fault.

use std::{path::Path, sync::Arc};

use crate::{Fault, FaultKind};

/// The text of an injected fault.
#[derive(Debug, thiserror::Error)]
#[error("a fault injected by a test")]
pub struct Injected;

pub(crate) fn injected(action: &'static str, path: &Path) -> Fault {
    Fault { kind: FaultKind::Other, action, path: path.to_owned(), cause: Arc::new(Injected) }
}
