#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
//! Counters of a run, and how they are printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;

use elfuse_runtime::sys::names;
use elfuse_runtime::text::{Buffered, Json, Shown};
use elfuse_runtime::trace::{
    Histogram, HostCalls, NUMBERS, Outcome, Populated, Reason, Report, Steps, TraceBits,
    is_failing_lookup,
};

const ENOENT: u16 = 2;
const EACCES: u16 = 13;
const EINVAL: u16 = 22;
const READ: usize = 0;
const OPENAT: usize = 257;
const NEWFSTATAT: usize = 262;
const READLINKAT: usize = 267;

fn text(print: impl FnOnce(&mut String) -> std::fmt::Result) -> String {
    let mut out = String::new();
    print(&mut out).expect("a string grows");
    out
}

fn parsed(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn counted() -> Histogram {
    let histogram = Histogram::new();
    histogram.start();
    for took_ns in [1_000, 2_000, 3_000] {
        histogram.record(OPENAT, took_ns, Outcome::PathFailed);
    }
    histogram.record(OPENAT, 40_000, Outcome::Done);
    histogram.record(READ, 900_049, Outcome::Done);
    histogram.record(READ, 51, Outcome::Failed);
    histogram.record(NEWFSTATAT, 6_000, Outcome::PathFailed);
    histogram.record(600, 7, Outcome::Done);
    histogram
}

static STEPS: Steps = Steps::new(&["options", "sysroot", "index", "map"]);

#[test]
fn the_histogram_puts_the_greatest_total_first_and_failing_path_calls_apart() {
    insta::assert_snapshot!(text(|out| counted().text(out, names::name)));
}

#[test]
fn the_histogram_as_json_has_the_same_rows() {
    let json = parsed(&text(|out| counted().json(out, names::name)));
    let rows = |member: &str| {
        let rows = json[member].as_array().expect("an array").clone();
        rows.into_iter()
            .map(|row| {
                let field = |name: &str| row[name].as_u64();
                (
                    row["call"].as_str().map(str::to_owned),
                    field("count").unwrap(),
                    field("failing"),
                    field("total_ns").unwrap(),
                    field("mean_ns").unwrap(),
                    field("max_ns").unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    let call = |name: &str| Some(name.to_owned());
    assert_eq!(
        rows("by_call"),
        [
            (call("read"), 2, Some(1), 900_100, 450_050, 900_049),
            (call("openat"), 4, Some(3), 46_000, 11_500, 40_000),
            (call("newfstatat"), 1, Some(1), 6_000, 6_000, 6_000),
            (None, 1, Some(0), 7, 7, 7),
        ]
    );
    // Of one total the lower number comes first.
    assert_eq!(
        rows("failing_path_calls"),
        [
            (call("openat"), 3, None, 6_000, 2_000, 3_000),
            (call("newfstatat"), 1, None, 6_000, 6_000, 6_000),
        ]
    );
}

#[test]
fn a_histogram_counts_only_between_start_and_freeze() {
    let histogram = Histogram::new();
    assert!(!histogram.enabled());
    histogram.record(READ, 1, Outcome::Done);
    histogram.start();
    assert!(histogram.enabled());
    histogram.record(OPENAT, 1, Outcome::Done);
    assert!(histogram.freeze());
    assert!(!histogram.freeze(), "only one call is told to print");
    histogram.record(READ, 1, Outcome::Done);
    histogram.start();
    assert!(!histogram.enabled(), "frozen is for good");
    histogram.record(READ, 1, Outcome::Done);
    let json = parsed(&text(|out| histogram.json(out, names::name)));
    assert_eq!(json["by_call"].as_array().unwrap().len(), 1);
    assert_eq!(json["by_call"][0]["call"], "openat");
}

#[test]
fn a_histogram_without_a_failing_path_call_has_one_table() {
    let histogram = Histogram::new();
    histogram.start();
    histogram.record(READ, 1, Outcome::Failed);
    let text = text(|out| histogram.text(out, names::name));
    assert!(text.contains("read") && !text.contains("path"), "{text}");
}

#[test]
fn threads_that_count_at_once_lose_nothing() {
    let histogram = Histogram::new();
    let calls = HostCalls::new();
    histogram.start();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (histogram, calls) = (&histogram, &calls);
            scope.spawn(move || {
                for took_ns in 0..10_000 {
                    histogram.record(OPENAT, took_ns + thread, Outcome::PathFailed);
                    calls.record(OPENAT, Some(ENOENT));
                }
            });
        }
    });
    assert_eq!(calls.totals(), (40_000, 40_000));
    let json = parsed(&text(|out| histogram.json(out, names::name)));
    let row = &json["failing_path_calls"][0];
    assert_eq!(row["count"], 40_000);
    assert_eq!(row["max_ns"], 10_002);
    let total_ns: u64 = (0..4_u64)
        .map(|thread| (0..10_000).map(|took_ns| took_ns + thread).sum::<u64>())
        .sum();
    assert_eq!(row["total_ns"], total_ns);
}

#[test]
fn steps_are_printed_in_the_order_of_their_times() {
    let steps = &STEPS;
    steps.start(1_000_000);
    steps.done(0, 1_010_000);
    steps.done(2, 1_130_500);
    steps.done(1, 1_030_000);
    steps.done(2, 9_999_999);
    steps.done(99, 5);
    insta::assert_snapshot!(text(|out| steps.text(out)));
    let json = parsed(&text(|out| steps.json(out)));
    assert_eq!(
        json,
        serde_json::json!([
            {"step": "options", "took_ns": 10_000, "at_ns": 10_000},
            {"step": "sysroot", "took_ns": 20_000, "at_ns": 30_000},
            {"step": "index", "took_ns": 100_500, "at_ns": 130_500},
        ])
    );
}

#[test]
fn steps_of_one_moment_are_all_printed() {
    let steps = Steps::new(&["b", "a"]);
    steps.start(7);
    steps.done(1, 7);
    steps.done(0, 7);
    let json = parsed(&text(|out| steps.json(out)));
    assert_eq!(json.as_array().unwrap().len(), 2, "{json}");
}

#[test]
fn host_calls_tell_failing_lookups_from_other_failures() {
    for (number, errno, expected) in [
        (OPENAT, ENOENT, true),
        (OPENAT, 20, true),
        (OPENAT, 40, true),
        (OPENAT, EACCES, false),
        (OPENAT, EINVAL, false),
        (READLINKAT, EINVAL, true),
        (89, EINVAL, true),
    ] {
        assert_eq!(
            is_failing_lookup(number, errno),
            expected,
            "{number} {errno}"
        );
    }
}

#[test]
fn a_report_is_a_table_or_a_json_document_of_one_line() {
    let calls = HostCalls::new();
    calls.record(OPENAT, None);
    calls.record(OPENAT, Some(ENOENT));
    calls.record(OPENAT, Some(EACCES));
    calls.record(READLINKAT, Some(EINVAL));
    let populated = Populated::new();
    populated.record(Reason::Heap, 33);
    populated.record(Reason::Heap, 16);
    let verdicts = [("hit", 812), ("stale", 0), ("asked \"host\"", 3)];
    let mut report = Report {
        verdicts: &verdicts,
        index_copied: [3, 4567],
        populated: &populated,
        host_calls: &calls,
        steps: None,
        histogram: None,
        call_name: names::name,
    };
    insta::assert_snapshot!(text(|out| report.text(out)));

    let histogram = counted();
    let steps = Steps::new(&["only"]);
    steps.done(0, 5);
    let short = text(|out| report.json(out));
    report.histogram = Some(&histogram);
    report.steps = Some(&steps);
    let long = text(|out| report.json(out));
    for json in [&short, &long] {
        assert_eq!(json.matches('\n').count(), 1);
        assert!(json.ends_with('\n'));
        let json = parsed(json);
        assert_eq!(json["schema"], 1);
        assert_eq!(
            json["verdicts"],
            serde_json::json!({"hit": 812, "stale": 0, "asked \"host\"": 3})
        );
        assert_eq!(
            json["pages_populated"],
            serde_json::json!({"relocated": 0, "heap": 49, "resident": 0, "opened": 0})
        );
        assert_eq!(json["host_calls"]["total"], 4);
        assert_eq!(json["host_calls"]["failing_lookups"], 2);
        assert_eq!(
            json["host_calls"]["by_call"][0],
            serde_json::json!({"call": "openat", "number": 257, "count": 3, "failing_lookups": 1})
        );
    }
    assert_eq!(parsed(&short).get("system_calls"), None);
    assert_eq!(parsed(&long)["system_calls"]["by_call"][0]["call"], "read");
    assert_eq!(parsed(&long)["steps"][0]["step"], "only");
}

#[test]
fn bits_survive_their_number_and_unknown_bits_do_not() {
    for bits in [
        TraceBits::NONE,
        TraceBits::STEPS,
        TraceBits::SYSCALLS,
        TraceBits::ALL,
    ] {
        assert_eq!(TraceBits::from_number(bits.number().into()), Some(bits));
    }
    for number in [4, 255, 256, u64::MAX] {
        assert_eq!(TraceBits::from_number(number), None);
    }
    assert!(TraceBits::ALL.has(TraceBits::STEPS));
    assert!(!TraceBits::STEPS.has(TraceBits::SYSCALLS));
}

#[test]
fn pieces_come_out_whole_and_in_order_whatever_the_size_of_the_buffer() {
    let pieces = ["a", "", "bcd", "efghijkl", "m", "nop"];
    for size in 0..12 {
        let mut writes: Vec<Vec<u8>> = Vec::new();
        let mut buffer = vec![0; size];
        let mut out = Buffered::new(&mut buffer, |bytes: &[u8]| writes.push(bytes.to_vec()));
        for piece in pieces {
            out.write_str(piece).unwrap();
        }
        drop(out);
        assert_eq!(writes.concat(), b"abcdefghijklmnop", "{size}");
        assert!(writes.iter().all(|write| !write.is_empty()), "{size}");
        if size >= 8 {
            assert!(writes.len() <= 3, "{size}: {writes:?}");
        }
    }
}

#[test]
fn text_is_shown_without_control_over_the_terminal_and_quoted_for_json() {
    assert_eq!(
        Shown("gr\u{fc}n\u{9b}\x1b[1m\n".as_bytes()).to_string(),
        "gr\u{fc}n\\xc2\\x9b\\x1b[1m\\x0a"
    );
    assert_eq!(Shown(b"a\xffb").to_string(), "a\\xffb");
    let odd = "\"quoted\" \\ \x01 \n \u{2028} gr\u{fc}n";
    assert_eq!(parsed(&Json(odd).to_string()), odd);
}

#[test]
fn names_of_system_calls_stand_at_the_numbers_of_this_machine_s_header() {
    let header = [
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "/usr/include/asm/unistd_64.h",
    ];
    let Some(header) = header
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
    else {
        eprintln!(
            "SKIPPED: no asm/unistd_64.h here; install linux-libc-dev (Debian) or kernel-headers"
        );
        return;
    };
    let theirs: BTreeMap<usize, &str> = header
        .lines()
        .filter_map(|line| {
            let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
            Some((number.trim().parse().ok()?, name))
        })
        .collect();
    assert!(theirs.len() > 300, "the header was not understood");
    let last = *theirs.keys().last().unwrap();
    for number in 0..=last.max(names::END) {
        match (names::name(number), theirs.get(&number)) {
            (Some(ours), Some(theirs)) => assert_eq!(ours, *theirs, "{number}"),
            (None, Some(theirs)) => assert!(number >= names::END, "{number} is {theirs}"),
            // An older kernel's header.
            (Some(_), None) => assert!(number > last || number == 335 || number == 336, "{number}"),
            (None, None) => {}
        }
    }
}

#[test]
fn names_are_in_order_and_unique_and_below_what_is_counted() {
    assert!(names::CALLS.is_sorted_by(|one, next| one.0 < next.0));
    let unique: BTreeMap<&str, u16> = names::CALLS
        .iter()
        .map(|&(number, name)| (name, number))
        .collect();
    assert_eq!(unique.len(), names::CALLS.len());
    const { assert!(names::END < NUMBERS) };
    assert_eq!(names::name(334), Some("rseq"));
    assert_eq!(names::name(337), None);
    assert_eq!(names::name(names::END), None);
    assert_eq!(names::name(usize::MAX), None);
}
