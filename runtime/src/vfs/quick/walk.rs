//! The walk itself: from the longest beginning of a path that is remembered to its end. Directories whose leases are over are compared on the way.

use super::{Ended, ended, is_special, last_name};
use crate::errno::Errno;
use crate::index::{DirId, Step};
use crate::vfs::catalogue::{Catalogue, Directory};
use crate::vfs::coherence::{Coherence, Note, Terms, View};
use crate::vfs::compared::Compared;
use crate::vfs::host::{Base, Host, Location};
use crate::vfs::mounts::Mounts;
use crate::vfs::prefixes::{Key, Known, Prefixes};
use crate::vfs::room::Room;
use crate::vfs::verdict::{Verdict, Verdicts};
use crate::vfs::{Last, Vfs};

/// How many symlinks are followed here: fewer than the kernel follows, so that who gives up has not decided anything.
const SYMLINKS: u32 = 20;

/// What a walk goes by.
struct By<'a, 'h, H> {
    mounts: &'a Mounts<'a>,
    index: &'a Catalogue<'a>,
    coherence: &'a Coherence<'a>,
    prefixes: &'h Prefixes<'a>,
    verdicts: Option<&'a Verdicts>,
    compared: Option<&'a Compared<'a>>,
    host: &'h H,
    view: View,
}

struct Walk<'a, 'r, H> {
    by: &'r By<'a, 'r, H>,
    room: &'r mut Room,
    /// The directory that the walk is in: it and all above it are as their keys say.
    dir: DirId,
    /// Length of its canonical guest path, which stands at the start of the room; the rest is still to be walked. 0: the root.
    at: usize,
    /// On what terms that may be believed.
    terms: Terms,
    symlinks: u32,
}

impl<'a> Vfs<'a> {
    /// See [`at_length`]. What is handed on is put together here, out of the way of what is at hand.
    #[cold]
    #[inline(never)]
    pub(super) fn walked<H: Host>(
        &self,
        host: &H,
        view: View,
        path: &[u8],
        last: Last,
        room: &mut Room,
    ) -> Option<Ended<'a>> {
        let by = By {
            mounts: self.mounts,
            index: self.index?,
            coherence: self.coherence?,
            prefixes: self.prefixes.as_ref()?,
            verdicts: self.verdicts,
            compared: self.compared,
            host,
            view,
        };
        at_length(&by, path, last, room)
    }
}

/// Where a path leads that is walked, from the longest beginning that is remembered.
fn at_length<'a, H: Host>(
    by: &By<'a, '_, H>,
    path: &[u8],
    last: Last,
    room: &mut Room,
) -> Option<Ended<'a>> {
    if by.mounts.hides_all() {
        return None;
    }
    let whole = &path[..last_name(path)? - 1];
    let key = Key::of(whole).filter(|_| !whole.is_empty());
    room.set(path)?;
    let mut walk = Walk::from(by, room);
    let known = key.as_ref().and_then(|key| by.prefixes.find(key, &by.view));
    if let Some(known) = known.filter(|known| !known.is_nowhere()) {
        walk.start(&known, whole.len())?;
        return walk.run(last, |_| {});
    }
    walk.start_above(whole)?;
    let mut has_arrived = false;
    let ended = walk.run(last, |walk| {
        has_arrived = true;
        if let Some(key) = &key {
            let guest = &walk.room.as_bytes()[..walk.at];
            (by.prefixes).put(key, walk.dir, guest, walk.symlinks, &walk.terms);
        }
    });
    if let (Some(key), Some(Ended::Fails(Errno::ENOENT)), false) = (&key, &ended, has_arrived) {
        by.prefixes.put_nowhere(key, &walk.terms);
    }
    ended
}

impl<'a, 'r, H: Host> Walk<'a, 'r, H> {
    fn from(by: &'r By<'a, 'r, H>, room: &'r mut Room) -> Self {
        Self {
            by,
            room,
            dir: DirId::ROOT,
            at: 0,
            terms: by.view.longest(),
            symlinks: 0,
        }
    }

    /// Starts where the first `end` bytes of the path are known to lead.
    fn start(&mut self, known: &Known<'_>, end: usize) -> Option<()> {
        known.put_guest(self.room, end)?;
        self.dir = known.dir();
        self.at = known.guest_len();
        self.terms = known.terms()?;
        self.symlinks = known.symlinks();
        Some(())
    }

    /// Starts at the longest part of `whole` that is known, or at the root.
    fn start_above(&mut self, whole: &[u8]) -> Option<()> {
        let mut end = whole.len();
        while end != 0 {
            end = last_name(&whole[..end])? - 1;
            let key = Key::of(&whole[..end]).filter(|_| end != 0);
            let known = key.and_then(|key| self.by.prefixes.find(&key, &self.by.view));
            if let Some(known) = known.filter(|known| !known.is_nowhere()) {
                return self.start(&known, end);
            }
        }
        self.stand_in(DirId::ROOT)
    }

