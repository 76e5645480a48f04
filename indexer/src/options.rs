//! What is left of the command line once it was compared with what is there. Commands see nothing else.

mod programs;
mod sysroot;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

pub use programs::{GUEST_PATH, find_program};
pub use sysroot::{GuestPath, Sysroot};

use crate::cli::{self, ColorWhen, Command, Shell};
use crate::error::UsageError;
use crate::resolve::hwcaps::Cpu;

/// What every command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonOptions {
    /// One JSON document instead of text.
    pub json: bool,
    /// When to use colour.
    pub color: ColorWhen,
    /// No progress, summary or warnings.
    pub quiet: bool,
}

impl From<&cli::CommonArgs> for CommonOptions {
    fn from(arguments: &cli::CommonArgs) -> CommonOptions {
        CommonOptions {
            json: arguments.json,
            color: arguments.color,
            quiet: arguments.quiet,
        }
    }
}

/// A command with its validated options.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is the command of that name")]
pub enum Request {
    Build(BuildOptions),
    Seal(SealOptions),
    Verify(VerifyOptions),
    Clean(CleanOptions),
    Show(ShowOptions),
    Tree(TreeOptions),
    Why(WhyOptions),
    WhoNeeds(WhoNeedsOptions),
    Stats(StatsOptions),
    Probes(ProbesOptions),
    Bundle(BundleOptions),
    Ldcache(LdcacheOptions),
    Completions(CompletionsOptions),
    Man(ManOptions),
}

/// Options of `build`.
#[derive(Debug)]
pub struct BuildOptions {
    /// What to index.
    pub sysroot: Sysroot,
    /// Number of threads.
    pub jobs: NonZeroUsize,
    /// Where the whole index goes instead of into the sysroot.
    pub index_dir: Option<PathBuf>,
    /// Give directories their mtime back.
    pub preserve_mtime: bool,
    /// Read everything again.
    pub full: bool,
    /// Only these directories and those below; all if empty. Sorted, each once.
    pub only: Vec<GuestPath>,
    /// Make patched copies.
    pub patch: bool,
    /// Wait until young time stamps prove something.
    pub wait: bool,
    /// Record what stat returns.
    pub attributes: bool,
}

/// Options of `seal`.
#[derive(Debug)]
pub struct SealOptions {
    /// Whose index.
    pub sysroot: Sysroot,
    /// Number of threads.
    pub jobs: NonZeroUsize,
    /// Where the index is, if not in the sysroot.
    pub index_dir: Option<PathBuf>,
    /// Make patched copies.
    pub patch: bool,
    /// Wait until young time stamps prove something.
    pub wait: bool,
    /// Record what stat returns.
    pub attributes: bool,
}

/// Options of `verify`.
#[derive(Debug)]
pub struct VerifyOptions {
    /// Whose index.
    pub sysroot: Sysroot,
    /// Number of threads.
    pub jobs: NonZeroUsize,
    /// Where the index is, if not in the sysroot.
    pub index_dir: Option<PathBuf>,
}

/// Options of `clean`.
#[derive(Debug)]
pub struct CleanOptions {
    /// Whose index.
    pub sysroot: Sysroot,
    /// Where the index is, if not in the sysroot.
    pub index_dir: Option<PathBuf>,
}

/// Options of `show`.
#[derive(Debug)]
pub struct ShowOptions {
    /// A file of an index, or a directory whose sidecar is meant. It exists.
    pub path: PathBuf,
    /// It is an ELF file, whose sites are meant.
    pub sites: bool,
}

/// How a loader is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupOptions {
    /// `LD_LIBRARY_PATH`, as given.
    pub library_path: Option<Vec<u8>>,
    /// Which CPU.
    pub cpu: Cpu,
}

impl LookupOptions {
    fn new(arguments: cli::LookupArgs) -> Result<LookupOptions, UsageError> {
        let cpu = match arguments.hwcaps.as_str() {
            "native" => Cpu::host(),
            "none" => Cpu::baseline(),
            "v2" | "v3" | "v4" => {
                Cpu::of_level(&format!("x86-64-{}", arguments.hwcaps)).unwrap_or_default()
            }
            level => Cpu::of_level(level)
                .ok_or_else(|| UsageError::NoSuchHwcapsLevel(level.to_owned()))?,
        };
        Ok(LookupOptions {
            library_path: arguments.library_path.map(OsStringExt::into_vec),
            cpu,
        })
    }
}

/// Options of `tree`.
#[derive(Debug)]
pub struct TreeOptions {
    /// Where.
    pub sysroot: Sysroot,
    /// The program or library, as its sysroot sees it. Whether it exists is for the resolver to say.
    pub elf: GuestPath,
    /// How the loader is configured.
    pub lookup: LookupOptions,
}

