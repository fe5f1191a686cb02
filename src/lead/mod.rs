//! Leadership: the thread that renews the lease, and the planned failover.

pub mod audit;
pub mod lease_keeper;
pub mod planned_failover;
