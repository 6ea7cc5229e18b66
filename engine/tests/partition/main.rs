//! Tests of the partition: the state machine against a model, the leader's machine in a simulated
//! node, and named regressions.
#![allow(clippy::unwrap_used, reason = "tests")]

mod act_named;
mod apply_model;
mod apply_named;
mod apply_ops;
mod apply_property;
mod cut_short_named;
mod desk;
mod drain_named;
mod fixture;
mod gate_named;
mod invariants;
mod machine_named;
mod machine_pipelined;
mod machine_property;
mod rest_named;
mod stopping_named;
mod world;
