//! What a run can tell of itself: how long the phases of a start took, which system calls it made, how lookups were answered.
//!
//! Everything counts in atomics, without a lock, so that a signal handler, a thread and a vfork child may count at any
//! instruction; everything prints through [`core::fmt::Write`].

mod bits;

pub use bits::TraceBits;
