//! Patched copies of what real distributions have: nothing that matters may be left out of a C library.

use std::fs;

use elfuse_format::text::TextVerdict;
use elfuse_indexer::patch::{self, Counts, Kind};
use elfuse_tests::sysroot;

/// Verdict and counts of a file of the Debian sysroot.
fn counts(path: &str) -> (TextVerdict, Counts) {
    let bytes = fs::read(sysroot::debian().join(path)).unwrap();
    let analysis = patch::analyse(&bytes).unwrap();
    let copy = analysis.copy(blake3::hash(&bytes).as_bytes());
    assert_eq!(copy.is_some(), analysis.counts().patched > 0, "{path}");
    (analysis.verdict(), analysis.counts())
}

#[test]
fn the_c_libraries_and_static_programs_of_debian_are_patched_throughout() {
    for (path, least) in [
        ("lib64/ld-linux-x86-64.so.2", 15),
        ("lib/x86_64-linux-gnu/libc.so.6", 130),
        ("lib/ld-musl-x86_64.so.1", 129),
        ("bin/busybox", 80),
    ] {
        let (verdict, counts) = counts(path);
        assert_eq!(verdict, TextVerdict::Complete, "{path}: {counts:?}");
        assert_eq!(counts.refused, 0, "{path}");
        assert!(counts.patched >= least, "{path}: {counts:?}");
        assert!(
            counts.ending_refused * 10 <= counts.ending,
            "{path}: {counts:?}"
        );
    }
}

#[test]
fn the_cpuid_sites_of_the_dynamic_linker_are_patched_and_those_of_libraries_left_alone() {
    let (_, linker) = counts("lib64/ld-linux-x86-64.so.2");
    assert!(linker.cpuid >= 36, "{linker:?}");
    let (_, library) = counts("lib/x86_64-linux-gnu/libc.so.6");
    assert_eq!(library.cpuid, 0);
}

#[test]
fn the_site_of_a_signal_frame_is_left_alone() {
    let path = sysroot::debian().join("lib/x86_64-linux-gnu/libc.so.6");
    let bytes = fs::read(path).unwrap();
    let analysis = patch::analyse(&bytes).unwrap();
    let frames = analysis
        .sites
        .iter()
        .filter(|site| site.kind == Kind::Syscall(Some(15)));
    let left = frames.inspect(|site| assert_eq!(site.outcome, patch::Outcome::Left));
    assert_eq!(left.count(), 1);
}
