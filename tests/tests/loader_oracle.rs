//! The resolver against the real dynamic linkers, for every ELF file of the example sysroots.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use elfuse_indexer::live::LiveTree;
use elfuse_indexer::resolve::{Linked, Outcome, Question, Role, Start, errno_name, resolve};
use elfuse_indexer::tree::{Elf, Kind, Tree};
use elfuse_tests::ld_trace::{How, Trace, ask};
use elfuse_tests::strace::{self, PathCall};
use elfuse_tests::sysroot;

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
        let node = tree
            .locate(path.as_bytes(), true)
            .expect("it was just listed");
        if node.kind == Kind::File && !matches!(tree.elf(&node).expect("readable"), Elf::NotElf) {
            files.push(path);
        }
    }
    files
}

/// What a dynamic linker would print about `linked`.
fn as_trace(linked: &Linked) -> Trace {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut trace = Trace::default();
    if let Some(fatal) = &linked.fatal {
        trace.fatal = Some((text(&fatal.object), fatal.text.clone()));
        return trace;
    }
    for &id in &linked.order {
        let object = linked.object(id);
        trace.list.push(match object.role {
            Role::Missing => (text(&object.name), None),
            _ => (text(&object.name), Some(text(&object.path))),
        });
    }
    trace
}

/// (files compared, differences, files not compared with why)
struct Comparison {
    compared: usize,
    different: Vec<String>,
    not_compared: BTreeMap<String, String>,
}

/// Compares all `files`; `loader` is for those that name none.
fn compare(
    root: &Path,
    tree: &LiveTree,
    shell: &str,
    files: &[String],
    loader: &str,
) -> Comparison {
    let mut asked = Vec::new();
    let mut expected = BTreeMap::new();
    let mut not_compared = BTreeMap::new();
    for file in files {
        let node = tree
            .locate(file.as_bytes(), true)
            .expect("it was just listed");
        let interpreter = match tree.elf(&node).expect("it was just read") {
            Elf::Facts(facts) => facts.interpreter.clone(),
            _ => None,
        };
        let interpreter = interpreter.map(|path| String::from_utf8(path).expect("UTF-8"));
        let mode = std::fs::metadata(root.join(&file[1..]))
            .expect("it was just listed")
            .mode();
        // ld.so traces nothing where the file changes who runs it, and not all libraries with an interpreter may be run.
        let executable = mode & 0o6000 == 0 && mode & 0o111 != 0;
        let (how, start) = match interpreter {
            Some(path) if path.contains("ld-musl") => {
                (How::List(path.clone()), Start::By(path.into_bytes()))
            }
            Some(_) if executable => (How::Executed, Start::Usual),
            Some(path) => (How::By(path.clone()), Start::By(path.into_bytes())),
            None => (How::By(loader.to_owned()), Start::By(loader.into())),
        };
        let question = Question {
            start,
            ..Question::new(file.as_str())
        };
        match resolve(tree, &question).expect("the file is there") {
            Outcome::Linked(linked) => {
                expected.insert(file.clone(), as_trace(&linked));
                asked.push((file.clone(), how));
            }
            Outcome::NotLinked(why) => {
                not_compared.insert(file.clone(), why.to_string());
            }
        }
    }
    let real = ask(root, shell, &asked);
    let mut different = Vec::new();
    for (file, expected) in &expected {
        let real = &real[file];
        if real.list != expected.list || real.fatal != expected.fatal {
            different.push(format!(
                "{file}\n  ld.so: {:?} {:?} {:?} status {}\n  ours:  {:?} {:?}",
                real.list, real.fatal, real.other, real.status, expected.list, expected.fatal
            ));
        }
    }
    Comparison {
        compared: expected.len(),
        different,
        not_compared,
    }
}

#[test]
fn every_elf_file_of_the_debian_sysroot_resolves_as_its_loader_says() {
    let root = sysroot::debian();
    let tree = LiveTree::open(root).expect("a sysroot");
    let files = elf_files(root, &tree);
    let result = compare(
        root,
        &tree,
        "/bin/bash",
        &files,
        "/lib64/ld-linux-x86-64.so.2",
    );
    eprintln!(
        "{} files, {} compared, {} different",
        files.len(),
        result.compared,
        result.different.len()
    );
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, why) in &result.not_compared {
        reasons.entry(why).or_default().push(file);
    }
    for (why, files) in reasons {
        eprintln!(
            "not compared ({}): {why}: {:?}",
            files.len(),
            &files[..files.len().min(12)]
        );
    }
    assert!(
        result.different.is_empty(),
        "{} differences:\n{}",
        result.different.len(),
        result.different[..result.different.len().min(200)].join("\n")
    );
}

/// 20 programs of all sorts, some with a search path of their own.
const PROBED: [(&str, &[(&str, &str)]); 20] = [
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

/// The calls that [`resolve`] says the dynamic linker makes.
fn predicted_calls(tree: &LiveTree, program: &str, environment: &[(&str, &str)]) -> Vec<PathCall> {
    let variable = |name: &str| {
        let found = environment.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| value.as_bytes().to_vec())
    };
    let question = Question {
        library_path: variable("LD_LIBRARY_PATH"),
        preload: variable("LD_PRELOAD"),
        ..Question::new(program)
    };
    let Outcome::Linked(linked) = resolve(tree, &question).expect("the program is there") else {
        panic!("{program} is not linked dynamically");
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let calls = linked.probes.iter();
    calls
        .map(|probe| {
            let errno = probe.errno.map(|errno| errno_name(errno).into_owned());
            (probe.call.name().to_owned(), text(&probe.path), errno)
        })
        .collect()
}

/// Compares every call of `programs`; returns how many there were.
fn compare_probes(root: &Path, programs: &[(&str, &[(&str, &str)])]) -> usize {
    let tree = LiveTree::open(root).expect("a sysroot");
    let mut count = 0;
    let mut different = Vec::new();
    for (program, environment) in programs {
        let real = strace::path_calls(root, &[program], environment);
        let ours = predicted_calls(&tree, program, environment);
        count += real.len();
        if let Some(at) = (0..real.len().max(ours.len())).find(|&at| real.get(at) != ours.get(at)) {
            different.push(format!(
                "{program} {environment:?}: call {at} of {}\n  ld.so: {:?}\n  ours:  {:?} of {}",
                real.len(),
                &real[at.min(real.len())..real.len().min(at + 3)],
                &ours[at.min(ours.len())..ours.len().min(at + 3)],
                ours.len(),
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    count
}

#[test]
fn the_probes_of_twenty_debian_programs_are_those_that_strace_sees() {
    let count = compare_probes(sysroot::debian(), &PROBED);
    eprintln!("{count} calls compared");
}
