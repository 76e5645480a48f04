//! `build` and `seal`: scan, write sidecars, assemble, wait, capture, publish.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use elfuse_format::keys::{self, Seal};
use elfuse_format::loader_cache::NewInput;
use elfuse_format::names;
use serde::Serialize;

use crate::assemble;
use crate::attributes;
use crate::copies::{self, Copies, CopiesMade};
use crate::error::UsageError;
use crate::exit::Exit;
use crate::index::Index;
use crate::options::{BuildOptions, SealOptions};
use crate::publish::{self, CaptureOptions, Captured, Input, SidecarsWritten};
use crate::report::{Output, Style, count, human_bytes};
use crate::scan::{self, Scan, ScanOptions, Trust};
use crate::store::{Lock, Store};
use crate::sys::{self, FileSystem, Root};
use crate::warning::{Warning, Warnings};

/// What `build` and `seal` share.
struct Job<'a> {
    command: &'static str,
    root: &'a Path,
    jobs: NonZeroUsize,
    index_dir: Option<&'a Path>,
    preserve_mtime: bool,
    wait: bool,
    patch: bool,
    /// Takes nothing over from an earlier index.
    full: bool,
    attributes: bool,
}

/// What was done, for people and as JSON.
#[derive(Debug, Serialize)]
struct Summary {
    sysroot: String,
    index: String,
    in_tree: bool,
    directories: u64,
    entries: u64,
    elf_files: u64,
    libraries: u64,
    programs: u64,
    directories_reused: u64,
    elf_files_reused: u64,
    sidecars_written: u64,
    sidecar_bytes: u64,
    store_bytes: u64,
    bytes_written: u64,
    unsealed_directories: BTreeMap<&'static str, u64>,
    unsealed_files: BTreeMap<&'static str, u64>,
    file_system: String,
    file_system_trusted: bool,
    unchanged: bool,
    /// Patched copies; none with `--no-patch`, and where nothing has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    patched: Option<CopiesMade>,
    seconds: Seconds,
}

/// Where the time went.
#[derive(Debug, Default, Serialize)]
struct Seconds {
    load: f64,
    scan: f64,
    write_sidecars: f64,
    assemble: f64,
    patch: f64,
    sync: f64,
    capture: f64,
    publish: f64,
    /// Everything but the racy wait.
    work: f64,
    racy_wait: f64,
}

/// `elfuse-index build`.
///
/// # Errors
/// If the sysroot cannot be read or the index not written.
pub fn run(options: &BuildOptions, out: &mut Output) -> anyhow::Result<Exit> {
    if !options.only.is_empty() {
        return only(options, out);
    }
    let job = Job {
        command: "build",
        root: options.sysroot.root(),
        jobs: options.jobs,
        index_dir: options.index_dir.as_deref(),
        preserve_mtime: options.preserve_mtime,
        wait: options.wait,
        patch: options.patch,
        full: options.full,
        attributes: options.attributes,
    };
    make(&job, out)
}

/// `elfuse-index seal`.
///
/// # Errors
/// If the sysroot cannot be read or the index not written.
pub fn seal(options: &SealOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let job = Job {
        command: "seal",
        root: options.sysroot.root(),
        jobs: options.jobs,
        index_dir: options.index_dir.as_deref(),
        preserve_mtime: false,
        wait: options.wait,
        patch: options.patch,
        // Keys prove nothing of a copy: every name and every ELF file's content is compared by reading it.
        full: true,
        attributes: options.attributes,
    };
    make(&job, out)
}

/// A pool of its own for each command, so that `--jobs` holds for all of it.
///
/// # Errors
/// If threads cannot be made.
pub fn in_pool<T: Send>(jobs: NonZeroUsize, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(jobs.get())
        .build();
    Ok(pool
        .with_context(|| format!("starting {jobs} threads"))?
        .install(work))
}

