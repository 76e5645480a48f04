//! `ld.so.conf`: which directories the loader's cache is made of.

use crate::resolve::glob::glob;
use crate::tree::{Kind, Tree};

/// Where `ldconfig` starts.
pub const LD_SO_CONF: &[u8] = b"/etc/ld.so.conf";

/// How deep `include` may nest. glibc has no limit: a file that includes itself ends it by stack overflow.
const MAX_DEPTH: usize = 32;
/// Directories kept; more are a mistake or an attack.
const MAX_DIRECTORIES: usize = 65_536;
/// Files read, counting a file each time it is included: two files that include each other twice would otherwise be
/// read 2^32 times within the depth allowed.
const MAX_FILES: usize = 4_096;

/// A directory named by the configuration, not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredDirectory {
    /// As it is written, without the blanks around it, trailing slashes and an `=TYPE`.
    pub path: Vec<u8>,
    /// What was written after `=`: of which C library the untyped libraries there are.
    pub library_type: Option<LibraryType>,
    /// The file that names it.
    pub file: Vec<u8>,
    /// The line, counted from 1.
    pub line: usize,
}

/// A C library, as `DIR=TYPE` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryType {
    /// Those of a.out times.
    Libc4,
    /// The one before glibc 2.
    Libc5,
    /// glibc 2.
    Libc6,
}

/// A line or file that is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfProblem {
    /// The file.
    pub file: Vec<u8>,
    /// The line, counted from 1; 0 for the whole file.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// What a configuration file and all it includes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LdSoConf {
    /// In the order in which `ldconfig` visits them. Duplicates are kept.
    pub directories: Vec<ConfiguredDirectory>,
    /// The files read, in order, by the path they were reached by. A copy of the configuration is a copy of these.
    pub files: Vec<Vec<u8>>,
    /// What is wrong.
    pub problems: Vec<ConfProblem>,
}

impl LdSoConf {
    /// Reads `file` of `tree` and what it includes. No file is no directories.
    #[must_use]
    pub fn read(tree: &dyn Tree, file: &[u8]) -> LdSoConf {
        let mut reader = Reader {
            tree,
            conf: LdSoConf::default(),
            files_left: MAX_FILES,
        };
        reader.file(file, 0);
        reader.conf
    }
}

struct Reader<'t> {
    tree: &'t dyn Tree,
    conf: LdSoConf,
    files_left: usize,
}

impl Reader<'_> {
    fn problem(&mut self, file: &[u8], line: usize, what: impl Into<String>) {
        self.conf.problems.push(ConfProblem {
            file: file.to_vec(),
            line,
            what: what.into(),
        });
    }

    fn file(&mut self, file: &[u8], depth: usize) {
        if self.files_left == 0 {
            return;
        }
        self.files_left -= 1;
        if self.files_left == 0 {
            self.problem(
                file,
                0,
                format!("more than {MAX_FILES} files are included; the rest is not read"),
            );
            return;
        }
        let node = match self.tree.locate(file, true) {
            Ok(node) if node.kind == Kind::File => node,
            Ok(_) => return self.problem(file, 0, "not a regular file"),
            Err(rustix::io::Errno::NOENT) => return,
            Err(error) => return self.problem(file, 0, format!("it cannot be reached: {error}")),
        };
        let text = match self.tree.read(&node) {
            Ok(text) => text,
            Err(error) => return self.problem(file, 0, format!("it cannot be read: {error}")),
        };
        self.conf.files.push(file.to_vec());
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            self.line(file, number, line, depth);
        }
    }

    fn line(&mut self, file: &[u8], number: usize, line: &[u8], depth: usize) {
        // glibc handles lines as C strings.
        let end = line.iter().position(|&byte| byte == b'#' || byte == 0);
        let line = trim_start(&line[..end.unwrap_or(line.len())]);
        if let Some(patterns) = directive(line, b"include") {
            for pattern in patterns
                .split(|byte| is_blank(*byte))
                .filter(|pattern| !pattern.is_empty())
            {
                self.include(file, number, pattern, depth);
            }
        } else if directive(line, b"hwcap").is_some() {
            self.problem(
                file,
                number,
                "the hwcap directive means nothing since glibc 2.33",
            );
        } else {
            self.directory(file, number, line);
        }
    }

    fn include(&mut self, file: &[u8], number: usize, pattern: &[u8], depth: usize) {
        if depth == MAX_DEPTH {
            return self.problem(
                file,
                number,
                format!("includes nest deeper than {MAX_DEPTH}"),
            );
        }
        let pattern = if pattern.starts_with(b"/") {
            pattern.to_vec()
        } else {
            let slash = file.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            [&file[..slash], b"/", pattern].concat()
        };
        for found in glob(self.tree, &pattern) {
            self.file(&found, depth + 1);
        }
    }

    fn directory(&mut self, file: &[u8], number: usize, line: &[u8]) {
        let mut parts = line.splitn(2, |&byte| byte == b'=');
        let path = trim_end(parts.next().unwrap_or_default(), is_space);
        let library_type = match parts.next() {
            None => None,
            Some(b"libc4") => Some(LibraryType::Libc4),
            Some(b"libc5") => Some(LibraryType::Libc5),
            Some(b"libc6" | b"glibc2") => Some(LibraryType::Libc6),
            Some(_) => {
                self.problem(
                    file,
                    number,
                    "what follows the = is no library type; the directory counts as one without",
                );
                None
            }
        };
        let path = trim_end(path, |byte| byte == b'/');
        if path.is_empty() {
            return;
        }
        if !path.starts_with(b"/") {
            return self.problem(file, number, "a directory that is not absolute is left out");
        }
        if self.conf.directories.len() == MAX_DIRECTORIES {
            return self.problem(
                file,
                number,
                format!("more than {MAX_DIRECTORIES} directories; the rest is left out"),
            );
        }
        self.conf.directories.push(ConfiguredDirectory {
            path: path.to_vec(),
            library_type,
            file: file.to_vec(),
            line: number,
        });
    }
}

