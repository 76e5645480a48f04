//! What debuggers, profilers and unwinders find in a program that goes on from its snapshot, from inside and from outside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use elfuse_tests::need;
use object::read::elf::{ElfFile64, ProgramHeader};

use super::features::{FEATURES, features};
use super::guest::{said, text};
use super::kept::Kept;

/// What a case says natively and from its snapshot.
fn both(kept: &Kept, case: &str) -> [String; 2] {
    let line = [FEATURES, case];
    let native = kept.guest.native(&line);
    let restored = said(&mut kept.command(&[], &line));
    assert_eq!(kept.counts_of(FEATURES)[0], 1);
    assert!(native.errors.is_empty(), "{native:#?}");
    [native.text, restored.text]
}

#[test]
fn the_dynamic_linkers_lists_are_whole_and_lead_to_the_same_objects() {
    let [native, restored] = both(&features(), "lists");
    assert_eq!(native, restored);
    for line in [
        "told 1, state 0",
        "map libc.so.6: elf 1, dynamic 1",
        "object libc.so.6: same 1, headers 1",
    ] {
        assert!(native.contains(line), "{native}");
    }
}

#[test]
fn a_backtrace_goes_through_the_program_and_its_libraries() {
    let [native, restored] = both(&features(), "sorts");
    assert_eq!(native, restored);
    for frame in [
        "features deepest",
        "libc.so.6 qsort",
        "features main",
        "libc.so.6 __libc_start_main",
    ] {
        assert!(native.contains(&format!("frame {frame}")), "{native}");
    }
}

/// A program that is held, until this is dropped.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Held {
    /// Starts it, and waits until it is where it stays.
    fn start(mut command: Command) -> Self {
        let mut held = Self(command.stdout(Stdio::piped()).spawn().expect("starting it"));
        let output = held.0.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        held
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0.id()).into()
    }
}

fn held(kept: &Kept, options: &[&str]) -> Held {
    Held::start(kept.command(options, &[FEATURES, "hold"]))
}

#[test]
fn a_debugger_that_attaches_finds_symbols_and_frames() {
    let kept = features();
    let root = kept.guest.scratch.root();
    let program = root.join("bin/features");
    let frames = |held: &Held| {
        let mut gdb = Command::new(need::tool("gdb", "gdb"));
        // The file that was executed is elfuse.
        let before = [
            "set auto-load off",
            "set debuginfod enabled off",
            "set exec-file-mismatch off",
            &format!("set sysroot {}", root.display()),
        ];
        let asked = [
            "backtrace",
            "info sharedlibrary",
            "frame function hold",
            "print numbers",
        ];
        gdb.args(["-batch", "-nx"])
            .args(before.iter().flat_map(|command| ["-iex", command]))
            .args(asked.iter().flat_map(|command| ["-ex", command]))
            .args(["-p", &held.0.id().to_string(), text(&program)]);
        let said = said(&mut gdb);
        let name = |line: &str| -> Option<String> {
            let frame = line
                .strip_prefix('#')?
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .trim_start();
            let function = frame.split_once(" in ").map_or(frame, |(_, rest)| rest);
            Some(function.split(' ').next()?.to_owned())
        };
        let names: Vec<_> = said.text.lines().filter_map(name).collect();
        (names, said)
    };
    let anew = held(&kept, &["--no-resident"]);
    let (expected, _) = frames(&anew);
    let restored = held(&kept, &[]);
    let (found, said) = frames(&restored);
    assert_eq!(kept.counts_of(FEATURES)[0], 1);
    assert_eq!(found, expected, "{said:#?}");
    for function in ["held", "hold", "main"] {
        assert!(
            found.iter().any(|name| name == function),
            "{function}: {said:#?}"
        );
    }
    assert!(found.iter().any(|name| name.contains("qsort")), "{said:#?}");
    assert!(said.text.contains("libc.so.6"), "{said:#?}");
    assert!(
        said.text.contains("= {3, 1, 2}") || said.text.contains("= {1, 3, 2}"),
        "{said:#?}"
    );
}

