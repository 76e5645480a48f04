//! The command line of `elfuse`, all verbs. What `run` accepts is decided by `elfuse_runtime::options`; its definition here is for
//! help, completions and man pages, and a test holds the two together.
//!
//! The build script includes this file to make the man pages, so it may use `std` and `clap` only.
#![allow(
    missing_docs,
    reason = "doc comments are the help text here; commands and groups of flags have theirs on the struct"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

/// Version and commit, such as `0.1.0 (0123456789ab)`.
pub const VERSION: &str = match option_env!("ELFUSE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

const EXIT_STATUS: &str = "\
Exit status of run: the program's own, or its signal. Before the program starts:
  125  elfuse itself failed; also a command line that does not make sense
  126  the program was found, and cannot be executed
  127  the program was not found

Exit status of the other commands:
  0    done; with doctor: everything that is needed is there
  1    doctor: something that is needed is missing
  2    the command line does not make sense
  125  elfuse itself failed";

/// Run Linux programs from a sysroot, without root and without searching for what is not there
///
/// The program runs in this very process, with the sysroot as its root directory; what the sysroot's index knows is
/// answered from there. elfuse-index makes that index; without one everything works and is looked up live.
///
/// This is no security boundary: the program can reach whatever you can.
#[derive(Debug, Parser)]
#[command(name = "elfuse", bin_name = "elfuse", version = VERSION, max_term_width = 100, after_help = EXIT_STATUS)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Doctor(DoctorArgs),
    Resident(ResidentArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Run a program of a sysroot
///
/// The program, the libraries it loads, and the programs it starts all come from DIR, which is their root directory. They are
/// your processes like any other: same user, same network, same terminal.
#[derive(Debug, Args)]
#[command(override_usage = "elfuse run --sysroot <DIR> [OPTIONS] [--] <PROG> [ARG]...")]
#[command(after_long_help = "\
What the guest sees besides the sysroot:
  /proc /sys /dev /tmp
  your home directory and the working directory, unless the sysroot itself holds that path
What it does not see: the files of the index (.elfuse, .elfuse-sidecar-index).

Environment:
  ELFUSE_SYSROOT        the sysroot, if --sysroot is not given
  ELFUSE_INDEX          off     as --coherence off
                        shadow  check each answer of the index against the tree; abort where
                                they differ, and show both
  ELFUSE_PATCHED        off     map no patched copies: each call traps (to find faults with)
  ELFUSE_STARTUP_TRACE  steps     (or 1) how long each step of the start took
                        syscalls  how often each system call was made, and how long it took
                        all       both; several words have commas between them

Exit status: the program's own, or its signal. Before it starts: 125 elfuse itself failed,
126 PROG cannot be executed, 127 PROG was not found.

Examples:
  elfuse run --sysroot ./sysroot /usr/bin/python3 -c 'print(42)'
  elfuse run --sysroot ./sysroot --bind ./data:/data --workdir /data bash
  elfuse run --sysroot ./sysroot --clear-env --env PATH=/usr/bin:/bin env
  elfuse run --sysroot ./sysroot --stats ffmpeg -version")]
pub struct RunArgs {
    /// Root directory of the guest [env: ELFUSE_SYSROOT]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    /// Where the index is, if it was made with --index-dir
    ///
    /// Without this flag it is looked for in the sysroot, then where elfuse-index keeps those of sysroots that cannot be
    /// written, under $XDG_CACHE_HOME/elfuse/ (or ~/.cache/elfuse/).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Index")]
    pub index_dir: Option<PathBuf>,
    /// When the index may answer without asking the file system [default: lease]
    #[arg(long, value_name = "MODE", value_enum, help_heading = "Index")]
    pub coherence: Option<CoherenceMode>,
    /// Have the dynamic linker execute CPUID at each start
    ///
    /// Without this flag its CPUID instructions are answered from a table made once after each boot, where an index has a patched copy of it:
    /// in a virtual machine each takes some 7 us. The program's own CPUID instructions are never touched.
    #[arg(long, help_heading = "Index")]
    pub no_cpuid_table: bool,
    /// Have the dynamic linker load each program anew, those too that `elfuse resident` keeps
    #[arg(long, help_heading = "Index")]
    pub no_resident: bool,
    /// Have all memory come page by page, as it is touched
    ///
    /// Without this flag pages that are certain to be written to, or nearly so, are made the program's own at once, which costs half as
    /// much: what the dynamic linker relocates, where the index says so, and the next part of a heap that has been used up. What is in
    /// memory is the same.
    #[arg(long, help_heading = "Index")]
    pub no_populate: bool,
    /// Show HOST, a file or directory, to the guest as GUEST; repeat for several
    ///
    /// Without GUEST it is seen at the host's own path. What the sysroot holds there is covered. Where there are
    /// several colons, GUEST begins at the last one that a slash follows.
    #[arg(long, value_name = "HOST[:GUEST]", value_hint = ValueHint::AnyPath, help_heading = "What the guest sees")]
    pub bind: Vec<OsString>,
    /// Do not show /proc, /sys, /dev, /tmp, home and working directory
    #[arg(long, help_heading = "What the guest sees")]
    pub no_default_binds: bool,
    /// Look on the host for what the sysroot does not have
    #[arg(long, help_heading = "What the guest sees")]
    pub host_fallback: bool,
    /// The guest's working directory, a path inside the guest [default: yours, if the guest sees it, else /]
    #[arg(long, value_name = "DIR", help_heading = "What the guest sees")]
    pub workdir: Option<PathBuf>,
    /// Set a variable of the guest's environment; repeat for several
    #[arg(long, value_name = "NAME=VALUE", help_heading = "What the guest sees")]
    pub env: Vec<OsString>,
    /// Give the guest nothing of your environment; --env still counts
    #[arg(long, help_heading = "What the guest sees")]
    pub clear_env: bool,
    /// At the end, print to standard error how lookups were answered and which calls reached the host
    ///
    /// "json" is one document on one line, with "schema": 1 in it.
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        help_heading = "Measuring"
    )]
    pub stats: Option<StatsFormat>,
    /// The program: a path inside the guest, or a name looked for in the guest's PATH
    #[arg(value_name = "PROG", required = true)]
    pub program: OsString,
    /// Arguments of the program, options too
    #[arg(
        value_name = "ARG",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub arguments: Vec<OsString>,
}