/// What follows `name` and a blank, in any case of letters for all but `include`.
fn directive<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (word, rest) = line.split_at_checked(name.len())?;
    let same = if name == b"include" {
        word == name
    } else {
        word.eq_ignore_ascii_case(name)
    };
    (same && rest.first().is_some_and(|&byte| is_blank(byte))).then_some(rest)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    text
}

fn trim_end(mut text: &[u8], unwanted: impl Fn(u8) -> bool) -> &[u8] {
    while let [rest @ .., last] = text
        && unwanted(*last)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::memory::MemoryTree;

    fn read(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let tree = MemoryTree::new(files.iter().map(|(path, text)| (*path, *text)));
        let conf = LdSoConf::read(&tree, LD_SO_CONF);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            conf.directories.iter().map(|dir| text(&dir.path)).collect(),
            conf.problems
                .iter()
                .map(|problem| {
                    format!("{}:{}: {}", text(&problem.file), problem.line, problem.what)
                })
                .collect(),
        )
    }

    #[test]
    fn comments_blanks_types_and_trailing_slashes_are_not_part_of_a_directory() {
        let (directories, problems) = read(&[(
            "/etc/ld.so.conf",
            " /a/ \t\n#/b\n/c # d\n\n/e=libc6\n/\n/f g\r\n/h=libc7\n",
        )]);
        assert_eq!(directories, ["/a", "/c", "/e", "/f g", "/h"]);
        assert!(
            matches!(problems.as_slice(), [problem] if problem.contains(":8: what follows the =")),
            "{problems:?}"
        );
    }

    #[test]
    fn includes_are_globbed_sorted_and_relative_to_their_file() {
        let (directories, problems) = read(&[
            (
                "/etc/ld.so.conf",
                "/first\ninclude ld.so.conf.d/*.conf /etc/none/*.conf\n/last\n",
            ),
            ("/etc/ld.so.conf.d/b.conf", "/b"),
            ("/etc/ld.so.conf.d/a.conf", "/a\ninclude more"),
            ("/etc/ld.so.conf.d/more", "/more"),
            ("/etc/ld.so.conf.d/c.off", "/c"),
        ]);
        assert_eq!(directories, ["/first", "/a", "/more", "/b", "/last"]);
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let (directories, problems) = read(&[("/etc/ld.so.conf", "/a\ninclude /etc/ld.so.conf\n")]);
        assert_eq!(directories.len(), MAX_DEPTH + 1);
        assert_eq!(
            problems,
            ["/etc/ld.so.conf:2: includes nest deeper than 32"]
        );
    }

    #[test]
    fn a_file_that_includes_itself_twice_ends_soon() {
        let (_, problems) = read(&[(
            "/etc/ld.so.conf",
            "include /etc/ld.so.conf /etc/ld.so.conf\n",
        )]);
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("more than 4096 files"))
        );
    }

    #[test]
    fn relative_directories_and_hwcap_lines_are_problems_and_no_file_is_none() {
        let (directories, problems) = read(&[("/etc/ld.so.conf", "lib\nHWCAP 1 x\ninclude\n")]);
        assert_eq!(directories, [""; 0]);
        assert_eq!(
            problems,
            [
                "/etc/ld.so.conf:1: a directory that is not absolute is left out",
                "/etc/ld.so.conf:2: the hwcap directive means nothing since glibc 2.33",
                "/etc/ld.so.conf:3: a directory that is not absolute is left out",
            ]
        );
        assert_eq!(read(&[]), (Vec::new(), Vec::new()));
    }
}
