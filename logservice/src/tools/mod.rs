//! Subcommands of the program that look at a directory of shards, served or not, and change nothing in it.

pub mod check;
pub mod dump;
pub mod restore;