/// `build --only`: sidecars of some directories, and nothing that knows the rest of the tree.
fn only(options: &BuildOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let root = options.sysroot.root();
    let opened = Root::open(root).with_context(|| format!("opening {}", root.display()))?;
    let warnings = out.warnings();
    let tops: Vec<_> = options
        .only
        .iter()
        .map(|path| path.as_bytes()[1..].to_vec())
        .collect();
    let (scan, written) = in_pool(options.jobs, || -> anyhow::Result<_> {
        let scan_options = ScanOptions {
            trust: Trust::Nothing,
            warnings: &warnings,
            progress: &|_| {},
            only: &tops,
        };
        let scan = scan::scan(&opened, &scan_options)
            .with_context(|| format!("reading {}", root.display()))?;
        reached(&scan, &tops)?;
        let written = publish::write_sidecars(&opened, &scan, options.preserve_mtime, &warnings);
        Ok((scan, written))
    })??;
    let indexed = scan.dirs.iter().filter(|dir| dir.state == Seal::Sealed);
    let (directories, entries) = indexed.fold((0, 0), |(dirs, entries), dir| {
        (
            dirs + 1,
            entries + dir.names().map_or(0, |names| names.len() as u64),
        )
    });
    let answer = serde_json::json!({
        "sysroot": options.sysroot.to_string(),
        "directories": directories,
        "entries": entries,
        "sidecars_written": written.files,
        "sidecar_bytes": written.total_bytes,
    });
    if out.is_json() {
        out.json("build", &answer)?;
    } else if !out.is_quiet() {
        let line = format!(
            "{}, {}: {} written, {}",
            count(directories, "directory", "directories"),
            count(entries, "entry", "entries"),
            count(written.files, "sidecar", "sidecars"),
            human_bytes(written.total_bytes)
        );
        writeln!(out.text(), "{line}")?;
        writeln!(
            out.text(),
            "Only sidecars were made; `elfuse-index seal` on the target turns them into an index."
        )?;
    }
    // Elsewhere the store has what a sidecar would; here there is none.
    let all_written = warnings
        .reported()
        .iter()
        .all(|warning| warning.kind != Warning::SidecarNotWritten);
    Ok(if all_written {
        Exit::Success
    } else {
        Exit::Gaps
    })
}

/// Whether the walk came to every directory it was to begin at.
fn reached(scan: &Scan, tops: &[Vec<u8>]) -> Result<(), UsageError> {
    for top in tops {
        let found = scan.dirs.iter().find(|dir| *dir.path == **top);
        let why = match found.map(|dir| dir.state) {
            None => "a symlink is on the way; name the directory itself",
            Some(Seal::MountPoint) => "a mount point; its sysroot begins there",
            // Read, or a warning has said why not.
            Some(_) => continue,
        };
        return Err(UsageError::NoSuchFile {
            path: PathBuf::from(OsStr::from_bytes(&scan::guest(top))),
            why: why.into(),
        });
    }
    Ok(())
}

fn make(job: &Job<'_>, out: &mut Output) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let root = Root::open(job.root).with_context(|| format!("opening {}", job.root.display()))?;
    let store = Store::create(job.root, job.index_dir)?;
    let before = sys::fstat(root.fd())
        .with_context(|| format!("stat of {}", job.root.display()))?
        .identity;
    let lock = store.lock()?;
    if job.preserve_mtime && store.in_tree() && lock.made_the_store() {
        sys::restore_mtime(root.fd(), before.mtime)
            .with_context(|| format!("restoring the mtime of {}", job.root.display()))?;
    }
    let file_system =
        sys::file_system(root.fd()).with_context(|| format!("statfs of {}", job.root.display()))?;
    if !file_system.trusted {
        out.warn(Warning::UnknownFileSystem, b"/", &file_system.name);
    }
    let mut seconds = Seconds::default();
    let load = |out: &mut Output| match store.load() {
        Ok(index) => index,
        Err(error) => {
            out.note(format!(
                "The index there is cannot be used and is made anew: {:#}",
                anyhow::Error::from(error)
            ));
            None
        }
    };
    let earlier = if job.full { None } else { load(out) };
    seconds.load = began.elapsed().as_secs_f64();
    let summary = in_pool(job.jobs, || {
        Maker {
            job,
            root: &root,
            store: &store,
            lock: &lock,
            file_system: &file_system,
            earlier: earlier.as_ref(),
            began,
            seconds,
        }
        .make(out)
    })??;
    lock.reset_generation()?;
    print(job.command, &summary, out)?;
    Ok(Exit::Success)
}

struct Maker<'a> {
    job: &'a Job<'a>,
    root: &'a Root,
    store: &'a Store,
    lock: &'a Lock,
    file_system: &'a FileSystem,
    earlier: Option<&'a Index>,
    began: Instant,
    seconds: Seconds,
}

