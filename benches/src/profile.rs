//! Where the time of a start goes: samples by perf(1), sorted by what was being done, natively and by `elfuse run`, and how the two
//! differ.
//!
//! Sampling takes time itself, and more where the kernel is at work. So samples are taken as shares, of the time that the same starts
//! take without perf in the same run: what a row adds up to is the difference that was measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cli::StartOptions;
use crate::ground::{Ground, Root};
use crate::namespace::said;
use crate::report::{Report, Section, Table, number};
use crate::start::programs::{self, Program, Tree};
use crate::turns::{self, Expected, Pinned, Rounds, Side};
use crate::workspace::Workspace;

/// Name of the section and of the file of results.
pub const NAME: &str = "profile";

/// Samples a second. What a start does in less than a tenth of a millisecond takes several starts to be seen.
const HERTZ: u32 = 10_000;
/// How many seconds of either way are sampled, in so many turns.
const SECONDS: f64 = 4.0;
const TURNS: usize = 4;

/// The shell that starts a command `$1` times. Its own samples are left out by its name.
const LOOP: &str =
    "n=$1; shift; while [ $n -gt 0 ]; do \"$@\" >/dev/null 2>&1 </dev/null; n=$((n-1)); done";
const SHELL: &str = "sh";

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Own,
    Faults,
    Paths,
    Memory,
    Processes,
    OtherCalls,
    Library,
    Program,
    Rest,
}

impl Kind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Own, "elfuse's own code"),
        (Self::Faults, "page faults"),
        (Self::Paths, "calls with paths"),
        (Self::Memory, "calls about memory"),
        (Self::Processes, "exec, fork, exit"),
        (Self::OtherCalls, "other calls"),
        (Self::Library, "libc and ld.so"),
        (Self::Program, "the program's code"),
        (Self::Rest, "interrupts, unknown"),
    ];

    /// Of a sample: its frames, innermost first, each a symbol and the file that it is of.
    fn of(frames: &[(&str, &str)]) -> Option<Self> {
        let (_, file) = frames.first()?;
        if !file.contains("kernel") {
            let name = file.rsplit('/').next().unwrap_or_default();
            // Patched copies are named after the content of their originals.
            let is_copy = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            return Some(match name {
                "elfuse" => Self::Own,
                "libc.so.6" | "ld-linux-x86-64.so.2" => Self::Library,
                _ if is_copy => Self::Library,
                _ => Self::Program,
            });
        }
        let has = |text: &str| frames.iter().any(|(symbol, _)| symbol.contains(text));
        if has("exc_page_fault") {
            return Some(Self::Faults);
        }
        let call = frames
            .iter()
            .rev()
            .find_map(|(symbol, _)| symbol.strip_prefix("__x64_sys_"));
        Some(match call {
            Some(
                "open" | "openat" | "openat2" | "newstat" | "newlstat" | "newfstatat" | "access"
                | "faccessat" | "faccessat2" | "readlink" | "readlinkat" | "statx" | "chroot"
                | "chdir",
            ) => Self::Paths,
            Some("mmap" | "munmap" | "mprotect" | "brk" | "madvise" | "mremap") => Self::Memory,
            Some(
                "execve" | "exit" | "exit_group" | "clone" | "clone3" | "vfork" | "fork" | "wait4",
            ) => Self::Processes,
            Some(_) => Self::OtherCalls,
            None if has("ret_from_fork") => Self::Processes,
            None if has("do_syscall_64") || has("entry_SYSCALL") => Self::OtherCalls,
            None => Self::Rest,
        })
    }
}

/// How many samples there are of each kind, and of each function of elfuse's.
#[derive(Debug, Default)]
struct Samples {
    by_kind: BTreeMap<Kind, u64>,
    own: BTreeMap<String, u64>,
}

impl Samples {
    /// Of what `perf script -F comm,ip,sym,dso` writes: for each sample a line with the process's name, one for each frame, and an empty
    /// one.
    ///
    /// ```text
    /// true
    ///      ffffffff81b6ccb0 exc_page_fault+0x70 ([kernel.kallsyms])
    ///          6f0000017dba elfuse_runtime::vfs::quick::quick+0x1a (/bin/elfuse)
    /// ```
    fn add(&mut self, script: &str) {
        for sample in script.split("\n\n") {
            let mut lines = sample.trim().lines();
            if lines.next().is_none_or(|name| name.trim() == SHELL) {
                continue;
            }
            let frames: Vec<_> = lines.filter_map(frame).collect();
            let Some(kind) = Kind::of(&frames) else {
                continue;
            };
            *self.by_kind.entry(kind).or_default() += 1;
            if kind == Kind::Own {
                *self.own.entry(frames[0].0.to_owned()).or_default() += 1;
            }
        }
    }

