//! Patched copies as `build`, `verify` and `show` treat them, on a sysroot with one library.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_format::header::{Kind, PartKind, Writer};
use elfuse_format::keys::Keys;
use elfuse_indexer::exit::Exit;
use elfuse_indexer::patch;
use elfuse_indexer::sys;
use serde_json::Value;
use support::elfuse_index;

fn snippets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/patch/snippets.s")
}

/// A library of the snippets, made with more flags and sources.
fn library(at: &Path, more: &[&str]) {
    let mut cc = Command::new("cc");
    cc.args([
        "-shared",
        "-nostdlib",
        "-Wl,-z,separate-code",
        "-Wl,--build-id=none",
    ]);
    let status = cc.args(more).arg(snippets()).arg("-o").arg(at).status();
    assert!(status.expect("a C compiler").success());
}

/// A sysroot on a file system whose times tell of changes; `None` where the build directory is not on one, as nothing is patched
/// there then.
struct Sysroot {
    dir: tempfile::TempDir,
}

impl Sysroot {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let found = sys::file_system(fs::File::open(dir.path()).unwrap()).unwrap();
        if !found.trusted || found.name == "tmpfs" {
            println!("SKIPPED: {} is on {}", dir.path().display(), found.name);
            return None;
        }
        fs::create_dir_all(dir.path().join("lib")).unwrap();
        library(&dir.path().join("lib/libsites.so"), &[]);
        Some(Self { dir })
    }

    fn run(&self, arguments: &[&str]) -> (Exit, Value) {
        let all = arguments.iter().map(AsRef::as_ref);
        let all = all.chain([self.dir.path().as_os_str()]);
        let (exit, text, notes) = elfuse_index(["--json".as_ref()].into_iter().chain(all));
        let answer = serde_json::from_str(&text);
        (
            exit,
            answer.unwrap_or_else(|error| panic!("{error}: {text}{notes}")),
        )
    }

    /// What a build says of copies.
    fn build(&self, more: &[&str]) -> Value {
        let (exit, answer) = self.run(&[&["build"], more].concat());
        assert_eq!(exit, Exit::Success, "{answer}");
        answer["patched"].clone()
    }

    fn text(&self) -> PathBuf {
        self.dir.path().join(".elfuse/text")
    }

    /// Names in the directory of the copies.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.text()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn copy(&self) -> PathBuf {
        let names = self.names();
        assert_eq!(names.len(), 1, "{names:?}");
        self.text().join(&names[0])
    }

    fn differences(&self) -> Vec<String> {
        let (_, answer) = self.run(&["verify"]);
        let rows = answer["differences"]
            .as_array()
            .unwrap_or_else(|| panic!("{answer}"));
        let text = |row: &Value| row["difference"].as_str().unwrap().to_owned();
        rows.iter().map(text).collect()
    }
}

/// What tells that a file was written again.
fn state(path: &Path) -> (u64, i64, i64) {
    let found = fs::metadata(path).unwrap();
    (found.ino(), found.ctime(), found.ctime_nsec())
}

#[test]
fn a_build_after_a_change_elsewhere_leaves_copies_as_they_are() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    let first = sysroot.build(&[]);
    assert_eq!(
        (&first["copies"], &first["written"]),
        (&1.into(), &1.into())
    );
    let before = state(&sysroot.copy());
    fs::write(sysroot.dir.path().join("lib/other"), "text").unwrap();
    let second = sysroot.build(&[]);
    assert_eq!(
        (&second["copies"], &second["written"]),
        (&1.into(), &0.into())
    );
    assert_eq!(state(&sysroot.copy()), before);
    // All is analysed anew, and the same comes of it.
    let third = sysroot.build(&["--full"]);
    assert_eq!(
        (&third["copies"], &third["written"]),
        (&1.into(), &0.into())
    );
    assert_eq!(state(&sysroot.copy()), before);
    assert_eq!(sysroot.differences(), [""; 0]);
}

