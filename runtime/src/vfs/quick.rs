//! The walk where the index covers all of it: an absolute path, short, every directory on the way as its key says, none of it near a mount.
//! The host is asked for nothing but the state of directories whose leases are over.
//!
//! It is `resolve` with all that cannot happen here left out, and gives up where something else does: the walk then finds the
//! same and more, with what was found out here.

use super::attributes::Status;
use super::catalogue::{Catalogue, Directory};
use super::coherence::{Coherence, Mode, Note, Terms, View};
use super::compared::Compared;
use super::host::{Base, Host, Location};
use super::mounts::Mounts;
use super::path::NAME_MAX;
use super::prefixes::{Key, Known, Prefixes};
use super::room::Room;
use super::verdict::{Verdict, Verdicts};
use super::{Kind, Last, Vfs, Want};
use crate::errno::Errno;
use crate::index::{DirId, Step};
use elfuse_format::names::is_reserved;

/// How many symlinks are followed here: fewer than the kernel follows, so that who gives up has not decided anything.
const SYMLINKS: u32 = 20;

/// Where a path leads, says the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quick<'w> {
    /// Nowhere: the call fails like this.
    Fails(Errno),
    /// To a symlink with this text. Only for [`Last::Text`].
    Text(&'w [u8]),
    /// To something in the sysroot, whose canonical guest path the path itself is. It is not the root. Not for [`Last::Text`].
    AsGiven {
        /// What it is.
        kind: Kind,
    },
    /// To something in the sysroot. Not for [`Last::Text`].
    Leads {
        /// Its canonical guest path and a NUL. It is not the root.
        guest: &'w [u8],
        /// What it is.
        kind: Kind,
    },
}

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

/// What stands at the end.
enum Ended<'a> {
    Fails(Errno),
    Text(&'a [u8]),
    /// By the very path, which is not in the room.
    AsGiven(Kind, DirId),
    Leads(Kind, DirId),
}

impl<'a> Vfs<'a> {
    /// Resolves an absolute path, if the index and what is known of its directories suffice for that. `room` is for the path that is found.
    #[inline]
    pub fn quick<'w, H: Host>(
        &'w self,
        host: &H,
        path: &[u8],
        want: Want,
        room: &'w mut Room,
    ) -> Option<Quick<'w>> {
        let (index, coherence) = (self.index?, self.coherence?);
        let prefixes = self.prefixes.as_ref()?;
        let is_plain = matches!(want.last, Last::Follow | Last::NoFollow | Last::Text)
            && want == Want::new(want.last);
        let is_fit = !index.is_for_frozen_trees() || coherence.mode == Mode::Frozen;
        if !is_plain || !is_fit || !path.starts_with(b"/") {
            return None;
        }
        let view = coherence.view(|| host.now())?;
        let hand = (self.mounts, index, prefixes);
        let ended = match at_hand(hand, &view, path, want.last, room) {
            Some(ended) => ended,
            None => self.walked(host, view, path, want.last, room)?,
        };
        if !matches!(ended, Ended::Leads(..) | Ended::AsGiven(..))
            && let Some(verdicts) = self.verdicts
        {
            verdicts.count(Verdict::Hit);
        }
        Some(match ended {
            Ended::Fails(errno) => Quick::Fails(errno),
            Ended::Text(text) => Quick::Text(text),
            Ended::AsGiven(kind, _) => Quick::AsGiven { kind },
            Ended::Leads(kind, _) => Quick::Leads {
                guest: room.with_nul(),
                kind,
            },
        })
    }
}

/// What is said of a path without a look at it.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    /// The call fails like this.
    Fails(Errno),
    /// There is something, and this is what stat returns of it.
    There(Status<'a>),
}

