//! Kinds of programs: how they are linked, what their files look like, and what is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use elfuse_tests::need;

use super::guest::{Guest, Said, said};

/// What `hello` says when it is right.
fn greets(guest: &Guest, program: &str) {
    let line = [program, "one", "two words"];
    let (native, run) = (guest.native(&line), guest.run(&line));
    assert_eq!(
        native, run,
        "{program}: the real kernel's answer is on the left"
    );
    let (len, cwd) = (program.len(), "/w");
    let expected =
        format!("{program}\none\ntwo words\nhello\n{len} {program}\n{cwd}\n-1 2\n3 0 1 1\n");
    assert_eq!((run.text, run.status), (expected, 7), "{program}");
}

#[test]
fn programs_of_every_kind_of_link_start() {
    let guest = Guest::new();
    guest.add_glibc();
    for kind in [
        "hello-static",
        "hello-static-pie",
        "hello-pie",
        "hello-no-pie",
    ] {
        let at = format!("bin/{kind}");
        guest.add(kind, &at);
        greets(&guest, &format!("/{at}"));
    }
}

#[test]
fn programs_of_musl_start() {
    let guest = Guest::new();
    let compiler = need::tool("musl-gcc", "musl-tools");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/start/hello.c");
    for (name, flags) in [("static", &["-static"][..]), ("dynamic", &[])] {
        let path = guest.scratch.file(format!("bin/{name}"), "");
        let mut compile = Command::new(&compiler);
        compile
            .args(["-O1", "-o"])
            .arg(&path)
            .arg(source)
            .args(flags);
        assert_eq!(said(&mut compile).status, 0);
    }
    guest.add_of_host("/lib/ld-musl-x86_64.so.1");
    greets(&guest, "/bin/static");
    greets(&guest, "/bin/dynamic");
}

#[test]
fn scripts_are_started_by_what_their_first_lines_say() {
    let guest = Guest::new();
    guest.add("hello-static", "bin/hello");
    let script = |at: &str, text: &str| {
        let path = guest.scratch.file(at, text);
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    };
    script("bin/direct", "#!/bin/hello  an argument \n");
    script("bin/of-script", "#!/bin/direct\n");
    script("bin/of-itself", "#!/bin/of-itself\n");
    script("bin/of-nothing", "#!/bin/missing\n");
    for (script, words) in [
        ("/bin/direct", "/bin/hello\nan argument\n/bin/direct\none\n"),
        (
            "/bin/of-script",
            "/bin/hello\nan argument\n/bin/direct\n/bin/of-script\none\n",
        ),
    ] {
        let (native, run) = (guest.native(&[script, "one"]), guest.run(&[script, "one"]));
        assert_eq!(native, run);
        assert!(run.text.starts_with(words) && run.status == 7, "{run:#?}");
    }
    assert_eq!(guest.run(&["/bin/of-itself"]).status, 126);
    assert_eq!(guest.run(&["/bin/of-nothing"]).status, 127);
}

#[test]
fn registers_and_stack_at_the_first_instruction_are_as_the_kernel_leaves_them() {
    let guest = Guest::new();
    guest.add("entry", "bin/a");
    let mut run = guest.elfuse(&["--env", "PATH=/bin"], &["a", "b"]);
    assert_eq!(
        said(&mut run).status,
        0,
        "a bit for what is wrong: see entry.c"
    );
    // A number of words before the arguments that moves the stack by half of what it is aligned to.
    let mut run = guest.elfuse(&["--env", "PATH=/bin", "--env", "X=1"], &["a", "b"]);
    assert_eq!(said(&mut run).status, 0);
    // That it would tell.
    let mut run = guest.elfuse(&["--env", "PATH=/bin"], &["a"]);
    assert_eq!(said(&mut run).status, 1 << 4);
}

