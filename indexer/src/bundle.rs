//! `elfuse-index bundle`: a sysroot made from programs of the running system.
//!
//! | module | what |
//! |---|---|
//! | `gather` | follows programs until nothing new turns up |
//! | `runtimes` | standard libraries of interpreters: a table |
//! | `libc` | what a C library opens by itself |
//! | `plan` | what the bundle will hold, and why |
//! | `copy` | carries the plan out |
//! | `check` | whether the bundle's programs load what they load here |

mod check;
mod closure;
mod compiled_in;
mod copy;
mod gather;
mod libc;
pub mod plan;
mod runtimes;
mod script;
mod source;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use elfuse_format::ld_so_cache::{self, in_file_order};
use serde::Serialize;

use self::check::Difference;
use self::copy::{Copied, Destination};
use self::gather::Gather;
use self::plan::{Because, Group, Plan, What};
use self::source::Source;
use crate::exit::Exit;
use crate::ldcache;
use crate::live::LiveTree;
use crate::options::BundleOptions;
use crate::report::{Bytes, Output, Style, count, human_bytes};

/// The only file of a bundle that is neither copied nor cut from one of the source's.
const LD_SO_CACHE: &[u8] = b"/etc/ld.so.cache";

/// Directories that a sysroot is expected to have, with their modes; what is in them belongs to the host or to a run.
const SKELETON: &[(&[u8], u32)] = &[
    (b"/dev", 0o755),
    (b"/etc", 0o755),
    (b"/proc", 0o755),
    (b"/root", 0o700),
    (b"/run", 0o755),
    (b"/sys", 0o755),
    (b"/tmp", 0o1777),
    (b"/var", 0o755),
    (b"/var/tmp", 0o1777),
];

