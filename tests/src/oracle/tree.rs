//! Small trees, written down as text.
//!
//! ```text
//! d/ 0700                directory
//! d/f "text\n" 0600      file
//! bin/calls program      the program of that name, compiled
//! l -> d/f               symlink
//! p fifo
//! s socket
//! {n*255} "long"         a name repeated
//! chain c 40 d/f         c1 -> d/f, c2 -> c1, … c40 -> c39
//! ```
//!
//! Directories above are made. A path that is given again is replaced. Without a mode: 0755 for directories, 0644 for files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use elfuse_format::names::is_reserved;
use rustix::fs::FileType;

use crate::scratch::make_node;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Directory(u32),
    File(Vec<u8>, u32),
    Program,
    Symlink(String),
    Node(FileType),
}

/// Paths and what is there, sorted, so that a directory comes before what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, What>);

impl Tree {
    /// Reads a tree.
    ///
    /// # Panics
    /// A line makes no sense.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut tree = Self::default();
        for line in text.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if !line.is_empty() && !line.starts_with('#') {
                tree.add(line);
            }
        }
        tree
    }

    /// Adds what a line says.
    ///
    /// # Panics
    /// It makes no sense.
    pub fn add(&mut self, line: &str) {
        let nonsense = || panic!("no line of a tree: {line:?}");
        let line = &repeated(line);
        let (path, rest) = line.split_once(' ').unwrap_or((line, ""));
        if path == "chain" {
            let words: Vec<&str> = rest.split(' ').collect();
            let [name, count, target] = words[..] else {
                nonsense()
            };
            let mut target = target.to_owned();
            for number in 1..=count.parse::<u32>().expect("a number of links") {
                let link = format!("{name}{number}");
                let text = Path::new(&target).file_name().unwrap_or_default();
                let text = match number {
                    1 => target.clone(),
                    _ => text.to_string_lossy().into_owned(),
                };
                self.0.insert(link.clone().into(), What::Symlink(text));
                target = link;
            }
            return;
        }
        let mode = |text: &str, usual: u32| u32::from_str_radix(text.trim(), 8).unwrap_or(usual);
        let what = if path.ends_with('/') {
            What::Directory(mode(rest, 0o755))
        } else if let Some(target) = rest.strip_prefix("-> ") {
            What::Symlink(target.to_owned())
        } else if rest == "fifo" {
            What::Node(FileType::Fifo)
        } else if rest == "socket" {
            What::Node(FileType::Socket)
        } else if rest == "program" {
            What::Program
        } else if let Some((text, after)) = rest
            .strip_prefix('"')
            .and_then(|text| text.rsplit_once('"'))
        {
            What::File(unescaped(text), mode(after, 0o644))
        } else {
            nonsense()
        };
        let path = Path::new(path.trim_end_matches('/'));
        for above in path
            .ancestors()
            .skip(1)
            .filter(|above| *above != Path::new(""))
        {
            self.0
                .entry(above.to_owned())
                .or_insert(What::Directory(0o755));
        }
        self.0.insert(path.to_owned(), what);
    }

    /// Where the compiled programs are.
    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        let programs = self.0.iter().filter(|(_, what)| **what == What::Program);
        programs.map(|(path, _)| path.as_path())
    }

    /// Makes the tree in `root`, which is there; `programs` is where compiled programs lie, `owner` whose it is to be.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn make(&self, root: &Path, programs: &Path, owner: Option<u32>) {
        for (path, what) in &self.0 {
            let at = root.join(path);
            match what {
                What::Directory(_) => match fs::create_dir(&at) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => made.unwrap_or_else(|error| panic!("{}: {error}", at.display())),
                },
                What::File(content, mode) => {
                    fs::write(&at, content).expect("a file");
                    fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).expect("chmod");
                }
                What::Program => {
                    let program = programs.join(at.file_name().expect("a name"));
                    fs::copy(&program, &at)
                        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
                }
                What::Symlink(target) => symlink(target, &at).expect("a symlink"),
                What::Node(kind) => make_node(&at, *kind, 0).expect("a node"),
            }
            if owner.is_some() {
                lchown(&at, owner, owner).expect("chown");
            }
        }
        self.set_modes(root);
    }

    /// Makes of the tree what is to mislead: the directories as they will be, symlinks to nowhere in place of all else but
    /// programs, and a name in each directory that will not be there.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn make_decoys(&self, root: &Path, programs: &Path, owner: Option<u32>) {
        let mut decoys = Self::default();
        for (path, what) in &self.0 {
            let what = match what {
                What::Directory(mode) => {
                    let decoy = What::Symlink("/nowhere".to_owned());
                    decoys.0.insert(path.join("missing"), decoy);
                    What::Directory(*mode)
                }
                What::Program => What::Program,
                _ => What::Symlink("/nowhere".to_owned()),
            };
            decoys.0.insert(path.clone(), what);
        }
        decoys.make(root, programs, owner);
    }

    /// Replaces what [`Tree::make_decoys`] has made by the tree itself.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn replace_decoys(&self, root: &Path, programs: &Path, owner: Option<u32>) {
        for (path, what) in &self.0 {
            let at = root.join(path);
            if let What::Directory(_) = what {
                fs::set_permissions(&at, PermissionsExt::from_mode(0o755)).expect("chmod");
                // What a case has of that name is made again.
                fs::remove_file(at.join("missing")).expect("the decoy");
            } else if at.is_symlink() {
                fs::remove_file(&at).expect("the decoy");
            }
        }
        let programs_stay = self.0.iter().filter(|(_, what)| **what != What::Program);
        let rest = Self(
            programs_stay
                .map(|(path, what)| (path.clone(), what.clone()))
                .collect(),
        );
        rest.make(root, programs, owner);
    }

    /// Last, and from the deepest up: nobody can make a file in a directory that must not be written.
    fn set_modes(&self, root: &Path) {
        for (path, what) in self.0.iter().rev() {
            if let What::Directory(mode) = what {
                fs::set_permissions(root.join(path), PermissionsExt::from_mode(*mode))
                    .expect("chmod");
            }
        }
    }
}

