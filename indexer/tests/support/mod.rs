//! Small sysroots for tests, and running commands on them.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::Parser;
use elfuse_indexer::cli::Cli;
use elfuse_indexer::exit::Exit;
use elfuse_indexer::options::Request;
use elfuse_indexer::report::Output;
use elfuse_indexer::run;

/// What a little-endian x86-64 ELF file says of itself.
#[derive(Default)]
pub(crate) struct Elf<'a> {
    pub(crate) soname: Option<&'a str>,
    pub(crate) needed: &'a [&'a str],
    pub(crate) runpath: Option<&'a str>,
    pub(crate) interpreter: Option<&'a str>,
}

impl Elf<'_> {
    /// The file: header, three segments, dynamic section, strings. Loaded where it lies.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut strings = vec![0];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut rows = Vec::new();
        rows.extend(self.needed.iter().map(|name| (1, add(name))));
        rows.extend(self.soname.map(|name| (14, add(name))));
        rows.extend(self.runpath.map(|path| (29, add(path))));
        let interpreter = self
            .interpreter
            .map(|path| (add(path), path.len() as u64 + 1));
        let dynamic = 64 + 3 * 56;
        let dynamic_len = (rows.len() as u64 + 2) * 16;
        let strings_at = dynamic + dynamic_len;
        rows.extend([(5, strings_at), (0, 0)]);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
        for number in [0, 64, 0_u64] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        let (interp, len) = interpreter.map_or((0, 0), |(at, len)| (strings_at + at, len));
        let interp_kind = if len == 0 { 0 } else { 3 };
        let end = strings_at + strings.len() as u64;
        let segments = [
            (1_u32, 0, end),
            (2, dynamic, dynamic_len),
            (interp_kind, interp, len),
        ];
        for (kind, at, len) in segments {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&4_u32.to_le_bytes());
            for number in [at, at, at, len, len, 8] {
                file.extend_from_slice(&number.to_le_bytes());
            }
        }
        for (tag, value) in rows {
            file.extend_from_slice(&u64::to_le_bytes(tag));
            file.extend_from_slice(&value.to_le_bytes());
        }
        file.extend_from_slice(&strings);
        file
    }
}

/// A sysroot in a temporary directory.
pub(crate) struct Sysroot {
    dir: tempfile::TempDir,
}

impl Sysroot {
    /// With a program, two libraries, a broken one, symlinks and an empty directory.
    pub(crate) fn new() -> Self {
        let sysroot = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let program = Elf {
            needed: &["liba.so.1", "libc.so.6"],
            runpath: Some("$ORIGIN/../lib/private:/opt/lib"),
            interpreter: Some("/lib64/ld-linux-x86-64.so.2"),
            ..Elf::default()
        };
        let library = Elf {
            soname: Some("liba.so.1"),
            needed: &["libc.so.6"],
            ..Elf::default()
        };
        sysroot.write("usr/bin/program", &program.bytes());
        sysroot.write("usr/lib/liba.so.1.2", &library.bytes());
        sysroot.write(
            "usr/lib/libc.so.6",
            &Elf {
                soname: Some("libc.so.6"),
                ..Elf::default()
            }
            .bytes(),
        );
        sysroot.write("usr/lib/broken.so", b"\x7fELF\x07");
        sysroot.write("etc/name with \x1b", b"text\n");
        fs::create_dir_all(sysroot.path().join("srv/empty")).unwrap();
        let link = |target: &str, at: &str| {
            std::os::unix::fs::symlink(target, sysroot.path().join(at)).unwrap();
        };
        link("liba.so.1.2", "usr/lib/liba.so.1");
        link("usr/lib", "lib");
        sysroot
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn build(&self) {
        let (exit, _, notes) = elfuse_index(["build".as_ref(), self.path().as_os_str()]);
        assert_eq!(exit, Exit::Success, "{notes}");
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Runs a command in this process: exit status, standard output, standard error.
pub(crate) fn elfuse_index<T: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = T>,
) -> (Exit, String, String) {
    let program = std::ffi::OsString::from("elfuse-index");
    let arguments = arguments
        .into_iter()
        .map(|argument| argument.as_ref().to_owned());
    let cli = Cli::parse_from(std::iter::once(program).chain(arguments));
    let (text, notes) = (Buffer::default(), Buffer::default());
    let mut out = Output::to_writers(
        Box::new(text.clone()),
        Box::new(notes.clone()),
        cli.common.json,
    );
    let done = Request::from_command(cli.command)
        .and_then(|request| run::run(&request, &mut out))
        .and_then(|exit| out.finish(exit));
    let exit = done.unwrap_or_else(|error| out.error(&error));
    (exit, text.text(), notes.text())
}
