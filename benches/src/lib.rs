//! Measurements against named peers in the same run. How to run them and what the numbers mean: `README.md` beside this.
//!
//! A benchmark is a module like [`indexer`]: it prepares its subjects, hands them to [`measure::interleave`], and puts what
//! comes back into a [`report::Report`] with its goals, and into a [`chart::Chart`].

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod all;
pub mod chart;
pub mod cli;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod fuse;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod ground;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod guest;
pub mod indexer;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod lookups;
pub mod machine;
pub mod measure;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod namespace;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod profile;
pub mod report;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod resident;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod size;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod start;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod suite;
pub mod synthetic;
pub mod sysroot;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod told;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod turns;
pub mod workspace;
