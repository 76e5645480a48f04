//! Programs that go on from their snapshots, at work.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use elfuse_format::names;
use elfuse_tests::need;
use elfuse_tests::sysroot;

use super::guest::{said, text};
use super::kept::{Kept, PROGRAM};

#[test]
fn a_program_finds_all_that_the_dynamic_linker_and_the_kernel_tell_it() {
    let kept = Kept::new();
    let native = kept.guest.native(&[PROGRAM, "a", "b c"]);
    assert_eq!(native.status, 7, "{native:#?}");
    assert_eq!(kept.run(&["a", "b c"]), native);
    assert_eq!(kept.starts(), 1);
}

#[test]
fn what_a_program_executes_goes_on_from_its_snapshot_too() {
    let kept = Kept::new();
    let native = kept.guest.native(&[PROGRAM]);
    assert_eq!(kept.run(&[]), native);
    assert_eq!(kept.starts(), 2);
}

#[test]
fn a_start_without_a_snapshot_asks_for_one_and_makes_no_other_call_more() {
    let kept = Kept::without_snapshot();
    let calls = |options: &[&str]| {
        let command = kept.command(options, &[PROGRAM, "last"]);
        let log = kept.guest.scratch.beside("strace");
        let mut traced = Command::new(need::tool("strace", "strace"));
        traced
            .args(["-f", "-qq", "-e", "signal=none", "-o"])
            .arg(&log)
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .env("GREETING", "hello");
        assert_eq!(said(&mut traced).status, 7);
        let trace = std::fs::read_to_string(&log).expect("what strace wrote");
        // Up to the guest's first own call, which is of its dynamic linker.
        let own = trace.lines().take_while(|line| !line.contains(" brk("));
        own.map(str::to_owned).collect::<Vec<_>>()
    };
    // What the first start leaves to the others is there.
    calls(&[]);
    let (asks, anew) = (calls(&[]), calls(&["--no-resident"]));
    let of_snapshots = |line: &&String| line.contains("/store/resident/");
    assert_eq!(asks.iter().filter(of_snapshots).count(), 1, "{asks:#?}");
    assert_eq!(anew.iter().filter(of_snapshots).count(), 0, "{anew:#?}");
    assert!(anew.len() > 20, "strace saw little: {anew:#?}");
    assert_eq!(asks.len(), anew.len() + 1, "{asks:#?} {anew:#?}");
}

#[test]
fn patched_copies_are_mapped_and_no_filter_is_installed_where_all_code_is_patched() {
    let kept = Kept::without_snapshot();
    kept.index();
    kept.add(&[PROGRAM]);
    kept.is_used();
    let maps = |options: &[&str]| kept.trace("seccomp,openat,mmap", options);
    let trace = maps(&[]);
    assert!(trace.contains("/store/text/"), "a copy is opened: {trace}");
    assert!(!trace.contains("SECCOMP_SET_MODE_FILTER"), "{trace}");
    assert!(
        !trace.contains("ld.so.cache\", O_RDONLY|O_CLOEXEC)"),
        "ld.so does not run: {trace}"
    );
    assert!(trace.contains(".snap"));
    assert!(!maps(&["--no-resident"]).contains(".snap"));
}

#[test]
fn a_program_lies_somewhere_else_at_each_start_unless_it_was_asked_for_one_place() {
    let places = |kept: &Kept| -> BTreeSet<String> {
        let place = || {
            let strace = need::tool("strace", "strace");
            let command = kept.command(&[], &[PROGRAM, "last"]);
            let mut traced = Command::new(strace);
            traced
                .args(["-e", "trace=mmap"])
                .arg(command.get_program())
                .args(command.get_args())
                .env_clear();
            let errors = said(&mut traced).errors;
            let line = errors
                .lines()
                .find(|line| line.contains("mmap(0x5"))
                .unwrap_or_default();
            line.split(',').next().unwrap_or_default().to_owned()
        };
        (0..4).map(|_| place()).collect()
    };
    let kept = Kept::new();
    assert!(places(&kept).len() > 1);
    kept.add(&["--fixed", PROGRAM]);
    assert_eq!(places(&kept).len(), 1);
    assert_eq!(kept.starts(), 4);
}

#[test]
fn programs_that_cannot_be_kept_say_why_and_run() {
    let kept = Kept::without_snapshot();
    kept.guest.add("hello-static", "bin/static");
    kept.guest.scratch.file("bin/script", "#!/bin/resident\n");
    let script = kept.guest.scratch.path("bin/script");
    std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (program, reason) in [
        ("/bin/static", "no dynamic linker"),
        ("/bin/script", "keep the interpreter"),
        ("/bin/missing", "No such file"),
    ] {
        let refused = kept.resident("add", &[program]);
        assert_eq!(refused.status, 1, "{refused:#?}");
        assert!(refused.errors.contains(reason), "{refused:#?}");
    }
    let line = ["/bin/static", "a"];
    assert_eq!(
        said(&mut kept.command(&[], &line)),
        kept.guest.native(&line)
    );
}