/// Options of `why`.
#[derive(Debug)]
pub struct WhyOptions {
    /// Where.
    pub sysroot: Sysroot,
    /// What is needed.
    pub soname: Vec<u8>,
    /// Who needs it.
    pub from: GuestPath,
    /// How the loader is configured.
    pub lookup: LookupOptions,
}

/// Options of `who-needs`.
#[derive(Debug)]
pub struct WhoNeedsOptions {
    /// Where.
    pub sysroot: Sysroot,
    /// What is needed.
    pub soname: Vec<u8>,
    /// Where the index is, if not in the sysroot.
    pub index_dir: Option<PathBuf>,
}

/// Options of `stats`.
#[derive(Debug)]
pub struct StatsOptions {
    /// Whose index.
    pub sysroot: Sysroot,
    /// Where the index is, if not in the sysroot.
    pub index_dir: Option<PathBuf>,
}

/// Options of `probes`.
#[derive(Debug)]
pub struct ProbesOptions {
    /// Where.
    pub sysroot: Sysroot,
    /// The program.
    pub program: GuestPath,
    /// How the loader is configured.
    pub lookup: LookupOptions,
}

/// Options of `bundle`.
#[derive(Debug)]
pub struct BundleOptions {
    /// Where the programs come from.
    pub from: Sysroot,
    /// What to bundle, as `from` sees it.
    pub programs: Vec<GuestPath>,
    /// Further files and directory trees, as `from` sees them.
    pub add: Vec<GuestPath>,
    /// Where the sysroot is made.
    pub into: PathBuf,
    /// Locales besides C.UTF-8.
    pub locales: Vec<Vec<u8>>,
    /// Packages beside the standard libraries of interpreters.
    pub site_packages: bool,
    /// NSS modules and configuration.
    pub nss: bool,
    /// Character set converters.
    pub gconv: bool,
    /// C.UTF-8.
    pub locale: bool,
    /// Standard libraries of interpreters.
    pub runtimes: bool,
    /// Write into a directory that holds files and no earlier bundle.
    pub force: bool,
}

/// Options of `ldcache`.
#[derive(Debug)]
pub struct LdcacheOptions {
    /// Where.
    pub sysroot: Sysroot,
    /// For these programs; for the whole sysroot if empty.
    pub programs: Vec<GuestPath>,
    /// Where the cache goes.
    pub output: LdcacheOutput,
}

/// Value of `ldcache -o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdcacheOutput {
    /// `ld.so.cache` in the store of the sysroot.
    Store,
    /// The standard output.
    Stdout,
    /// This file.
    File(PathBuf),
}

/// Options of `completions`.
#[derive(Debug)]
pub struct CompletionsOptions {
    /// The shell.
    pub shell: Shell,
}

/// Options of `man`.
#[derive(Debug)]
pub struct ManOptions {
    /// Directory for the pages.
    pub into: PathBuf,
}

