//! What is compiled into a dynamic linker, read from its own file: distributions differ in all of it, and a
//! package-per-directory store has a different one in every glibc package.
//!
//! The strings are searched for in the whole file. Where one is not found the value of an unmodified glibc of that
//! machine stands in.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use elfuse_format::elf_facts::ElfFacts;

use crate::resolve::Loader;
use crate::tree::{Elf, Kind, Tree};

/// Which dynamic linker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The GNU C library's.
    Glibc,
    /// musl's.
    Musl,
}

/// A version of glibc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2.
    pub major: u32,
    /// 36 of 2.36.
    pub minor: u32,
}

impl Version {
    /// Assumed where the file does not say: rules have not changed since.
    pub const NEWEST: Version = Version {
        major: 2,
        minor: 42,
    };

    /// Whether `glibc-hwcaps` subdirectories are searched.
    #[must_use]
    pub fn has_glibc_hwcaps(self) -> bool {
        self >= Version {
            major: 2,
            minor: 33,
        }
    }

    /// Whether a directory is asked for with its trailing slash.
    #[must_use]
    pub fn stats_with_slash(self) -> bool {
        self >= Version {
            major: 2,
            minor: 39,
        }
    }

    /// Whether the `$ORIGIN` of a program that ld.so is called with is where the file is, whatever symlinks it was
    /// called by, as when the kernel starts it.
    #[must_use]
    pub fn canonicalizes_program(self) -> bool {
        self >= Version {
            major: 2,
            minor: 42,
        }
    }

