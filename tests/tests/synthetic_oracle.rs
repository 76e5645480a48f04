//! The resolver against the real ld.so on small trees made at random: search paths of every kind, hwcaps directories,
//! files of other machines, hard links, filters, a cache, preloads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use elfuse_indexer::live::LiveTree;
use elfuse_tests::compare::{as_path_calls, as_trace, first_difference, predict, question};
use elfuse_tests::elf::ElfFile;
use elfuse_tests::ld_trace::{How, Request, ask};
use elfuse_tests::{enter, need, strace, sysroot};

const INTERPRETER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Directories that libraries lie in.
const DIRECTORIES: [&str; 12] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib",
    "/lib",
    "/opt/a",
    "/opt/b",
    "/opt/b/sub",
    "/opt/c",
    "/opt/a/glibc-hwcaps/x86-64-v2",
    "/opt/b/glibc-hwcaps/x86-64-v3",
    "/opt/a/tls",
    "/opt/c/x86_64",
    "/usr/lib/glibc-hwcaps/x86-64-v2",
];

/// Elements of search paths.
const ELEMENTS: [&str; 18] = [
    "/opt/a",
    "/opt/a/",
    "/opt/b",
    "/opt/b//",
    "/opt/c",
    "/opt/none",
    "/opt/a/../b",
    "/opt/link",
    "/opt/loop",
    "/etc/passwd",
    "$ORIGIN",
    "${ORIGIN}/sub",
    "$ORIGIN/../c",
    "/usr/$LIB",
    "/opt/$PLATFORM",
    "$ORIGINAL",
    "",
    "/",
];

/// Trees made.
const SEEDS: u64 = 60;

/// A generator of numbers that are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    /// One time in `n`.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn path(&mut self) -> String {
        let count = 1 + self.below(4);
        let elements: Vec<&str> = (0..count).map(|_| self.of(&ELEMENTS)).collect();
        elements.join(":")
    }

    fn library(&mut self) -> String {
        format!("lib{}.so", self.below(8))
    }

    fn name(&mut self) -> String {
        let library = self.library();
        match self.below(20) {
            0 => format!("/opt/a/{library}"),
            1 => format!("$ORIGIN/{library}"),
            2 => format!("${{ORIGIN}}/../b/{library}"),
            3 => "ld-linux-x86-64.so.2".to_owned(),
            4 => format!("soname-of-{library}"),
            5 => "libnowhere.so".to_owned(),
            _ => library,
        }
    }

    fn file(&mut self, soname: Option<String>) -> ElfFile {
        let mut file = ElfFile {
            soname,
            ..ElfFile::default()
        };
        for _ in 0..self.below(4) {
            file.needed.push(self.name());
        }
        match self.below(5) {
            0 => file.rpath = Some(self.path()),
            1 => file.runpath = Some(self.path()),
            2 if self.one_in(3) => {
                file.rpath = Some(self.path());
                file.runpath = Some(self.path());
            }
            _ => {}
        }
        // ld.so does not survive every filter for a filter, or for what it needs itself: these need nothing.
        if self.one_in(10) {
            file.auxiliary.push(
                self.of(&["libf0.so", "libf1.so", "libnowhere.so"])
                    .to_owned(),
            );
        }
        if self.one_in(14) {
            file.filter
                .push(self.of(&["libf0.so", "libf1.so"]).to_owned());
        }
        if self.one_in(10) {
            // DF_1_NODEFLIB
            file.flags_1 |= 0x800;
        }
        file
    }
}

/// Puts a library, or something in its place, at `path`.
fn put_library(random: &mut Random, root: &Path, path: &Path, name: &str) {
    let soname = match random.below(6) {
        0 => None,
        1 => Some(format!("soname-of-{name}")),
        _ => Some(name.to_owned()),
    };
    let mut bytes = random.file(soname).bytes();
    match random.below(60) {
        // Another class; another machine; not ELF; another OS; an object file; cut short; not a file; not a file of its own.
        0..=2 => bytes[4] = 1,
        3..=5 => bytes[18] = 183,
        6 => {
            bytes =
                b"/* a linker script, say, that is not too short to be looked at as an ELF file */"
                    .to_vec()
        }
        7 => bytes[7] = 9,
        9 => bytes[16] = 1,
        10 => bytes.truncate(50),
        11 => bytes.truncate(100),
        12 => {
            fs::create_dir(path).expect("a new name");
            return;
        }
        13 | 14 => {
            symlink("lib0.so", path).expect("a new name");
            return;
        }
        15 | 16 => {
            let other = root.join("opt/a/lib1.so");
            if other.is_file() {
                fs::hard_link(other, path).expect("one file system");
                return;
            }
        }
        _ => {}
    }
    fs::write(path, bytes).expect("a directory that was made");
}