fn timed<T>(into: &mut f64, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    *into = began.elapsed().as_secs_f64();
    done
}

impl Maker<'_> {
    fn make(mut self, out: &mut Output) -> anyhow::Result<Summary> {
        let clock =
            || sys::file_system_clock(self.lock.file()).context("reading the file system's clock");
        let scan_began = clock()?;
        let stamp = self.stamp(out);
        let warnings = out.warnings();
        let progress = out.progress("reading", None);
        let trust = match self.earlier {
            Some(index) if index.keys().is_some() => Trust::Keys(index),
            _ => Trust::Nothing,
        };
        let scan_options = ScanOptions {
            trust,
            warnings: &warnings,
            progress: &|entries| progress.add(entries),
            only: &[],
        };
        let scan = timed(&mut self.seconds.scan, || {
            scan::scan(self.root, &scan_options)
        })
        .with_context(|| format!("reading {}", self.job.root.display()))?;
        let mut written = SidecarsWritten::default();
        if self.store.in_tree() {
            progress.say("writing");
            written = timed(&mut self.seconds.write_sidecars, || {
                publish::write_sidecars(self.root, &scan, self.job.preserve_mtime, &warnings)
            });
        }
        if let Some(index) = self.earlier
            && written.files == 0
            && scan.is_as_before()
            // What is to be recorded, or was, has no key that would tell whether it is still so.
            && stamp.is_none()
            && !index.has_attributes()
            && self.stands(&scan, index)
        {
            progress.clear();
            let store_bytes = index.loader_cache_bytes().len() as u64;
            return Ok(self.summary(&scan, written, None, store_bytes, None));
        }
        progress.say("resolving");
        let began = Instant::now();
        let closures = assemble::closures(&scan, self.root);
        let input = |input: &NewInput| (input.path[1..].to_vec(), input.content_hash);
        let inputs: Vec<_> = closures.inputs.iter().map(input).collect();
        let loader_cache =
            assemble::loader_cache(&scan, closures).context("assembling the loader cache")?;
        self.seconds.assemble = began.elapsed().as_secs_f64();
        let same_cache = self
            .earlier
            .is_some_and(|index| index.loader_cache_bytes() == loader_cache);
        if !same_cache {
            self.lock.publish(names::LOADER_CACHE, &loader_cache)?;
        }
        let copies = self.patch(&scan, &warnings, &progress)?;
        let waited = self.settle(&scan, &inputs, &written, &copies, &progress)?;
        let capture_options = CaptureOptions {
            scan_began,
            now: clock()?,
            inputs: &inputs,
            warnings: &warnings,
        };
        progress.say("sealing");
        let mut captured = timed(&mut self.seconds.capture, || {
            publish::capture(self.root, &scan, self.file_system, &capture_options)
        });
        captured.keys.bound_to = elfuse_format::loader_cache::LoaderCache::parse(&loader_cache)
            .context("reading back the loader cache")?
            .binding();
        if self.job.patch {
            captured.keys.flags |= keys::flags::WITH_COPIES;
            copies.capture(self.root, &scan, capture_options.now, &mut captured.keys);
        }
        if !self.file_system.trusted {
            captured.keys.flags |= keys::flags::FOREIGN_FILE_SYSTEM;
        }
        if self.file_system.unchangeable {
            captured.keys.flags |= keys::flags::UNCHANGEABLE_FILE_SYSTEM;
        }
        captured.keys.attributes = stamp.and_then(|stamp| {
            let found = attributes::capture(self.root, &scan, stamp);
            found
                .inspect_err(|error| {
                    out.note(format!("What stat returns is not recorded: {error}"))
                })
                .ok()
        });
        let keys = captured.keys.encode().context("encoding the keys")?;
        let began = Instant::now();
        self.lock.publish(names::KEYS, &keys)?;
        // Not before: up to now the keys that are replaced may have named them.
        let tidied = if self.job.patch {
            copies.tidy()
        } else {
            copies::remove_all(self.lock.dir())
        };
        if let Err(error) = tidied {
            warnings.add(Warning::NotRemoved, names::STORE, error);
        }
        self.seconds.publish = began.elapsed().as_secs_f64();
        self.seconds.racy_wait = waited.as_secs_f64();
        progress.clear();
        let store_bytes = (loader_cache.len() + keys.len()) as u64;
        let made = self.job.patch.then(|| copies.made());
        Ok(self.summary(&scan, written, Some(&captured), store_bytes, made))
    }

    /// Makes the patched copies that are not there.
    fn patch(
        &mut self,
        scan: &Scan,
        warnings: &Warnings,
        progress: &crate::report::Progress,
    ) -> anyhow::Result<Copies> {
        if !self.job.patch {
            return Ok(Copies::default());
        }
        progress.say("patching");
        let earlier = self
            .earlier
            .filter(|index| index.loader_cache().file().header().flags == assemble::RULES);
        let store = self.lock.dir();
        timed(&mut self.seconds.patch, || {
            Copies::make(self.root, store, scan, earlier, warnings)
        })
        .context("making patched copies")
    }

    /// Under which stamp attributes are to be recorded; `None`: they are not.
    fn stamp(&self, out: &mut Output) -> Option<u64> {
        if !self.job.attributes && !self.file_system.unchangeable {
            return None;
        }
        let stamp = match attributes::sees_all_users() {
            Ok(true) => self.lock.attribute_stamp(),
            Ok(false) => Err(anyhow::anyhow!(
                "in a user namespace of its own this process sees other owners than the files have"
            )),
            Err(error) => Err(error.into()),
        };
        stamp
            .inspect_err(|error| out.note(format!("What stat returns is not recorded: {error:#}")))
            .ok()
    }

    /// Whether what was computed from directories that have not changed would come out as it is: by the same rules, from
    /// configuration files that have not changed either.
    fn stands(&self, scan: &Scan, index: &Index) -> bool {
        let cache = index.loader_cache();
        let same_rules = cache.file().header().flags == assemble::RULES;
        let holds = |(number, (path, _)): (usize, (&[u8], _))| {
            let found = self.root.stat(path.get(1..).unwrap_or_default());
            found.is_ok_and(|found| index.input_key_holds(number, &found.identity))
        };
        let with_copies = index
            .keys()
            .is_some_and(|keys| keys.flags() & keys::flags::WITH_COPIES != 0);
        same_rules
            && with_copies == self.job.patch
            && copies::stand(self.root, scan, index, self.lock.dir())
            && cache
                .inputs()
                .is_ok_and(|inputs| inputs.rows().enumerate().all(holds))
    }

    /// Brings what was written to disk, and waits until time stamps prove something; the one goes on during the other.
    fn settle(
        &mut self,
        scan: &Scan,
        inputs: &[Input],
        written: &SidecarsWritten,
        copies: &Copies,
        progress: &crate::report::Progress,
    ) -> anyhow::Result<Duration> {
        let lock = self.lock.file();
        let now = sys::file_system_clock(lock).context("reading the file system's clock")?;
        let sync = |seconds: &mut f64| {
            timed(seconds, || sys::sync(lock)).context("syncing the file system")
        };
        let must_wait = self.job.wait
            && (written.files > 0
                || publish::has_racy(scan, now)
                || copies.has_racy(self.root, scan, now)
                || inputs.iter().any(|(path, _)| {
                    let found = self.root.stat(path);
                    found.is_ok_and(|found| publish::is_racy(&found.identity, now))
                }));
        if !must_wait {
            sync(&mut self.seconds.sync)?;
            return Ok(Duration::ZERO);
        }
        progress.say("settling");
        let mut sync_seconds = 0.0;
        let waited = std::thread::scope(|scope| {
            let syncing = scope.spawn(|| sync(&mut sync_seconds));
            let waited = publish::wait_out_racy(lock).context("reading the file system's clock")?;
            syncing.join().expect("syncing does not panic")?;
            anyhow::Ok(waited)
        })?;
        self.seconds.sync = sync_seconds;
        Ok(waited)
    }

    fn summary(
        mut self,
        scan: &Scan,
        written: SidecarsWritten,
        captured: Option<&Captured>,
        store_bytes: u64,
        patched: Option<CopiesMade>,
    ) -> Summary {
        let total = self.began.elapsed().as_secs_f64();
        self.seconds.work = total - self.seconds.racy_wait;
        let unsealed = |states: &BTreeMap<Seal, u64>| {
            let unsealed = states.iter().filter(|(state, _)| **state != Seal::Sealed);
            unsealed
                .map(|(state, number)| (seal_name(*state), *number))
                .collect()
        };
        let (mut libraries, mut programs) = (0, 0);
        for block in scan.dirs.iter().filter_map(|dir| dir.names()) {
            for elf in (0..block.elf_count()).filter_map(|i| block.elf(i)) {
                libraries += u64::from(elf.soname().is_some());
                programs += u64::from(elf.interpreter().is_some() && elf.soname().is_none());
            }
        }
        Summary {
            sysroot: self.job.root.display().to_string(),
            index: self.store.dir().display().to_string(),
            in_tree: self.store.in_tree(),
            directories: scan.dirs.len() as u64,
            entries: scan.entry_count(),
            elf_files: scan.elf_count(),
            libraries,
            programs,
            directories_reused: scan.dirs.iter().filter(|dir| dir.sealed).count() as u64,
            elf_files_reused: scan
                .dirs
                .iter()
                .flat_map(|dir| &dir.elves)
                .filter(|elf| elf.sealed)
                .count() as u64,
            sidecars_written: written.files,
            sidecar_bytes: written.total_bytes,
            store_bytes,
            bytes_written: written.bytes + if captured.is_some() { store_bytes } else { 0 },
            unsealed_directories: captured
                .map(|c| unsealed(&c.directories))
                .unwrap_or_default(),
            unsealed_files: captured.map(|c| unsealed(&c.files)).unwrap_or_default(),
            file_system: self.file_system.name.clone(),
            file_system_trusted: self.file_system.trusted,
            unchanged: captured.is_none(),
            patched,
            seconds: self.seconds,
        }
    }
}

