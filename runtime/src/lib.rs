//! The side of elfuse that runs programs. `no_std`, without allocator, locks, thread-local storage and libc, since most of it runs
//! inside a signal handler on a guest's stack, in threads and in children of vfork(2) that share its memory.
//!
//! A run: `engine::command` has sysroot, mounts and index settled and the program found; `engine::launch` loads it, installs the filter and
//! jumps. From then on `engine::dispatch` is called by SIGSYS, looks the call up in its table, and one function of `engine::calls`
//! answers it or makes it on the host. `engine::exec` starts the runtime anew with the next program.
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
//! | [`errno`], [`text`] | error numbers, bytes as text |
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
