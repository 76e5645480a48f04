//! Patched copies: programs whose code all goes through the runtime run without a filter, and everything else falls back to it without a
//! difference in what the program sees.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_tests::{elfuse_index, need};

use super::guest::{Guest, said};

/// A guest with `/bin/patched` and glibc, and an index of it beside the root.
pub(crate) struct Indexed {
    pub(crate) guest: Guest,
    pub(crate) index: PathBuf,
}

impl Indexed {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// `change` before the index is made.
    fn with(change: impl FnOnce(&Guest)) -> Self {
        let guest = Guest::new();
        guest.add_glibc();
        guest.add("patched", "bin/patched");
        change(&guest);
        let index = guest.scratch.beside("index");
        let built = Self { guest, index };
        built.build();
        built
    }

    pub(crate) fn build(&self) {
        let root = self.guest.scratch.root().as_os_str();
        let line = ["build".as_ref(), "--quiet".as_ref(), "--index-dir".as_ref()];
        let line: Vec<_> = line
            .into_iter()
            .chain([self.index.as_os_str(), root])
            .collect();
        elfuse_index!().run(&line).ended_with(0);
    }

    pub(crate) fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let index = self.index.to_str().expect("UTF-8");
        let options = [&["--index-dir", index], options].concat();
        let line = [&["/bin/patched"], words].concat();
        self.guest.elfuse(&options, &line)
    }

    pub(crate) fn run(&self, words: &[&str]) -> String {
        said(&mut self.command(&[], words)).well()
    }

    fn native(&self, words: &[&str]) -> String {
        let line = [&["/bin/patched"], words].concat();
        self.guest.native(&line).well()
    }

    /// What it says, which is the same natively but for the filter: whether there was one at the start and at the end.
    fn same(&self, words: &[&str]) -> [bool; 2] {
        let (text, native) = (self.run(words), self.native(words));
        let lines = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with("filtered "));
            lines
                .map(|line| line.replace(", filtered 1", ", filtered 0"))
                .collect()
        };
        assert_eq!(
            lines(&native),
            lines(&text),
            "the real kernel's answer is on the left"
        );
        filtered(&text)
    }

    fn copies(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.index.join("text")).expect("copies were made");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    fn library(&self) -> PathBuf {
        self.guest.scratch.path("lib/x86_64-linux-gnu/libc.so.6")
    }
}

fn filtered(text: &str) -> [bool; 2] {
    let told: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("filtered "))
        .map(|number| number == "1")
        .collect();
    told.try_into()
        .unwrap_or_else(|_| panic!("told twice: {text}"))
}

const EVERYTHING: &[&str] = &["lookups", "images", "exec", "lookups"];

#[test]
fn a_program_whose_code_all_goes_through_the_runtime_is_not_filtered() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["lookups", "images"]), [false, false]);
    for mode in ["lease", "frozen", "strict"] {
        let mut command = indexed.command(&["--coherence", mode], EVERYTHING);
        let text = said(&mut command).well();
        assert!(!text.contains("filtered 1"), "{mode}: {text}");
    }
}

#[test]
fn without_an_index_or_copies_it_is_filtered_from_the_start_and_says_the_same() {
    let indexed = Indexed::new();
    let patched = indexed.run(&["quiet", "lookups"]);
    let mut ways = vec![
        indexed.command(&["--coherence", "off"], &["lookups"]),
        indexed.guest.elfuse(&[], &["/bin/patched", "lookups"]),
    ];
    for (variable, value) in [("ELFUSE_PATCHED", "off"), ("ELFUSE_INDEX", "off")] {
        let mut command = indexed.command(&[], &["lookups"]);
        command.env(variable, value);
        ways.push(command);
    }
    for mut way in ways {
        let text = said(&mut way).well();
        assert_eq!(filtered(&text), [true, true], "{way:?}");
        assert!(text.contains(&patched), "{way:?}: {text}");
    }
}

#[test]
fn a_trace_of_all_calls_sees_all_of_them() {
    let indexed = Indexed::new();
    let mut command = indexed.command(&[], &["lookups"]);
    let said = said(command.env("ELFUSE_STARTUP_TRACE", "syscalls"));
    assert_eq!(filtered(&said.text), [true, true]);
    assert!(said.errors.contains("mmap"), "{}", said.errors);
}

#[test]
fn memory_that_becomes_executable_arms_the_filter_for_it_and_for_what_comes_after() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["lookups", "code", "lookups"]), [false, true]);
    assert_eq!(
        indexed.same(&["lookups", "protect", "lookups"]),
        [false, true]
    );
}

#[test]
fn threads_that_are_there_when_the_filter_is_armed_have_it() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["thread"]), [false, true]);
    assert!(
        indexed
            .run(&["thread"])
            .contains("the thread's stat 0, filtered 1\n")
    );
}

