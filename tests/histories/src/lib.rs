//! What clients of a durable Valkey saw, recorded, and whether one server that never dies could have shown it to them
//! (linearizability). Used by the checker of histories and by the harness of faults (`tests/failover`).

pub mod connection;
pub mod draw;
pub mod history;
pub mod judge;
pub mod keyspace;
pub mod operation;
pub mod process;
pub mod reference;
pub mod services;
