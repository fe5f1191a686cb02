//! Durable Valkey through a remote transaction log: the server module. ARCHITECTURE.md says how it works.

mod agent;
mod base;
mod decide;
mod exchange;
mod front;
mod hooks;
mod lag;
mod lead;
mod log;
mod node;
mod server;
mod settings;
mod shipper;
