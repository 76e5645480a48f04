//! The side of elfuse that reads an index to run programs. `no_std` and without an allocator: a libc-free launcher links it.
//!
//! So far: [`index`], the two files of a store put together and questioned step by step. The launcher, the lookup and the
//! engine follow.
#![no_std]

pub mod errno;
pub mod index;
pub mod vfs;
