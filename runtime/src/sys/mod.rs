//! The host's floor: raw system calls of Linux on x86-64 and what they take.

pub mod names;
