//! The commands that make, renew and remove an index, and those that read it.

pub mod build;
