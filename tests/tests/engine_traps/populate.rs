//! Memory that is populated: what a program finds in it and what its calls return is the same with and without, and `--stats` says how much.

use std::process::Command;

use elfuse_tests::elfuse_index;
use serde_json::Value;

use super::guest::{Guest, said};

/// Pages of the tables in the program's and in the library's data.
const TABLE: u64 = 20;
/// A step of the heap, in pages.
const STEP: u64 = 33;

/// A portable dump of Emacs as far as the index looks at it: 300 pages to be written to, of which those from the 20th on are relocated.
fn dump() -> Vec<u8> {
    let mut bytes = b"DUMPEDGNUEMACS\0\0".to_vec();
    let (hot, rows) = (DUMP.1 * 4096, DUMP.0..DUMP.1);
    let tables = [hot, rows.end - rows.start, hot + 4096, 0, hot + 4096, 0];
    let numbers = tables.into_iter().chain([0, 0, 0, 0, hot, hot]);
    bytes.resize(48, 0);
    bytes.extend(numbers.flat_map(|number| (number as u32).to_le_bytes()));
    for at in bytes.len()..hot as usize {
        bytes.push((at / 4096 + at % 251) as u8);
    }
    bytes.extend(rows.flat_map(|page| (page as u32 * 1024).to_le_bytes()));
    bytes.resize(hot as usize + 4096, 0);
    bytes
}

/// First page of the dump that is relocated, and the end of them.
const DUMP: (u64, u64) = (20, 300);

/// A guest with a program and a library that have much to relocate, a dump under two names, and an index of it.
fn indexed() -> Guest {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("populated", "bin/populated");
    guest.add("libpopulated.so", "lib/libpopulated.so");
    for path in ["lib/made.pdmp", "lib/dump"] {
        std::fs::write(guest.scratch.path(path), dump()).expect("a dump");
    }
    let index = guest.scratch.beside("index");
    let line = [
        "build".as_ref(),
        "--quiet".as_ref(),
        "--index-dir".as_ref(),
        index.as_os_str(),
        guest.scratch.root().as_os_str(),
    ];
    elfuse_index!().run(line).ended_with(0);
    guest
}

fn command(guest: &Guest, options: &[&str], words: &[&str]) -> Command {
    let index = guest.scratch.beside("index");
    let index = ["--index-dir", index.to_str().expect("UTF-8")];
    guest.elfuse(
        &[&index, options].concat(),
        &[&["/bin/populated"], words].concat(),
    )
}

/// Whether the kernel populates memory when it is asked to; else a test of how much is left out.
fn populates(guest: &Guest) -> bool {
    let does = native(guest, &["ask"]) == "asked 0\n";
    if !does {
        eprintln!("LEFT OUT, as there is no MADV_POPULATE_WRITE (Linux 5.14): pages populated");
    }
    does
}

/// What it says, and how many pages were populated for relocations, for the heap, and because they were opened.
fn populated(guest: &Guest, options: &[&str], words: &[&str]) -> (String, [u64; 3]) {
    let run = said(&mut command(
        guest,
        &[&["--stats=json"], options].concat(),
        words,
    ));
    assert_eq!(run.status, 0, "{run:#?}");
    let report: Value = serde_json::from_str(&run.errors).expect("one JSON document");
    let pages = |why: &str| report["pages_populated"][why].as_u64().expect("a number");
    (run.text, ["relocated", "heap", "opened"].map(pages))
}

fn native(guest: &Guest, words: &[&str]) -> String {
    guest.native(&[&["/bin/populated"], words].concat()).well()
}

#[test]
fn what_the_dynamic_linker_relocates_is_populated_in_the_program_and_in_each_library() {
    let guest = indexed();
    if !populates(&guest) {
        return;
    }
    let (text, [without, ..]) = populated(&guest, &[], &["program"]);
    assert_eq!(text, "program 10240\n");
    assert!(without >= TABLE, "{without}");
    let (text, [with, ..]) = populated(&guest, &[], &["program", "library"]);
    assert_eq!(text, native(&guest, &["program", "library"]));
    // The table may share its first and last page with other words that are relocated.
    let of_library = with - without;
    assert!(
        (TABLE..TABLE + 4).contains(&of_library),
        "{with}, {without}"
    );
}

