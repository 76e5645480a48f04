//! `elfuse doctor` and the other verbs, as programs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use elfuse_tools::doctor::sysroot::{Content, Generation, store, survey};
use elfuse_tools::doctor::{Check, State, sysroot};

fn tools(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_elfuse-tools"))
        .args(args)
        .env_remove("ELFUSE_SYSROOT")
        .env_remove("NO_COLOR")
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

/// Makes an index of `root`, sealed on this host: `build` waits until what was made a moment ago is old enough.
fn index(root: &Path, extra: &[&str]) {
    use clap::Parser;
    let mut arguments = vec!["elfuse-index", "build", root.to_str().unwrap()];
    arguments.extend(extra);
    let cli = elfuse_indexer::cli::Cli::parse_from(arguments);
    let request = elfuse_indexer::options::Request::from_command(cli.command).unwrap();
    let mut out = elfuse_indexer::report::Output::to_writers(
        Box::new(std::io::sink()),
        Box::new(std::io::sink()),
        false,
    );
    let exit = elfuse_indexer::run::run(&request, &mut out).unwrap();
    assert_eq!(exit.code(), 0);
}

fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("usr/bin/deep")).unwrap();
    fs::create_dir(tree.path().join("etc")).unwrap();
    fs::write(tree.path().join("etc/passwd"), "").unwrap();
    tree
}

fn of<'a>(checks: &'a [Check], id: &str) -> &'a Check {
    let check = checks.iter().find(|check| check.id == id);
    check.unwrap_or_else(|| panic!("no check {id} in {checks:?}"))
}

#[test]
fn the_doctor_says_of_each_item_how_it_is_and_ends_with_a_sum() {
    let output = tools(&["doctor"]);
    let text = stdout(&output);
    for part in [
        "Kernel\n",
        "CPU and clock\n",
        "Limits and policies\n",
        "seccomp RET_TRAP",
        "CPUID",
        "vDSO",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "no colour into a pipe: {text}");
    let fine = text.contains("Everything");
    assert_eq!(
        output.status.code(),
        Some(if fine { 0 } else { 1 }),
        "{text}"
    );
    assert!(
        tools(&["doctor", "--color=always"])
            .stdout
            .contains(&b'\x1b')
    );
}

#[test]
fn the_doctor_s_json_has_the_same_items_as_its_text() {
    let json: serde_json::Value =
        serde_json::from_slice(&tools(&["doctor", "--json"]).stdout).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["sysroot"], serde_json::Value::Null);
    let text = tools(&["doctor"]);
    let checks = json["checks"].as_array().unwrap();
    for check in checks {
        for member in ["id", "group", "what", "state", "found", "without"] {
            assert!(check[member].is_string(), "{member}: {check}");
        }
        assert!(stdout(&text).contains(check["what"].as_str().unwrap()));
    }
    let needed = checks.iter().any(|check| check["state"] == "needed");
    assert_eq!(json["fine"], !needed);
}

#[test]
fn a_sysroot_that_is_not_there_is_a_failed_check_and_no_failure() {
    let output = tools(&["doctor", "--sysroot", "/nonexistent\x1b[2J"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("Sysroot /nonexistent\\x1b[2J\n"), "{text}");
    assert!(text.contains("No such file"), "{text}");
    let file = tools(&["doctor", "--sysroot", "/etc/passwd"]);
    assert_eq!(file.status.code(), Some(1));
}

#[test]
fn the_sysroot_may_come_from_the_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_elfuse-tools"))
        .args(["doctor", "--json"])
        .env("ELFUSE_SYSROOT", "/")
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["sysroot"], "/");
}

#[test]
fn an_index_is_followed_from_its_making_to_its_loss() {
    let tree = tree();
    let root = tree.path();
    let look = || survey(root, None);
    let judged = || sysroot::judge(&look());

    assert_eq!(look().index.unwrap().content, Content::Nothing);
    let advice = of(&judged(), "index").advice.clone().unwrap();
    assert!(advice.starts_with("elfuse-index build /"), "{advice}");

    index(root, &[]);
    let Content::Sealed(coverage) = look().index.unwrap().content else {
        panic!("{:?}", look());
    };
    assert_eq!((coverage.directories, coverage.holding), (5, 5));
    assert_eq!(coverage.first_stale, None);
    assert_eq!(look().index.unwrap().generation, Generation::CanBeMade);
    if !coverage.foreign {
        assert_eq!(of(&judged(), "index").state, State::Fine);
    }

    fs::write(root.join("usr/bin/new"), "").unwrap();
    let Content::Sealed(coverage) = look().index.unwrap().content else {
        panic!("{:?}", look());
    };
    assert_eq!((coverage.directories, coverage.holding), (5, 4));
    assert_eq!(coverage.first_stale.as_deref(), Some(b"usr/bin".as_slice()));
    assert_eq!(of(&judged(), "index").state, State::Slower);

    let cache = fs::read(root.join(".elfuse/loader-cache")).unwrap();
    for (damaged, expected) in [(&cache[..10], "loader-cache"), (&[][..], "loader-cache")] {
        fs::write(root.join(".elfuse/loader-cache"), damaged).unwrap();
        let found = of(&judged(), "index").found.clone();
        assert!(
            found.contains("unusable") && found.contains(expected),
            "{found}"
        );
    }
    fs::write(root.join(".elfuse/loader-cache"), &cache).unwrap();
    fs::remove_file(root.join(".elfuse/keys")).unwrap();
    assert_eq!(look().index.unwrap().content, Content::Unsealed);
    let advice = of(&judged(), "index").advice.clone().unwrap();
    assert!(advice.starts_with("elfuse-index seal /"), "{advice}");
}