#[test]
fn what_a_killed_build_left_goes_and_what_is_not_ours_stays() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    sysroot.build(&[]);
    let copy = sysroot.names().remove(0);
    let old = "ab".repeat(32);
    for name in [
        format!("{copy}.tmp"),
        format!("{old}.tmp"),
        old,
        "notes".into(),
    ] {
        fs::write(sysroot.text().join(name), "half of it").unwrap();
    }
    fs::write(sysroot.dir.path().join("lib/other"), "text").unwrap();
    sysroot.build(&[]);
    assert_eq!(sysroot.names(), [copy, "notes".to_owned()]);
}

#[test]
fn a_copy_that_was_tampered_with_is_found_and_made_again() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    sysroot.build(&[]);
    let copy = sysroot.copy();
    let good = fs::read(&copy).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&copy, &bad).unwrap();
    // Its key no longer holds, so it is believed by none, and is in the way of none.
    assert_eq!(sysroot.differences(), ["stale-copy"]);
    let again = sysroot.build(&[]);
    assert_eq!(again["written"], 1);
    assert_eq!(fs::read(&copy).unwrap(), good);
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(sysroot.differences(), [""; 0]);

    fs::remove_file(&copy).unwrap();
    assert_eq!(sysroot.differences(), ["stale-copy"]);
    sysroot.build(&[]);
    assert_eq!(fs::read(&copy).unwrap(), good);
}

#[test]
fn a_build_without_patching_removes_copies_and_one_with_it_makes_them() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    sysroot.build(&[]);
    assert_eq!(sysroot.build(&["--no-patch"]), Value::Null);
    assert_eq!(sysroot.names(), [""; 0]);
    assert_eq!(sysroot.build(&[])["written"], 1);
}

#[test]
fn a_copy_that_was_too_young_to_be_believed_is_by_the_next_build() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    // Everything else is old enough after this.
    sysroot.build(&["--no-patch"]);
    sysroot.build(&["--no-wait"]);
    sysroot.build(&[]);
    let (_, stats) = sysroot.run(&["stats"]);
    assert_eq!(stats["index"]["copies"], 1);
    let (_, unchanged) = sysroot.run(&["build"]);
    assert_eq!(unchanged["unchanged"], true);
}

#[test]
fn stats_and_keys_have_the_copies() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    sysroot.build(&[]);
    let bytes = fs::metadata(sysroot.copy()).unwrap().len();
    let (_, stats) = sysroot.run(&["stats"]);
    let index = &stats["index"];
    assert_eq!(
        (&index["copies"], &index["copy_bytes"]),
        (&1.into(), &bytes.into())
    );
    assert_eq!(index["texts_by_verdict"]["partial"], 1);
    let keys = sysroot.dir.path().join(".elfuse/keys");
    let (_, text, _) = elfuse_index(["--json".as_ref(), "show".as_ref(), keys.as_os_str()]);
    let keys: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&keys["texts"][0]["verdict"], &keys["texts"][0]["copy"]),
        (&"partial".into(), &0.into())
    );
    assert_eq!(keys["copies"][0]["content_hash"], sysroot.names()[0]);
    assert_eq!(keys["copies"][0]["size"], bytes);
}

/// Sites without their addresses, which are the linker's.
fn without_addresses(text: &str, path: &Path) -> String {
    let text = text.replace(path.to_str().unwrap(), "LIBRARY");
    let mut redacted = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find("0x") {
        let (before, after) = rest.split_at(at + 2);
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        redacted.push_str(before);
        // Distances from a function's start are ours, and `int 0x80` is.
        let is_ours = before.ends_with("+0x") || before.ends_with("int 0x");
        redacted.push_str(if is_ours { &after[..digits] } else { "…" });
        rest = &after[digits..];
    }
    redacted + rest
}

#[test]
fn sites_are_shown_with_what_is_done_about_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libsites.so");
    library(&path, &["-Wl,-soname,ld-test.so"]);
    let arguments = ["show".as_ref(), "--sites".as_ref(), path.as_os_str()];
    let (exit, text, notes) = elfuse_index(arguments);
    assert_eq!(exit, Exit::Success, "{notes}");
    insta::assert_snapshot!("sites", without_addresses(&text, &path));
    let (_, json, _) = elfuse_index(["--json".as_ref()].into_iter().chain(arguments));
    insta::assert_snapshot!("sites_as_json", without_addresses(&json, &path));
}

