//! Everything that is worth saying and does not stop a command. Each warning says what to try next.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

use crate::report::Bytes;

/// Kinds of warning. A kind is reported once, with the number of times it occurred and one example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warning {
    /// A directory that cannot be listed.
    UnreadableDirectory,
    /// A file that cannot be opened or read.
    UnreadableFile,
    /// Starts as ELF and contradicts itself.
    BrokenElf,
    /// More names in one directory than a sidecar may hold.
    TooManyEntries,
    /// Below more directories than a path can name.
    TooDeep,
    /// Changed within the last two seconds, and `--no-wait` was given.
    Unsealed,
    /// A directory with a POSIX access control list.
    AccessList,
    /// A directory that takes no sidecar.
    SidecarNotWritten,
    /// An ELF file of which no patched copy could be made, though one was to be.
    NotPatched,
    /// A file of the index that cannot be removed.
    NotRemoved,
    /// A file system whose time stamps are not known to be reliable.
    UnknownFileSystem,
    /// Changed while it was being read, again and again.
    KeepsChanging,
    /// A device node, socket or FIFO that was not copied.
    SpecialFileLeftOut,
    /// A set-user-ID or set-group-ID bit that was not copied.
    SetIdDropped,
    /// A file that a table of known runtimes or the C library's configuration names and that is not there.
    NamedButMissing,
    /// A library that a bundled program needs and that is not on this system either.
    LibraryNotFound,
    /// A library that only a module needs, which the program may never load.
    ModuleLacksLibrary,
    /// A symlink in a copied tree that leads to a directory outside it.
    SymlinkLeadsOut,
    /// An interpreter named by `#!` or by an ELF file that is not there.
    InterpreterNotFound,
    /// A shell script that only starts another program, as version managers install.
    ScriptMayNeedMore,
    /// A line or file of the loader's configuration that is not followed.
    ConfigurationIgnored,
    /// A library whose SONAME is not a name in its directory, so that the cache names a file that is not there.
    LibraryLinkMissing,
    /// Two programs that get different files for one SONAME, where there is room for one.
    LibrariesDisagree,
}

impl Warning {
    /// What happened, after the number of times.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Warning::UnreadableDirectory => "directories could not be listed and are left out",
            Warning::UnreadableFile => "files could not be read and are left out",
            Warning::BrokenElf => "files start as ELF but are broken; no facts are kept of them",
            Warning::TooManyEntries => "directories hold too many names to be indexed",
            Warning::TooDeep => "directories lie deeper than any path leads and are left out",
            Warning::Unsealed => {
                "directories or files changed less than 2 s ago and are not sealed"
            }
            Warning::AccessList => "directories have an access control list and are not sealed",
            Warning::SidecarNotWritten => "sidecars could not be written",
            Warning::NotPatched => "patched copies could not be made",
            Warning::NotRemoved => "directories kept their sidecar",
            Warning::UnknownFileSystem => "file systems are not known to keep reliable time stamps",
            Warning::KeepsChanging => {
                "directories changed each time they were read and are left out"
            }
            Warning::SpecialFileLeftOut => "device nodes, sockets or FIFOs were not copied",
            Warning::SetIdDropped => "files lost their set-user-ID or set-group-ID bit",
            Warning::NamedButMissing => "files are named by configuration but do not exist",
            Warning::LibraryNotFound => "libraries were not found",
            Warning::ModuleLacksLibrary => "libraries that only modules need were not found",
            Warning::SymlinkLeadsOut => "symlinks lead to directories that were not copied",
            Warning::InterpreterNotFound => "interpreters or loaders of programs were not found",
            Warning::ScriptMayNeedMore => {
                "programs are shell scripts, which may start programs that were not copied"
            }
            Warning::ConfigurationIgnored => "lines or files of ld.so.conf are not followed",
            Warning::LibraryLinkMissing => {
                "links from SONAMEs to libraries are not there; the cache lists them all the same"
            }
            Warning::LibrariesDisagree => {
                "SONAMEs mean different files to different programs; the cache has the first"
            }
        }
    }

    /// What to try next.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Warning::UnreadableDirectory | Warning::UnreadableFile => {
                "run as a user who may read them, or remove them from the sysroot"
            }
            Warning::BrokenElf => {
                "see what is wrong with `readelf -lW`; lookups of their names work all the same"
            }
            Warning::TooManyEntries => "split the directory; until then it is looked up live",
            Warning::TooDeep => "see how they came about; they are looked up live",
            Warning::Unsealed => {
                "run `elfuse-index seal` in a few seconds; until then they are looked up live"
            }
            Warning::AccessList => {
                "remove it with `setfacl -b`, if mode bits will do; until then they are looked up live"
            }
            Warning::SidecarNotWritten => {
                "nothing, if only this host uses the index: the store has their content; else run as the tree's owner"
            }
            Warning::NotPatched => {
                "nothing, if some system calls may cost a trap; else see that there is room in the store"
            }
            Warning::NotRemoved => "run as the tree's owner",
            Warning::UnknownFileSystem => {
                "copy the sysroot to ext4, xfs, btrfs or tmpfs; until then it is looked up live"
            }
            Warning::KeepsChanging => "run `elfuse-index build` again when nothing writes there",
            Warning::SpecialFileLeftOut => "mount /dev, or make them as root",
            Warning::SetIdDropped => {
                "programs such as su and passwd need it; set it as root with chmod u+s"
            }
            Warning::NamedButMissing => {
                "nothing, if the program works; else install what provides them, or use --add"
            }
            Warning::LibraryNotFound => {
                "see where it was looked for with `elfuse-index tree`; install it, or use --add"
            }
            Warning::ModuleLacksLibrary => {
                "nothing, if the program works without that module; else install it, or use --add"
            }
            Warning::SymlinkLeadsOut => "--add that directory too, if the program needs it",
            Warning::InterpreterNotFound => "install it, or correct the script's first line",
            Warning::ScriptMayNeedMore => {
                "name those programs too; for a version manager's shim, give the real program's path"
            }
            Warning::ConfigurationIgnored => "correct the line; ldconfig does not follow it either",
            Warning::LibraryLinkMissing => "make them with `ldconfig -r SYSROOT`, or by ln -s",
            Warning::LibrariesDisagree => "make one cache per program",
        }
    }

    /// Whether what was asked for is not all there: exit status 3.
    #[must_use]
    pub const fn is_gap(self) -> bool {
        match self {
            Warning::UnreadableDirectory
            | Warning::UnreadableFile
            | Warning::KeepsChanging
            | Warning::NotRemoved
            | Warning::TooManyEntries
            | Warning::TooDeep
            | Warning::LibraryNotFound
            | Warning::InterpreterNotFound
            | Warning::LibrariesDisagree => true,
            Warning::BrokenElf
            | Warning::Unsealed
            | Warning::AccessList
            | Warning::SidecarNotWritten
            | Warning::NotPatched
            | Warning::UnknownFileSystem
            | Warning::SpecialFileLeftOut
            | Warning::SetIdDropped
            | Warning::NamedButMissing
            | Warning::ModuleLacksLibrary
            | Warning::SymlinkLeadsOut
            | Warning::ScriptMayNeedMore
            | Warning::ConfigurationIgnored
            | Warning::LibraryLinkMissing => false,
        }
    }
}

