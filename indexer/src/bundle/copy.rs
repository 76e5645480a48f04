//! Carries out a plan. Works with descriptors below the destination's root and follows no symlink there, so that nothing
//! outside is written whatever the destination holds.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use elfuse_format::names::SIDECAR;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use serde::Serialize;

use super::plan::{Plan, What};
use super::source::Source;
use crate::report::{Output, escaped};
use crate::tree::{Node, split};
use crate::warning::Warning;

/// In every bundle: that it is one, so that a second run may write into it.
pub(super) const MARKER: &str = ".elfuse-bundle";
const MARKER_TEXT: &str = "\
This directory was made by `elfuse-index bundle`, which may write into it again.
";
/// A file under way. One is enough in a directory, since one run writes at a time; the next run takes it over.
const TEMPORARY: &str = ".elfuse-bundle.tmp";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Copied {
    /// Files written.
    pub files_written: u64,
    /// Files that were there already, with the same size, time and mode.
    pub files_unchanged: u64,
    /// Further names of files that were copied under another.
    pub hard_links: u64,
    /// Symlinks, whether new or not.
    pub symlinks: u64,
    /// Directories, whether new or not.
    pub directories: u64,
    /// Sizes of all files.
    pub bytes: u64,
}

/// The destination, locked for one run.
pub(super) struct Destination {
    root: OwnedFd,
    /// The directories from the root to the one last written to.
    open: Vec<Open>,
    /// (device, inode) of a source file with several names -> the name it has here.
    hard_links: HashMap<(u64, u64), Vec<u8>>,
    done: Copied,
}

struct Open {
    path: Vec<u8>,
    fd: OwnedFd,
    /// The time it gets when all of it is written; its own mtime says when we wrote.
    mtime: Option<Timespec>,
    changed: bool,
}

impl Destination {
    /// Makes or takes the directory `into`. One that holds something is taken if it is a bundle, or with `force`.
    pub(super) fn prepare(into: &Path, force: bool) -> anyhow::Result<Destination> {
        std::fs::create_dir_all(into)
            .with_context(|| format!("making the directory {}", into.display()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(into, flags, Mode::empty())
            .with_context(|| format!("opening the directory {}", into.display()))?;
        // Any other error comes from a file system without locks, which is no reason to do without the bundle.
        let lock = rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive);
        if lock == Err(Errno::WOULDBLOCK) {
            anyhow::bail!(
                "another bundle is being written into {}; wait until it is done",
                into.display()
            );
        }
        let marked = rustix::fs::statat(&root, MARKER, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if !marked && !force {
            let mut names =
                std::fs::read_dir(into).with_context(|| format!("reading {}", into.display()))?;
            if let Some(name) = names.next().transpose()? {
                anyhow::bail!(
                    "{} is no bundle and not empty: it holds {:?}; choose a new directory, or use --force to write into it",
                    into.display(),
                    name.file_name()
                );
            }
        }
        let mut destination = Destination {
            root,
            open: Vec::new(),
            hard_links: HashMap::new(),
            done: Copied::default(),
        };
        if !marked {
            destination.write(MARKER.as_bytes(), MARKER_TEXT.as_bytes())?;
            destination.done = Copied::default();
        }
        Ok(destination)
    }

    /// Copies everything in `plan`. What cannot be read is left out with a warning.
    pub(super) fn carry_out(
        &mut self,
        plan: &Plan,
        source: &Source,
        out: &Output,
    ) -> anyhow::Result<()> {
        let progress = out.progress("copying", Some(plan.len() as u64));
        for (path, entry) in plan.entries() {
            let (parent, name) =
                split(path).with_context(|| format!("{} has no name", escaped(path)))?;
            self.enter(parent)
                .with_context(|| format!("opening {} in the bundle", escaped(parent)))?;
            let done = match &entry.what {
                What::Directory => match source.metadata(path) {
                    Ok(metadata) => {
                        // Whoever made a bundle must be able to index and to remove it.
                        let mode = (metadata.mode() & 0o1777) | 0o700;
                        self.directory(path, name, mode, Some(timestamp(&metadata)))
                    }
                    Err(_) => self.directory(path, name, 0o755, None),
                },
                What::EmptyDirectory(mode) => self.directory(path, name, *mode, None),
                What::Symlink(target) => {
                    let mtime = source
                        .metadata(path)
                        .ok()
                        .map(|metadata| timestamp(&metadata));
                    self.symlink(name, target, mtime)
                }
                What::Written(bytes) => self.write(name, bytes),
                What::File(node) => match source.open_file(node) {
                    Ok(file) => self.file(path, name, node, file, out),
                    Err(error) => {
                        out.warn(Warning::UnreadableFile, path, error);
                        Ok(())
                    }
                },
            };
            done.with_context(|| format!("copying {} into the bundle", escaped(path)))?;
            progress.add(1);
        }
        while !self.open.is_empty() {
            self.leave()?;
        }
        progress.clear();
        Ok(())
    }

    /// Writes the file `path`, whose directory is there, and leaves the directory's time as it is.
    pub(super) fn write_into(&mut self, path: &[u8], bytes: &[u8]) -> anyhow::Result<()> {
        let (parent, name) =
            split(path).with_context(|| format!("{} has no name", escaped(path)))?;
        self.enter(parent)
            .with_context(|| format!("opening {} in the bundle", escaped(parent)))?;
        let stat = rustix::fs::fstat(self.current())?;
        if let Some(open) = self.open.last_mut() {
            open.mtime = Some(Timespec {
                tv_sec: stat.st_mtime as _,
                tv_nsec: stat.st_mtime_nsec as _,
            });
        }
        self.write(name, bytes)
            .with_context(|| format!("writing {} into the bundle", escaped(path)))?;
        while !self.open.is_empty() {
            self.leave()?;
        }
        Ok(())
    }

    /// What was done so far.
    pub(super) fn done(&self) -> Copied {
        self.done
    }

    /// Makes the directory `path`, which the plan made before, the one that is written to.
    fn enter(&mut self, path: &[u8]) -> io::Result<()> {
        let inside = |open: &Open| {
            path.strip_prefix(open.path.as_slice())
                .is_some_and(|rest| rest.starts_with(b"/"))
        };
        while self
            .open
            .last()
            .is_some_and(|open| open.path != path && !inside(open))
        {
            self.leave()?;
        }
        let mut length = self.open.last().map_or(0, |open| open.path.len());
        while length < path.len() && path != b"/" {
            let rest = &path[length + 1..];
            let end = rest
                .iter()
                .position(|&byte| byte == b'/')
                .unwrap_or(rest.len());
            let fd = rustix::fs::openat(self.current(), &rest[..end], DIRECTORY, Mode::empty())?;
            length += 1 + end;
            self.open.push(Open {
                path: path[..length].to_vec(),
                fd,
                mtime: None,
                changed: false,
            });
        }
        Ok(())
    }

    /// Closes the innermost directory, and gives it its time if something in it was written. One that did not change
    /// keeps the time it has: setting it again would invalidate an index for nothing.
    fn leave(&mut self) -> io::Result<()> {
        if let Some(Open {
            fd,
            mtime: Some(mtime),
            changed: true,
            ..
        }) = self.open.pop()
        {
            rustix::fs::futimens(&fd, &times(mtime))?;
        }
        Ok(())
    }

    fn current(&self) -> std::os::fd::BorrowedFd<'_> {
        self.open
            .last()
            .map_or(self.root.as_fd(), |open| open.fd.as_fd())
    }

    fn mark_changed(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.changed = true;
        }
    }

