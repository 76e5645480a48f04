//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures elfuse against named peers in the same run, and writes what it finds to `benches`.
#[derive(Debug, Parser)]
#[command(name = "elfuse-bench", version)]
pub struct Cli {
    /// What is measured.
    #[command(subcommand)]
    pub command: Command,
}

/// One of the benchmarks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Times `elfuse-index build` against find(1) and weighs what it makes
    Indexer(IndexerOptions),
    /// Counts the lookups that reach the host when programs start: under chroot, without and with the index
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Lookups(LookupsOptions),
    /// Times the start of programs by elfuse, chroot, bubblewrap, PRoot, fakechroot and qemu, warm and cold
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Start(StartOptions),
    /// Times lookups inside a guest, and counts which of them reach the host
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Guest(Within),
    /// Times the suite of system calls in a dynamic and a static guest, in every coherence mode; ends with 1 beyond a ceiling
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Suite(Within),
    /// Counts what reaches the server of a FUSE mount that the sysroot lies on, and times starts from there
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Fuse(Within),
    /// Times starts from sysroots of a thousand to a million entries
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Size(Within),
    /// Times starts of programs that are kept resident, at addresses that move and at fixed ones
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Resident(Within),
    /// Samples starts by perf(1), natively and by elfuse, and says where the difference lies
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Profile(StartOptions),
    /// Runs all of them but `indexer` and `profile`, each as a process of its own
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    All(AllOptions),
}

/// Options of `elfuse-bench all`.
#[derive(Debug, Clone, Args)]
pub struct AllOptions {
    /// Run `indexer` too, which takes ten minutes more
    #[arg(long)]
    pub with_indexer: bool,
    /// Leave out the starts with cold caches
    #[arg(long)]
    pub no_cold: bool,
    /// What all of them have.
    #[command(flatten)]
    pub within: Within,
}

/// Options that all benchmarks of `elfuse run` share.
#[derive(Debug, Clone, Args)]
pub struct Within {
    /// Print the verdicts of the last results and measure nothing
    #[arg(long)]
    pub check: bool,
    /// A try-out: three rounds of each, printed and not written
    #[arg(long)]
    pub quick: bool,
    /// How often each side has its turn (default: 30)
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Where trees and indices are made (default: $XDG_CACHE_HOME/elfuse/bench)
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl Within {
    /// Rounds, where nothing else was asked for.
    #[must_use]
    pub fn rounds(&self, usual: usize) -> usize {
        let usual = if self.quick { 3 } else { usual };
        self.rounds.unwrap_or(usual).max(1)
    }
}

/// Options of `elfuse-bench start`.
#[derive(Debug, Clone, Args)]
pub struct StartOptions {
    /// Start only the programs with this text in their names, and print and do not write what is found
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Leave out the starts with cold caches: they drop those of the whole machine, and take root
    #[arg(long)]
    pub no_cold: bool,
    /// What all of these have.
    #[command(flatten)]
    pub within: Within,
}

/// Options of `elfuse-bench lookups`.
#[derive(Debug, Args)]
pub struct LookupsOptions {
    /// Print the verdicts of the last results and count nothing
    #[arg(long)]
    pub check: bool,
    /// Print every lookup that fails inside the sysroot, with how often and which way, and do not write what is found
    #[arg(long)]
    pub list: bool,
    /// Start only the programs with this text in their names, and print and do not write what is found
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Where indices are made (default: $XDG_CACHE_HOME/elfuse/bench)
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Options of `elfuse-bench indexer`.
#[derive(Debug, Args)]
pub struct IndexerOptions {
    /// Print the verdicts of the last results and measure nothing
    #[arg(long)]
    pub check: bool,
    /// Measure on this tree alone, and print and do not write what is found (default: both)
    #[arg(long, value_name = "TREE", value_parser = ["debian", "synthetic"])]
    pub only: Option<String>,
    /// Rounds on either tree (default: 30 on the Debian sysroot, 5 on the synthetic tree)
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// The sysroot to copy and measure on (default: what example-sysroots/debian/make.sh makes)
    #[arg(long, value_name = "DIR")]
    pub sysroot: Option<PathBuf>,
    /// Entries of the synthetic tree; a tenth of them in one directory
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub entries: usize,
    /// Where trees are made (default: $XDG_CACHE_HOME/elfuse/bench)
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Measure with cold caches too: drops those of the whole machine, and takes root
    #[arg(long)]
    pub cold: bool,
}

impl IndexerOptions {
    /// Whether that tree is measured.
    #[must_use]
    pub fn wants(&self, tree: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == tree)
    }

    /// Rounds on the Debian sysroot.
    #[must_use]
    pub fn debian_rounds(&self) -> usize {
        self.rounds.unwrap_or(30)
    }

    /// Rounds on the synthetic tree.
    #[must_use]
    pub fn synthetic_rounds(&self) -> usize {
        self.rounds.unwrap_or(5)
    }
}
