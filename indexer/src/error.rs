//! Errors for people: a chain of what was attempted, on which path, what was found and what to try.

use std::path::PathBuf;

/// The command line parses but does not fit what is there: exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A sysroot that is none.
    #[error(
        "{path:?} cannot be used as a sysroot: {why}; give the directory that holds its usr/ and etc/"
    )]
    Sysroot {
        /// As typed.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// No sysroot was named and none is around.
    #[error(
        "no index (.elfuse) in {start:?} or above; name the sysroot, or make an index with `elfuse-index build SYSROOT`"
    )]
    NoIndexAbove {
        /// Where the search began.
        start: PathBuf,
    },
    /// A path that should lie in the sysroot.
    #[error(
        "{path:?} is not in the sysroot {sysroot:?}; give a path as the sysroot's programs see it, such as /usr/bin/ls"
    )]
    OutsideSysroot {
        /// As typed.
        path: PathBuf,
        /// The sysroot.
        sysroot: PathBuf,
    },
    /// A name without a slash that is in none of the directories of programs.
    #[error("no program {name:?} in {searched}; give a path")]
    NoSuchProgram {
        /// As typed.
        name: PathBuf,
        /// The directories, separated by colons.
        searched: String,
    },
    /// A path that leads to nothing.
    #[error("{path:?}: {why}")]
    NoSuchFile {
        /// As typed.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A value of `--hwcaps` that names no directory below `glibc-hwcaps`.
    #[error(
        "no CPU level {0:?}; give native, none, or the name of a glibc-hwcaps directory such as x86-64-v3"
    )]
    NoSuchHwcapsLevel(String),
    /// Two arguments that exclude each other.
    #[error("{0}")]
    Contradiction(String),
}