#[test]
fn programs_of_go_and_files_with_text_relocations_get_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let more = dir.path().join("more.s");
    let (go, textrel) = (
        ".section .gopclntab,\"a\"\n.quad 1\n",
        ".text\n.globl place\nplace: .quad place\n",
    );
    for (source, flags, why) in [
        (
            go,
            "-Wl,-z,text",
            Some("made by Go, whose stacks are small"),
        ),
        (textrel, "-Wl,-z,notext", Some("text relocations")),
        ("", "-Wl,-z,text", None),
    ] {
        fs::write(&more, source).unwrap();
        let path = dir.path().join("made.so");
        library(&path, &[flags, more.to_str().unwrap()]);
        let bytes = fs::read(&path).unwrap();
        let analysis = patch::analyse(&bytes).unwrap();
        assert_eq!(analysis.refusal, why);
        assert_eq!(analysis.copy(&[0; 32]).is_some(), why.is_none());
        assert_eq!(analysis.counts().patched > 0, why.is_none());
    }
}

/// Words that are relocated: six pages of them, three of zeros, four.
const RELOCATED: &str = r#"
    .data
    .balign 4096
    .ascii "the page before"
    .balign 4096
first:
    .rept 6 * 512
    .quad first
    .endr
    .zero 3 * 4096
    .rept 4 * 512
    .quad first
    .endr
    .section .note.GNU-stack, "", @progbits
"#;

/// A portable dump of Emacs as far as it is looked at: of six pages that are mapped to be written to, these are relocated.
fn dump(pages: std::ops::Range<u32>) -> Vec<u8> {
    const HOT: u32 = 6 * 4096;
    let mut bytes = b"DUMPEDGNUEMACS\0\0".to_vec();
    bytes.resize(48, 0);
    for number in [
        HOT,
        pages.len() as u32,
        HOT + 64,
        0,
        HOT + 64,
        0,
        0,
        0,
        0,
        0,
        HOT,
        HOT,
    ] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(HOT as usize, 0);
    bytes.extend(pages.flat_map(|page| (page * 1024).to_le_bytes()));
    bytes.resize(HOT as usize + 64, 0);
    bytes
}

#[test]
fn a_dump_has_a_row_of_its_own_while_it_is_as_it_was_read() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    let path = |name: &str| sysroot.dir.path().join("lib").join(name);
    let (file, keys) = (path("made.pdmp"), sysroot.dir.path().join(".elfuse/keys"));
    let rows = || -> Vec<_> {
        let line = ["--json".as_ref(), "show".as_ref(), keys.as_os_str()];
        let shown: Value = serde_json::from_str(&elfuse_index(line).1).unwrap();
        let texts = shown["texts"].as_array().unwrap().iter();
        let rows = texts.filter(|text| text["verdict"] == "data");
        rows.map(|row| (row["ino"].as_u64(), row["relocated"]["pages"].as_u64()))
            .collect()
    };
    let expected = |pages| [(Some(fs::metadata(&file).unwrap().ino()), Some(pages))];
    for name in ["made.pdmp", "dump"] {
        fs::write(path(name), dump(1..6)).unwrap();
    }
    fs::write(path("none.pdmp"), "no dump").unwrap();
    // Under two names it is one file.
    fs::hard_link(&file, path("same.pdmp")).unwrap();
    sysroot.build(&[]);
    assert_eq!(rows(), expected(5));
    let before = state(&keys);
    sysroot.build(&[]);
    assert_eq!(state(&keys), before, "nothing has changed");
    fs::write(path("other"), "text").unwrap();
    sysroot.build(&[]);
    assert_eq!(rows(), expected(5), "it is looked at again");
    let whole = fs::read(&keys).unwrap();
    // Fewer pages than there are, of a file with two names, which is looked at under one.
    let fewer = |bytes: &mut [u8]| {
        let number = bytes.chunks_exact_mut(4).find(|word| word[0] == 5)?;
        number[0] = 4;
        Some(())
    };
    fs::write(&keys, rewritten(&whole, fewer)).unwrap();
    assert_eq!(sysroot.differences(), ["wrong-copy"]);
    fs::write(&keys, rewritten(&whole, |_| None)).unwrap();
    sysroot.build(&[]);
    assert_eq!(rows(), expected(5), "nobody had looked");
    fs::write(&file, dump(2..6)).unwrap();
    sysroot.build(&[]);
    assert_eq!(rows(), expected(4));
    for name in ["made.pdmp", "same.pdmp"] {
        fs::remove_file(path(name)).unwrap();
    }
    sysroot.build(&[]);
    assert_eq!(rows(), []);
}

