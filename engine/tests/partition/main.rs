//! Tests of the partition: the state machine against a model, the leader's machine in a simulated
//! node, and named regressions.
#![allow(clippy::unwrap_used, reason = "tests")]

mod act_named;
mod apply_model;
mod apply_named;
mod apply_ops;
mod apply_property;
mod calls_property;
mod children_named;
mod cut_short_named;
mod drain_named;
mod fixture;
mod gate_named;
mod incarnation_named;
mod invariants;
mod journal_named;
mod machine_journals;
mod machine_named;
mod machine_outbox;
mod machine_pipelined;
mod machine_property;
mod partitions;
mod rest_named;
mod rig;
mod stopping_named;
mod world;
