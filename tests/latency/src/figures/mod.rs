//! What is measured, one file each.

pub mod bounds;
pub mod early;
pub mod limit;
pub mod multiplexed;
pub mod outage;
pub mod reads;
pub mod snapshot;
pub mod stoppage;
