//! `show`, `who-needs` and `stats` on a small sysroot.

mod support;

use std::fs;
use std::path::Path;

use elfuse_format::header::Kind;
use elfuse_indexer::exit::Exit;
use support::{Elf, Sysroot, elfuse_index};

/// Output without what differs from run to run: the temporary directory, times, inode and device numbers, and the checksums.
fn redacted(text: &str, root: &Path) -> String {
    let numbered = ["st_dev", "ino", "mtime", "ctime", "type", "id"];
    let is_checksum = |word: &str| {
        let word = word.trim_end_matches(',');
        word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let text = text.replace(root.to_str().unwrap(), "ROOT");
    let redact = |line: &str| {
        let mut words: Vec<&str> = Vec::new();
        for word in line.split(' ') {
            match words.last() {
                // A number is padded to a width, which is then no longer its own.
                Some(&"…") if word.is_empty() => {}
                Some(last) if numbered.contains(last) => words.push("…"),
                _ if is_checksum(word) => words.push("…"),
                _ => words.push(word),
            }
        }
        words.join(" ")
    };
    text.lines().map(redact).collect::<Vec<_>>().join("\n")
}

fn show(path: &Path) -> (Exit, String, String) {
    elfuse_index(["show".as_ref(), path.as_os_str()])
}

#[test]
fn a_sidecar_is_shown_with_facts_and_links() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let mut shown = String::new();
    for dir in ["", "usr/bin", "usr/lib", "etc", "srv/empty"] {
        let (exit, text, notes) = show(&sysroot.path().join(dir));
        assert_eq!(exit, Exit::Success, "{notes}");
        shown.push_str(&redacted(&text, sysroot.path()));
        shown.push('\n');
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn a_sidecar_is_shown_as_json_with_every_fact() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let path = sysroot.path().join("usr/bin/.elfuse-sidecar-index");
    let (_, text, _) = elfuse_index(["--json".as_ref(), "show".as_ref(), path.as_os_str()]);
    insta::assert_snapshot!(redacted(&text, sysroot.path()));
}

#[test]
fn keys_are_shown_with_the_paths_they_are_of() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let keys = sysroot.path().join(".elfuse/keys");
    let (exit, text, notes) = show(&keys);
    assert_eq!(exit, Exit::Success, "{notes}");
    insta::assert_snapshot!(redacted(&text, sysroot.path()));
    // Alone they are shown all the same.
    let alone = sysroot.path().join("keys-alone");
    fs::copy(&keys, &alone).unwrap();
    let (_, text, _) = show(&alone);
    assert!(text.contains("which does not lie beside them"), "{text}");
    assert!(!text.contains("/usr/lib"), "{text}");
}

#[test]
fn a_loader_cache_is_shown_with_directories_sonames_and_closures() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let (exit, text, notes) = show(&sysroot.path().join(".elfuse/loader-cache"));
    assert_eq!(exit, Exit::Success, "{notes}");
    insta::assert_snapshot!(redacted(&text, sysroot.path()));
}

#[test]
fn what_cannot_be_shown_is_refused_with_what_was_expected_and_found() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let sidecar = fs::read(sysroot.path().join("usr/bin/.elfuse-sidecar-index")).unwrap();
    let mut other_version = sidecar.clone();
    other_version[8] = 9;
    let mut flipped = sidecar.clone();
    flipped[80] ^= 1;
    let generation = elfuse_format::header::wrap(Kind::Generation, 0, b"");
    let cases: [(&str, &[u8]); 6] = [
        ("other-version", &other_version),
        ("flipped", &flipped),
        ("cut", &sidecar[..100]),
        ("empty", b""),
        ("text", b"what is this?\n"),
        ("generation", &generation),
    ];
    let mut refused = String::new();
    let paths = cases.map(|(name, bytes)| sysroot.write(name, bytes));
    let elf = sysroot.path().join("usr/bin/program");
    let unindexed = sysroot.path().join("unindexed");
    fs::create_dir(&unindexed).unwrap();
    for path in paths
        .into_iter()
        .chain([elf, unindexed, sysroot.path().join(".elfuse")])
    {
        let (exit, text, notes) = show(&path);
        assert_eq!((exit, text.as_str()), (Exit::Failure, ""));
        refused.push_str(&redacted(&notes, sysroot.path()));
        refused.push('\n');
    }
    insta::assert_snapshot!(refused);
}

