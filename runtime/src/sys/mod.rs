//! The host's floor: raw system calls of Linux on x86-64 and what they take.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod abi;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod clock;
pub mod compare;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod memory;
pub mod names;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod nr;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod raw;
