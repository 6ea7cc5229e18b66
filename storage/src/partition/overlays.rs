//! One [`Overlay`] for each table of a partition.
//!
//! Must always hold: no table is left out of a commit or a spill.

use std::cell::RefCell;

use super::{
    overlay::Overlay,
    tables::{
        Table, dedup::Dedup, entry::Entry, finished::Finished, fsm::Fsm, idempotency::Idempotency,
        inbox::Inbox, journal::Journal, lock::Lock, outbox::Outbox, parked::Parked,
        payload::Payload, promise::Promise, running::Running, sleep::Sleep, timer::Timer,
        tombstone::Tombstone, vqueue_meta::VQueueMetas,
    },
};

/// In cells, because the writer of a batch also caches the rows that it reads.
#[derive(Default)]
pub(super) struct Overlays {
    pub(super) dedup: RefCell<Overlay<Dedup>>,
    pub(super) entry: RefCell<Overlay<Entry>>,
    pub(super) finished: RefCell<Overlay<Finished>>,
    pub(super) fsm: RefCell<Overlay<Fsm>>,
    pub(super) idempotency: RefCell<Overlay<Idempotency>>,
    pub(super) inbox: RefCell<Overlay<Inbox>>,
    pub(super) journal: RefCell<Overlay<Journal>>,
    pub(super) lock: RefCell<Overlay<Lock>>,
    pub(super) outbox: RefCell<Overlay<Outbox>>,
    pub(super) parked: RefCell<Overlay<Parked>>,
    pub(super) payload: RefCell<Overlay<Payload>>,
    pub(super) promise: RefCell<Overlay<Promise>>,
    pub(super) running: RefCell<Overlay<Running>>,
    pub(super) sleep: RefCell<Overlay<Sleep>>,
    pub(super) timer: RefCell<Overlay<Timer>>,
    pub(super) tombstone: RefCell<Overlay<Tombstone>>,
    pub(super) vqueue_meta: RefCell<Overlay<VQueueMetas>>,
}

/// A table with an overlay.
pub(super) trait ResidentTable: Table + Sized {
    /// Its overlay.
    fn overlay(of: &Overlays) -> &RefCell<Overlay<Self>>;
}

macro_rules! resides {
    ($($table:ty => $field:ident),* $(,)?) => {$(
        impl ResidentTable for $table {
            fn overlay(of: &Overlays) -> &RefCell<Overlay<Self>> {
                &of.$field
            }
        }
    )*};
}

resides! {
    Dedup => dedup,
    Entry => entry,
    Finished => finished,
    Fsm => fsm,
    Idempotency => idempotency,
    Inbox => inbox,
    Journal => journal,
    Lock => lock,
    Outbox => outbox,
    Parked => parked,
    Payload => payload,
    Promise => promise,
    Running => running,
    Sleep => sleep,
    Timer => timer,
    Tombstone => tombstone,
    VQueueMetas => vqueue_meta,
}

/// Runs a statement on the overlay of every table.
macro_rules! each_table {
    (@fields $overlays:expr, $name:ident, $body:expr; $($field:ident)*) => {$({
        let $name = &$overlays.$field;
        $body
    })*};
    ($overlays:expr, |$name:ident| $body:expr) => {
        each_table!(@fields $overlays, $name, $body;
            dedup entry finished fsm idempotency inbox journal lock outbox parked payload promise
            running sleep timer tombstone vqueue_meta)
    };
}

pub(super) use each_table;
