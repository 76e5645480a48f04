//! The side of elfuse that runs programs. `no_std`, without allocator, locks, thread-local storage and libc, since most of it runs
//! inside a signal handler on a guest's stack.
//!
//! | module | |
//! |---|---|
//! | [`options`] | the command line, and what is handed on over exec |
//! | [`index`] | the two files of a store put together |
//! | [`vfs`] | where a guest path leads |
//! | `loader` | ELF files to mappings and stack |
//! | `engine` | the guest's system calls |
//! | `guest`, [`sys`] | the guest's memory, the host's calls |
//! | [`trace`] | what a run counts |
#![no_std]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod engine;
pub mod errno;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod guest;
pub mod index;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod loader;
pub mod options;
pub mod sys;
pub mod text;
pub mod trace;
pub mod vfs;
