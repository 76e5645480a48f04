//! The lookups of a program's start, counted: by the real kernel under chroot, by `elfuse run` without an index, and with one.
//!
//! What counts is what reaches the host's kernel, as strace sees it. A call that elfuse's filter traps does not: the kernel
//! turns it into a SIGSYS before it looks at its arguments. Numbers are exact, so that they decide where times cannot.

pub mod call;
pub mod start;
pub mod tally;
