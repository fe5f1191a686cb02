//! The whole of a replicated shard: on each of three services the real `Shard`, over the real store, over the real driver, over copies in
//! real files. Beside them are the nodes of `durability_simulation`, whose leases and elections are the real ones.
//!
//! One thread drives everything but work that waits, which runs only while the simulation waits for it ([`blocking`]). The truth is what was
//! committed; what the services answer, and what nodes hold and answer, is compared with it.

pub mod blocking;
mod connections;
pub mod group;
pub mod seed;
pub mod service;
mod steps;
pub mod world;