/// For people.
#[must_use]
pub fn seal_name(state: Seal) -> &'static str {
    match state {
        Seal::Sealed => "sealed",
        Seal::Racy => "too young",
        Seal::Changed => "changed meanwhile",
        Seal::Unreadable => "unreadable",
        Seal::MountPoint => "mount point",
        Seal::TooLarge => "too many names",
        Seal::NotIndexed => "not indexed",
        Seal::AccessList => "access control list",
    }
}

fn print(command: &str, summary: &Summary, out: &mut Output) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(command, summary);
    }
    if out.is_quiet() {
        return Ok(());
    }
    let seconds = &summary.seconds;
    let mut lines = Vec::new();
    lines.push(format!(
        "{}, {}, {} ({}, {})",
        count(summary.directories, "directory", "directories"),
        count(summary.entries, "entry", "entries"),
        count(summary.elf_files, "ELF file", "ELF files"),
        count(summary.libraries, "library", "libraries"),
        count(summary.programs, "program", "programs"),
    ));
    if summary.unchanged {
        lines.push("nothing has changed; the index stands".to_owned());
    } else {
        lines.push(format!(
            "{} written: {} of {}, store {}",
            human_bytes(summary.bytes_written),
            count(summary.sidecars_written, "sidecar", "sidecars"),
            human_bytes(summary.sidecar_bytes),
            human_bytes(summary.store_bytes),
        ));
        if summary.directories_reused > 0 {
            lines.push(format!(
                "{} and {} not read again",
                count(summary.directories_reused, "directory", "directories"),
                count(summary.elf_files_reused, "ELF file", "ELF files"),
            ));
        }
    }
    if let Some(patched) = &summary.patched {
        lines.push(format!(
            "{} ({} written), {}: {} patched throughout, {} in part, {} not",
            count(patched.copies, "patched copy", "patched copies"),
            patched.written,
            human_bytes(patched.bytes),
            patched.complete,
            patched.partial,
            patched.unpatched,
        ));
    }
    for (what, states) in [
        ("directories", &summary.unsealed_directories),
        ("ELF files", &summary.unsealed_files),
    ] {
        for (state, number) in states {
            lines.push(out.paint(Style::Caution, format!("{number} {what} unsealed: {state}")));
        }
    }
    let place = PathBuf::from(&summary.index);
    lines.push(format!(
        "{:.2} s (reading {:.2}, writing {:.2}, resolving {:.2}, patching {:.2}, sealing {:.2}), racy wait {:.2} s apart; index in {}",
        seconds.work,
        seconds.scan,
        seconds.write_sidecars + seconds.publish,
        seconds.assemble,
        seconds.patch,
        seconds.capture,
        seconds.racy_wait,
        place.display(),
    ));
    for line in lines {
        writeln!(out.text(), "{line}")?;
    }
    Ok(())
}
