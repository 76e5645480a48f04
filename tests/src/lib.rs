//! Harness for tests on sysroots: making them, entering them, asking the real dynamic linkers, and comparing an index with
//! its tree.
//!
//! Nothing here writes below an example sysroot; a test that changes one works on a copy.

pub mod compare;
pub mod elf;
pub mod enter;
pub mod invariant;
pub mod ld_trace;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod lookups;
pub mod need;
pub mod oracle;
pub mod scratch;
pub mod snapshot;
pub mod strace;
pub mod sysroot;
pub mod tool;