    fn directory(
        &mut self,
        path: &[u8],
        name: &[u8],
        mode: u32,
        mtime: Option<Timespec>,
    ) -> anyhow::Result<()> {
        self.done.directories += 1;
        let is_new = match rustix::fs::mkdirat(self.current(), name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                if self.kind(name)? != Some(FileType::Directory) {
                    rustix::fs::unlinkat(self.current(), name, AtFlags::empty())?;
                    rustix::fs::mkdirat(self.current(), name, Mode::from_raw_mode(0o700))?;
                    true
                } else {
                    false
                }
            }
            Err(error) => return Err(error.into()),
        };
        let fd = rustix::fs::openat(self.current(), name, DIRECTORY, Mode::empty())?;
        let wanted = Mode::from_raw_mode(mode as rustix::fs::RawMode);
        let stat = rustix::fs::fstat(&fd)?;
        if is_new || Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o7777) != wanted {
            rustix::fs::fchmod(&fd, wanted)?;
        }
        if is_new {
            self.mark_changed();
        }
        // A run that was interrupted left it with the wrong time. So did an index, which must stay valid.
        let is_late = |mtime: Timespec| {
            (mtime.tv_sec, mtime.tv_nsec) != (stat.st_mtime as _, stat.st_mtime_nsec as _)
        };
        let changed = is_new
            || mtime.is_some_and(is_late)
                && rustix::fs::statat(&fd, SIDECAR, AtFlags::SYMLINK_NOFOLLOW).is_err();
        self.open.push(Open {
            path: path.to_vec(),
            fd,
            mtime,
            changed,
        });
        Ok(())
    }

    fn symlink(
        &mut self,
        name: &[u8],
        target: &[u8],
        mtime: Option<Timespec>,
    ) -> anyhow::Result<()> {
        self.done.symlinks += 1;
        if self.kind(name)? == Some(FileType::Symlink)
            && rustix::fs::readlinkat(self.current(), name, Vec::new())?.as_bytes() == target
        {
            return Ok(());
        }
        self.remove_temporary()?;
        rustix::fs::symlinkat(target, self.current(), TEMPORARY)?;
        if let Some(mtime) = mtime {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(self.current(), TEMPORARY, &times(mtime), flags)?;
        }
        self.rename_temporary(name)
    }

    fn write(&mut self, name: &[u8], bytes: &[u8]) -> anyhow::Result<()> {
        self.done.bytes += bytes.len() as u64;
        if self.kind(name)? == Some(FileType::RegularFile) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let existing =
                rustix::fs::openat(self.current(), name, flags, Mode::empty()).map(File::from);
            if let Ok(existing) = existing
                && existing.metadata()?.len() == bytes.len() as u64
                && holds(existing, bytes)
            {
                self.done.files_unchanged += 1;
                return Ok(());
            }
        }
        let mut file = self.create_temporary()?;
        file.write_all(bytes)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
        self.done.files_written += 1;
        self.rename_temporary(name)
    }

    fn file(
        &mut self,
        path: &[u8],
        name: &[u8],
        node: &Node,
        mut from: File,
        out: &Output,
    ) -> anyhow::Result<()> {
        let metadata = from.metadata()?;
        let mode = metadata.mode() & 0o777;
        if metadata.mode() & 0o6000 != 0 {
            out.warn(Warning::SetIdDropped, path, "");
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.hard_links.get(&node.id).cloned() {
                return self.hard_link(name, &first);
            }
            self.hard_links.insert(node.id, path.to_vec());
        }
        self.done.bytes += metadata.len();
        if self.is_unchanged(name, mode, &metadata)? {
            self.done.files_unchanged += 1;
            return Ok(());
        }
        let mut file = self.create_temporary()?;
        // copy_file_range on Linux: shares the blocks where the file system can.
        io::copy(&mut from, &mut file)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode as rustix::fs::RawMode))?;
        rustix::fs::futimens(&file, &times(timestamp(&metadata)))?;
        self.done.files_written += 1;
        self.rename_temporary(name)
    }

    /// Another name for the file that is in the bundle as `first`.
    fn hard_link(&mut self, name: &[u8], first: &[u8]) -> anyhow::Result<()> {
        self.done.hard_links += 1;
        let (parent, first_name) = split(first).context("a file has a name")?;
        let mut directory = rustix::io::dup(&self.root)?;
        for part in parent
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
        {
            directory = rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty())?;
        }
        let original = rustix::fs::statat(&directory, first_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Ok(existing) = rustix::fs::statat(self.current(), name, AtFlags::SYMLINK_NOFOLLOW)
            && (existing.st_dev, existing.st_ino) == (original.st_dev, original.st_ino)
        {
            return Ok(());
        }
        self.remove_temporary()?;
        rustix::fs::linkat(
            &directory,
            first_name,
            self.current(),
            TEMPORARY,
            AtFlags::empty(),
        )?;
        self.rename_temporary(name)
    }

    /// Whether what is there has the size, time and mode of the source's: then it is not copied again.
    fn is_unchanged(&self, name: &[u8], mode: u32, metadata: &Metadata) -> anyhow::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(existing) = rustix::fs::openat(self.current(), name, flags, Mode::empty()) else {
            return Ok(false);
        };
        let existing = File::from(existing).metadata()?;
        Ok(existing.is_file()
            && existing.len() == metadata.len()
            && existing.mode() & 0o7777 == mode
            && (existing.mtime(), existing.mtime_nsec())
                == (metadata.mtime(), metadata.mtime_nsec()))
    }

    fn create_temporary(&self) -> anyhow::Result<File> {
        self.remove_temporary()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            self.current(),
            TEMPORARY,
            flags,
            Mode::from_raw_mode(0o600),
        )?))
    }

    fn remove_temporary(&self) -> anyhow::Result<()> {
        match rustix::fs::unlinkat(self.current(), TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn rename_temporary(&mut self, name: &[u8]) -> anyhow::Result<()> {
        match rustix::fs::renameat(self.current(), TEMPORARY, self.current(), name) {
            Ok(()) => {}
            Err(Errno::ISDIR) => {
                self.remove_temporary()?;
                anyhow::bail!(
                    "a directory is in its place; remove that, or choose a new directory for the bundle"
                );
            }
            Err(error) => return Err(error.into()),
        }
        self.mark_changed();
        Ok(())
    }

    /// What is in the current directory under `name`.
    fn kind(&self, name: &[u8]) -> anyhow::Result<Option<FileType>> {
        match rustix::fs::statat(self.current(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn holds(mut file: File, bytes: &[u8]) -> bool {
    let mut content = Vec::new();
    file.read_to_end(&mut content).is_ok() && content == bytes
}

fn timestamp(metadata: &Metadata) -> Timespec {
    Timespec {
        tv_sec: metadata.mtime(),
        tv_nsec: metadata.mtime_nsec() as _,
    }
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}
