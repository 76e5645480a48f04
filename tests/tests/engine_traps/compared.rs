//! What runs on a frozen tree tell each other: a directory that one of them has compared with its key is not compared by the next.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use elfuse_tests::scratch::shared;
use elfuse_tests::{elfuse_index, need};
use serde_json::Value;

use super::guest::{Guest, said};

/// A guest with an index of its own in its tree.
struct Tree(Guest);

impl Tree {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// `change` before the index is made.
    fn with(change: impl FnOnce(&Guest)) -> Self {
        let guest = Guest::new();
        guest.add_glibc();
        guest.add("patched", "bin/patched");
        change(&guest);
        let tree = Self(guest);
        tree.build();
        tree
    }

    fn build(&self) {
        let root = self.0.scratch.root().as_os_str();
        let line = ["build".as_ref(), "--quiet".as_ref(), root];
        elfuse_index!().run(line).ended_with(0);
    }

    fn command(&self, mode: &str, words: &[&str]) -> Command {
        let options = ["--stats=json", "--coherence", mode];
        let line = [&["/bin/patched", "quiet"], words].concat();
        self.0.elfuse(&options, &line)
    }
}

/// How many directories a start asks the host about.
fn comparisons_of(mut command: Command) -> u64 {
    let said = said(&mut command);
    assert_eq!(said.status, 0, "{said:#?}");
    assert!(
        said.text
            .starts_with("open 1, missing -1 2, stat 0, access 0"),
        "{said:#?}"
    );
    let report: Value = serde_json::from_str(&said.errors).expect("one JSON document");
    report["verdicts"]["validated"].as_u64().expect("a count")
}

fn comparisons(tree: &Tree, mode: &str) -> u64 {
    comparisons_of(tree.command(mode, &["lookups"]))
}

/// The file that runs tell each other by.
fn board(tree: &Tree) -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    shared(tree.0.scratch.root(), user, "-compared")
}

#[test]
fn a_frozen_tree_is_compared_by_its_first_start_alone() {
    let tree = Tree::new();
    let board = board(&tree);
    assert!(comparisons(&tree, "frozen") > 0);
    assert!(board.exists());
    assert_eq!(comparisons(&tree, "frozen"), 0);
    for mode in ["lease", "strict"] {
        assert!(comparisons(&tree, mode) > 0, "{mode}");
    }
}

#[test]
fn what_guests_change_and_another_index_make_a_frozen_tree_be_compared_anew() {
    let tree = Tree::new();
    let both = || (comparisons(&tree, "frozen"), comparisons(&tree, "frozen"));
    let (first, second) = both();
    assert!(first > 0 && second == 0, "{first} {second}");

    assert_eq!(
        said(&mut tree.command("lease", &["make", "/w/d/made"])).status,
        0
    );
    assert!(tree.0.scratch.path("w/d/made").is_dir());
    let (first, second) = both();
    assert!(first > 0, "a directory was made by a guest");
    // That one is not as its key says any more, so that it is looked at by each start which comes there.
    assert!(second <= 1, "{second}");

    tree.build();
    let (first, second) = both();
    assert!(first > 0 && second == 0, "another index: {first} {second}");
}

#[test]
fn a_board_that_others_may_write_to_or_that_is_no_file_is_not_believed() {
    let tree = Tree::new();
    let board = board(&tree);
    let all = comparisons(&tree, "frozen");
    assert_eq!(comparisons(&tree, "frozen"), 0);

    fs::set_permissions(&board, fs::Permissions::from_mode(0o622)).expect("its mode");
    assert_eq!(comparisons(&tree, "frozen"), all);
    assert_eq!(comparisons(&tree, "frozen"), all);
    fs::set_permissions(&board, fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_eq!(comparisons(&tree, "frozen"), 0);

    fs::remove_file(&board).expect("it is there");
    fs::create_dir(&board).expect("a directory in its place");
    let found = [(); 2].map(|()| comparisons(&tree, "frozen"));
    fs::remove_dir(&board).expect("it is empty");
    assert_eq!(found, [all; 2]);
}

#[test]
fn a_board_that_is_cut_or_damaged_costs_comparisons_and_nothing_else() {
    let tree = Tree::new();
    let board = board(&tree);
    let all = comparisons(&tree, "frozen");
    let whole = fs::read(&board).expect("it is there");
    for len in [0, 1, 40, 71, 72, whole.len() - 1] {
        let file = File::options()
            .write(true)
            .open(&board)
            .expect("it is there");
        file.set_len(len as u64).expect("it is cut");
        assert!((1..=all).contains(&comparisons(&tree, "frozen")), "{len}");
        assert_eq!(comparisons(&tree, "frozen"), 0, "{len}");
    }
    for at in 0..72 {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&board, &damaged).expect("it is there");
        assert_eq!(comparisons(&tree, "frozen"), all, "byte {at}");
    }
}

#[test]
fn a_directory_that_not_everybody_may_search_is_told_to_nobody() {
    let tree = Tree::with(|guest| {
        let private = guest.scratch.path("w/d");
        fs::set_permissions(private, fs::Permissions::from_mode(0o700)).expect("its mode");
    });
    let start = || {
        let mut command = tree.command("frozen", &["lookups", "make", "/w/d/missing/x"]);
        let said = said(&mut command);
        assert!(said.text.ends_with("make -1\n"), "{said:#?}");
        let report: Value = serde_json::from_str(&said.errors).expect("one JSON document");
        report["verdicts"]["validated"].as_u64().expect("a count")
    };
    assert!(start() > 1);
    assert_eq!(
        [start(), start()],
        [1, 1],
        "who else may search it is for the host to say"
    );
}

#[test]
fn a_guest_that_may_write_no_files_is_sent_no_signal_for_the_board() {
    let tree = Tree::new();
    let board = board(&tree);
    // Makes the generation, without which there is no board.
    comparisons(&tree, "lease");
    let line = ["/bin/patched", "quiet", "lookups"];
    let start = || {
        // Not with `--stats`, which are kept in a file.
        let run = tree.0.elfuse(&["--coherence", "frozen"], &line);
        let mut limited = Command::new(need::tool("prlimit", "util-linux"));
        limited.arg("--fsize=0").arg("--").arg(run.get_program());
        limited.args(run.get_args()).env_clear();
        assert!(said(&mut limited).well().starts_with("open 1, "));
    };
    start();
    assert!(!board.exists());
    assert!(comparisons(&tree, "frozen") > 0);
    start();
}

#[test]
fn with_an_index_elsewhere_that_others_need_not_know_of_nothing_is_told() {
    let tree = Tree::new();
    let board = board(&tree);
    let index = tree.0.scratch.beside("index");
    let root = tree.0.scratch.root().as_os_str();
    let line = [
        "build".as_ref(),
        "--quiet".as_ref(),
        "--index-dir".as_ref(),
        index.as_os_str(),
        root,
    ];
    elfuse_index!().run(line).ended_with(0);
    let index = index.to_str().expect("UTF-8");
    let options = [
        "--stats=json",
        "--coherence",
        "frozen",
        "--index-dir",
        index,
    ];
    let start = || {
        comparisons_of(
            tree.0
                .elfuse(&options, &["/bin/patched", "quiet", "lookups"]),
        )
    };
    let first = start();
    assert!(first > 0);
    assert_eq!(start(), first);
    assert!(!board.exists());
}

#[test]
fn what_runs_share_goes_with_the_tree_of_a_test() {
    let tree = Tree::new();
    let board = board(&tree);
    comparisons(&tree, "frozen");
    assert!(board.exists());
    drop(tree);
    assert!(!board.exists());
}
