//! The file store, by itself: what a crash leaves, what damage looks like, what failing steps do.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod flips;
mod harness;
mod inspect;
mod inspect_copies;
mod later;
mod quota;
mod recycling;
mod steps;
mod suspects;

/// Nothing is encrypted. The same tests with keys are in `../store_encrypted`.
fn keys() -> std::sync::Arc<logservice::encryption::KeyRing> {
    std::sync::Arc::default()
}
