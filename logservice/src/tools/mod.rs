//! Subcommands of the program that look at a service's directory, served or not, and change nothing in it.

mod archive_point;
pub mod backups;
pub mod check;
pub mod dump;
mod look;
pub mod restore;
mod restore_error;
mod until_time;
