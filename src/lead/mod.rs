//! Leadership: the thread that renews the lease, and what runs beside it. Nothing that the agent or the main thread does
//! makes a renewal late: the thread has a connection of its own.
//!
//! - `lease_keeper`: the thread, and how other threads direct it
//! - `keeper_state`: its duty, its connection to the log service, and the lease
//! - `planned_failover`: `DURABILITY.FAILOVER`, which runs on that thread
//! - `slot_worker`: a thread that asks the logs of two shards while slots move from one to the other
//! - `audit`: a thread that sends keys to the log service when it compares them with the log

pub mod audit;
pub mod keeper_state;
pub mod lease_keeper;
pub mod planned_failover;
pub mod slot_worker;
