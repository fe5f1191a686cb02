//! Subcommands of the program that look at a service's directory, served or not, and change nothing in it.

pub mod check;
pub mod dump;
mod look;
pub mod restore;
