//! The verbs of `elfuse` besides `run`, for which there is time and an allocator: `doctor`, `resident`, help, completions, man pages.
//!
//! The launcher `elfuse` executes `elfuse-tools` beside itself with its own arguments, `elfuse` as the first.

pub mod cli;
pub mod doctor;
pub mod exit;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod resident;
pub mod verbs;