    /// Whether `tls`, the platform and single capabilities are subdirectories.
    #[must_use]
    pub fn has_legacy_hwcaps(self) -> bool {
        self < Version {
            major: 2,
            minor: 37,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What is compiled into a dynamic linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constants {
    /// Which it is.
    pub family: Family,
    /// `e_ident[EI_CLASS]` of what it loads.
    pub class: u8,
    /// `e_ident[EI_DATA]` of what it loads.
    pub data: u8,
    /// `e_machine` of what it loads.
    pub machine: u16,
    /// `e_flags` of its own, which on some machines hold the ABI.
    pub e_flags: u32,
    /// `DT_SONAME` of its own.
    pub soname: Option<Vec<u8>>,
    /// Version of glibc; `None` where it does not say and for musl.
    pub version: Option<Version>,
    /// Directories searched last, each with its trailing slash.
    pub system_directories: Vec<Vec<u8>>,
    /// The path of `ld.so.cache`.
    pub cache: Vec<u8>,
    /// The path of `ld.so.preload`.
    pub preload: Vec<u8>,
    /// What `$LIB` stands for.
    pub lib: Vec<u8>,
    /// Whether a file of another machine is passed over whatever else is odd about it. Debian and Ubuntu have that as
    /// a patch; elsewhere its byte order and OS ABI are looked at first, and are fatal.
    pub machine_first: bool,
}

impl Constants {
    /// The version whose rules are followed.
    #[must_use]
    pub fn rules(&self) -> Version {
        self.version.unwrap_or(Version::NEWEST)
    }

    /// Those of an unmodified build for what `facts` are.
    #[must_use]
    pub fn usual(family: Family, facts: &ElfFacts) -> Self {
        let lib = usual_lib(facts);
        Self {
            family,
            class: facts.class,
            data: facts.data,
            machine: facts.machine,
            e_flags: facts.e_flags,
            soname: None,
            version: None,
            system_directories: vec![
                format!("/{lib}/").into_bytes(),
                format!("/usr/{lib}/").into_bytes(),
            ],
            cache: b"/etc/ld.so.cache".to_vec(),
            preload: b"/etc/ld.so.preload".to_vec(),
            lib: lib.as_bytes().to_vec(),
            machine_first: false,
        }
    }

    /// Reads them out of the bytes of a dynamic linker.
    #[must_use]
    pub fn read(bytes: &[u8], facts: &ElfFacts, path: &[u8]) -> Self {
        let mut constants = Self::usual(family_of(bytes, path), facts);
        constants.soname.clone_from(&facts.soname);
        if constants.family == Family::Musl {
            return constants;
        }
        constants.version = version_in(bytes);
        let debian: [&[u8]; 2] = [b"(Debian GLIBC ", b"(Ubuntu GLIBC "];
        constants.machine_first = debian.iter().any(|banner| find(bytes, banner).is_some());
        if let Some(directories) = system_directories_in(bytes) {
            constants.lib = lib_in(bytes, &directories[0]);
            constants.system_directories = directories;
        }
        for (suffix, path) in [
            (&b"/ld.so.cache"[..], &mut constants.cache),
            (b".so.preload", &mut constants.preload),
        ] {
            if let Some(found) = strings(bytes).find(|s| s.starts_with(b"/") && s.ends_with(suffix))
            {
                *path = found.to_vec();
            }
        }
        constants
    }
}

/// Dynamic linkers that were read already: many programs of a tree share one, and each is some hundred kilobytes to search.
#[derive(Debug, Default)]
pub struct Loaders {
    // By path, and by the facts that stand in for a dynamic linker that is not there.
    known: RwLock<HashMap<LoaderKey, Loader>>,
}

/// Path; class, data and machine of the program.
type LoaderKey = (Vec<u8>, u8, u8, u16);

impl Loaders {
    /// The dynamic linker at `path` of `tree`, which has to be the same tree at each call, for a program with `facts`.
    pub fn get(&self, tree: &dyn Tree, path: Vec<u8>, facts: &ElfFacts) -> Loader {
        let key = (path, facts.class, facts.data, facts.machine);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(loader) = known.get(&key) {
            return loader.clone();
        }
        drop(known);
        let loader = read_loader(tree, key.0.clone(), facts);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, loader.clone());
        loader
    }
}

/// The dynamic linker at `path`, for a program with `facts`.
fn read_loader(tree: &dyn Tree, path: Vec<u8>, facts: &ElfFacts) -> Loader {
    let read = || -> Option<(Vec<u8>, ElfFacts)> {
        let node = tree
            .locate(&path, true)
            .ok()
            .filter(|node| node.kind == Kind::File)?;
        match tree.elf(&node).ok()? {
            // One that can be opened but not read still says what it is for.
            Elf::Facts(own) => Some((tree.read(&node).unwrap_or_default(), (*own).clone())),
            _ => None,
        }
    };
    let (exists, constants) = match read() {
        Some((bytes, own)) => (true, Constants::read(&bytes, &own, &path)),
        None => (false, Constants::usual(family_of(&[], &path), facts)),
    };
    Loader {
        path,
        exists,
        constants,
    }
}

/// Interpreters that the ABI of a machine names: (class, data, machine, path).
const INTERPRETERS: [(u8, u8, u16, &str); 12] = [
    (2, 1, 62, "/lib64/ld-linux-x86-64.so.2"),
    (1, 1, 62, "/libx32/ld-linux-x32.so.2"),
    (1, 1, 3, "/lib/ld-linux.so.2"),
    (2, 1, 183, "/lib/ld-linux-aarch64.so.1"),
    (1, 1, 40, "/lib/ld-linux-armhf.so.3"),
    (2, 1, 243, "/lib/ld-linux-riscv64-lp64d.so.1"),
    (1, 1, 243, "/lib/ld-linux-riscv32-ilp32d.so.1"),
    (2, 1, 21, "/lib64/ld64.so.2"),
    (2, 2, 21, "/lib64/ld64.so.1"),
    (2, 2, 22, "/lib/ld64.so.1"),
    (1, 2, 22, "/lib/ld.so.1"),
    (2, 1, 258, "/lib64/ld-linux-loongarch-lp64d.so.1"),
];

/// The interpreter a library is tried with, which names none: glibc's of its machine, or musl's where the library asks
/// for a C library by musl's name and the tree has one.
pub(super) fn usual_interpreter(tree: &dyn Tree, facts: &ElfFacts) -> Vec<u8> {
    let musl = facts.needed.iter().find_map(|name| {
        let arch = match name.as_slice() {
            b"libc.so" => musl_arch(facts).as_bytes(),
            other => other.strip_prefix(b"libc.musl-")?.strip_suffix(b".so.1")?,
        };
        Some([b"/lib/ld-musl-", arch, b".so.1"].concat())
    });
    if let Some(path) = musl
        && tree.locate(&path, true).is_ok()
    {
        return path;
    }
    let same = |&&(class, data, machine, _): &&(u8, u8, u16, &str)| {
        (class, data, machine) == (facts.class, facts.data, facts.machine)
    };
    INTERPRETERS
        .iter()
        .find(same)
        .map_or(b"/lib/ld.so.1".to_vec(), |row| row.3.as_bytes().to_vec())
}

/// musl's name of a machine, the part between `ld-musl-` and `.so.1`.
#[must_use]
pub fn musl_arch(facts: &ElfFacts) -> &'static str {
    match (facts.machine, facts.class, facts.data) {
        (62, 2, _) => "x86_64",
        (62, _, _) => "x32",
        (3, _, _) => "i386",
        (183, _, 1) => "aarch64",
        (183, _, _) => "aarch64_be",
        (40, _, _) => "armhf",
        (243, 2, _) => "riscv64",
        (243, _, _) => "riscv32",
        (21, _, 1) => "powerpc64le",
        (21, _, _) => "powerpc64",
        (20, _, _) => "powerpc",
        (22, _, _) => "s390x",
        (258, _, _) => "loongarch64",
        _ => "unknown",
    }
}

/// glibc's default library directory: `lib64` where a 32-bit ABI has `lib`.
fn usual_lib(facts: &ElfFacts) -> &'static str {
    const WITH_LIB64: [u16; 7] = [2, 8, 21, 22, 43, 62, 258];
    match (facts.class, facts.machine) {
        (1, 62) => "libx32",
        (2, machine) if WITH_LIB64.contains(&machine) => "lib64",
        (2, 243) => "lib64/lp64d",
        _ => "lib",
    }
}

