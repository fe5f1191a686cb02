//! The file store, by itself: what a crash leaves, what damage looks like, what failing steps do.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod flips;
mod harness;
mod inspect;
mod later;
mod recycling;
mod steps;
mod suspects;
