//! The tests of `../faults` in which steps of the storage fail or are the last, with a log that is encrypted.

#[path = "../common/mod.rs"]
mod common;
#[path = "../faults/copies.rs"]
mod copies;
#[path = "../faults/every_step.rs"]
mod every_step;
mod frames;
#[allow(dead_code)] // Some of it is for the tests of the store.
#[path = "../store/harness.rs"]
mod harness;
#[path = "../faults/image.rs"]
mod image;
#[path = "../store_encrypted/keys.rs"]
mod keys;
#[path = "../faults/later.rs"]
mod later;
#[path = "../faults/life.rs"]
mod life;
#[path = "../faults/lost_sectors.rs"]
mod lost_sectors;

use keys::keys;