fn family_of(bytes: &[u8], path: &[u8]) -> Family {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let is_musl = if bytes.is_empty() {
        name.starts_with(b"ld-musl-")
    } else {
        // musl prints it when it is called without arguments; glibc has no such words.
        find(bytes, b"musl libc (").is_some()
    };
    if is_musl { Family::Musl } else { Family::Glibc }
}

/// The banner ends in "stable release version 2.36." or "development release version 2.36.9000."
fn version_in(bytes: &[u8]) -> Option<Version> {
    const BEFORE: &[u8] = b" release version ";
    let after = &bytes[find(bytes, BEFORE)? + BEFORE.len()..];
    let mut numbers = after
        .split(|&b| b == b'.')
        .map(|n| std::str::from_utf8(n).ok()?.parse().ok());
    Some(Version {
        major: numbers.next()??,
        minor: numbers.next()??,
    })
}

/// One array of strings: absolute directories with a trailing slash, one after the other. Compiled twice into some
/// versions; the first will do.
fn system_directories_in(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let is_directory = |s: &[u8]| {
        s.len() > 2
            && s.starts_with(b"/")
            && s.ends_with(b"/")
            && s.iter().all(u8::is_ascii_graphic)
            && s.split(|&b| b == b'/').any(|part| part.starts_with(b"lib"))
    };
    let mut all = strings(bytes);
    let first = all.find(|s| is_directory(s))?;
    let mut directories = vec![first.to_vec()];
    directories.extend(all.take_while(|s| is_directory(s)).map(<[u8]>::to_vec));
    Some(directories)
}

/// What `$LIB` is: the first system directory without its slashes where that is compiled in as a string (Debian), else
/// its last name (as glibc's Makefile has it).
fn lib_in(bytes: &[u8], directory: &[u8]) -> Vec<u8> {
    let whole = &directory[1..directory.len() - 1];
    if strings(bytes).any(|s| s == whole) {
        return whole.to_vec();
    }
    whole
        .rsplit(|&b| b == b'/')
        .next()
        .unwrap_or(whole)
        .to_vec()
}

/// The NUL-terminated pieces of a file.
fn strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == 0)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|&b| b == first) {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glibc_bytes(directories: &[u8], lib: &[u8], etc: &[u8]) -> Vec<u8> {
        [
            b"\x7fELF junk\0/dev/null\0not/a/lib/\0".as_slice(),
            directories,
            b"\0\0",
            lib,
            b"\0",
            etc,
            b"/ld.so.cache\0--inhibit-cache Do not use /etc/ld.so.cache\0",
            b"ld.so (GNU libc) stable release version 2.35.\nCopyright\0",
        ]
        .concat()
    }

    fn x86_64() -> ElfFacts {
        ElfFacts {
            class: 2,
            data: 1,
            machine: 62,
            ..ElfFacts::default()
        }
    }

    #[test]
    fn constants_of_a_multiarch_distribution_are_read_from_its_interpreter() {
        let directories = b"/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0";
        let bytes = glibc_bytes(directories, b"lib/x86_64-linux-gnu", b"/etc");
        let constants = Constants::read(&bytes, &x86_64(), b"/lib64/ld-linux-x86-64.so.2");
        assert_eq!(
            constants.version,
            Some(Version {
                major: 2,
                minor: 35
            })
        );
        assert_eq!(constants.system_directories.len(), 4);
        assert_eq!(constants.system_directories[3], b"/usr/lib/");
        assert_eq!(constants.lib, b"lib/x86_64-linux-gnu");
        assert_eq!(constants.cache, b"/etc/ld.so.cache");
    }

    #[test]
    fn constants_of_a_store_are_read_from_its_interpreter() {
        let bytes = glibc_bytes(
            b"/gnu/store/abc-glibc-2.35/lib/\0",
            b"lib",
            b"/gnu/store/abc-glibc-2.35/etc",
        );
        let constants = Constants::read(
            &bytes,
            &x86_64(),
            b"/gnu/store/abc-glibc-2.35/lib/ld-linux-x86-64.so.2",
        );
        assert_eq!(
            constants.system_directories,
            [b"/gnu/store/abc-glibc-2.35/lib/"]
        );
        assert_eq!(constants.lib, b"lib");
        assert_eq!(
            constants.cache,
            b"/gnu/store/abc-glibc-2.35/etc/ld.so.cache"
        );
    }

    #[test]
    fn what_the_file_does_not_say_is_as_glibc_has_it() {
        let constants = Constants::read(b"\x7fELF", &x86_64(), b"/x");
        assert_eq!(constants, Constants::usual(Family::Glibc, &x86_64()));
        assert_eq!(
            constants.system_directories,
            [b"/lib64/".to_vec(), b"/usr/lib64/".to_vec()]
        );
    }
}
