//! What the commands of `resident` print, as text and as JSON.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use elfuse_format::snapshot::counts::{LAST, Refusal, STARTS};
use elfuse_format::snapshot::{Outcome, Snapshot, head_flags};
use elfuse_runtime::text::Shown;
use serde_json::{Value, json};

use super::capture::Captured;
use super::store::Entry;

/// Version of the JSON documents: it grows when a member changes its meaning or goes, not when one is added.
const JSON_SCHEMA: u32 = 1;

/// A program that was to be kept.
#[derive(Debug)]
pub(super) struct Added {
    /// As it was named.
    pub(super) program: OsString,
    /// How it went.
    pub(super) kept: anyhow::Result<Captured>,
    /// How long that took.
    pub(super) took: Duration,
}

fn document(programs: Vec<Value>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{}",
        json!({ "schema": JSON_SCHEMA, "programs": programs })
    )
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Of `resident add`; what was not kept is said on standard error.
pub(super) fn added(done: &[Added], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let row = |added: &Added| {
            let name = added.program.to_string_lossy();
            let took = added.took.as_secs_f64() * 1000.0;
            match &added.kept {
                Ok(kept) => json!({
                    "program": name, "kept": true, "exe": lossy(&kept.exe), "bytes": kept.bytes.len(),
                    "files": kept.files, "pages": kept.pages, "capture_ms": took,
                }),
                Err(error) => {
                    json!({ "program": name, "kept": false, "reason": format!("{error:#}") })
                }
            }
        };
        return document(done.iter().map(row).collect(), out);
    }
    for added in done {
        match &added.kept {
            Ok(kept) => writeln!(
                out,
                "{}: {} files, {} pages of its own, {} KiB, captured in {} ms",
                Shown(&kept.exe),
                kept.files,
                kept.pages,
                kept.bytes.len() / 1024,
                added.took.as_millis()
            )?,
            Err(error) => eprintln!("elfuse: {} is not kept: {error:#}", added.program.display()),
        }
    }
    Ok(())
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        secs @ 0..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs @ 7200..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} d", secs / 86400),
    }
}

fn last(counts: &[u64]) -> Option<Refusal> {
    Refusal::from_number(*counts.get(LAST)?)
}

/// How often each reason kept the snapshot from being used.
fn refusals(counts: &[u64]) -> BTreeMap<&'static str, u64> {
    Refusal::ALL
        .into_iter()
        .map(|reason| (reason.name(), counts[reason as usize]))
        .filter(|(_, count)| *count != 0)
        .collect()
}

fn row(entry: &Entry) -> Value {
    let counts = entry.counts();
    let mut row = json!({
        "exe": entry.exe().to_string_lossy(), "snapshot": entry.path.to_string_lossy(), "bytes": entry.len(),
        "age_s": entry.age().as_secs(), "starts": counts[STARTS], "refusals": refusals(&counts),
        "last_refusal": last(&counts).map(Refusal::name),
    });
    match entry.snapshot() {
        Ok(snapshot) => {
            row["files"] = json!(snapshot.files.len());
            row["pages"] = json!(snapshot.page_count());
            row["fixed"] = json!(snapshot.head().flags & head_flags::FIXED != 0);
        }
        Err(error) => row["unusable"] = json!(format!("{error:#}")),
    }
    row
}