#[test]
fn what_of_a_dump_is_relocated_is_populated_while_it_is_the_one_that_was_looked_at() {
    let guest = indexed();
    if !populates(&guest) {
        return;
    }
    let (_, [without, ..]) = populated(&guest, &[], &["program"]);
    let of = |path: &str| {
        let (text, [with, ..]) = populated(&guest, &[], &["program", path]);
        assert_eq!(text, native(&guest, &["program", path]));
        assert!(text.ends_with(&format!("{path} 300 300\n")), "{text}");
        with - without
    };
    assert_eq!(of("/lib/made.pdmp"), DUMP.1 - DUMP.0);
    assert_eq!(of("/lib/dump"), 0, "it is not named like one");
    std::fs::write(guest.scratch.path("lib/made.pdmp"), dump()).expect("another dump");
    assert_eq!(of("/lib/made.pdmp"), 0);
}

#[test]
fn a_heap_that_is_used_up_is_populated_in_advance_from_its_second_step_on() {
    let guest = indexed();
    if !populates(&guest) {
        return;
    }
    let heap = |words: &[&str]| populated(&guest, &[], words);
    let (text, [_, pages, _]) = heap(&["heap"]);
    assert_eq!(text, "heap 0\n");
    // Half of the second step, and all from the third on.
    assert_eq!(pages, STEP / 2 + 6 * STEP);
    // A heap that has been shrunk was there before: of six steps three are new.
    let (text, [_, pages, _]) = heap(&["shrink"]);
    assert_eq!(text, "shrunk 0\n");
    assert_eq!(pages, STEP / 2 + 2 * STEP + 3 * STEP);
    // Parent and child each grow their own.
    let (text, [_, pages, _]) = heap(&["fork"]);
    assert_eq!(text, "forked 0 0\n");
    assert_eq!(pages, STEP / 2 + STEP + 2 * 3 * STEP);
}

#[test]
fn what_could_not_be_written_to_is_populated_when_it_can_once_for_each_mapping() {
    let guest = indexed();
    if !populates(&guest) {
        return;
    }
    let opened = |words: &[&str]| {
        let (text, [.., opened]) = populated(&guest, &[], words);
        assert_eq!(text, native(&guest, words));
        (text, opened)
    };
    // Starting takes none.
    assert_eq!(opened(&["program"]).1, 0);
    assert_eq!(opened(&["modules"]), ("modules 0 0\n".into(), 100));
    assert_eq!(opened(&["blocks"]), ("block 0\nblock 0\n".into(), 64));
}

#[test]
fn of_a_shared_file_nothing_is_populated_as_its_times_would_change() {
    let guest = indexed();
    let (text, [.., opened]) = populated(&guest, &[], &["shared"]);
    assert_eq!((text.as_str(), opened), ("shared 1\n", 0));
    assert_eq!(native(&guest, &["shared"]), text);
}

#[test]
fn nothing_is_populated_where_that_is_not_wanted_or_nothing_is_known_and_all_is_the_same() {
    let guest = indexed();
    let words = [
        "program",
        "library",
        "/lib/made.pdmp",
        "modules",
        "blocks",
        "shared",
        "heap",
        "shrink",
        "fork",
        "limited",
    ];
    let native = native(&guest, &words);
    let (text, pages) = populated(&guest, &[], &words);
    assert_eq!(text, native);
    if populates(&guest) {
        assert!(pages.iter().all(|pages| *pages > 0), "{pages:?}");
    }
    let (text, pages) = populated(&guest, &["--no-populate"], &words);
    assert_eq!((&text, pages), (&native, [0; 3]));
    // Nothing is known of files then, and no call but those with paths is seen.
    let (text, pages) = populated(&guest, &["--coherence", "off"], &words);
    assert_eq!((&text, pages), (&native, [0; 3]));
}

#[test]
fn a_guest_that_would_be_killed_for_advice_about_memory_gives_none() {
    let guest = indexed();
    for how in ["prctl", "seccomp"] {
        assert_eq!(
            said(&mut command(&guest, &[], &["heap", how])).well(),
            "heap 0\nforbidden 0\nlibrary 10240\n",
            "{how}"
        );
    }
}