/// Value of `--coherence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CoherenceMode {
    /// A directory's key is checked on first touch, and again after 2 ms; changes made under elfuse count at once
    Lease,
    /// The tree is declared not to change: what was checked once holds to the end
    Frozen,
    /// Each definite answer is checked with the file system
    Strict,
    /// No index
    Off,
}

/// Value of `--stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// Tables for people
    Text,
    /// One JSON document
    Json,
}

/// What this host offers to elfuse, and what will be slower or missing
///
/// Of each item: what was found; where it is not all there, what that means and what can be done. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit status: 0 if everything that is needed is there, 1 if not; what is only slower or missing does not count

Examples:
  elfuse doctor
  elfuse doctor --sysroot ./sysroot
  elfuse doctor --json | jq '.checks[] | select(.state != \"fine\")'")]
pub struct DoctorArgs {
    /// Also look at this sysroot: its file system, its index [env: ELFUSE_SYSROOT]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    /// Where its index is, if it was made with --index-dir
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub index_dir: Option<PathBuf>,
    /// Print one JSON document instead of text
    ///
    /// Its member "schema" is 1; it grows when a member changes its meaning or goes, not when one is added.
    #[arg(long)]
    pub json: bool,
    /// When to use colour
    ///
    /// "auto" means on a terminal, unless NO_COLOR is set or TERM is "dumb".
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorWhen::Auto)]
    pub color: ColorWhen,
}

/// Value of `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal.
    Auto,
    /// Also into a file or pipe.
    Always,
    /// Never.
    Never,
}