#[test]
fn a_child_of_vfork_that_arms_itself_arms_neither_its_parent_nor_the_program_it_executes_twice() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["vfork"]), [false, false]);
}

#[test]
fn a_filter_goes_on_over_exec_and_is_not_stacked() {
    let indexed = Indexed::new();
    let text = indexed.run(&["code", "exec", "lookups"]);
    assert_eq!(text.matches("filtered 1\n").count(), 2, "{text}");
    let native = indexed.native(&["quiet", "code", "lookups"]);
    for line in native.lines() {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_second_copy_of_a_library_is_the_original_and_arms_the_filter() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["again"]), [false, true]);
}

#[test]
fn an_empty_path_means_the_descriptor_and_a_bad_one_is_efault_whatever_is_blocked() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["lookups", "status"]), [false, false]);
    assert_eq!(indexed.same(&["code", "status"]), [false, true]);
}

#[test]
fn signals_are_blocked_as_by_the_kernel_and_a_bad_pointer_is_efault_under_any_mask() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["lookups", "masks"]), [false, false]);
    assert_eq!(indexed.same(&["code", "masks"]), [false, true]);
}

#[test]
fn a_mask_without_the_runtimes_signals_is_changed_where_the_call_stands_until_the_filter_is_armed()
{
    let indexed = Indexed::new();
    let count = |words: &[&str]| {
        let run = said(&mut indexed.command(&["--stats=json"], words));
        let report: serde_json::Value = serde_json::from_str(&run.errors).expect("one document");
        let calls = report["host_calls"]["by_call"].as_array().expect("a list");
        let mut calls = calls.iter();
        let masks = calls.find(|call| call["call"] == "rt_sigprocmask");
        masks.map_or(0, |call| call["count"].as_u64().expect("a number"))
    };
    // SIGUSR1; SIGSEGV, SIGBUS, SIGSYS.
    for signal in ["0", "10"] {
        let [few, many] = ["1", "1000"].map(|times| count(&["block", signal, times]));
        // A start makes some of its own.
        assert!(many < few + 100, "{signal}: {few}, {many}");
        // Where it stands it would be trapped then, and no call of the host's be made.
        let [few, many] = ["1", "1000"].map(|times| count(&["code", "block", signal, times]));
        assert!(many >= few + 2997, "{signal}: {few}, {many}");
    }
    for signal in ["11", "7", "31"] {
        let [few, many] = ["1", "1000"].map(|times| count(&["block", signal, times]));
        assert!(many >= few + 999, "{signal}: {few}, {many}");
    }
}

#[test]
fn what_is_closed_or_replaced_is_seen_and_paths_lead_where_they_did() {
    let indexed = Indexed::with(|guest| {
        guest.add("traps-dynamic", "bin/traps-dynamic");
    });
    let index = indexed.index.to_str().expect("UTF-8");
    for case in [
        "all closed",
        "all replaced",
        "all above",
        "all used",
        "lowest",
    ] {
        let line = ["/bin/traps-dynamic", case];
        let native = indexed.guest.native(&line);
        for mode in ["lease", "frozen"] {
            let options = ["--index-dir", index, "--coherence", mode];
            let run = said(&mut indexed.guest.elfuse(&options, &line));
            assert_eq!(
                native, run,
                "{mode}: the real kernel's answer is on the left"
            );
        }
    }
}

#[test]
fn mappings_are_shown_as_those_of_the_original() {
    let indexed = Indexed::new();
    assert_eq!(indexed.same(&["maps"]), [false, false]);
    assert!(
        indexed
            .run(&["maps"])
            .contains("copies 0, libc's text 1, blocks 0\n")
    );
}

#[test]
fn a_copy_that_is_not_what_was_built_is_not_mapped() {
    type Damage = fn(&Path);
    let damages: &[(&str, Damage)] = &[
        ("touched", |copy| {
            let file = writable(copy);
            let then = std::time::SystemTime::now();
            file.set_modified(then).expect("utimensat");
        }),
        ("cut", |copy| {
            let len = fs::metadata(copy).expect("stat").len();
            writable(copy).set_len(len / 2).expect("ftruncate");
        }),
        ("emptied", |copy| {
            writable(copy).set_len(0).expect("ftruncate")
        }),
        ("flipped", |copy| {
            let mut bytes = fs::read(copy).expect("read");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            let len = bytes.len() / 2;
            bytes[len] ^= 1;
            drop(writable(copy));
            fs::write(copy, bytes).expect("write");
        }),
        ("replaced", |copy| {
            let bytes = fs::read(copy).expect("read");
            fs::remove_file(copy).expect("unlink");
            fs::write(copy, bytes).expect("write");
        }),
        ("a symlink", |copy| {
            let other = copy.with_extension("moved");
            fs::rename(copy, &other).expect("rename");
            symlink(other, copy).expect("symlink");
        }),
        ("a directory", |copy| {
            fs::remove_file(copy).expect("unlink");
            fs::create_dir(copy).expect("mkdir");
        }),
        ("removed", |copy| fs::remove_file(copy).expect("unlink")),
    ];
    for (name, damage) in damages {
        let indexed = Indexed::new();
        assert_eq!(
            indexed.same(&["lookups"]),
            [false, false],
            "before it is {name}"
        );
        for copy in indexed.copies() {
            damage(&copy);
        }
        assert_eq!(indexed.same(&["lookups"]), [true, true], "{name}");
    }
}