/// The keys with their relocated runs changed; `None`: without them.
fn rewritten(keys: &[u8], change: impl Fn(&mut [u8]) -> Option<()>) -> Vec<u8> {
    let keys = Keys::parse(keys).unwrap();
    let mut writer = Writer::new();
    let kinds = (0..64).filter_map(PartKind::from_number);
    for kind in kinds.filter(|kind| keys.file().has(*kind)) {
        let mut bytes = keys.file().part(kind).unwrap().to_vec();
        if kind != PartKind::RelocatedRuns || change(&mut bytes).is_some() {
            writer.part(kind, bytes);
        }
    }
    let bytes = writer.finish(Kind::Keys, keys.flags(), keys.bound_to());
    bytes.unwrap()
}

#[test]
fn the_pages_that_are_relocated_are_recorded_taken_over_and_verified() {
    let Some(sysroot) = Sysroot::new() else {
        return;
    };
    let source = sysroot.dir.path().join("relocated.s");
    fs::write(&source, RELOCATED).unwrap();
    let file = sysroot.dir.path().join("lib/librelocated.so");
    library(&file, &[source.to_str().unwrap()]);
    let bytes = fs::read(&file).unwrap();
    let before = bytes.windows(15).position(|at| at == b"the page before");
    let first = before.expect("the marker") as u64 / 4096 + 1;
    let keys = sysroot.dir.path().join(".elfuse/keys");
    let runs = || -> Vec<_> {
        let line = ["--json".as_ref(), "show".as_ref(), keys.as_os_str()];
        let shown: Value = serde_json::from_str(&elfuse_index(line).1).unwrap();
        let texts = shown["texts"].as_array().unwrap().iter();
        let runs = texts.map(|text| &text["relocated"]);
        let runs = runs.filter(|run| !run.is_null());
        runs.map(|run| (run["first"].as_u64(), run["pages"].as_u64()))
            .collect()
    };
    let expected = [(Some(first), Some(6))];
    sysroot.build(&[]);
    assert_eq!(runs(), expected);
    fs::write(sysroot.dir.path().join("lib/other"), "text").unwrap();
    sysroot.build(&[]);
    assert_eq!(runs(), expected, "what was known is taken over");
    // An index of before is one without runs, until the next build.
    let whole = fs::read(&keys).unwrap();
    fs::write(&keys, rewritten(&whole, |_| None)).unwrap();
    assert_eq!(runs(), []);
    assert_eq!(sysroot.differences(), [""; 0]);
    sysroot.build(&[]);
    assert_eq!(runs(), expected);
    // Fewer pages than there are.
    let fewer = |bytes: &mut [u8]| {
        let number = bytes.chunks_exact_mut(4).find(|word| word[0] == 6)?;
        number[0] = 5;
        Some(())
    };
    fs::write(&keys, rewritten(&fs::read(&keys).unwrap(), fewer)).unwrap();
    assert_eq!(sysroot.differences().len(), 1);
    // More than the file has: the keys contradict themselves.
    let more = |bytes: &mut [u8]| {
        let number = bytes.chunks_exact_mut(4).find(|word| word[0] == 6)?;
        number[3] = 1;
        Some(())
    };
    let wrong = rewritten(&whole, more);
    assert!(Keys::parse(&wrong).unwrap().check().is_err());
}