impl Request {
    /// Compares what was typed with what is there.
    ///
    /// # Errors
    /// [`UsageError`] where it does not fit.
    pub fn from_command(command: Command) -> anyhow::Result<Request> {
        Ok(match command {
            Command::Build(arguments) => {
                let sysroot = Sysroot::open(&arguments.sysroot)?;
                if !arguments.only.is_empty() && arguments.store.index_dir.is_some() {
                    let what = "--only makes sidecars, which lie in the sysroot, and --index-dir writes nothing there";
                    return Err(UsageError::Contradiction(what.into()).into());
                }
                let mut only = Vec::new();
                for dir in &arguments.only {
                    only.push(sysroot.directory(dir)?);
                }
                only.sort();
                only.dedup();
                Request::Build(BuildOptions {
                    sysroot,
                    jobs: jobs(&arguments.jobs),
                    index_dir: arguments.store.index_dir,
                    preserve_mtime: arguments.preserve_mtime,
                    full: arguments.full,
                    only,
                    patch: !arguments.no_patch,
                    wait: !arguments.no_wait,
                    attributes: arguments.attributes.attributes,
                })
            }
            Command::Seal(arguments) => Request::Seal(SealOptions {
                sysroot: Sysroot::open(&arguments.sysroot)?,
                jobs: jobs(&arguments.jobs),
                index_dir: arguments.store.index_dir,
                patch: !arguments.no_patch,
                wait: !arguments.no_wait,
                attributes: arguments.attributes.attributes,
            }),
            Command::Verify(arguments) => Request::Verify(VerifyOptions {
                sysroot: Sysroot::open(&arguments.sysroot)?,
                jobs: jobs(&arguments.jobs),
                index_dir: arguments.store.index_dir,
            }),
            Command::Clean(arguments) => Request::Clean(CleanOptions {
                sysroot: Sysroot::open(&arguments.sysroot)?,
                index_dir: arguments.store.index_dir,
            }),
            Command::Show(arguments) => {
                let path = arguments.path;
                if let Err(error) = path.symlink_metadata() {
                    return Err(UsageError::NoSuchFile {
                        path,
                        why: error.to_string(),
                    }
                    .into());
                }
                Request::Show(ShowOptions {
                    path,
                    sites: arguments.sites,
                })
            }
            Command::Tree(arguments) => {
                let (sysroot, elf) =
                    sysroot::locate(arguments.lookup.sysroot.as_deref(), &arguments.elf)?;
                Request::Tree(TreeOptions {
                    sysroot,
                    elf,
                    lookup: LookupOptions::new(arguments.lookup)?,
                })
            }
            Command::Why(arguments) => {
                let (sysroot, from) =
                    sysroot::locate(arguments.lookup.sysroot.as_deref(), &arguments.from)?;
                let lookup = LookupOptions::new(arguments.lookup)?;
                Request::Why(WhyOptions {
                    sysroot,
                    soname: arguments.soname.into_vec(),
                    from,
                    lookup,
                })
            }
            Command::WhoNeeds(arguments) => Request::WhoNeeds(WhoNeedsOptions {
                sysroot: sysroot::given_or_above(
                    arguments.sysroot.as_deref(),
                    arguments.store.index_dir.is_some(),
                )?,
                soname: arguments.soname.into_vec(),
                index_dir: arguments.store.index_dir,
            }),
            Command::Stats(arguments) => Request::Stats(StatsOptions {
                sysroot: sysroot::given_or_above(
                    arguments.sysroot.as_deref(),
                    arguments.store.index_dir.is_some(),
                )?,
                index_dir: arguments.store.index_dir,
            }),
            Command::Probes(arguments) => {
                let (sysroot, program) =
                    sysroot::locate(arguments.lookup.sysroot.as_deref(), &arguments.program)?;
                Request::Probes(ProbesOptions {
                    sysroot,
                    program,
                    lookup: LookupOptions::new(arguments.lookup)?,
                })
            }
            Command::Bundle(arguments) => Request::Bundle(bundle(arguments)?),
            Command::Ldcache(arguments) => Request::Ldcache(ldcache(arguments)?),
            Command::Completions(arguments) => Request::Completions(CompletionsOptions {
                shell: arguments.shell,
            }),
            Command::Man(arguments) => Request::Man(ManOptions {
                into: arguments.into,
            }),
        })
    }
}

fn jobs(arguments: &cli::JobsArgs) -> NonZeroUsize {
    let given = arguments
        .jobs
        .and_then(|jobs| NonZeroUsize::new(jobs.into()));
    given
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

fn bundle(arguments: cli::BundleArgs) -> anyhow::Result<BundleOptions> {
    let from = Sysroot::open(&arguments.from)?;
    let mut programs = Vec::new();
    for program in &arguments.programs {
        programs.push(from.program(program)?);
    }
    let mut add = Vec::new();
    for path in &arguments.add {
        add.push(from.existing(path)?);
    }
    Ok(BundleOptions {
        from,
        programs,
        add,
        into: arguments.into,
        locales: arguments
            .locale
            .into_iter()
            .map(OsString::into_vec)
            .collect(),
        site_packages: arguments.site_packages,
        nss: !arguments.no_nss,
        gconv: !arguments.no_gconv,
        locale: !arguments.no_locale,
        runtimes: !arguments.no_runtimes,
        force: arguments.force,
    })
}

fn ldcache(arguments: cli::LdcacheArgs) -> anyhow::Result<LdcacheOptions> {
    let output = match arguments.output {
        None => LdcacheOutput::Store,
        Some(path) if path.as_os_str() == "-" => LdcacheOutput::Stdout,
        Some(path) => LdcacheOutput::File(path),
    };
    // A directory is a sysroot; whatever is not is a program, even where it does not exist, which is said later.
    if let ([target], None) = (arguments.targets.as_slice(), &arguments.sysroot)
        && target.is_dir()
    {
        return Ok(LdcacheOptions {
            sysroot: Sysroot::open(target)?,
            programs: Vec::new(),
            output,
        });
    }
    let mut sysroot: Option<Sysroot> = None;
    let mut programs = Vec::new();
    for target in &arguments.targets {
        let (found, program) = sysroot::locate(arguments.sysroot.as_deref(), target)?;
        if let Some(sysroot) = sysroot.as_ref().filter(|sysroot| **sysroot != found) {
            let what =
                format!("{sysroot} and {found} are two sysroots; one cache can only speak of one");
            return Err(UsageError::Contradiction(what).into());
        }
        sysroot = Some(found);
        programs.push(program);
    }
    let Some(sysroot) = sysroot else {
        return Err(UsageError::Contradiction("no program was given".into()).into());
    };
    Ok(LdcacheOptions {
        sysroot,
        programs,
        output,
    })
}
