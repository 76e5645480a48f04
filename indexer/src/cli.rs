//! The command line exactly as typed. Nothing here looks at a file: [`crate::options`] does, after parsing.
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
pub const VERSION: &str = match option_env!("ELFUSE_INDEX_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

const EXIT_STATUS: &str = "\
Exit status:
  0    done; and the answer, where there is a question, is yes
  1    the answer is no: verify found a difference, a library was not found, nothing needs that SONAME
  2    the command line does not make sense
  3    done, with gaps: something could not be read and is left out (the warnings say what)
  125  elfuse-index itself failed";

/// Index a sysroot, and answer questions about what its programs load
///
/// An index says which names each directory of a sysroot holds and which libraries each program loads, so that starting
/// a program does not mean searching for them again. It is a disposable hint: deleting it never changes a result.
///
/// elfuse-index never executes what it inspects, and never leaves the sysroot through a symlink.
#[derive(Debug, Parser)]
#[command(name = "elfuse-index", version = VERSION, max_term_width = 100, after_help = EXIT_STATUS)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct CommonArgs {
    /// Print one JSON document instead of text
    ///
    /// Its member "schema" is 1; it grows when a member changes its meaning or goes, not when one is added. Warnings are
    /// in it, as "warnings". A path is a string, or {"bytes": "…hex…"} where it is not UTF-8.
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colour
    ///
    /// "auto" means on a terminal, unless NO_COLOR is set or TERM is "dumb".
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColorWhen::Auto)]
    pub color: ColorWhen,
    /// No progress bar, no summary, no warnings; errors and answers only
    #[arg(short, long, global = true)]
    pub quiet: bool,
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Build(BuildArgs),
    Seal(SealArgs),
    Verify(VerifyArgs),
    Clean(CleanArgs),
    Show(ShowArgs),
    Tree(TreeArgs),
    Why(WhyArgs),
    WhoNeeds(WhoNeedsArgs),
    Stats(StatsArgs),
    Probes(ProbesArgs),
    Bundle(BundleArgs),
    Ldcache(LdcacheArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Where the host-bound part of an index is.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Keep the whole index in DIR and write nothing into the sysroot
    ///
    /// For a sysroot that is read-only or somebody else's. Without this flag, a sysroot that cannot be written has its
    /// index under $XDG_CACHE_HOME/elfuse/ (or ~/.cache/elfuse/), by the path of the sysroot.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub index_dir: Option<PathBuf>,
}

/// Whether attributes are recorded.
#[derive(Debug, Clone, Args)]
pub struct AttributesArgs {
    /// Record what stat returns for every name, for runs with --coherence frozen
    ///
    /// Such a run then answers stat, and what mode bits say, without asking the host, until anything in the sysroot is
    /// changed or opened for writing through elfuse. Changes from outside it does not see at all. On erofs, squashfs and
    /// iso9660, which nobody can change, this is done without the flag.
    #[arg(long)]
    pub attributes: bool,
}

/// How many threads.
#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    /// Use N threads [default: one per CPU this process may use]
    ///
    /// What is written does not depend on it, byte for byte.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub jobs: Option<u16>,
}

/// Which sysroot a question is about, and how its loader is configured.
#[derive(Debug, Clone, Args)]
pub struct LookupArgs {
    /// The sysroot [default: see below]
    ///
    /// Default: the nearest directory above the file that holds an index (.elfuse); if none does, /, the running system.
    #[arg(long, short = 's', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    /// Resolve as if LD_LIBRARY_PATH were LIST
    ///
    /// Directories of the sysroot, separated by ':' or ';'. The variable of this shell is not looked at, since it
    /// speaks of the host.
    #[arg(long, value_name = "LIST")]
    pub library_path: Option<OsString>,
    /// Which CPU to resolve for: it decides which glibc-hwcaps directories are searched
    ///
    /// "native" is this CPU, or the plainest one where the program is for another kind of machine; "none" is the
    /// plainest one. Else the name of such a directory, which stands for those below it too: x86-64-v2, x86-64-v3,
    /// x86-64-v4, power9, power10, z13 and so on.
    #[arg(long, value_name = "LEVEL", default_value = "native")]
    pub hwcaps: String,
}

/// Walk a sysroot and write its index
///
/// Writes a .elfuse-sidecar-index into every directory and the store .elfuse at the root. Directories and ELF files that
/// did not change since the last build are not read again. The sysroot is not changed otherwise.
///
/// Interrupt it whenever you like: the old index stays believed where it is still true, and nowhere else.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index build ./sysroot
  elfuse-index build ./sysroot --only usr/lib/x86_64-linux-gnu/ffmpeg
  elfuse-index build /mnt/readonly --index-dir ~/indices/readonly")]
