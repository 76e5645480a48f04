//! What a libc does for a program long after its dynamic linker has ended, in programs that never ran it: natively and from snapshots.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Once;

use elfuse_format::snapshot::counts::Refusal;
use elfuse_tests::need;

use super::guest::{Said, said, text};
use super::kept::Kept;

/// `cases/resident/features.c`, kept.
pub(crate) const FEATURES: &str = "/bin/features";
const EXCEPTIONS: &str = "/bin/exceptions";

/// A guest with `/bin/features`, which is kept, and the library that it loads.
pub(crate) fn features() -> Kept {
    let kept = Kept::without_snapshot();
    compile(&kept);
    kept.guest.add("features", "bin/features");
    kept.guest
        .add("libstatic-tls.so", "lib/x86_64-linux-gnu/libstatic-tls.so");
    // backtrace(3) loads it.
    kept.guest
        .add_of_host("/lib/x86_64-linux-gnu/libgcc_s.so.1");
    kept.add(&[FEATURES]);
    kept
}

fn compile(kept: &Kept) {
    static COMPILED: Once = Once::new();
    COMPILED.call_once(|| {
        let programs = kept.guest.programs;
        let pie = [
            "-pie",
            "-fPIE",
            "-g",
            "-rdynamic",
            "-fstack-protector-all",
            "-ldl",
        ];
        programs.compile("resident/features.c", "features", &pie);
        let shared = ["-shared", "-fPIC"];
        programs.compile("resident/static-tls.c", "libstatic-tls.so", &shared);
        programs.compile("resident/thrown.cpp", "libthrown.so", &shared);
        let libraries = format!("-L{}", text(&programs.directory));
        let linked = ["-pie", "-fPIE", &libraries, "-lthrown", "-ldl"];
        programs.compile("resident/exceptions.cpp", "exceptions", &linked);
    });
}

/// What a case says from its snapshot, which is what it says natively.
fn same(kept: &Kept, program: &str, words: &[&str], starts: u64) -> Said {
    let line = [&[program], words].concat();
    let native = kept.guest.native(&line);
    let before = kept.counts_of(program)[0];
    let restored = said(&mut kept.command(&[], &line));
    assert_eq!(native, restored, "the real kernel's answer is on the left");
    assert_eq!(kept.counts_of(program)[0], before + starts);
    restored
}

fn check(case: &str, starts: u64, says: &str) {
    let restored = same(&features(), FEATURES, &[case], starts);
    assert_eq!(restored.status, 7, "{restored:#?}");
    assert!(restored.text.contains(says), "{restored:#?}");
}

#[test]
fn libraries_with_static_tls_are_loaded_into_the_room_that_was_left_for_them() {
    check("static-tls", 1, "thread 105\nmain 101\n");
}

#[test]
fn threads_have_stacks_variables_and_ends_of_their_own() {
    check(
        "threads",
        1,
        "thread 1118\ncancelled 1, cleaned 1036, main 10\n",
    );
}

#[test]
fn a_mutex_is_given_up_when_its_owner_dies() {
    check("robust", 2, "child 9, owner dead 1\n");
}

#[test]
fn restartable_sequences_are_registered() {
    check("rseq", 1, "rseq 1, in a thread 1\n");
}

#[test]
fn functions_that_were_chosen_by_the_processor_do_what_they_ought_to() {
    check("strings", 1, "strings: 0 wrong\n");
}

#[test]
fn programs_are_forked_spawned_and_executed() {
    check("processes", 3, "spawned 6\n");
}

#[test]
fn constructors_and_what_is_called_at_the_end_have_their_turn() {
    check("ends", 1, "constructed 1\non exit 7\nat exit\ndestructed\n");
}

#[test]
fn jumps_and_contexts_lead_back() {
    check("jumps", 1, "out of a handler 1\nvisited 1\nvisited 2\n");
}

#[test]
fn a_stack_that_was_smashed_ends_the_program() {
    let smashed = same(&features(), FEATURES, &["smash"], 1);
    assert_eq!(smashed.status, -libc_sigabrt(), "{smashed:#?}");
    assert!(smashed.errors.contains("stack smashing detected"));
}

const fn libc_sigabrt() -> i32 {
    rustix::process::Signal::ABORT.as_raw()
}

