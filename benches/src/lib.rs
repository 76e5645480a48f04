//! Measurements against named peers in the same run. How to run them and what the numbers mean: `README.md` beside this.
//!
//! A benchmark is a module like [`indexer`]: it prepares its subjects, hands them to [`measure::interleave`], and puts what
//! comes back into a [`report::Report`] with its goals, and into a [`chart::Chart`].

pub mod chart;
pub mod cli;
pub mod indexer;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod lookups;
pub mod machine;
pub mod measure;
pub mod report;
pub mod synthetic;
pub mod sysroot;
pub mod workspace;
