//! Runs a program up to where its dynamic linker is done, twice, and makes a snapshot of what both have in common.

mod head;
mod log;
mod point;
mod run;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use elfuse_format::snapshot::{Content, head_flags};

use super::image::{self, Image};
use super::{stopped, trace};
use run::Run;

/// What is to be captured.
#[derive(Debug, Clone)]
pub struct Request<'r> {
    /// `elfuse` itself.
    pub elfuse: &'r Path,
    /// The sysroot, symlinks resolved.
    pub sysroot: &'r Path,
    /// The program as `elfuse run` takes it.
    pub program: &'r OsStr,
    /// Whether it is always to lie where it was captured.
    pub is_fixed: bool,
}

/// A snapshot that was made.
#[derive(Debug)]
pub struct Captured {
    /// The program's path in the guest, symlinks resolved.
    pub exe: Vec<u8>,
    /// The file.
    pub bytes: Vec<u8>,
    /// How many files are mapped or were read.
    pub files: usize,
    /// How many pages are kept.
    pub pages: usize,
}

/// Files that were changed so short a time ago might change again without another time stamp.
const YOUNG: Duration = Duration::from_secs(2);

/// Captures a program.
///
/// # Errors
/// Why it cannot be kept.
pub fn capture(request: &Request<'_>) -> anyhow::Result<Captured> {
    let cpu = trace::any_cpu();
    let mut first = Run::start(request, cpu, &["first"], &[("ELFUSE_CAPTURE", "1")])?;
    let wait = first.files.identities.iter().map(age).min();
    if let Some(wait) = wait.and_then(|age| YOUNG.checked_sub(age)) {
        std::thread::sleep(wait + Duration::from_millis(10));
        first = Run::start(request, cpu, &["first"], &[("ELFUSE_CAPTURE", "1")])?;
        let youngest = first.files.identities.iter().map(age).min();
        ensure!(
            youngest.is_none_or(|age| age >= YOUNG),
            "a file that it is made of keeps changing; try again when it does not"
        );
    }
    let variables = [("ELFUSE_CAPTURE", "22"), ("ELFUSE_AGAIN", "333"), ("X", "")];
    let second = Run::start(request, cpu, &["second", "of", "two"], &variables)?;
    ensure!(
        first.log.lookups == second.log.lookups
            && first.files.identities == second.files.identities,
        "its files changed while it was being captured; try again"
    );
    let [one, other] = images(&first, &second)?;
    let common = image::compare(&one, &other)?;
    let flags = common.head_flags(first.entry)
        | if request.is_fixed {
            head_flags::FIXED
        } else {
            0
        };
    let head = first.head(flags)?;
    let content = Content {
        head,
        exe: &first.exe,
        files: first.files.identities.clone(),
        lookups: first.log.lookups.clone(),
        regions: common.regions,
        runs: common.runs,
        slides: common.slides,
        fix_ups: common.fix_ups,
        auxiliary: first.key_words(),
        pages: common.pages,
    };
    let bytes = content.to_bytes().context("writing the snapshot")?;
    Ok(Captured {
        exe: first.exe.clone(),
        bytes,
        files: content.files.len(),
        pages: content.slides.len(),
    })
}

fn age(file: &elfuse_format::snapshot::File) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let newest = file.mtime.max(file.ctime);
    let changed = Duration::new(u64::try_from(newest.secs).unwrap_or(0), newest.nanos);
    now.saturating_sub(changed)
}

fn images(first: &Run, second: &Run) -> anyhow::Result<[Image; 2]> {
    let runs = [first, second];
    let mut wanted = BTreeSet::new();
    for run in runs {
        wanted.extend(
            stopped::own_pages(&run.tracee, &run.mappings.all).context("reading its page map")?,
        );
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let image = |run: &Run| -> anyhow::Result<Image> {
        // Where the mappings differ in number, comparing says so.
        let all = &run.mappings.all;
        let there: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|(number, page)| {
                all.get(*number as usize)
                    .is_some_and(|mapping| u64::from(*page) * 4096 < mapping.end - mapping.start)
            })
            .collect();
        Ok(Image {
            mappings: all.clone(),
            pages: stopped::read_pages(&run.tracee, all, &there).context("reading its memory")?,
            objects: run.log.objects.clone(),
            values: run.values.clone(),
            vdso: run.mappings.vdso,
            rseq: (run.log.rseq[0], run.log.rseq[1]),
            ticks: run.ticks,
            loader: run.log.objects.get(1).copied().unwrap_or_default(),
        })
    };
    Ok([image(first)?, image(second)?])
}
