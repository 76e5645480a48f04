//! The walk where the index covers all of it: an absolute path, short, every directory on the way as its key says, none of it near a mount.
//! The host is asked for nothing but the state of directories whose leases are over.
//!
//! It is `resolve` with all that cannot happen here left out, and gives up where something else does: the walk then finds the
//! same and more, with what was found out here.

mod walk;

use super::attributes::Status;
use super::catalogue::Catalogue;
use super::coherence::{Mode, Note, View};
use super::host::Host;
use super::mounts::Mounts;
use super::path::NAME_MAX;
use super::prefixes::{Key, Prefixes};
use super::room::Room;
use super::verdict::Verdict;
use super::{Kind, Last, Vfs, Want};
use crate::errno::Errno;
use crate::index::{DirId, Step};
use elfuse_format::names::{SIDECAR, STORE, is_reserved};

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
            && !self.mounts.hides_all()
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
    if mounts.hides_all() {
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

/// Whether a name is none that an index could hold. All of these but the longest and the empty one begin with a dot.
#[inline(always)]
fn is_special(name: &[u8], at_root: bool) -> bool {
    match name.first() {
        Some(b'.') => is_special_with_dot(name, at_root),
        Some(_) => name.len() > NAME_MAX,
        None => true,
    }
}

#[inline(never)]
fn is_special_with_dot(name: &[u8], at_root: bool) -> bool {
    const { assert!(SIDECAR[0] == b'.' && STORE[0] == b'.') };
    matches!(name, b"." | b"..") || name.len() > NAME_MAX || is_reserved(name, at_root)
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
