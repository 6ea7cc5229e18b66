//! The limiter and the capacity pool: named scenarios and models.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod capacity;
mod explain;
mod fairness;
mod locks;
mod model;
mod naive;
mod pauses;
mod permits;
mod pool;
mod rates;
mod rig;
mod rules;
mod scale;
mod slots;