#[test]
fn damaged_bytes_anywhere_in_an_index_are_no_trouble() {
    let tree = tree();
    index(tree.path(), &[]);
    for name in ["loader-cache", "keys"] {
        let path = tree.path().join(".elfuse").join(name);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            fs::write(&path, &damaged).unwrap();
            let content = survey(tree.path(), None).index.unwrap().content;
            if let Content::Sealed(coverage) = content {
                assert!(coverage.holding <= coverage.directories && coverage.directories <= 5);
            }
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn an_index_is_looked_for_where_the_indexer_keeps_it() {
    let tree = tree();
    let root = tree.path().canonicalize().unwrap();
    for index_dir in [None, Some(Path::new("/var/indices/mine"))] {
        let theirs = elfuse_indexer::store::Store::find(&root, index_dir);
        assert_eq!(store(&root, index_dir), theirs.dir());
    }
    for root in [&root, Path::new("/"), Path::new("/srv/a b")] {
        assert_eq!(
            sysroot::default_outside(root),
            elfuse_indexer::store::default_outside(root)
        );
    }

    let cache = tempfile::tempdir().unwrap();
    let outside = sysroot::default_outside(&root).unwrap();
    let mine = cache
        .path()
        .join("elfuse")
        .join(outside.file_name().unwrap());
    fs::create_dir_all(&mine).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_elfuse-tools"))
        .args(["doctor", "--sysroot"])
        .arg(&root)
        .env("XDG_CACHE_HOME", cache.path())
        .output()
        .unwrap();
    let expected = format!("none in {}", mine.display());
    assert!(stdout(&output).contains(&expected), "{}", stdout(&output));
}

#[test]
fn an_index_outside_is_found_and_compared_with_the_tree() {
    let tree = tree();
    let outside = tempfile::tempdir().unwrap();
    let dir = outside.path().join("index");
    index(tree.path(), &["--index-dir", dir.to_str().unwrap()]);
    let found = survey(tree.path(), Some(&dir)).index.unwrap();
    let Content::Sealed(coverage) = found.content else {
        panic!("{:?}", found.content);
    };
    assert_eq!((coverage.directories, coverage.holding), (5, 5));
    let text = tools(&[
        "doctor",
        "--sysroot",
        tree.path().to_str().unwrap(),
        "--index-dir",
        dir.to_str().unwrap(),
    ]);
    assert!(
        stdout(&text).contains("5 of 5 directories hold"),
        "{}",
        stdout(&text)
    );
}

#[test]
fn completions_and_man_pages_are_of_every_verb() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = tools(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("host-fallback"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("man1");
    let output = tools(&["man", "--into", into.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for page in ["elfuse.1", "elfuse-run.1", "elfuse-doctor.1"] {
        let text = fs::read_to_string(into.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn what_is_not_understood_ends_with_2_and_what_fails_with_125() {
    for args in [&["frobnicate"][..], &["doctor", "--frobnicate"], &[]] {
        assert_eq!(tools(args).status.code(), Some(2), "{args:?}");
    }
    let run = tools(&["run", "--sysroot", "/", "true"]);
    assert_eq!(run.status.code(), Some(125));
    assert!(
        stderr(&run).contains("start `elfuse run"),
        "{}",
        stderr(&run)
    );
    let man = tools(&["man", "--into", "/proc/nowhere"]);
    assert_eq!(man.status.code(), Some(125));
    assert!(stderr(&man).contains("/proc/nowhere"), "{}", stderr(&man));
}

#[test]
fn help_and_version_are_answered_with_0() {
    for args in [
        &["--help"][..],
        &["help"],
        &["help", "run"],
        &["run", "--help"],
        &["run", "-h"],
        &["--version"],
    ] {
        let output = tools(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains("elfuse"), "{args:?}");
    }
    let version = tools(&["--version"]);
    assert!(
        stdout(&version).starts_with("elfuse 0."),
        "{}",
        stdout(&version)
    );
}
