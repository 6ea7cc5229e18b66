//! One [`Overlay`] for each table of a partition.
//!
//! Must always hold: no table is left out of a commit or a spill: everything here is made from the
//! list of tables in `tables/mod.rs`.

use std::cell::RefCell;

use super::{
    overlay::Overlay,
    tables::{self, Table, for_tables},
};

/// A table with an overlay.
pub(super) trait ResidentTable: Table + Sized {
    /// Its overlay.
    fn overlay(of: &Overlays) -> &RefCell<Overlay<Self>>;
}

macro_rules! overlays {
    ([$($name:ident: $table:ident,)*]) => {
        /// In cells, because the writer of a batch also caches the rows that it reads.
        #[derive(Default)]
        pub(super) struct Overlays {
            $(pub(super) $name: RefCell<Overlay<tables::$name::$table>>,)*
        }

        $(impl ResidentTable for tables::$name::$table {
            fn overlay(of: &Overlays) -> &RefCell<Overlay<Self>> {
                &of.$name
            }
        })*
    };
}

for_tables!(overlays!);

/// Runs a statement on the overlay of every table.
macro_rules! each_table {
    ($overlays:expr, |$overlay:ident| $body:expr) => {{
        use $crate::partition::{overlays::each_named_table, tables::for_tables};

        for_tables!(each_named_table! $overlays, $overlay, $body)
    }};
}

macro_rules! each_named_table {
    ([$($name:ident: $table:ident,)*] $overlays:expr, $overlay:ident, $body:expr) => {{
        $({
            let $overlay = &$overlays.$name;
            $body
        })*
    }};
}

pub(super) use {each_named_table, each_table};