#[test]
fn a_program_linked_to_low_addresses_is_kept() {
    let kept = Kept::without_snapshot();
    kept.guest.add("hello-no-pie", "bin/low");
    kept.add(&["/bin/low"]);
    let line = ["/bin/low", "a"];
    let native = kept.guest.native(&line);
    assert_eq!(said(&mut kept.command(&[], &line)), native);
    let list = kept.resident("list", &["--json"]).well();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["programs"][0]["starts"], 1, "{list}");
}

#[test]
fn a_program_of_musl_is_kept_and_says_the_same() {
    let kept = Kept::without_snapshot();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/start/hello.c");
    let program = kept.guest.scratch.path("bin/musl");
    let mut compiler = Command::new(need::tool("musl-gcc", "musl-tools"));
    compiler.arg(source).arg("-o").arg(&program);
    said(&mut compiler).well();
    kept.guest.add_of_host("/lib/ld-musl-x86_64.so.1");
    kept.add(&["/bin/musl"]);
    let line = ["/bin/musl", "a"];
    let native = kept.guest.native(&line);
    assert_eq!(native.status, 7, "{native:#?}");
    for _ in 0..3 {
        assert_eq!(said(&mut kept.command(&[], &line)), native);
    }
    let list = kept.resident("list", &["--json"]).well();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["programs"][0]["starts"], 3, "{list}");
}

