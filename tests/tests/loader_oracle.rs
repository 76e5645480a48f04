//! The resolver against the real dynamic linkers, for every ELF file of the example sysroots.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use elfuse_indexer::live::LiveTree;
use elfuse_indexer::tree::{Elf, Tree};
use elfuse_tests::compare::{as_path_calls, as_trace, first_difference, predict, question};
use elfuse_tests::ld_trace::{How, Request, ask};
use elfuse_tests::strace;
use elfuse_tests::sysroot;

/// Files that are not compared: why, as the resolver has it, and how many or which there may be. One that is not listed
/// fails the test, and so does a row that no file needs any more.
type Exceptions = [(&'static str, &'static [&'static str])];

/// A `*` in a path stands for anything.
const DEBIAN_EXCEPTIONS: &Exceptions = &[
    (
        // Object files of the link editor: ld.so says "only ET_DYN and ET_EXEC can be loaded" of each.
        "an ELF file of type 1, neither a program nor a shared library",
        &[
            "/usr/lib/gcc/x86_64-linux-gnu/12/*.o",
            "/usr/lib/python3.11/config-3.11-x86_64-linux-gnu/*.o",
            "/usr/lib/x86_64-linux-gnu/*.o",
            "/usr/lib/x86_64-linux-gnu/libmcheck.a",
            "/usr/lib/x86_64-linux-musl/*.o",
        ],
    ),
    (
        // They would run, not be traced: no interpreter looks at LD_TRACE_LOADED_OBJECTS.
        "statically linked, position-independent: it relocates itself and needs no library",
        &["/usr/sbin/ldconfig"],
    ),
    (
        "statically linked: it has no interpreter and needs no library",
        &["/usr/bin/busybox"],
    ),
];

/// Every regular file of a sysroot that starts as ELF, as a path inside it.
fn elf_files(root: &Path, tree: &LiveTree) -> Vec<String> {
    let mut files = Vec::new();
    let walk = walkdir::WalkDir::new(root).sort_by_file_name();
    for entry in walk
        .into_iter()
        .filter_entry(|e| e.path() != root.join("proc"))
    {
        let entry = entry.expect("a sysroot that can be read");
        if !entry.file_type().is_file() {
            continue;
        }
        let inside = entry.path().strip_prefix(root).expect("below the root");
        let path = format!("/{}", inside.to_str().expect("names in UTF-8"));
        if !matches!(elf(tree, &path), Elf::NotElf) {
            files.push(path);
        }
    }
    files
}

fn elf(tree: &LiveTree, path: &str) -> Elf {
    let node = tree
        .locate(path.as_bytes(), true)
        .expect("it was just listed");
    tree.elf(&node).expect("a file that can be read")
}

/// How a file is handed to its dynamic linker; `loader` is for those that name none.
fn request(root: &Path, tree: &LiveTree, file: &str, loader: &str) -> Request {
    let interpreter = match elf(tree, file) {
        Elf::Facts(facts) => facts.interpreter.clone(),
        _ => None,
    };
    let interpreter = interpreter.map(|path| String::from_utf8(path).expect("UTF-8"));
    let mode = std::fs::metadata(root.join(&file[1..]))
        .expect("it was just listed")
        .mode();
    // ld.so traces nothing where the file changes who runs it, and not all libraries with an interpreter may be run.
    let executable = mode & 0o6000 == 0 && mode & 0o111 != 0;
    let how = match interpreter {
        // musl looks at no such variable: the program would run.
        Some(path) if path.contains("ld-musl") => How::List(path),
        Some(_) if executable => How::Executed,
        Some(path) => How::By(path),
        None if loader.contains("ld-musl") => How::List(loader.to_owned()),
        None => How::By(loader.to_owned()),
    };
    Request::new(file, how)
}

/// Compares all ELF files of a sysroot with what their dynamic linkers say; returns how many.
fn compare(root: &Path, shell: &str, loader: &str, exceptions: &Exceptions) -> usize {
    let tree = LiveTree::open(root).expect("a sysroot");
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    let mut not_compared: BTreeMap<String, String> = BTreeMap::new();
    for file in elf_files(root, &tree) {
        let request = request(root, &tree, &file, loader);
        match predict(&tree, &question(&request)) {
            Ok(linked) => {
                expected.push(as_trace(&linked));
                requests.push(request);
            }
            Err(why) => {
                not_compared.insert(file, why);
            }
        }
    }
    let mut different = Vec::new();
    let real = ask(root, shell, &requests);
    for ((request, expected), real) in requests.iter().zip(&expected).zip(&real) {
        if real.list != expected.list || real.fatal != expected.fatal {
            different.push(format!(
                "{}\n  ld.so: {real:?}\n  ours:  {expected:?}",
                request.file
            ));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} files differ:\n{}",
        different.len(),
        requests.len(),
        different[..different.len().min(20)].join("\n")
    );
    check_exceptions(&not_compared, exceptions);
    requests.len()
}

fn check_exceptions(not_compared: &BTreeMap<String, String>, exceptions: &Exceptions) {
    let covers = |pattern: &str, file: &str| match pattern.split_once('*') {
        Some((start, end)) => file.starts_with(start) && file.ends_with(end),
        None => file == pattern,
    };
    for (file, why) in not_compared {
        let listed = exceptions.iter().find(|(reason, _)| reason == why);
        let listed = listed
            .is_some_and(|(_, patterns)| patterns.iter().any(|pattern| covers(pattern, file)));
        assert!(listed, "{file} is not compared and not listed: {why}");
    }
    for (why, patterns) in exceptions {
        for pattern in *patterns {
            let needed = not_compared
                .iter()
                .any(|(file, reason)| reason == why && covers(pattern, file));
            assert!(
                needed,
                "the exception {pattern} ({why}) is not needed any more"
            );
        }
    }
}

#[test]
fn every_elf_file_of_the_debian_sysroot_resolves_as_its_loader_says() {
    let compared = compare(
        sysroot::debian(),
        "/bin/bash",
        "/lib64/ld-linux-x86-64.so.2",
        DEBIAN_EXCEPTIONS,
    );
    eprintln!("{compared} files compared");
}

/// Programs, and what is in their environment.
type Probed<'a> = [(&'a str, &'a [(&'a str, &'a str)])];

/// 20 programs of all sorts, some with a search path of their own.
const PROBED: &Probed<'_> = &[
    ("/bin/true", &[]),
    ("/bin/bash", &[]),
    ("/usr/bin/python3", &[]),
    ("/usr/bin/perl", &[]),
    ("/usr/bin/git", &[]),
    ("/usr/bin/gawk", &[]),
    ("/usr/bin/ffmpeg", &[]),
    ("/usr/bin/emacs", &[]),
    ("/usr/bin/ruby", &[]),
    ("/usr/bin/guile", &[]),
    ("/usr/bin/node", &[]),
    ("/usr/bin/gcc", &[]),
    ("/usr/bin/ld", &[]),
    (
        "/usr/bin/find",
        &[("LD_LIBRARY_PATH", "/nowhere:/usr/lib/x86_64-linux-gnu")],
    ),
    (
        "/usr/bin/sed",
        &[("LD_LIBRARY_PATH", "/usr/lib/../lib//;/opt")],
    ),
    (
        "/usr/bin/ffprobe",
        &[(
            "LD_LIBRARY_PATH",
            "/usr/lib/x86_64-linux-gnu/pulseaudio:/usr/lib",
        )],
    ),
    ("/bin/ls", &[("LD_LIBRARY_PATH", "relative:/usr/lib")]),
    (
        "/bin/grep",
        &[(
            "LD_LIBRARY_PATH",
            "$ORIGIN/../lib:/usr/$LIB:/usr/lib/$PLATFORM",
        )],
    ),
    (
        "/usr/bin/readelf",
        &[("LD_LIBRARY_PATH", ":/etc/passwd:/lib")],
    ),
    (
        "/bin/cat",
        &[(
            "LD_PRELOAD",
            "libm.so.6 /lib/x86_64-linux-gnu/libz.so.1 libnowhere.so",
        )],
    ),
];

/// Compares every call of `programs`; returns how many there were.
fn compare_probes(root: &Path, programs: &Probed<'_>) -> usize {
    let tree = LiveTree::open(root).expect("a sysroot");
    let mut count = 0;
    let mut different = Vec::new();
    for (program, environment) in programs {
        let variable = |name: &str| {
            let found = environment.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let request = Request {
            library_path: variable("LD_LIBRARY_PATH"),
            preload: variable("LD_PRELOAD"),
            ..Request::new(*program, How::Executed)
        };
        let linked = predict(&tree, &question(&request)).expect("linked dynamically");
        let real = strace::path_calls(root, &[program], environment);
        count += real.len();
        if let Some(difference) = first_difference(&real, &as_path_calls(&linked)) {
            different.push(format!("{program} {environment:?}: {difference}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    count
}

#[test]
fn the_probes_of_twenty_debian_programs_are_those_that_strace_sees() {
    let count = compare_probes(sysroot::debian(), PROBED);
    eprintln!("{count} calls compared");
}

/// The interpreter of all programs of the store: no other path leads to an ld.so there.
fn store_loader(tree: &LiveTree) -> String {
    let Elf::Facts(facts) = elf(tree, "/bin/ffmpeg") else {
        panic!("/bin/ffmpeg of the store sysroot is no ELF file");
    };
    let interpreter = facts.interpreter.clone().expect("a program");
    String::from_utf8(interpreter).expect("UTF-8")
}

const STORE_EXCEPTIONS: &Exceptions = &[(
    // It would run, not be traced.
    "statically linked: it has no interpreter and needs no library",
    &["/store/*/bin/busybox"],
)];

#[test]
fn every_elf_file_of_the_store_sysroot_resolves_as_its_loader_says() {
    let root = sysroot::store();
    let loader = store_loader(&LiveTree::open(root).expect("a sysroot"));
    let compared = compare(root, "/bin/sh", &loader, STORE_EXCEPTIONS);
    eprintln!("{compared} files compared");
}

#[test]
fn the_probes_of_ffmpeg_and_emacs_in_the_store_are_those_that_strace_sees() {
    let programs: &Probed<'_> = &[
        ("/bin/ffmpeg", &[]),
        (
            "/bin/ffmpeg",
            &[("LD_LIBRARY_PATH", "/nowhere:$ORIGIN/../lib")],
        ),
        ("/bin/emacs", &[]),
    ];
    let count = compare_probes(sysroot::store(), programs);
    eprintln!("{count} calls compared");
}
