//! The file store when a step on its files fails, or the machine stops in the middle of one. Failpoints belong to the whole
//! process, so these tests are a binary of their own and run one after the other.

#[allow(dead_code)] // Some of it is for the tests of the service.
#[path = "../server/client.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod copies;
mod disk;
mod dropping;
mod every_step;
#[allow(dead_code)] // Some of it is for the tests of the store.
#[path = "../store/harness.rs"]
mod harness;
mod image;
mod later;
mod leadership;
mod life;
mod lost_sectors;
mod slots;

/// Nothing is encrypted. Some of these tests with keys are in `../faults_encrypted`.
fn keys() -> std::sync::Arc<logservice::encryption::KeyRing> {
    std::sync::Arc::default()
}