impl<'a> Vfs<'a> {
    /// What stat returns of an absolute path, if the index suffices for that. `last`: [`Last::Follow`] or [`Last::NoFollow`].
    #[inline]
    pub fn said<H: Host>(&self, host: &H, path: &[u8], last: Last) -> Option<Said<'a>> {
        let (attributes, index, coherence) = (self.attributes?, self.index?, self.coherence?);
        let prefixes = self.prefixes.as_ref()?;
        let is_fit = !index.is_for_frozen_trees() || coherence.mode == Mode::Frozen;
        if !is_fit || !path.starts_with(b"/") || !attributes.hold(coherence) {
            return None;
        }
        let view = coherence.view(|| host.now())?;
        let there = |dir: DirId, name: &[u8]| {
            let directory = index.directory(dir).ok()?;
            let Some(entry) = directory.entry(name)? else {
                return Some(Said::Fails(Errno::ENOENT));
            };
            if last == Last::Follow && entry.kind()? == Kind::Symlink {
                return None;
            }
            let row = attributes.entry(dir, entry.index)?;
            Some(Said::There(attributes.status(row, directory.dev()?)))
        };
        let said = match self.place_at_once(prefixes, &view, path) {
            Some((dir, name)) => there(dir, name),
            None => None,
        };
        let said = match said {
            Some(said) => said,
            None => {
                let mut room = Room::new();
                match self.walked(host, view, path, last, &mut room)? {
                    Ended::Fails(errno) => Said::Fails(errno),
                    Ended::Text(_) => return None,
                    Ended::AsGiven(_, dir) => there(dir, &path[last_name(path)?..])?,
                    Ended::Leads(_, dir) => {
                        let guest = room.as_bytes();
                        there(dir, &guest[last_name(guest)?..])?
                    }
                }
            }
        };
        if let Some(verdicts) = self.verdicts {
            verdicts.count(Verdict::Hit);
        }
        Some(said)
    }
}

impl<'a> Vfs<'a> {
    /// See [`at_length`]. What is handed on is put together here, out of the way of what is at hand.
    #[cold]
    #[inline(never)]
    fn walked<H: Host>(
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

impl Vfs<'_> {
    /// The directory that has the last name of a path, if it is remembered where the path's beginning leads, and the name is no mount's.
    #[inline]
    fn place_at_once<'p>(
        &self,
        prefixes: &Prefixes<'_>,
        view: &View,
        path: &'p [u8],
    ) -> Option<(DirId, &'p [u8])> {
        let name_at = last_name(path)?;
        let (whole, name) = (&path[..name_at - 1], &path[name_at..]);
        let known = prefixes.find(&Key::of(whole).filter(|_| !whole.is_empty())?, view)?;
        let is_free = !known.is_nowhere()
            && self.mounts.at(b"/").is_none()
            && !is_special(name, known.guest_len() == 0)
            && !(self.mounts).may_be_near(known.guest_len() + 1 + name.len(), name);
        is_free.then_some((known.dir(), name))
    }
}

/// Where the last name of a path starts. Eight bytes are looked at together: most names are found by one or two such looks.
#[inline(always)]
fn last_name(path: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const LOW: u64 = 0x7f * ONES;
    let mut rest = path;
    while let Some((before, eight)) = rest.split_last_chunk::<8>() {
        let others = u64::from_le_bytes(*eight) ^ (u64::from(b'/') * ONES);
        // The highest bit of each byte that is 0.
        let slashes = !((others & LOW).wrapping_add(LOW) | others | LOW);
        if slashes != 0 {
            return Some(before.len() + 8 - slashes.leading_zeros() as usize / 8);
        }
        rest = before;
    }
    let slash = rest.iter().rposition(|&byte| byte == b'/')?;
    Some(slash + 1)
}

