//! The side of elfuse that reads an index to run programs. `no_std` and without an allocator: a libc-free launcher links it.
//!
//! So far: [`index`], the two files of a store put together and questioned step by step; [`options`], the command line;
//! [`trace`], what a run counts. The launcher, the lookup and the engine follow.
#![no_std]

pub mod index;
pub mod options;
pub mod sys;
pub mod text;
pub mod trace;