/// Opens a file to write to it whatever its mode says.
fn writable(path: &Path) -> File {
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).expect("chmod");
    File::options().write(true).open(path).expect("open")
}

#[test]
fn a_library_that_changed_since_it_was_indexed_is_mapped_as_it_is_now() {
    let indexed = Indexed::new();
    let library = indexed.library();
    let bytes = fs::read(&library).expect("read");
    fs::write(&library, &bytes).expect("write");
    assert_eq!(indexed.same(&["lookups"]), [true, true]);
    indexed.build();
    assert_eq!(indexed.same(&["lookups"]), [false, false]);
    // Another file at its name, with the times it had.
    let before = fs::metadata(&library).expect("stat");
    let other = library.with_extension("other");
    fs::write(&other, &bytes).expect("write");
    File::options()
        .write(true)
        .open(&other)
        .and_then(|file| file.set_modified(before.modified()?))
        .expect("utimensat");
    fs::rename(&other, &library).expect("rename");
    assert_ne!(before.ino(), fs::metadata(&library).expect("stat").ino());
    assert_eq!(indexed.same(&["lookups"]), [true, true]);
}

#[test]
fn a_program_that_lies_where_blocks_do_is_run_by_the_filter() {
    let indexed = Indexed::with(|guest| {
        guest.add("patched-low", "bin/patched");
    });
    let [first, last] = indexed.same(&["lookups", "images", "lookups"]);
    assert!(first && last, "it covers the blocks of ld.so and libc");
}

#[test]
fn a_static_program_is_not_filtered_where_all_its_calls_are_patched() {
    let indexed = Indexed::with(|guest| {
        guest.add("patched-static", "bin/patched");
    });
    // Whether they are is the indexer's word; that it makes no difference is this test's.
    let [first, last] = indexed.same(&["lookups", "code", "lookups"]);
    assert!(last && indexed.same(&["lookups"]) == [first, first]);
}

#[test]
fn each_cpuid_of_the_dynamic_linker_is_answered_as_without_a_table() {
    let indexed = Indexed::new();
    let show = |options: &[&str]| {
        let index = indexed.index.to_str().expect("UTF-8");
        let options = [&["--index-dir", index], options].concat();
        let line = ["/lib64/ld-linux-x86-64.so.2", "--list-diagnostics"];
        let text = said(&mut indexed.guest.elfuse(&options, &line)).well();
        // What differs from one start to the next, or from one CPU to the next: addresses, and whose CPU it was.
        let is_steady = |line: &&str| {
            // The second word of leaf 1 has the number of the CPU in its highest byte.
            let ebx = "x86.cpu_features.features[0x0].cpuid[0x1]";
            let changes = ["auxv", "cpuid.cpu", "dl_", "version", "cpuid_native", ebx];
            !changes.iter().any(|start| line.starts_with(start)) && !line.contains("_native")
        };
        text.lines()
            .filter(is_steady)
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let (with, without) = (show(&[]), show(&["--no-cpuid-table"]));
    assert!(
        with.iter().any(|line| line.contains("cpu_features")),
        "{with:?}"
    );
    assert_eq!(without, with);
    assert!(
        indexed.index.join("cpuid").exists(),
        "it was made by the first run"
    );
}

#[test]
fn programs_that_guests_execute_read_the_table_and_not_which_boot_it_is() {
    const ENV: &str = "/usr/bin/env";
    let indexed = Indexed::with(|guest| guest.add_of_host(ENV));
    let index = indexed.index.to_str().expect("UTF-8");
    let run = indexed
        .guest
        .elfuse(&["--index-dir", index], &[ENV, ENV, ENV]);
    let log = indexed.guest.scratch.beside("strace");
    let mut traced = Command::new(need::tool("strace", "strace"));
    traced
        .args(["-f", "-qq", "-e", "trace=openat", "-e", "signal=none", "-o"])
        .arg(&log)
        .arg(run.get_program())
        .args(run.get_args());
    for is_first in [true, false] {
        said(&mut traced).well();
        let text = fs::read_to_string(&log).expect("what strace wrote");
        let opened = |name| text.lines().filter(|line| line.contains(name)).count();
        assert_eq!(opened("/boot_id\""), 1, "{text}");
        // The first run looks before it makes one.
        assert!(opened("/cpuid\"") >= 3, "{is_first} {text}");
    }
}