/// Of `resident list`.
pub(super) fn list(entries: &[Entry], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return document(entries.iter().map(row).collect(), out);
    }
    if entries.is_empty() {
        return writeln!(
            out,
            "nothing is kept; `elfuse resident add PROG` keeps a program"
        );
    }
    writeln!(
        out,
        "   KiB  files  pages      age  starts  refused  program"
    )?;
    for entry in entries {
        let counts = entry.counts();
        let refused: u64 = refusals(&counts).values().sum();
        let (files, pages) = entry.snapshot().map_or((0, 0), |snapshot| {
            (snapshot.files.len(), snapshot.page_count())
        });
        write!(
            out,
            "{:>6} {files:>6} {pages:>6} {:>8} {:>7} {refused:>8}  {}",
            entry.len() / 1024,
            age(entry.age()),
            counts[STARTS],
            entry.exe().display()
        )?;
        if let Err(error) = entry.snapshot() {
            write!(out, "  ({error:#})")?;
        } else if let Some(last) = last(&counts) {
            write!(out, "  (last: {})", last.text())?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn values(snapshot: &Snapshot<'_>) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for value in snapshot.fix_ups.iter().filter_map(|fix_up| fix_up.value()) {
        *found.entry(value.name()).or_default() += 1;
    }
    found
}

fn slides(snapshot: &Snapshot<'_>) -> u32 {
    (0..snapshot.page_count())
        .flat_map(|page| snapshot.slide(page))
        .map(u8::count_ones)
        .sum()
}

/// Of `resident show`.
pub(super) fn show(entry: &Entry, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let snapshot = entry.snapshot()?;
    let head = snapshot.head();
    let outcome = |lookup: &elfuse_format::snapshot::ArchivedLookup| match lookup.outcome() {
        Some(Outcome::File(number)) => format!("file {number}"),
        Some(Outcome::Error(errno)) => {
            io::Error::from_raw_os_error(errno.cast_signed()).to_string()
        }
        Some(Outcome::Directory) => "a directory".to_owned(),
        Some(Outcome::Other) => "no directory".to_owned(),
        None => "unknown".to_owned(),
    };
    if json {
        let mut row = row(entry);
        let lookups = snapshot.lookups.iter();
        row["lookups"] = lookups
            .map(|lookup| json!({ "path": lossy(snapshot.path(lookup)), "outcome": outcome(lookup) }))
            .collect();
        row["fix_ups"] = json!(values(&snapshot));
        row["moving_words"] = json!(slides(&snapshot));
        row["stack_limits"] = json!(head.stack_limits);
        writeln!(out, "{}", json!({ "schema": JSON_SCHEMA, "program": row }))?;
        return Ok(());
    }
    writeln!(out, "{}", entry.exe().display())?;
    writeln!(out, "  snapshot     {}", entry.path.display())?;
    let boot: String = head
        .boot_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    writeln!(
        out,
        "  bound to     boot {boot}, stack limit {}",
        head.stack_limits[0]
    )?;
    for word in snapshot.auxiliary {
        let (key, value) = (word.key.to_native(), word.value.to_native());
        writeln!(out, "               auxiliary word {key} = {value:#x}")?;
    }
    for lookup in snapshot.lookups {
        let path = Shown(snapshot.path(lookup));
        writeln!(out, "  lookup       {path}: {}", outcome(lookup))?;
    }
    let base = if head.flags & head_flags::FIXED != 0 {
        "fixed: at the same addresses at each start"
    } else {
        "random"
    };
    writeln!(out, "  addresses    {base}")?;
    let pages = snapshot.page_count();
    writeln!(
        out,
        "  pages        {pages}, {} regions, {} words that move",
        snapshot.regions.len(),
        slides(&snapshot)
    )?;
    for (name, count) in values(&snapshot) {
        writeln!(out, "  filled in    {name}: {count}")?;
    }
    Ok(())
}

/// Of `resident verify` and `prune`: each snapshot, and what is wrong with it.
pub(super) fn verdicts(
    entries: &[Entry],
    faults: &[Option<anyhow::Error>],
    well: &str,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if json {
        let row = |(entry, fault): (&Entry, &Option<anyhow::Error>)| {
            let fault = fault.as_ref().map(|fault| format!("{fault:#}"));
            json!({ "exe": entry.exe().to_string_lossy(), "fault": fault })
        };
        return document(entries.iter().zip(faults).map(row).collect(), out);
    }
    for (entry, fault) in entries.iter().zip(faults) {
        match fault {
            None => writeln!(out, "{}: {well}", entry.exe().display())?,
            Some(fault) => writeln!(out, "{}: {fault:#}", entry.exe().display())?,
        }
    }
    Ok(())
}