fn who_needs(soname: &str, root: &Path) -> (Exit, String) {
    let root = root.to_str().unwrap();
    let (exit, text, _) = elfuse_index(["who-needs", soname, "--sysroot", root]);
    (exit, text)
}

#[test]
fn who_needs_is_right_without_an_index_with_one_and_with_an_outdated_or_broken_one() {
    let sysroot = Sysroot::new();
    let root = sysroot.path();
    let expected = "/usr/bin/program\n/usr/lib/liba.so.1.2\n2 files need libc.so.6\n";
    assert_eq!(
        who_needs("libc.so.6", root),
        (Exit::Success, expected.to_owned())
    );
    assert!(!root.join(".elfuse").exists(), "a question wrote an index");
    sysroot.build();
    assert_eq!(who_needs("libc.so.6", root).1, expected);
    // A new file, and one replaced under its name, with its old mtime.
    let program = root.join("usr/bin/program");
    let mtime = program.metadata().unwrap().modified().unwrap();
    let replaced = Elf {
        needed: &["liba.so.1", "libm.so.6"],
        ..Elf::default()
    };
    let file = fs::File::create(&program).unwrap();
    std::io::Write::write_all(&mut &file, &replaced.bytes()).unwrap();
    file.set_modified(mtime).unwrap();
    sysroot.write(
        "srv/late.so",
        &Elf {
            needed: &["libc.so.6"],
            ..Elf::default()
        }
        .bytes(),
    );
    let expected = "/srv/late.so\n/usr/lib/liba.so.1.2\n2 files need libc.so.6\n";
    assert_eq!(who_needs("libc.so.6", root).1, expected);
    fs::write(root.join(".elfuse/loader-cache"), b"rubbish").unwrap();
    let arguments = [
        "who-needs",
        "libc.so.6",
        "--sysroot",
        root.to_str().unwrap(),
    ];
    let (_, text, notes) = elfuse_index(arguments);
    assert_eq!(text, expected);
    let said = "The index cannot be used and is left aside: ROOT/.elfuse/loader-cache: too short: expected 64 bytes, found 7";
    assert_eq!(redacted(&notes, root).lines().next(), Some(said));
}

#[test]
fn nobody_needs_what_nobody_needs() {
    let sysroot = Sysroot::new();
    let expected = (Exit::No, "nothing needs libc.so\n".to_owned());
    // A prefix of a name is another name.
    assert_eq!(who_needs("libc.so", sysroot.path()), expected);
}

#[test]
fn stats_count_the_tree_and_the_index() {
    let sysroot = Sysroot::new();
    let stats = || {
        let (exit, text, notes) = elfuse_index(["stats".as_ref(), sysroot.path().as_os_str()]);
        assert_eq!(exit, Exit::Success, "{notes}");
        redacted(&text, sysroot.path())
    };
    let without = stats();
    assert!(
        without.contains("No index that can be used; make one with `elfuse-index build`."),
        "{without}"
    );
    sysroot.build();
    insta::assert_snapshot!(stats());
}

#[test]
fn stats_are_one_json_document_with_a_schema() {
    let sysroot = Sysroot::new();
    let (_, text, _) = elfuse_index([
        "--json".as_ref(),
        "stats".as_ref(),
        sysroot.path().as_os_str(),
    ]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["command"], "stats");
    assert_eq!(document["entries_by_kind"]["symlink"], 2);
    assert_eq!(document["most_needed"][0]["soname"], "libc.so.6");
    assert_eq!(document["longest_runpaths"][0]["directories"], 2);
    assert_eq!(document["broken_elf_files"], 1);
    assert!(document["index"].is_null());
}