/// Text with `\n`, `\r`, `\t`, `\0` and `\xHH` as what they stand for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, byte == b'\\') {
            (_, true) => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'x') => {
                    let digits = [bytes.next(), bytes.next()].map(|digit| digit.unwrap_or(b'0'));
                    let digits = String::from_utf8_lossy(&digits).into_owned();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
                }
                other => panic!("no escape {other:?} in {text:?}"),
            },
            _ => byte,
        });
    }
    out
}

/// `{text*count}` written out.
fn repeated(line: &str) -> String {
    let mut out = line.to_owned();
    while let Some((before, rest)) = out.split_once('{') {
        let (inside, after) = rest.split_once('}').expect("{text*count}");
        let (text, count) = inside.rsplit_once('*').expect("{text*count}");
        let count = count.parse().expect("a count");
        out = format!("{before}{}{after}", text.repeat(count));
    }
    out
}

/// What is compared of a tree: path → kind, permissions, owner, content. Neither times nor inode numbers, and not what belongs to
/// an index. Unreadable directories are made readable on the way.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    describe_below(root, Path::new(""), &mut found);
    found
}

fn describe_below(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    let at = root.join(path);
    // Deeper than a path can tell, a tree is not looked at.
    if at.as_os_str().len() > 3800 {
        found.insert(path.to_owned(), "deep down".to_owned());
        return;
    }
    // A root that a case could remove or rename is a difference like another.
    let state = match fs::symlink_metadata(&at) {
        Ok(state) => state,
        Err(error) => {
            found.insert(path.to_owned(), format!("not there: {error}"));
            return;
        }
    };
    let kind = state.file_type();
    let owner = format!(
        "{:04o} {}:{}",
        state.mode() & 0o7777,
        state.uid(),
        state.gid()
    );
    let readable = || {
        if !rustix::process::geteuid().is_root() {
            let mode = state.mode() & 0o7777 | 0o700;
            fs::set_permissions(&at, PermissionsExt::from_mode(mode)).expect("chmod");
        }
    };
    let text = if kind.is_symlink() {
        format!("symlink to {:?}", fs::read_link(&at).expect("a symlink"))
    } else if kind.is_dir() {
        readable();
        for entry in fs::read_dir(&at).expect("a directory") {
            let name = entry.expect("a name").file_name();
            if !is_reserved(name.as_bytes(), path == Path::new("")) {
                describe_below(root, &path.join(name), found);
            }
        }
        format!("directory {owner}")
    } else if kind.is_file() {
        readable();
        let content = fs::read(&at).expect("a file");
        match content.len() {
            0..200 => format!("file {owner} {:?}", String::from_utf8_lossy(&content)),
            _ => format!("file {owner} {}", blake3::hash(&content)),
        }
    } else if kind.is_fifo() {
        format!("fifo {owner}")
    } else if kind.is_socket() {
        format!("socket {owner}")
    } else {
        format!("device {owner} {:#x}", state.rdev())
    };
    found.insert(path.to_owned(), text);
}
