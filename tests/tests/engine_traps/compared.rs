//! What runs on a frozen tree tell each other: a directory that one of them has compared with its key is not compared by the next.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use elfuse_tests::scratch::shared;
use serde_json::Value;

use super::guest::said;
use super::patched::Indexed;

/// How many directories a start asks the host about. What it says is `Indexed::run`'s.
fn comparisons(indexed: &Indexed, mode: &str) -> u64 {
    let options = ["--stats=json", "--coherence", mode];
    let said = said(&mut indexed.command(&options, &["quiet", "lookups"]));
    assert_eq!(said.status, 0, "{said:#?}");
    assert_eq!(said.text, indexed.run(&["quiet", "lookups"]));
    let report: Value = serde_json::from_str(&said.errors).expect("one JSON document");
    report["verdicts"]["validated"].as_u64().expect("a count")
}

/// The file that runs tell each other by.
fn board(indexed: &Indexed) -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    shared(indexed.guest.scratch.root(), user, "-compared")
}

#[test]
fn a_frozen_tree_is_compared_by_its_first_start_alone() {
    let indexed = Indexed::new();
    let board = board(&indexed);
    assert!(comparisons(&indexed, "frozen") > 0);
    assert!(board.exists());
    assert_eq!(comparisons(&indexed, "frozen"), 0);
    for mode in ["lease", "strict"] {
        assert!(comparisons(&indexed, mode) > 0, "{mode}");
    }
}

#[test]
fn what_guests_change_and_another_index_make_a_frozen_tree_be_compared_anew() {
    let indexed = Indexed::new();
    let both = || {
        (
            comparisons(&indexed, "frozen"),
            comparisons(&indexed, "frozen"),
        )
    };
    let (first, second) = both();
    assert!(first > 0 && second == 0, "{first} {second}");

    said(&mut indexed.command(&[], &["quiet", "make", "/w/d/made"])).well();
    assert!(indexed.guest.scratch.path("w/d/made").is_dir());
    let (first, second) = both();
    assert!(first > 0, "a directory was made by a guest");
    // That one is not as its key says any more, so that it is looked at by each start which comes there.
    assert!(second <= 1, "{second}");

    indexed.build();
    let (first, second) = both();
    assert!(first > 0 && second == 0, "another index: {first} {second}");
}

#[test]
fn a_board_that_others_may_write_to_or_that_is_no_file_is_not_believed() {
    let indexed = Indexed::new();
    let board = board(&indexed);
    let all = comparisons(&indexed, "frozen");
    assert_eq!(comparisons(&indexed, "frozen"), 0);

    fs::set_permissions(&board, fs::Permissions::from_mode(0o622)).expect("its mode");
    assert_eq!(comparisons(&indexed, "frozen"), all);
    assert_eq!(comparisons(&indexed, "frozen"), all);
    fs::set_permissions(&board, fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_eq!(comparisons(&indexed, "frozen"), 0);

    fs::remove_file(&board).expect("it is there");
    fs::create_dir(&board).expect("a directory in its place");
    let found = [(); 2].map(|()| comparisons(&indexed, "frozen"));
    fs::remove_dir(&board).expect("it is empty");
    assert_eq!(found, [all; 2]);
}

#[test]
fn a_board_that_is_cut_or_damaged_costs_comparisons_and_nothing_else() {
    let indexed = Indexed::new();
    let board = board(&indexed);
    let all = comparisons(&indexed, "frozen");
    let whole = fs::read(&board).expect("it is there");
    for len in [0, 1, 40, 71, 72, whole.len() - 1] {
        let file = File::options()
            .write(true)
            .open(&board)
            .expect("it is there");
        file.set_len(len as u64).expect("it is cut");
        assert!(
            (1..=all).contains(&comparisons(&indexed, "frozen")),
            "{len}"
        );
        assert_eq!(comparisons(&indexed, "frozen"), 0, "{len}");
    }
    for at in 0..72 {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&board, &damaged).expect("it is there");
        assert_eq!(comparisons(&indexed, "frozen"), all, "byte {at}");
    }
}

#[test]
fn what_runs_share_goes_with_the_tree_of_a_test() {
    let indexed = Indexed::new();
    let board = board(&indexed);
    comparisons(&indexed, "frozen");
    assert!(board.exists());
    drop(indexed);
    assert!(!board.exists());
}
