//! `build` and `seal`: scan, write sidecars, assemble, wait, capture, publish.

mod only;
mod summary;

pub use self::summary::seal_name;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use elfuse_format::keys;
use elfuse_format::loader_cache::NewInput;
use elfuse_format::names;

use self::only::only;
use self::summary::{Seconds, Summary, print};
use crate::assemble;
use crate::attributes;
use crate::copies::{self, Copies};
use crate::exit::Exit;
use crate::index::Index;
use crate::options::{BuildOptions, SealOptions};
use crate::publish::{self, CaptureOptions, Input, SidecarsWritten};
use crate::report::Output;
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
}
