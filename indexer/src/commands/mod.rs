//! The commands that make, renew, check and remove an index, and those that read it.

pub mod build;
pub mod clean;
pub mod current;
pub mod show;
pub mod stats;
pub mod verify;
pub mod who_needs;