/// Start, end, offset and path of the mappings of code.
fn code(held: &Held) -> Vec<(u64, u64, u64, PathBuf)> {
    let maps = fs::read_to_string(held.proc("maps")).expect("its mappings");
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let protection = fields.next()?;
        let offset = fields.next()?;
        let path = fields.nth(2)?;
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let is_code = protection.contains('x') && path.starts_with('/');
        is_code.then_some((hex(start)?, hex(end)?, hex(offset)?, path.into()))
    };
    maps.lines().filter_map(row).collect()
}

#[test]
fn a_profiler_finds_all_code_in_the_files_it_is_of_at_their_offsets() {
    let kept = features();
    let held = held(&kept, &[]);
    assert_eq!(kept.counts_of(FEATURES)[0], 1);
    let memory = File::open(held.proc("mem")).expect("its memory");
    let root = kept.guest.scratch.root();
    let own = fs::canonicalize(&kept.guest.programs.elfuse).expect("elfuse");
    let mut names = Vec::new();
    for (start, end, offset, path) in code(&held) {
        if path == own {
            continue;
        }
        assert!(path.starts_with(root), "code of {}", path.display());
        let bytes = fs::read(&path).expect("the file");
        // An address in it leads to the same place of the file by this mapping and by the program headers: what symbols are found by.
        let file = ElfFile64::<object::Endianness>::parse(&*bytes).expect("an ELF file");
        let endian = file.endian();
        let is_of = |header: &&object::elf::ProgramHeader64<_>| {
            let first = header.p_offset(endian) & !0xfff;
            header.p_type(endian) == object::elf::PT_LOAD
                && header.p_flags(endian).0 & object::elf::PF_X.0 != 0
                && first == offset
        };
        let headers = file.elf_program_headers().iter();
        assert_eq!(
            headers.filter(is_of).count(),
            1,
            "{}: {offset:#x}",
            path.display()
        );
        let len = (end - start).min(bytes.len() as u64 - offset) as usize;
        let mut mapped = vec![0; len];
        memory.read_exact_at(&mut mapped, start).expect("its code");
        assert!(
            mapped == bytes[offset as usize..][..len],
            "{} at {offset:#x}",
            path.display()
        );
        names.push(path.file_name().expect("a name").to_owned());
    }
    names.sort();
    names.dedup();
    assert_eq!(names, ["features", "ld-linux-x86-64.so.2", "libc.so.6"]);
}

#[test]
fn the_kernel_tells_others_of_the_program_what_it_tells_of_one_that_was_loaded() {
    let kept = features();
    let tell = |held: &Held| {
        let line = fs::read(held.proc("cmdline")).expect("its arguments");
        let stat = fs::read_to_string(held.proc("stat")).expect("its state");
        let fields: Vec<String> = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .map(str::to_owned)
            .collect();
        // proc(5) counts from 1, and two fields come before: start and end of code, then of data, heap, arguments.
        let number = |field: usize| fields[field - 3].parse::<u64>().expect("a number");
        let spans = [(26, 27), (45, 46), (48, 49)].map(|(start, end)| number(end) - number(start));
        let name = fs::read_to_string(held.proc("comm")).expect("its name");
        let words = fs::read(held.proc("auxv")).expect("its auxiliary vector");
        let keys: Vec<u8> = words.chunks(16).map(|row| row[0]).collect();
        (line, name, spans, keys)
    };
    let anew = held(&kept, &["--no-resident"]);
    let restored = held(&kept, &[]);
    assert_eq!(kept.counts_of(FEATURES)[0], 1);
    assert_eq!(tell(&restored), tell(&anew));
    let (line, name, ..) = tell(&restored);
    assert_eq!(
        (&line[..], name.as_str()),
        (&b"/bin/features\0hold\0"[..], "features\n")
    );
}