pub struct BuildArgs {
    /// Root directory of the sysroot
    #[arg(value_name = "SYSROOT", value_hint = ValueHint::DirPath)]
    pub sysroot: PathBuf,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Give each directory its old mtime back after writing into it
    ///
    /// For fontconfig and others that keep caches inside the sysroot and compare them with directory mtimes.
    #[arg(long)]
    pub preserve_mtime: bool,
    /// Read everything, even what did not change
    #[arg(long)]
    pub full: bool,
    /// Only these directories and those below; the rest of the index stays as it is
    ///
    /// For a packaging phase that knows which directories are its own. Paths are those of the sysroot; put SYSROOT before
    /// this flag.
    #[arg(long, value_name = "DIR", num_args = 1.., value_hint = ValueHint::DirPath)]
    pub only: Vec<PathBuf>,
    /// Make no patched copies of libraries and programs
    ///
    /// Programs are then run as they are, and each system call that names a path costs a trap.
    #[arg(long)]
    pub no_patch: bool,
    /// Do not wait for what changed within the last two seconds; leave it unsealed
    ///
    /// A time stamp that young cannot tell two changes apart, so it proves nothing yet. By default build waits once, at
    /// the end. What is left unsealed is looked up live until the next build or seal.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub attributes: AttributesArgs,
}

/// Make an index valid on this host, after the sysroot was copied or unpacked
///
/// An index is bound to inode numbers and times, and a copy has others. Every directory and the content of every ELF file
/// is read; sidecars that say something else are mended, and new keys are made.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tar -xf sysroot.tar -C /srv/sysroot && elfuse-index seal /srv/sysroot")]
pub struct SealArgs {
    /// Root directory of the sysroot
    #[arg(value_name = "SYSROOT", value_hint = ValueHint::DirPath)]
    pub sysroot: PathBuf,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Make no patched copies of libraries and programs, and remove those there are
    #[arg(long)]
    pub no_patch: bool,
    /// Do not wait for what changed within the last two seconds; leave it unsealed
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub attributes: AttributesArgs,
}

/// Compare every claim of an index with the tree
///
/// Names that are there, names that are not, kinds, symlink targets, ELF facts, keys, closures. Lists every difference.
/// Exit status 1 if there is any.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index verify ./sysroot
  elfuse-index verify ./sysroot --json | jq '.differences[].path'")]
