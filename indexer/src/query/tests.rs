use super::*;
use crate::resolve::hwcaps::Cpu;
use crate::tree::memory::MemoryTree;

/// A program with a search path of every kind; one library is missing, one found twice by different names.
fn example() -> MemoryTree {
    let mut tree = MemoryTree::new([
        ("/lib64/ld-linux-x86-64.so.2", "elf ld-linux-x86-64.so.2"),
        ("/opt/app/bin/prog", "elf"),
        ("/opt/app/lib/libone.so.1", "elf libone.so.1"),
        (
            "/opt/app/lib/glibc-hwcaps/x86-64-v2/libfast.so",
            "elf libfast.so",
        ),
        ("/opt/app/lib/libfast.so", "elf libfast.so"),
        ("/opt/extra/libalien.so", "elf libalien.so"),
        ("/usr/lib64/libalien.so", "elf libalien.so"),
        ("/usr/lib64/libc.so.6", "elf libc.so.6"),
        ("/usr/lib64/libother.so", "-> libc.so.6"),
    ]);
    let name = |name: &str| name.as_bytes().to_vec();
    tree.adjust("/opt/app/bin/prog", |facts| {
        facts.interpreter = Some(name("/lib64/ld-linux-x86-64.so.2"));
        facts.runpath = Some(name("/opt/extra:$ORIGIN/../lib"));
        facts.needed = [
            "libone.so.1",
            "libfast.so",
            "libalien.so",
            "libgone.so",
            "libc.so.6",
        ]
        .map(name)
        .to_vec();
    });
    tree.adjust("/opt/app/lib/libone.so.1", |facts| {
        facts.rpath = Some(name("/nowhere"));
        facts.needed = ["libc.so.6", "libother.so"].map(name).to_vec();
    });
    // For another machine: passed over.
    tree.adjust("/opt/extra/libalien.so", |facts| facts.machine = 183);
    tree
}

fn outcome(library_path: Option<&str>) -> Outcome {
    let lookup = LookupOptions {
        library_path: library_path.map(|path| path.as_bytes().to_vec()),
        cpu: Cpu::of_level("x86-64-v2").unwrap(),
    };
    ask_tree(&example(), b"/opt/app/bin/prog", &lookup).unwrap()
}

fn plain(_: crate::report::Style, text: &str) -> String {
    text.to_owned()
}

#[test]
fn tree_shows_each_request_with_its_reason() {
    let outcome = outcome(None);
    let answer = tree::answer(b"/opt/app/bin/prog", &outcome);
    insta::assert_snapshot!(tree::text(&answer, &outcome, plain));
}

#[test]
fn tree_as_json() {
    let answer = tree::answer(b"/opt/app/bin/prog", &outcome(Some("/opt/app/lib")));
    insta::assert_json_snapshot!(answer);
}

#[test]
fn why_shows_what_was_tried_before() {
    let outcome = outcome(None);
    let text = |soname: &str| {
        why::text(
            &why::answer(b"/opt/app/bin/prog", soname.as_bytes(), &outcome),
            plain,
        )
    };
    let texts = [
        "libfast.so",
        "libalien.so",
        "libc.so.6",
        "libgone.so",
        "libunknown.so",
    ]
    .map(text);
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn probes_are_counted_with_and_without_an_index() {
    let outcome = outcome(None);
    let answer = |indexed| {
        probes::answer(b"/opt/app/bin/prog", &outcome, indexed, |probe| {
            probe.path.starts_with(b"/opt")
        })
    };
    let texts = [false, true].map(|indexed| probes::text(&answer(indexed), plain));
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn what_is_not_linked_dynamically_is_said_so() {
    let tree = MemoryTree::new([
        ("/bin/script", "#!/bin/sh -e\necho"),
        ("/bin/text", "nothing"),
    ]);
    let lookup = LookupOptions {
        library_path: None,
        cpu: Cpu::baseline(),
    };
    let text = |path: &str| {
        let outcome = ask_tree(&tree, path.as_bytes(), &lookup).unwrap();
        tree::text(&tree::answer(path.as_bytes(), &outcome), &outcome, plain)
    };
    assert_eq!(
        text("/bin/script"),
        "/bin/script\n  a script; the kernel runs /bin/sh -e instead\n"
    );
    assert_eq!(text("/bin/text"), "/bin/text\n  not an ELF file\n");
}