/// Keep programs as their dynamic linker leaves them, so that it need not run at each start
///
/// A program that is kept is mapped as it was before its first constructor ran, with its addresses moved and its random words made afresh.
/// `elfuse run` does so by itself, while everything that the dynamic linker went by is unchanged: the program, its libraries, names
/// that were not there, kernel and hardware, `ulimit -s`, no LD_* or GLIBC_TUNABLES. Else it starts the program normally.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A snapshot is of this host and this boot. To have programs kept elsewhere, ship a list of them:
.elfuse/resident.list, which `elfuse resident add` takes where it is given no program.

Exit status: 0 done; 1 a program cannot be kept, or a snapshot does not hold

Examples:
  elfuse resident add --sysroot ./sysroot perl git
  elfuse resident list --sysroot ./sysroot
  elfuse resident show --sysroot ./sysroot /usr/bin/perl
  elfuse resident prune --sysroot ./sysroot && elfuse resident add --sysroot ./sysroot")]
pub struct ResidentArgs {
    #[command(subcommand)]
    pub command: ResidentCommand,
}

/// The commands of `resident`.
#[derive(Debug, Subcommand)]
pub enum ResidentCommand {
    /// Capture programs and keep them; those that are kept already are captured anew
    Add(ResidentAddArgs),
    /// What is kept: size, files, pages of its own, age, starts, why it was not used the last time
    List(ResidentListArgs),
    /// What a snapshot is bound to, and what is filled in at each start
    Show(ResidentProgramsArgs),
    /// Read snapshots whole and compare their checksums
    Verify(ResidentListArgs),
    /// Keep programs no longer
    Rm(ResidentProgramsArgs),
    /// Remove snapshots that cannot be used any more: damaged, of an earlier boot, of a program or library that was changed
    Prune(ResidentListArgs),
}

/// Where snapshots are.
#[derive(Debug, Args)]
pub struct ResidentStoreArgs {
    /// Root directory of the guest [env: ELFUSE_SYSROOT]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    /// Where the index is, if it was made with --index-dir: snapshots lie beside it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub index_dir: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `resident add`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse resident add --sysroot ./sysroot perl /usr/bin/git
  elfuse resident add --sysroot ./sysroot --list programs.txt")]
pub struct ResidentAddArgs {
    #[command(flatten)]
    pub store: ResidentStoreArgs,
    /// Also the programs in FILE, one a line; lines that begin with # do not count
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub list: Option<PathBuf>,
    /// Have them lie at the same addresses at each start
    ///
    /// Starts of large programs are faster by that. What is given up is that nobody can know beforehand where their code lies
    /// (address space layout randomisation).
    #[arg(long)]
    pub fixed: bool,
    /// The programs, as `elfuse run` takes them
    #[arg(value_name = "PROG")]
    pub programs: Vec<OsString>,
}

/// Arguments of `resident list`, `verify` and `prune`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse resident list --sysroot ./sysroot --json | jq '.programs[].starts'
  elfuse resident prune --sysroot ./sysroot")]
pub struct ResidentListArgs {
    #[command(flatten)]
    pub store: ResidentStoreArgs,
}

/// Arguments of `resident show` and `rm`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse resident show --sysroot ./sysroot perl
  elfuse resident rm --sysroot ./sysroot /usr/bin/perl")]
pub struct ResidentProgramsArgs {
    #[command(flatten)]
    pub store: ResidentStoreArgs,
    /// The programs: paths in the guest as `list` shows them, or last components of such
    #[arg(value_name = "PROG", required = true)]
    pub programs: Vec<OsString>,
}

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse completions bash > ~/.local/share/bash-completion/completions/elfuse")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Shells that completions can be made for.
#[allow(clippy::enum_variant_names, reason = "PowerShell is what it is called")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
}

/// Write the man pages
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse man --into ~/.local/share/man/man1 && man elfuse-run")]
pub struct ManArgs {
    /// Where to; made if it is not there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub into: PathBuf,
}

/// The definitions, for completions, man pages and tests.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
