//! The host's floor: raw system calls of Linux on x86-64 and what they take.

pub mod abi;
pub mod host;
pub mod memory;
pub mod nr;
pub mod raw;