#[test]
fn what_is_kept_is_listed_shown_verified_pruned_and_removed() {
    let kept = Kept::new();
    kept.is_used();
    let list = kept.resident("list", &["--json"]).well();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let program = &list["programs"][0];
    assert_eq!(
        (&program["exe"], &program["starts"]),
        (&PROGRAM.into(), &2.into())
    );
    assert!(program["pages"].as_u64() > Some(0) && program["last_refusal"].is_null());
    let shown = kept.resident("show", &["resident"]).well();
    for part in ["canary", "/etc/ld.so.preload: No such file", "random"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(
        kept.resident("verify", &[]).well(),
        format!("{PROGRAM}: good\n")
    );
    // A page that was damaged is for `verify` and `prune` to find: a start does not read them all.
    let mut bytes = std::fs::read(kept.snapshot()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(kept.snapshot(), &bytes).unwrap();
    let verified = kept.resident("verify", &[]);
    assert!(
        verified.status == 1 && verified.text.contains("checksum"),
        "{verified:#?}"
    );
    assert!(kept.resident("prune", &[]).well().contains("checksum"));
    assert!(!kept.snapshot().exists());
    kept.add(&[PROGRAM]);
    assert_eq!(
        kept.resident("prune", &[]).well(),
        format!("{PROGRAM}: kept\n")
    );
    kept.replace("bin/resident");
    assert!(kept.resident("prune", &[]).well().contains("was changed"));
    assert!(!kept.snapshot().exists());
    assert_eq!(kept.resident("rm", &[PROGRAM]).status, 125);
    kept.add(&[PROGRAM]);
    kept.resident("rm", &["resident"]).well();
    assert!(
        kept.resident("list", &[])
            .well()
            .starts_with("nothing is kept")
    );
}

#[test]
fn prune_goes_by_all_files_and_names_that_the_key_goes_by() {
    let kept = Kept::new();
    let pruned = || kept.resident("prune", &[]).well();
    let cache = kept.guest.scratch.path("etc/ld.so.cache");
    assert_eq!(pruned(), format!("{PROGRAM}: kept\n"));
    kept.guest.scratch.file("etc/ld.so.cache", "");
    assert!(pruned().contains("ld.so.cache is there"));
    assert!(!kept.snapshot().exists());
    std::fs::remove_file(cache).unwrap();
    kept.add(&[PROGRAM]);
    kept.is_used();
    kept.replace("lib/x86_64-linux-gnu/libc.so.6");
    assert!(pruned().contains("libc.so.6 was changed"));
    kept.add(&[PROGRAM]);
    std::fs::remove_file(kept.guest.scratch.path("lib/x86_64-linux-gnu/libc.so.6")).unwrap();
    assert!(pruned().contains("libc.so.6 is gone: No such file"));
    assert!(!kept.snapshot().exists());
}

#[test]
fn prune_does_not_look_in_the_sysroot_for_what_the_host_has_mounted_over_it() {
    let kept = Kept::without_snapshot();
    // The dynamic linker looks into it first, and finds that it is a directory: the host's.
    let flags = ["-pie", "-fPIE", "-ldl", "-lpthread", "-Wl,-rpath,/dev"];
    let programs = kept.guest.programs;
    programs.compile("start/resident.c", "searching", &flags);
    kept.guest.add("searching", "bin/searching");
    let program = "/bin/searching";
    kept.add(&[program]);
    let shown = kept.resident("show", &[program]).well();
    assert!(shown.contains("/dev: a directory"), "{shown}");
    fs::remove_dir(kept.guest.scratch.path("dev")).expect("an empty directory");
    assert_eq!(
        kept.resident("prune", &[]).well(),
        format!("{program}: kept\n")
    );
}

#[test]
fn a_list_that_was_shipped_is_what_is_kept() {
    let kept = Kept::without_snapshot();
    let refused = kept.resident("add", &[]);
    assert_eq!(refused.status, 125, "{refused:#?}");
    let list = kept.store.join("resident.list");
    std::fs::write(&list, format!("# often started\n{PROGRAM}\n")).unwrap();
    kept.add(&[]);
    kept.is_used();
    kept.resident("rm", &[PROGRAM]).well();
    kept.add(&["--list", text(&list)]);
    kept.is_used();
}

/// Programs of the Debian sysroot and what they are asked: interpreters with threads, dlopen, locales, exceptions, and a program with
/// two hundred libraries.
const LINES: &[&[&str]] = &[
    &[
        "perl",
        "-MPOSIX",
        "-e",
        "print floor(3.7), strftime('%Y', gmtime 0), \"\\n\"",
    ],
    &["git", "--version"],
    &["getent", "passwd", "root"],
    &[
        "python3",
        "-c",
        "import json, threading, ctypes\nt = threading.Thread(target=lambda: print('thread'))\nt.start(); t.join()\nprint(json.dumps([1]))",
    ],
    &[
        "bash",
        "-c",
        "for i in 1 2; do echo $i; done; ls /usr | wc -l",
    ],
    &[
        "ruby",
        "-e",
        "puts [1, 2].sum; Thread.new { puts 3 }.join; raise 'x' rescue puts $!",
    ],
    &["node", "-e", "console.log(1 + 1)"],
    &["openssl", "dgst", "-sha256", "/etc/passwd"],
    &["guile", "-c", "(display (+ 1 2))"],
    &["ffmpeg", "-version"],
    &["ls", "/usr"],
    &["gcc", "--version"],
];

#[test]
fn programs_of_a_distribution_say_the_same() {
    let kept = Kept::without_snapshot();
    let debian = sysroot::debian();
    let command = |words: &[&str]| {
        let mut command = Command::new(&kept.guest.programs.elfuse);
        command.args(words).arg("--sysroot").arg(debian);
        command.arg("--index-dir").arg(&kept.store);
        command
    };
    let programs: Vec<_> = LINES.iter().map(|line| line[0]).collect();
    said(command(&["resident", "add"]).args(&programs)).well();
    let run = |options: &[&str], line: &[&str]| {
        let mut command = command(&["run"]);
        command.args(options).arg("--").args(line).current_dir("/");
        said(command.env_clear().env("LC_ALL", "C.UTF-8"))
    };
    for line in LINES {
        let anew = run(&["--no-resident"], line);
        assert_eq!(anew.status, 0, "{line:?} {anew:#?}");
        assert_eq!(run(&[], line), anew, "{line:?}");
    }
    let list = said(command(&["resident", "list"]).arg("--json")).well();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    for program in list["programs"].as_array().unwrap() {
        assert!(program["starts"].as_u64() > Some(0), "{program}");
        assert!(Path::new(program["exe"].as_str().unwrap()).is_absolute());
    }
    assert_eq!(list["programs"].as_array().unwrap().len(), LINES.len());
}

#[test]
fn a_start_looks_for_a_snapshot_only_where_there_ever_was_one() {
    let kept = Kept::without_snapshot();
    kept.index();
    let looks = |options: &[&str]| {
        let trace = kept.trace("openat", options);
        trace.matches("/resident/").count()
    };
    // The first start makes the file that tells.
    assert_eq!(looks(&[]), 0);
    assert_eq!(looks(&[]), 0);
    kept.add(&[PROGRAM]);
    assert!(looks(&[]) > 0);
    kept.is_used();
    // Whoever makes another such file looks whether there are snapshots.
    fs::remove_file(kept.store.join(names::GENERATION)).expect("it was made");
    assert!(looks(&[]) > 0);
    kept.is_used();
}

#[test]
fn what_is_kept_before_the_first_start_is_found_by_it() {
    let kept = Kept::without_snapshot();
    kept.index();
    assert!(!kept.store.join(names::GENERATION).exists());
    kept.add(&[PROGRAM]);
    kept.is_used();
}