/// A tree with programs `/bin/p0` and so on; returns how many.
fn make_tree(random: &mut Random, root: &Path) -> usize {
    let debian = sysroot::debian();
    for directory in DIRECTORIES
        .iter()
        .chain(&["/lib64", "/bin", "/usr/bin", "/etc", "/proc"])
    {
        fs::create_dir_all(root.join(&directory[1..])).expect("an empty tree");
    }
    for (from, to) in [
        ("lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
        ("usr/bin/busybox", "bin/busybox"),
    ] {
        fs::copy(debian.join(from), root.join(to)).expect("it is in the Debian sysroot");
    }
    symlink("busybox", root.join("bin/sh")).expect("a new name");
    symlink("/bin/busybox", root.join("usr/bin/env")).expect("a new name");
    symlink("a", root.join("opt/link")).expect("a new name");
    symlink("loop", root.join("opt/loop")).expect("a new name");
    fs::write(root.join("etc/passwd"), "").expect("a directory");
    for name in (0..8).map(|n| format!("lib{n}.so")) {
        for directory in DIRECTORIES {
            if random.one_in(4) {
                let path = root.join(&directory[1..]).join(&name);
                put_library(random, root, &path, &name);
            }
        }
    }
    for name in ["libf0.so", "libf1.so"] {
        let file = ElfFile {
            soname: Some(name.to_owned()),
            ..ElfFile::default()
        };
        let directory = random.of(&["usr/lib", "opt/a"]);
        fs::write(root.join(directory).join(name), file.bytes()).expect("a directory");
    }
    if random.one_in(2) {
        fs::write(root.join("etc/ld.so.conf"), "/opt/c\n/opt/b\n").expect("a directory");
        let ldconfig = need::tool("ldconfig", "libc-bin");
        // It complains about every odd file there is, and succeeds.
        let output = enter::allowing_chroot(ldconfig)
            .arg("-X")
            .arg("-r")
            .arg(root)
            .output();
        let output = output.expect("running ldconfig");
        assert!(output.status.success(), "ldconfig -r: {output:?}");
    }
    if random.one_in(8) {
        fs::write(
            root.join("etc/ld.so.preload"),
            "lib3.so # not this one\n  /opt/a/lib4.so:lib5.so",
        )
        .expect("a directory");
    }
    let programs = 4;
    for number in 0..programs {
        let mut program = random.file(None);
        program.interpreter = Some(INTERPRETER.to_owned());
        program.needed.push(random.library());
        let path = root.join(format!("bin/p{number}"));
        fs::write(&path, program.bytes()).expect("a directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("a file of ours");
    }
    programs
}

fn requests(random: &mut Random, root: &Path, programs: usize) -> Vec<Request> {
    let mut requests: Vec<Request> = (0..programs)
        .map(|number| Request::new(format!("/bin/p{number}"), How::Executed))
        .collect();
    for directory in DIRECTORIES {
        for name in (0..8).map(|n| format!("lib{n}.so")) {
            // ld.so would wait for nobody; a directory or dangling symlink is no file to ask about.
            if root.join(&directory[1..]).join(&name).is_file() && random.one_in(3) {
                requests.push(Request::new(
                    format!("{directory}/{name}"),
                    How::By(INTERPRETER.to_owned()),
                ));
            }
        }
    }
    for request in &mut requests {
        request.library_path = random
            .one_in(3)
            .then(|| random.path().replacen(':', ";", 1));
        request.preload = random
            .one_in(6)
            .then(|| format!("{} {}", random.name(), random.name()));
    }
    requests
}

/// Trees of some seeds; each is compared for all programs and some libraries.
fn compare_seeds(seeds: std::ops::Range<u64>) -> (usize, usize) {
    let mut compared = 0;
    let mut calls = 0;
    let mut different = Vec::new();
    for seed in seeds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path();
        let programs = make_tree(&mut random, root);
        let requests = requests(&mut random, root, programs);
        let tree = LiveTree::open(root).expect("a tree");
        let (requests, expected): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .filter_map(|request| {
                Some((request.clone(), predict(&tree, &question(&request)).ok()?))
            })
            .unzip();
        let real = ask(root, "/bin/sh", &requests);
        for ((request, expected), real) in requests.iter().zip(&expected).zip(&real) {
            let ours = as_trace(expected);
            if real.list != ours.list || real.fatal != ours.fatal {
                different.push(format!(
                    "seed {seed}: {request:?}\n  ld.so: {real:?}\n  ours:  {ours:?}"
                ));
            }
        }
        compared += requests.len();
        // One program of each tree under strace.
        let mut environment = Vec::new();
        environment.extend(
            requests[0]
                .library_path
                .as_deref()
                .map(|path| ("LD_LIBRARY_PATH", path)),
        );
        environment.extend(
            requests[0]
                .preload
                .as_deref()
                .map(|names| ("LD_PRELOAD", names)),
        );
        let real = strace::path_calls(root, &[&requests[0].file], &environment);
        calls += real.len();
        if let Some(difference) = first_difference(&real, &as_path_calls(&expected[0])) {
            different.push(format!("seed {seed}: {:?}: {difference}", requests[0]));
        }
    }
    assert!(
        different.is_empty(),
        "{} differences:\n{}",
        different.len(),
        different[..different.len().min(12)].join("\n")
    );
    (compared, calls)
}

#[test]
fn libraries_of_random_trees_are_found_where_ld_so_finds_them_with_the_same_calls() {
    let (compared, calls) = compare_seeds(0..SEEDS);
    eprintln!("{compared} files and {calls} calls compared");
}

const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

/// Programs and libraries for musl, in the directories that it knows and in others.
fn make_musl_tree(random: &mut Random, root: &Path) -> Vec<Request> {
    const DIRECTORIES: [&str; 6] = [
        "/lib",
        "/usr/local/lib",
        "/usr/lib",
        "/opt/a",
        "/opt/b",
        "/opt/b/sub",
    ];
    let debian = sysroot::debian();
    for directory in DIRECTORIES.iter().chain(&["/bin", "/etc", "/proc"]) {
        fs::create_dir_all(root.join(&directory[1..])).expect("an empty tree");
    }
    fs::copy(
        debian.join("lib/x86_64-linux-musl/libc.so"),
        root.join(&MUSL[1..]),
    )
    .expect("musl in the Debian sysroot");
    fs::copy(debian.join("usr/bin/busybox"), root.join("bin/sh"))
        .expect("busybox in the Debian sysroot");
    symlink("a", root.join("opt/link")).expect("a new name");
    symlink("loop", root.join("opt/loop")).expect("a new name");
    if random.one_in(3) {
        let path = "/opt/b\n/usr/lib:/opt/a\n";
        fs::write(root.join("etc/ld-musl-x86_64.path"), path).expect("a directory");
    }
    for name in (0..8).map(|n| format!("lib{n}.so")) {
        for directory in DIRECTORIES {
            if !random.one_in(3) {
                continue;
            }
            let path = root.join(&directory[1..]).join(&name);
            let mut file = random.file(Some(format!("soname-of-{name}")));
            if random.one_in(3) {
                file.needed.push(
                    random
                        .of(&["libc.so", "libm.so.6", "libpthread.so.0", "libc.so.6"])
                        .to_owned(),
                );
            }
            let mut bytes = file.bytes();
            match random.below(24) {
                0 => bytes[18] = 183,
                1 => bytes = b"not ELF".to_vec(),
                2 => bytes.truncate(100),
                _ => {}
            }
            let other = root.join("lib/lib1.so");
            if random.one_in(12) && other.is_file() {
                fs::hard_link(other, path).expect("one file system");
            } else {
                fs::write(path, bytes).expect("a directory");
            }
        }
    }
    let mut requests = Vec::new();
    for number in 0..6 {
        let mut program = random.file(None);
        program.interpreter = Some(MUSL.to_owned());
        program
            .needed
            .extend([random.library(), "libc.so".to_owned(), random.library()]);
        let path = format!("bin/p{number}");
        fs::write(root.join(&path), program.bytes()).expect("a directory");
        requests.push(Request {
            library_path: random.one_in(3).then(|| random.path()),
            preload: random.one_in(5).then(|| random.library()),
            ..Request::new(format!("/{path}"), How::List(MUSL.to_owned()))
        });
    }
    requests
}

#[test]
fn libraries_of_random_musl_trees_are_found_where_musl_finds_them() {
    let mut different = Vec::new();
    let mut compared = 0;
    for seed in 1000..1000 + SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path();
        let requests = make_musl_tree(&mut random, root);
        let tree = LiveTree::open(root).expect("a tree");
        let real = ask(root, "/bin/sh", &requests);
        for (request, real) in requests.iter().zip(&real) {
            let ours = as_trace(&predict(&tree, &question(request)).expect("linked dynamically"));
            compared += 1;
            if real.list != ours.list {
                different.push(format!(
                    "seed {seed}: {request:?}\n  musl: {real:?}\n  ours: {ours:?}"
                ));
            }
        }
    }
    assert!(
        different.is_empty(),
        "{} differences:\n{}",
        different.len(),
        different[..different.len().min(12)].join("\n")
    );
    eprintln!("{compared} programs compared");
}