    fn share(&self, kind: Kind) -> f64 {
        let all: u64 = self.by_kind.values().sum();
        self.by_kind.get(&kind).copied().unwrap_or(0) as f64 / all.max(1) as f64
    }
}

/// Symbol and file of a frame.
fn frame(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, file) = rest.trim_end().strip_suffix(')')?.rsplit_once(" (")?;
    let symbol = symbol.rsplit_once("+0x").map_or(symbol, |(name, _)| name);
    Some((symbol, file))
}

/// A program, natively and by elfuse.
struct Profiled {
    program: &'static Program,
    /// Seconds of a start, median.
    seconds: [f64; 2],
    samples: [Samples; 2],
}

impl Profiled {
    /// Microseconds of a start that are of this kind.
    fn us(&self, way: usize, kind: Kind) -> f64 {
        self.seconds[way] * 1e6 * self.samples[way].share(kind)
    }
}

/// Profiles, and writes what was found.
///
/// # Errors
/// If a sysroot cannot be made, perf may not sample, or results cannot be written.
pub fn run(options: &StartOptions, workspace: &Workspace) -> anyhow::Result<Report> {
    let within = &options.within;
    let perf = perf()?;
    let ground = Ground::new(workspace, within.cache.as_deref())?;
    let command = "cargo run --release -p elfuse-benches -- profile";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let debian = ground.root("debian", &workspace.sysroot("debian")?)?;
    let made = ground.made(&debian)?;
    let made = ground.root("made", &made)?;
    let store = ground.root("store", &workspace.sysroot("store")?)?;
    let is_wanted = |program: &&'static Program| {
        let only = options.only.as_deref();
        program.at_most.is_some() && only.is_none_or(|text| program.name.contains(text))
    };
    let mut all = Vec::new();
    for program in programs::ALL.iter().filter(is_wanted) {
        eprintln!("{}", program.name);
        let root = match program.tree {
            Tree::Debian => &debian,
            Tree::Store => &store,
            Tree::Made => &made,
        };
        all.push(profile(&ground, root, program, &perf, within.rounds(20))?);
    }
    report.sections.push(section(&all));
    report.end();
    if options.only.is_some() || within.quick {
        eprint!("{}", report.markdown());
        eprintln!("written down with all programs and rounds only");
        return Ok(report);
    }
    report.write(&workspace.benches())?;
    Ok(report)
}

/// Finds perf(1).
fn perf() -> anyhow::Result<PathBuf> {
    let found = Command::new("perf")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    found.context("starting perf(1), which is in Debian's package linux-perf")?;
    Ok(PathBuf::from("perf"))
}

fn profile(
    ground: &Ground,
    root: &Root,
    program: &'static Program,
    perf: &Path,
    rounds: usize,
) -> anyhow::Result<Profiled> {
    let commands = || {
        [
            ground.chroot_exec(root, program.line),
            ground.elfuse_run(root, "lease", program.line),
        ]
    };
    let mut sides = commands().map(|command| Side {
        name: String::new(),
        command,
        expected: Expected::Success,
    });
    let rounds = Rounds {
        count: rounds,
        by_length: true,
        before: None,
    };
    let taken = turns::take(&mut sides, rounds)?;
    if let Some(fault) = taken.iter().find_map(|taken| taken.fault.as_ref()) {
        anyhow::bail!("{}: {fault}", program.name);
    }
    let seconds = [taken[0].seconds().p50, taken[1].seconds().p50];
    let starts = (SECONDS / seconds[0] / TURNS as f64).ceil().max(1.0) as usize;
    let _pinned = Pinned::to_one_processor()?;
    let mut samples = [Samples::default(), Samples::default()];
    for _ in 0..TURNS {
        for (samples, command) in samples.iter_mut().zip(commands()) {
            samples.add(&sampled(ground, perf, starts, &command)?);
        }
    }
    Ok(Profiled {
        program,
        seconds,
        samples,
    })
}