    /// The walk comes to a directory, whose canonical guest path stands in the room; `None`: it is not as its key says, or nobody can tell.
    #[inline]
    fn stand_in(&mut self, dir: DirId) -> Option<()> {
        let directory = self.by.index.directory(dir).ok()?;
        let (note, terms) = match directory.granted(&self.by.view) {
            Some(granted) => granted,
            None => self.compare(&directory, dir)?,
        };
        if note != Note::Good {
            return None;
        }
        self.terms.until = self.terms.until.min(terms.until);
        self.dir = dir;
        Some(())
    }

    /// Asks the host what state the directory is in that the walk comes to, unless an earlier run has.
    #[cold]
    #[inline(never)]
    fn compare(&mut self, directory: &Directory<'a>, dir: DirId) -> Option<(Note, Terms)> {
        let By {
            coherence,
            verdicts,
            compared,
            host,
            view,
            ..
        } = self.by;
        if !directory.is_sealed() {
            return None;
        }
        let ticket = view.ticket();
        if compared.is_some_and(|compared| compared.has(coherence, ticket, dir)) {
            directory.grant(ticket).ok()?;
            return directory.granted(view);
        }
        let found = self.room.with_front(self.at, |guest| {
            let path = if guest.len() > 1 { &guest[1..] } else { b".\0" };
            let at = Location {
                base: Base::Sysroot,
                path,
            };
            let glanced = host.glance(at).filter(|found| directory.is_as(found));
            glanced.map_or_else(|| host.stat(at), Ok)
        });
        let judged = directory.judge(coherence, ticket, found);
        if let Some(verdicts) = verdicts {
            verdicts.count(Verdict::Validated);
        }
        if let Some(compared) = compared.filter(|_| judged.is_ok()) {
            compared.note(coherence, ticket, dir, &found);
        }
        judged.ok().and_then(|()| directory.granted(view))
    }

    fn directory(&self) -> Option<Directory<'a>> {
        self.by.index.directory(self.dir).ok()
    }

    /// Walks to the end; `arrived` is told of the directory that has the last name of the path that was asked for.
    fn run(&mut self, last: Last, arrived: impl FnOnce(&Self)) -> Option<Ended<'a>> {
        let mut arrived = Some(arrived);
        loop {
            let rest = self.room.as_bytes().get(self.at..)?.strip_prefix(b"/")?;
            let len = rest.iter().position(|&byte| byte == b'/');
            let (is_last, len) = (len.is_none(), len.unwrap_or(rest.len()));
            let name = &rest[..len];
            let end = self.at + 1 + len;
            if name == b".." {
                self.leave(end)?;
                continue;
            }
            if is_special(name, self.at == 0) {
                return None;
            }
            let guest = &self.room.as_bytes()[..end];
            let mounts = self.by.mounts;
            if mounts.may_be_near(end, name)
                && (mounts.at(guest).is_some() || mounts.is_above_a_mount(guest))
            {
                return None;
            }
            if is_last && let Some(arrived) = arrived.take() {
                arrived(self);
            }
            let step = self.directory()?.step(name).ok()?;
            if is_last && let Some(ended) = ended(step, last, self.dir) {
                return Some(ended);
            }
            match step {
                Step::NotCovered => return None,
                Step::Symlink(text) => self.follow(end, text)?,
                Step::Absent => return Some(Ended::Fails(Errno::ENOENT)),
                Step::File | Step::Other => return Some(Ended::Fails(Errno::ENOTDIR)),
                Step::Directory(child) => {
                    self.at = end;
                    self.stand_in(child)?;
                }
            }
        }
    }

    /// Puts a symlink's text in the place of its name, which ends at `end`.
    fn follow(&mut self, end: usize, text: &[u8]) -> Option<()> {
        self.symlinks += 1;
        if self.symlinks > SYMLINKS || text.is_empty() || text.contains(&0) {
            return None;
        }
        if text.starts_with(b"/") {
            self.room.replace(0, end, text)?;
            self.at = 0;
            return self.stand_in(DirId::ROOT);
        }
        self.room.replace(self.at + 1, end, text)
    }

    /// Goes to the parent, as `..` says, which ends at `end`. All above is known to be as its keys say.
    fn leave(&mut self, end: usize) -> Option<()> {
        let parent = match self.at {
            0 => 0,
            at => last_name(&self.room.as_bytes()[..at])? - 1,
        };
        if self.at != 0 {
            self.dir = self.directory()?.parent();
        }
        self.at = parent;
        self.room.replace(parent, end, b"")
    }
}