/// Bytes of the file that lie behind a segment's own, in the page where its zeros begin; protection flags of the segment.
fn behind_segment(file: &[u8]) -> Option<(&[u8], u32)> {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let half = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes"));
    let headers = word(32) as usize;
    let count = usize::from(file[56]);
    (0..count).map(|n| headers + 56 * n).find_map(|at| {
        let (offset, file_len, memory_len) = (word(at + 8), word(at + 32), word(at + 40));
        let end = (offset + file_len) as usize;
        let page_end = end.next_multiple_of(4096).min(file.len());
        let is_tail = half(at) == 1 && memory_len > file_len && file_len > 0;
        is_tail.then(|| (&file[end..page_end], half(at + 4)))
    })
}

#[test]
fn memory_without_bytes_in_the_file_is_zero_wherever_it_starts() {
    let guest = Guest::new();
    for kind in ["MIDDLE", "ALONE", "READ"] {
        let path = guest.add(&format!("bss-{kind}"), "bin/bss");
        let said = guest.native(&["/bin/bss"]);
        assert_eq!(said.status, 0, "{kind}: the program itself is wrong");
        assert_eq!(guest.run(&["/bin/bss"]).status, 0, "{kind}: see bss.c");
        let file = fs::read(path).expect("it was just copied");
        match (kind, behind_segment(&file)) {
            ("ALONE", None) => {}
            ("MIDDLE", Some((bytes, 6))) | ("READ", Some((bytes, 4))) => {
                assert!(bytes.iter().any(|byte| *byte != 0), "nothing to be cleared");
            }
            (_, other) => panic!("{kind} is not linked as it should be: {other:?}"),
        }
    }
}

/// A copy of a program with some bytes changed.
fn changed(guest: &Guest, name: &str, changes: &[(usize, u8)]) -> String {
    let at = format!("bin/{name}");
    let path = guest.add("hello-static", &at);
    let mut bytes = fs::read(&path).expect("it was just copied");
    for (at, byte) in changes {
        bytes[*at] = *byte;
    }
    fs::write(&path, bytes).expect("a program");
    format!("/{at}")
}

fn refused(said: &Said, words: &str) {
    assert_eq!(said.status, 126, "{said:#?}");
    assert!(
        said.errors.contains(words) && said.errors.starts_with("elfuse: "),
        "{said:#?}"
    );
    assert_eq!(said.text, "");
}

#[test]
fn what_cannot_be_executed_is_refused_with_126_and_the_reason() {
    const CLASS: usize = 4;
    const KIND: usize = 16;
    const MACHINE: usize = 18;
    let guest = Guest::new();
    let thirty_two = changed(&guest, "thirty-two", &[(CLASS, 1)]);
    refused(&guest.run(&[&thirty_two]), "a 32-bit program");
    let foreign = changed(&guest, "foreign", &[(MACHINE, 183)]);
    refused(
        &guest.run(&[&foreign]),
        "another processor (ELF machine 183)",
    );
    let object = changed(&guest, "object", &[(KIND, 1)]);
    refused(
        &guest.run(&[&object]),
        "neither a program nor a shared object",
    );
    let none = changed(&guest, "none", &[(0, b'x')]);
    refused(&guest.run(&[&none]), "neither an ELF program nor a script");
    refused(&guest.run(&["/w/f"]), "/w/f");
    refused(&guest.run(&["/w/d"]), "/w/d");
    let missing = guest.run(&["/bin/missing"]);
    assert_eq!(missing.status, 127, "{missing:#?}");
    guest.add("hello-pie", "bin/hello-pie");
    let without_interpreter = guest.run(&["/bin/hello-pie"]);
    assert!(
        matches!(without_interpreter.status, 126 | 127)
            && without_interpreter.errors.contains("interpreter"),
        "{without_interpreter:#?}"
    );
}

#[test]
fn elfuse_in_elfuse_is_refused_with_the_reason() {
    let guest = Guest::new();
    guest.add_file(&guest.programs.elfuse, "bin/elfuse");
    let line = ["/bin/elfuse", "run", "--sysroot", "/", "/bin/traps"];
    refused(&guest.run(&line), "elfuse does not run in elfuse");
}
