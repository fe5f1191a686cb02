//! The tests of `../store` with a log that is encrypted, and those of encryption itself.

#[path = "../common/mod.rs"]
mod common;
#[path = "../store/damage.rs"]
mod damage;
#[path = "../store/flips.rs"]
mod flips;
#[path = "../store/harness.rs"]
mod harness;
#[path = "../store/inspect.rs"]
mod inspect;
mod keys;
#[path = "../store/later.rs"]
mod later;
mod locked;
#[path = "../store/quota.rs"]
mod quota;
#[path = "../store/recycling.rs"]
mod recycling;
mod snapshots;
#[path = "../store/steps.rs"]
mod steps;
#[path = "../store/suspects.rs"]
mod suspects;
mod turned_on;

use keys::keys;