#[test]
fn clocks_are_read_without_asking_the_host() {
    let kept = features();
    let line = [FEATURES, "clocks"];
    let traced = |command: Command| {
        let mut traced = Command::new(need::tool("strace", "strace"));
        traced
            .args(["-f", "-qq", "-e", "signal=none", "-e"])
            .arg("trace=clock_gettime,gettimeofday,time,exit_group")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear();
        let traced = said(&mut traced);
        assert!(
            traced.text.contains("backwards 0, since 2020 1"),
            "{traced:#?}"
        );
        // strace was at work.
        assert!(traced.errors.contains("exit_group(7)"), "{traced:#?}");
        (traced.errors.matches("time(").count(), traced)
    };
    // On a host whose clock source the vDSO cannot read, the real kernel is asked each time.
    let (natively, _) = traced(kept.guest.native_command(&line));
    let (asked, traced) = traced(kept.command(&[], &line));
    assert_eq!(kept.counts_of(FEATURES)[0], 1);
    assert!(
        asked <= natively + 10,
        "the vDSO was not used, natively {natively}: {traced:#?}"
    );
}

#[test]
fn secrets_are_each_processs_own_and_none_is_the_captures() {
    for options in [&[FEATURES][..], &["--fixed", FEATURES]] {
        let kept = features();
        kept.add(options);
        let snapshot = std::fs::read(kept.file(FEATURES, ".snap")).expect("the snapshot");
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let said = said(&mut kept.command(&[], &[FEATURES, "secrets"]));
            let mut secrets = said.text.lines().filter_map(|line| line.split_once(' '));
            let mut next = |name| {
                let (found, digits) = secrets.next().expect("a line");
                assert_eq!(found, name);
                bytes(digits)
            };
            let (random, canary, guard) = (next("random"), next("canary"), next("guard"));
            assert_eq!(canary[0], 0, "it ends strings");
            assert_eq!((&random[1..8], &random[8..]), (&canary[1..], &guard[..]));
            assert!(seen.insert(random.clone()), "the same twice: {random:02x?}");
            for secret in [&random, &canary, &guard] {
                let held = snapshot
                    .windows(8)
                    .any(|word| word == &secret[secret.len() - 8..]);
                assert!(!held, "{secret:02x?} is the snapshot's");
            }
        }
        assert_eq!(kept.counts_of(FEATURES)[0], 4);
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    let (pairs, _) = digits.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let pair = str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("hexadecimal digits")
    };
    pairs.iter().map(byte).collect()
}

#[test]
fn what_is_preloaded_is_loaded_and_no_snapshot_used() {
    let kept = features();
    let mut command = kept.command(&[], &[FEATURES, "lists"]);
    command.env("LD_PRELOAD", "libstatic-tls.so");
    let preloaded = said(&mut command);
    assert!(
        preloaded.text.contains("map libstatic-tls.so"),
        "{preloaded:#?}"
    );
    let counts = kept.counts_of(FEATURES);
    assert_eq!((counts[0], counts[Refusal::Environment as usize]), (0, 1));
}

#[test]
fn exceptions_pass_through_libraries_and_out_of_threads() {
    let kept = Kept::without_snapshot();
    compile(&kept);
    kept.guest.add("exceptions", "bin/exceptions");
    kept.guest
        .add("libthrown.so", "lib/x86_64-linux-gnu/libthrown.so");
    for library in ["libstdc++.so.6", "libgcc_s.so.1"] {
        let directories = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];
        let mut places = directories
            .map(|directory| format!("{directory}/{library}"))
            .into_iter();
        let place = places.find(|place| std::path::Path::new(place).exists());
        let at = format!("lib/x86_64-linux-gnu/{library}");
        kept.guest
            .add_file(place.expect("the library of this machine").as_ref(), &at);
    }
    kept.add(&[EXCEPTIONS]);
    let restored = same(&kept, EXCEPTIONS, &[], 1);
    assert_eq!(restored.status, 7, "{restored:#?}");
    assert!(
        restored
            .text
            .contains("of a library: 5 thrown by a library")
    );
    assert!(
        restored.text.ends_with("gone of a thread\ngone static\n"),
        "{restored:#?}"
    );
}