/// What perf says of so many starts.
fn sampled(ground: &Ground, perf: &Path, starts: usize, line: &Command) -> anyhow::Result<String> {
    let data = ground.scratch("profile")?.join("perf.data");
    let mut record = ground.command(perf);
    // -N: perf would make hard links to what it sees, which moves their ctime.
    record.args(["record", "-N", "-q", "-g", "-e", "cpu-clock", "-F"]);
    record.arg(HERTZ.to_string()).arg("-o").arg(&data);
    record.args(["--", SHELL, "-c", LOOP, SHELL]);
    record.arg(starts.to_string());
    record.arg(line.get_program()).args(line.get_args());
    record.stdout(Stdio::null()).stderr(Stdio::null());
    let status = record.status().with_context(|| format!("{record:?}"))?;
    anyhow::ensure!(status.success(), "{record:?}: {status}");
    let mut script = ground.command(perf);
    script.args([
        "script",
        "--no-inline",
        "-F",
        "comm,ip,sym,symoff,dso",
        "-i",
    ]);
    let script = said(script.arg(&data).stderr(Stdio::null()))?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

fn section(all: &[Profiled]) -> Section {
    let mut columns = vec!["", "native", "elfuse", "difference"];
    columns.extend(Kind::ALL.map(|(_, name)| name));
    let us = |value: f64| format!("{value:+.0}");
    let row = |it: &Profiled| {
        let [native, own] = it.seconds.map(|seconds| seconds * 1e6);
        let mut row = vec![it.program.name.to_owned(), number(native), number(own)];
        row.push(us(own - native));
        row.extend(Kind::ALL.map(|(kind, _)| us(it.us(1, kind) - it.us(0, kind))));
        row
    };
    let functions = |it: &Profiled| {
        let mut own: Vec<_> = it.samples[1].own.iter().collect();
        own.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let all: u64 = it.samples[1].by_kind.values().sum();
        let per = it.seconds[1] * 1e6 / all.max(1) as f64;
        let named = own
            .iter()
            .take(6)
            .map(|(name, count)| format!("`{}` {:.0}", last_of(name), **count as f64 * per));
        vec![
            it.program.name.to_owned(),
            named.collect::<Vec<_>>().join(", "),
        ]
    };
    Section {
        title: "What is different from a native start, and by how much".to_owned(),
        about: vec![format!(
            "Microseconds of a start, by chroot()+exec and by `elfuse run --coherence lease`: the medians without perf, and the shares of the samples of \
                 perf(1) at {HERTZ} Hz of some {SECONDS} s of starts of either way, in {TURNS} turns. What elfuse needs more has a plus. `libc and ld.so` \
                 has what CPUID takes natively; `calls about memory` what is populated, which is no page fault then; a call that elfuse makes for the guest \
                 is sorted like the guest's own."
        )],
        peer: String::new(),
        rows: Vec::new(),
        tables: vec![
            Table {
                title: "Where the difference lies, in us:".to_owned(),
                columns: columns.into_iter().map(str::to_owned).collect(),
                rows: all.iter().map(row).collect(),
            },
            Table {
                title: "The functions of elfuse's that take most, in us:".to_owned(),
                columns: vec![String::new(), "us".to_owned()],
                rows: all.iter().map(functions).collect(),
            },
        ],
        goals: Vec::new(),
    }
}

/// The last names of a path of Rust's.
fn last_of(symbol: &str) -> &str {
    let start = symbol
        .rmatch_indices("::")
        .nth(1)
        .map_or(0, |(at, _)| at + 2);
    &symbol[start..]
}

#[cfg(test)]
mod tests {
    use super::{Kind, Samples, last_of};

    const SCRIPT: &str = "\
true
\tffffffff81b6ccb0 clear_page_erms+0x10 ([kernel.kallsyms])
\tffffffff81b6ccb0 exc_page_fault+0x70 ([kernel.kallsyms])
\t    6f0000017dba elfuse_runtime::vfs::quick::quick+0x1a (/x/release/elfuse)

true
\t    6f0000017dba elfuse_runtime::vfs::quick::quick+0x1a (/x/release/elfuse)

sh
\t    6f0000017dba main+0x1a (/bin/dash)

true
\tffffffff817554ea filename_lookup+0x8a ([kernel.kallsyms])
\tffffffff817554ea __x64_sys_newfstatat+0x8a ([kernel.kallsyms])
\tffffffff817554ea do_syscall_64+0x8a ([kernel.kallsyms])
\t    7dcba65ce109 [unknown] (/i/text/0e0c431afddfc45a84457ea52073e0256f24f4c81c1eeeb8efa59e4388131e97)

true
\t    7dcba65ce109 [unknown] (/i/text/0e0c431afddfc45a84457ea52073e0256f24f4c81c1eeeb8efa59e4388131e97)

true
\t    55d99a96454b main+0x1 (/usr/bin/true)
";

    #[test]
    fn samples_are_sorted_by_what_was_being_done_and_those_of_the_shell_are_left_out() {
        let mut samples = Samples::default();
        samples.add(SCRIPT);
        let found: Vec<_> = samples.by_kind.into_iter().collect();
        let expected = [
            Kind::Own,
            Kind::Faults,
            Kind::Paths,
            Kind::Library,
            Kind::Program,
        ];
        assert_eq!(found, expected.map(|kind| (kind, 1)));
        let own: Vec<_> = samples.own.into_iter().collect();
        assert_eq!(own, [("elfuse_runtime::vfs::quick::quick".to_owned(), 1)]);
    }

    #[test]
    fn a_symbol_is_shown_by_its_last_two_names() {
        assert_eq!(last_of("elfuse_runtime::vfs::quick::quick"), "quick::quick");
        assert_eq!(last_of("memcpy"), "memcpy");
    }
}