/// Symlinks at the top of most systems. Nothing that was bundled need lead through them, and yet `#!/bin/sh` must work.
const TOP_LEVEL_LINKS: &[&[u8]] = &[b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32"];

/// What one run of `bundle` did.
#[derive(Debug, Serialize)]
struct Report {
    into: Bytes,
    #[serde(flatten)]
    copied: Copied,
    /// What was included, by reason.
    groups: Vec<GroupReport>,
    /// Everything, by path.
    entries: Vec<EntryReport>,
    /// Programs that load other files in the bundle than here.
    differences: Vec<Difference>,
}

#[derive(Debug, Serialize)]
struct GroupReport {
    group: Group,
    files: u64,
    bytes: u64,
    /// Who asked: the programs, libraries or runtimes. Whoever brought most comes first.
    of: Vec<Bytes>,
}

/// A group while it is counted.
#[derive(Debug, Default)]
struct Tally {
    files: u64,
    bytes: u64,
    of: BTreeMap<Bytes, u64>,
}

impl Tally {
    fn report(self, group: Group) -> GroupReport {
        let mut of: Vec<(Bytes, u64)> = self.of.into_iter().collect();
        of.sort_by_key(|&(_, files)| Reverse(files));
        let of = of.into_iter().map(|(name, _)| name).collect();
        GroupReport {
            group,
            files: self.files,
            bytes: self.bytes,
            of,
        }
    }
}

#[derive(Debug, Serialize)]
struct EntryReport {
    path: Bytes,
    kind: &'static str,
    because: Because,
}

/// Carries out `bundle`.
///
/// # Errors
/// A program is missing or cannot be read, or the bundle cannot be written.
pub fn run(options: &BundleOptions, out: &mut Output) -> anyhow::Result<Exit> {
    if !cfg!(target_os = "linux") && options.from.root() == std::path::Path::new("/") {
        anyhow::bail!(
            "bundle takes programs for Linux, and the running system is not Linux; give a Linux sysroot with --from DIR"
        );
    }
    let source = Source::open(&options.from);
    let source =
        source.with_context(|| format!("opening {} to take programs from", options.from))?;
    let progress = out.progress("looking", None);
    let Decided {
        plan,
        programs,
        has_glibc,
    } = decide(&source, options, out)?;
    progress.clear();

    let mut destination = Destination::prepare(&options.into, options.force)?;
    destination.carry_out(&plan, &source, out)?;
    let open_bundle = || {
        let tree = LiveTree::open(&options.into);
        tree.with_context(|| format!("opening the bundle {}", options.into.display()))
    };
    if has_glibc {
        // Of what is there now, not of the plan: an earlier run may have brought more.
        destination.write_into(LD_SO_CACHE, &loader_cache(&open_bundle()?, out)?)?;
    }
    // A tree remembers what it was asked, so the one from before the cache was written will not do.
    let differences = check::compare(source.tree(), &open_bundle()?, &programs)?;
    let report = Report::new(options, &plan, &source, destination.done(), differences);
    report.print(out)?;
    Ok(if report.differences.is_empty() {
        Exit::Success
    } else {
        Exit::No
    })
}

/// What to do.
struct Decided {
    plan: Plan,
    /// Paths of everything that is started.
    programs: Vec<Vec<u8>>,
    has_glibc: bool,
}

fn decide(source: &Source, options: &BundleOptions, out: &Output) -> anyhow::Result<Decided> {
    let mut gather = Gather::new(source, options, out);
    for program in &options.programs {
        gather.program(program.as_bytes())?;
    }
    for path in &options.add {
        gather.add(path.as_bytes())?;
    }
    libc::add(&mut gather)?;
    for (path, mode) in SKELETON {
        gather.plan.add(
            path,
            What::EmptyDirectory(*mode),
            &Because::new(Group::Skeleton, "every sysroot"),
        );
    }
    for path in TOP_LEVEL_LINKS {
        if source.is_symlink(path) {
            gather.want(path, &Because::new(Group::Skeleton, "every sysroot"));
        }
    }
    gather.warn_of_missing_libraries();
    let has_glibc = !gather.c_libraries.glibc.is_empty();
    Ok(Decided {
        plan: gather.plan,
        programs: gather.programs,
        has_glibc,
    })
}

/// `ld.so.cache` as `ldconfig -r` would write it for the bundle: the host's would name libraries that are not there.
fn loader_cache(bundle: &LiveTree, out: &Output) -> anyhow::Result<Vec<u8>> {
    let found = ldcache::scan::scan(
        bundle,
        &ldcache::scan::ScanOptions::default(),
        &out.warnings(),
    );
    ld_so_cache::write(in_file_order(found.rows), ldcache::GENERATOR)
        .context("putting the bundle's ld.so.cache together")
}

impl Report {
    fn new(
        options: &BundleOptions,
        plan: &Plan,
        source: &Source,
        copied: Copied,
        differences: Vec<Difference>,
    ) -> Report {
        let mut groups: BTreeMap<Group, Tally> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, entry) in plan.entries() {
            let size = match &entry.what {
                What::File(_) => source.metadata(path).map(|metadata| metadata.len()).ok(),
                What::Written(bytes) => Some(bytes.len() as u64),
                What::Directory | What::EmptyDirectory(_) | What::Symlink(_) => None,
            };
            if let Some(size) = size {
                let tally = groups.entry(entry.because.group).or_default();
                tally.files += 1;
                tally.bytes += size;
                *tally.of.entry(entry.because.of.clone()).or_default() += 1;
            }
            let kind = match entry.what {
                What::Directory | What::EmptyDirectory(_) => "directory",
                What::File(_) => "file",
                What::Symlink(_) => "symlink",
                What::Written(_) => "written",
            };
            entries.push(EntryReport {
                path: Bytes(path.to_vec()),
                kind,
                because: entry.because.clone(),
            });
        }
        let groups = groups
            .into_iter()
            .map(|(group, tally)| tally.report(group))
            .collect();
        let into = Bytes(options.into.as_os_str().as_bytes().to_vec());
        Report {
            into,
            copied,
            groups,
            entries,
            differences,
        }
    }

    fn print(&self, out: &mut Output) -> anyhow::Result<()> {
        if out.is_json() {
            return out.json("bundle", self);
        }
        if !out.is_quiet() {
            let copied = &self.copied;
            let headline = format!(
                "{}: {}, {}, {}, {}",
                self.into,
                count(
                    copied.files_written + copied.files_unchanged + copied.hard_links,
                    "file",
                    "files"
                ),
                count(copied.symlinks, "symlink", "symlinks"),
                count(copied.directories, "directory", "directories"),
                human_bytes(copied.bytes),
            );
            let headline = out.paint(Style::Bold, headline);
            writeln!(out.text(), "{headline}")?;
            if copied.files_unchanged > 0 {
                writeln!(
                    out.text(),
                    "  {} were up to date",
                    count(copied.files_unchanged, "file", "files")
                )?;
            }
            for group in &self.groups {
                let of = out.paint(Style::Dim, format!("for {}", some_of(&group.of)));
                let heading = group.group.heading();
                let files = count(group.files, "file", "files");
                writeln!(
                    out.text(),
                    "  {heading:14}{files:>13}{:>12}  {of}",
                    human_bytes(group.bytes)
                )?;
            }
        }
        for difference in &self.differences {
            let what = out.paint(Style::Bad, "different:");
            let program = &difference.program;
            writeln!(
                out.text(),
                "{what} {program} loads other files in the bundle than here"
            )?;
            for line in &difference.lines {
                writeln!(out.text(), "  {line}")?;
            }
        }
        if self.differences.is_empty() && !out.is_quiet() {
            writeln!(
                out.text(),
                "  every program loads the same files there as here"
            )?;
        }
        Ok(())
    }
}

/// The first few of many names.
fn some_of(names: &[Bytes]) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    if names.len() > SHOWN {
        shown.push(format!("{} more", names.len() - SHOWN));
    }
    shown.join(", ")
}