/// Where a path leads whose beginning is remembered; `None`: there is more to it.
#[inline(always)]
fn at_hand<'a>(
    (mounts, index, prefixes): (&Mounts<'_>, &'a Catalogue<'a>, &Prefixes<'a>),
    view: &View,
    path: &[u8],
    last: Last,
    room: &mut Room,
) -> Option<Ended<'a>> {
    // A mount over the root hides all of it.
    if mounts.at(b"/").is_some() {
        return None;
    }
    let name_at = last_name(path)?;
    let (whole, name) = (&path[..name_at - 1], &path[name_at..]);
    if whole.is_empty() {
        let root = index.directory(DirId::ROOT).ok()?;
        let (Note::Good, _) = root.granted(view)? else {
            return None;
        };
        let step = at_once(mounts, index, (DirId::ROOT, 0), name)?;
        return match ended(step, last, DirId::ROOT)? {
            Ended::Leads(kind, dir) => Some(Ended::AsGiven(kind, dir)),
            definite => Some(definite),
        };
    }
    let known = prefixes.find(&Key::of(whole)?, view)?;
    if known.is_nowhere() {
        return Some(Ended::Fails(Errno::ENOENT));
    }
    let step = at_once(mounts, index, (known.dir(), known.guest_len()), name)?;
    match ended(step, last, known.dir())? {
        Ended::Leads(kind, dir) if known.is_as_given() => Some(Ended::AsGiven(kind, dir)),
        leads @ Ended::Leads(..) => {
            room.set(path)?;
            known.put_guest(room, whole.len())?;
            Some(leads)
        }
        definite => Some(definite),
    }
}

/// Where a path leads that is walked, from the longest beginning that is remembered.
fn at_length<'a, H: Host>(
    by: &By<'a, '_, H>,
    path: &[u8],
    last: Last,
    room: &mut Room,
) -> Option<Ended<'a>> {
    if by.mounts.at(b"/").is_some() {
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

/// What a name is in a directory that is known, where it takes no path to tell.
#[inline(always)]
fn at_once<'a>(
    mounts: &Mounts<'_>,
    index: &Catalogue<'a>,
    (dir, guest_len): (DirId, usize),
    name: &[u8],
) -> Option<Step<'a>> {
    if is_special(name, guest_len == 0) || mounts.may_be_near(guest_len + 1 + name.len(), name) {
        return None;
    }
    index.directory(dir).ok()?.step(name).ok()
}

/// What it means that the last name is this; `None`: a symlink is to be followed, or the index does not know.
#[inline(always)]
fn ended(step: Step<'_>, last: Last, dir: DirId) -> Option<Ended<'_>> {
    let kind = match step {
        Step::NotCovered => return None,
        Step::Absent => return Some(Ended::Fails(Errno::ENOENT)),
        Step::Symlink(text) => {
            return match last {
                // No symlink is empty or has a NUL.
                Last::Text => (!text.is_empty() && !text.contains(&0)).then_some(Ended::Text(text)),
                Last::NoFollow => Some(Ended::Leads(Kind::Symlink, dir)),
                _ => None,
            };
        }
        Step::Directory(_) => Kind::Directory,
        Step::File => Kind::File,
        Step::Other => Kind::Other,
    };
    Some(match last {
        Last::Text => Ended::Fails(Errno::EINVAL),
        _ => Ended::Leads(kind, dir),
    })
}

/// Whether a name is none that an index could hold.
#[inline]
fn is_special(name: &[u8], at_root: bool) -> bool {
    matches!(name, b"" | b"." | b"..") || name.len() > NAME_MAX || is_reserved(name, at_root)
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

#[cfg(test)]
mod tests {
    use super::last_name;

    #[test]
    fn the_last_name_starts_behind_the_last_slash_wherever_that_is() {
        let plain = |path: &[u8]| path.iter().rposition(|&byte| byte == b'/').map(|at| at + 1);
        // Bytes that differ from a slash by one bit, and by the highest.
        for filler in [b'a', b'.', 0xaf, 0x2e, 0x3f, 0x00, 0xff] {
            for len in 0..=27 {
                for (first, second) in (0..=len).flat_map(|at| (0..=len).map(move |to| (at, to))) {
                    let mut path = [filler; 27];
                    for slash in [first, second] {
                        if slash < len {
                            path[slash] = b'/';
                        }
                    }
                    assert_eq!(last_name(&path[..len]), plain(&path[..len]));
                }
            }
        }
    }
}