pub struct VerifyArgs {
    /// Root directory of the sysroot
    #[arg(value_name = "SYSROOT", value_hint = ValueHint::DirPath)]
    pub sysroot: PathBuf,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Remove an index, and leave the tree as it was
///
/// Removes the store and every sidecar, also those of an interrupted build, and gives the directories their mtimes back.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index clean ./sysroot")]
pub struct CleanArgs {
    /// Root directory of the sysroot
    #[arg(value_name = "SYSROOT", value_hint = ValueHint::DirPath)]
    pub sysroot: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Print one of the files of an index
///
/// A sidecar, or keys, loader-cache, ld.so.cache of the store. For a directory, its sidecar.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index show ./sysroot/usr/bin
  elfuse-index show ./sysroot/.elfuse/keys
  elfuse-index show ./sysroot/.elfuse/loader-cache --json
  elfuse-index show --sites ./sysroot/lib64/ld-linux-x86-64.so.2")]
pub struct ShowArgs {
    /// The file, or the directory whose sidecar is meant
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// Of an x86-64 library or program: every place where it makes a system call, and whether its copy jumps to elfuse
    ///
    /// The call, where its number can be told; how the place is patched (shape A: the runtime makes the call; D: the same, but
    /// what it does not serve is made where it stood; B: leases end before the call; C: CPUID); or why it is not.
    #[arg(long)]
    pub sites: bool,
}

/// Which libraries a program or library loads, in order, and why each is found where it is
///
/// Searches as the program's own loader would, glibc's or musl's, without running it. Of a library that is not found,
/// every directory that was tried is listed. Exit status 1 if there is one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
ELF is a path of the sysroot (/usr/bin/ls), a path of the host that lies in it (./sysroot/usr/bin/ls), or a bare name,
looked for in the sysroot's usual directories of programs.

Examples:
  elfuse-index tree /bin/ls
  elfuse-index tree --sysroot ./sysroot python3
  elfuse-index tree ./sysroot/usr/bin/ffmpeg --hwcaps none --json")]
pub struct TreeArgs {
    /// The program or library
    #[arg(value_name = "ELF", value_hint = ValueHint::FilePath)]
    pub elf: PathBuf,
    #[command(flatten)]
    pub lookup: LookupArgs,
}

/// Where a program finds one library, and every place looked at before
///
/// Exit status 1 if it is not found.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index why libcrypto.so.3 --from /usr/bin/ssh
  elfuse-index why libavcodec.so.59 --from ffmpeg --sysroot ./sysroot")]
pub struct WhyArgs {
    /// What is needed, as DT_NEEDED or dlopen names it
    #[arg(value_name = "SONAME")]
    pub soname: OsString,
    /// The program or library that needs it
    #[arg(long, value_name = "ELF", value_hint = ValueHint::FilePath)]
    pub from: PathBuf,
    #[command(flatten)]
    pub lookup: LookupArgs,
}

/// Which programs and libraries of an indexed sysroot need a library
///
/// Exit status 1 if none does.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index who-needs libz.so.1 --sysroot ./sysroot")]
pub struct WhoNeedsArgs {
    /// The library, as DT_NEEDED names it
    #[arg(value_name = "SONAME")]
    pub soname: OsString,
    /// The sysroot [default: the nearest directory from here upwards that holds an index]
    #[arg(long, short = 's', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Sizes and counts of an index
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index stats ./sysroot")]
pub struct StatsArgs {
    /// Root directory of the sysroot [default: the nearest directory from here upwards that holds an index]
    #[arg(value_name = "SYSROOT", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// How many lookups a program's loader makes, and how many of them fail
///
/// Counted from the files, without running the program: today, and with the index.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index probes --sysroot ./sysroot ffmpeg")]
pub struct ProbesArgs {
    /// The program, as for tree
    #[arg(value_name = "PROG", value_hint = ValueHint::FilePath)]
    pub program: PathBuf,
    #[command(flatten)]
    pub lookup: LookupArgs,
}

/// Make a sysroot from programs of the running system
///
/// Copies the programs, everything they load, the symlinks on the way as they are, and what a C library or an
/// interpreter opens by itself. Nothing is executed, and no privilege is needed. Run it again to bring DIR up to date.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What is included besides the programs:
  libraries    the closure of each program and module, as its own loader finds it, and the loader
  scripts      the interpreter that \"#!\" names, and the program given to env
  loader       ld.so.conf and what it includes; an ld.so.cache made for the bundle
  nss          for glibc: nsswitch.conf and the modules it names; passwd and group cut to root, nobody and you;
               hosts, services, protocols where they exist                                 [--no-nss]
  gconv        for glibc: the character set converters with their libraries and configuration  [--no-gconv]
  locale       C.UTF-8, and what --locale names                                             [--no-locale]
  runtimes     of python3, perl, ruby, guile: the standard library and its native modules   [--no-runtimes]
  directories  /dev /proc /sys /tmp /run, empty

Left out: set-user-ID and set-group-ID bits, device nodes, sockets.

Examples:
  elfuse-index bundle --into ./sysroot bash ls cat python3
  elfuse-index bundle --into ./sysroot git --add /usr/lib/git-core --add /etc/gitconfig
  unshare -r chroot ./sysroot /usr/bin/python3 -c 'print(42)'")]
pub struct BundleArgs {
    /// Programs: a path, or a name looked up in $PATH
    #[arg(value_name = "PROG", required = true, num_args = 1.., value_hint = ValueHint::CommandName)]
    pub programs: Vec<PathBuf>,
    /// Where the sysroot is made
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub into: PathBuf,
    /// Also copy this file or directory tree; repeat for several
    ///
    /// ELF files and scripts in it bring what they load.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub add: Vec<PathBuf>,
    /// Take the programs from this sysroot instead of the running system
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub from: PathBuf,
    /// Also copy this locale, such as de_DE.UTF-8; repeat for several
    ///
    /// Where all locales are in one locale-archive, that is copied whole.
    #[arg(long, value_name = "NAME")]
    pub locale: Vec<OsString>,
    /// Also copy the packages installed beside a standard library (dist-packages, site-packages, site_perl)
    #[arg(long)]
    pub site_packages: bool,
    /// Do not add NSS modules and their configuration
    #[arg(long)]
    pub no_nss: bool,
    /// Do not add character set converters
    #[arg(long)]
    pub no_gconv: bool,
    /// Do not add C.UTF-8
    #[arg(long)]
    pub no_locale: bool,
    /// Do not add the standard libraries of interpreters
    #[arg(long)]
    pub no_runtimes: bool,
    /// Write into DIR even if it holds files and no earlier bundle
    #[arg(long)]
    pub force: bool,
}

/// Write a loader cache in glibc's format
///
/// Of a SYSROOT: what ldconfig would write for it. Of programs: the libraries that these programs need, found through
/// their RUNPATHs too, as Guix has it per application; a loader given this cache as /etc/ld.so.cache finds them at once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index ldcache ./sysroot -o ./sysroot/etc/ld.so.cache
  elfuse-index ldcache --sysroot ./sysroot ffmpeg -o ffmpeg.cache && ldconfig -p -C ffmpeg.cache")]
pub struct LdcacheArgs {
    /// A sysroot, or programs of one, as for tree
    #[arg(value_name = "SYSROOT|PROG", required = true, num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub targets: Vec<PathBuf>,
    /// The sysroot of the programs [default: as for tree]
    #[arg(long, short = 's', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub sysroot: Option<PathBuf>,
    /// Write to FILE; "-" is the standard output [default: ld.so.cache in the store of the sysroot]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  elfuse-index completions bash > ~/.local/share/bash-completion/completions/elfuse-index")]
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
  elfuse-index man --into ~/.local/share/man/man1 && man elfuse-index-build")]
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
