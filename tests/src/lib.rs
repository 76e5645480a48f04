//! Harness for tests on real sysroots: making them, entering them, and asking the real dynamic linkers.
//!
//! Nothing here writes below a sysroot; a test that changes one works on a copy.

pub mod compare;
pub mod elf;
pub mod enter;
pub mod ld_trace;
pub mod need;
pub mod strace;
pub mod sysroot;