/// Warnings as they come in, from any thread.
#[derive(Debug, Default)]
pub struct Warnings {
    seen: Mutex<BTreeMap<Warning, Seen>>,
}

#[derive(Debug)]
struct Seen {
    count: u64,
    example: Vec<u8>,
    detail: String,
}

/// One kind of warning, as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// Which.
    pub kind: Warning,
    /// How many times.
    pub count: u64,
    /// The first path in byte order that it happened to.
    pub example: Bytes,
    /// What was found there; may be empty.
    pub detail: String,
    /// What to try next.
    pub hint: &'static str,
}

impl Warnings {
    /// Counts one. The example kept is the least path, so that the report does not depend on the number of threads.
    pub fn add(&self, kind: Warning, path: &[u8], detail: impl ToString) {
        let mut seen = self.lock();
        match seen.get_mut(&kind) {
            None => {
                seen.insert(
                    kind,
                    Seen {
                        count: 1,
                        example: path.to_vec(),
                        detail: detail.to_string(),
                    },
                );
            }
            Some(seen) => {
                seen.count += 1;
                if path < seen.example.as_slice() {
                    seen.example = path.to_vec();
                    seen.detail = detail.to_string();
                }
            }
        }
    }

    /// Everything so far, one line per kind.
    #[must_use]
    pub fn reported(&self) -> Vec<Reported> {
        let seen = self.lock();
        let each = seen.iter().map(|(&kind, seen)| Reported {
            kind,
            count: seen.count,
            example: Bytes(seen.example.clone()),
            detail: seen.detail.clone(),
            hint: kind.hint(),
        });
        each.collect()
    }

    /// Whether any of them means that something is left out.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.lock().keys().any(|kind| kind.is_gap())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Warning, Seen>> {
        // A thread that panicked while counting left at worst a count that is one short.
        self.seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_reported_once_with_the_least_path_as_its_example() {
        let warnings = Warnings::default();
        warnings.add(Warning::BrokenElf, b"/b", "second");
        warnings.add(Warning::BrokenElf, b"/a", "first");
        warnings.add(Warning::BrokenElf, b"/c", "third");
        let reported = warnings.reported();
        assert_eq!(reported.len(), 1);
        assert_eq!(
            (reported[0].count, reported[0].example.0.as_slice()),
            (3, &b"/a"[..])
        );
        assert_eq!(reported[0].detail, "first");
        assert!(!warnings.has_gaps());
        warnings.add(Warning::UnreadableFile, b"/d", "");
        assert!(warnings.has_gaps());
    }
}
