//! Maps a snapshot's regions: clean pages from the files, so that the page cache is shared, the others privately from the snapshot.
//!
//! # Safety
//! A region goes only where nothing is. What is put over it, and taken away again where a later one fails, lies inside a region mapped a moment
//! ago for the guest, which does not run yet; nothing of Rust's is there.
#![allow(unsafe_code)]

use elfuse_format::snapshot::counts::Refusal;
use elfuse_format::snapshot::{ArchivedRegion, ArchivedRun, NO_FILE, PAGE, Snapshot};

use super::key::Files;
use crate::engine::arena::Arena;
use crate::engine::block::Block;
use crate::engine::pool::Text as Room;
use crate::engine::process::Process;
use crate::engine::text::{Asked, Plan};
use crate::errno::Errno;
use crate::sys::abi::{MAP_PRIVATE, PATH_MAX, PROT_READ, PROT_WRITE};
use crate::sys::host::Fd;
use crate::sys::memory::{Place, map as map_at, unmap};

/// Where the first page of a region lies in this process.
#[must_use]
pub fn start(region: &ArchivedRegion, delta: u64) -> usize {
    let start = region.start.to_native();
    let moved = if region.moves() { delta } else { 0 };
    start.wrapping_add(moved) as usize
}

/// Where a run lies in this process, and its bytes.
#[must_use]
pub fn place(region: &ArchivedRegion, run: &ArchivedRun, delta: u64) -> (usize, usize) {
    let first = u64::from(run.first.to_native()) * PAGE;
    let len = u64::from(run.pages.to_native()) * PAGE;
    (start(region, delta) + first as usize, len as usize)
}

/// The protection of a region.
#[must_use]
pub fn protection(region: &ArchivedRegion) -> usize {
    region.protection.to_native().into()
}

/// Whether words of so many pages from `first` on have to be filled in.
#[must_use]
pub fn is_filled(snapshot: &Snapshot<'_>, (first, pages): (usize, usize), delta: u64) -> bool {
    let slides = || (first..first + pages).any(|page| snapshot.slide(page) != [0; 64]);
    let at = snapshot
        .fix_ups
        .partition_point(|fix_up| (fix_up.page.to_native() as usize) < first);
    let fixed = snapshot
        .fix_ups
        .get(at)
        .is_some_and(|fix_up| (fix_up.page.to_native() as usize) < first + pages);
    fixed || delta != 0 && slides()
}

/// Maps all of it: whether every call from its code that matters goes through the runtime.
///
/// # Errors
/// [`Refusal::Collision`], [`Refusal::Memory`]: nothing is mapped.
pub fn map(
    arena: &mut Arena,
    process: &Process,
    snapshot: &Snapshot<'_>,
    files: &Files,
    (snap, delta): (Fd, u64),
) -> Result<bool, Refusal> {
    let refusal = |errno| match errno {
        Errno::EEXIST => Refusal::Collision,
        _ => Refusal::Memory,
    };
    let room = arena.bytes(PATH_MAX).map_err(refusal)?;
    let room: &mut Room = room.try_into().map_err(|_| Refusal::Memory)?;
    let mut is_complete = true;
    // Code last: what comes with it lies elsewhere, and is better not mapped for nothing.
    for executable in [false, true] {
        let regions = snapshot.regions.iter().enumerate();
        for (number, region) in regions.filter(|(_, region)| region.is_executable() == executable) {
            let mapped = if executable {
                code(process, region, files, delta, room)
            } else {
                plain(region, files, delta).map(|()| true)
            };
            match mapped {
                Ok(complete) => is_complete &= complete,
                Err(errno) => {
                    undo(snapshot, (number, executable), delta);
                    return Err(refusal(errno));
                }
            }
        }
    }
    if let Err(errno) = pages(snapshot, snap, delta) {
        undo(snapshot, (snapshot.regions.len(), true), delta);
        return Err(refusal(errno));
    }
    Ok(is_complete)
}

fn plain(region: &ArchivedRegion, files: &Files, delta: u64) -> Result<(), Errno> {
    let from = match region.file.to_native() {
        NO_FILE => None,
        number => {
            let file = files.get(number).ok_or(Errno::EBADF)?;
            Some((file, region.offset.to_native()))
        }
    };
    let len = region.len.to_native() as usize;
    // SAFETY: only a free range is taken.
    unsafe {
        map_at(
            Place::Free(start(region, delta)),
            len,
            protection(region),
            from,
        )
    }
    .map(drop)
}

/// Maps code by the rule of any start ([`crate::engine::text`]): whether it is complete.
fn code(
    process: &Process,
    region: &ArchivedRegion,
    files: &Files,
    delta: u64,
    room: &mut Room,
) -> Result<bool, Errno> {
    let file = match region.file.to_native() {
        NO_FILE => {
            plain(region, files, delta)?;
            return Ok(false);
        }
        number => files.get(number).ok_or(Errno::EBADF)?,
    };
    let protection = protection(region);
    let asked = Asked {
        protection,
        flags: MAP_PRIVATE,
        offset: region.offset.to_native(),
        len: region.len.to_native(),
    };
    let plan = process
        .code
        .as_ref()
        .map(|code| (code, code.plan(&asked, file).plan));
    let (copy, block) = match plan {
        Some((code, Plan::Copy(copy))) => match Block::reserve(code, copy, room) {
            Ok(block) => (copy, block),
            Err(_) => return plain(region, files, delta).map(|()| false),
        },
        Some((_, Plan::AsGiven)) => return plain(region, files, delta).map(|()| true),
        Some((_, Plan::Arm)) | None => return plain(region, files, delta).map(|()| false),
    };
    let (at, len) = (start(region, delta), asked.len as usize);
    let from = Some((block.file, asked.offset));
    // SAFETY: only a free range is taken.
    if let Err(errno) = unsafe { map_at(Place::Free(at), len, protection, from) } {
        block.give_up();
        return Err(errno);
    }
    Ok(block.finish(at, file, protection) && copy.is_complete)
}

/// Pages of the snapshot that follow each other there and in memory, and are mapped by one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Where the first one goes.
    at: usize,
    /// Its number among the snapshot's.
    first: usize,
    pages: usize,
    protection: usize,
}

impl Piece {
    const fn len(&self) -> usize {
        self.pages * PAGE as usize
    }

    /// Both in one, where `next` goes on just behind.
    fn joined(self, next: Self) -> Option<Self> {
        let follows = self.at + self.len() == next.at && self.first + self.pages == next.first;
        (follows && self.protection == next.protection).then_some(Self {
            pages: self.pages + next.pages,
            ..self
        })
    }
}

/// Puts the snapshot's pages in their places. Those that are filled in can be written to until they are.
fn pages(snapshot: &Snapshot<'_>, snap: Fd, delta: u64) -> Result<(), Errno> {
    let put = |piece: Piece| {
        let from = Some((snap, snapshot.pages_at + piece.first as u64 * PAGE));
        let place = Place::Replace(piece.at);
        // SAFETY: inside regions that were mapped a moment ago; the tables were checked for that.
        unsafe { map_at(place, piece.len(), piece.protection, from) }.map(drop)
    };
    let (mut first, mut before) = (0, None::<Piece>);
    for run in snapshot.runs {
        let region = snapshot.regions.get(run.region.to_native() as usize);
        let region = region.ok_or(Errno::EINVAL)?;
        let pages = run.pages.to_native() as usize;
        let (at, _) = place(region, run, delta);
        let protection = match is_filled(snapshot, (first, pages), delta) {
            true => PROT_READ | PROT_WRITE,
            false => protection(region),
        };
        let piece = Piece {
            at,
            first,
            pages,
            protection,
        };
        first += pages;
        before = match before.map(|before| (before, before.joined(piece))) {
            None => Some(piece),
            Some((_, Some(joined))) => Some(joined),
            Some((before, None)) => {
                put(before)?;
                Some(piece)
            }
        };
    }
    before.map_or(Ok(()), put)
}

/// Takes away what was mapped before the region with this number, in the order of [`map`].
fn undo(snapshot: &Snapshot<'_>, (failed, executable): (usize, bool), delta: u64) {
    for (number, region) in snapshot.regions.iter().enumerate() {
        let is_before = number < failed && region.is_executable() == executable
            || executable && !region.is_executable();
        if is_before {
            // SAFETY: mapped by `map`, and known to nobody. A block of a copy stays: it is met as taken.
            unsafe { unmap(start(region, delta), region.len.to_native() as usize) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, PROT_READ, PROT_WRITE, Piece};

    #[test]
    fn pieces_are_joined_only_where_one_call_maps_both() {
        let piece = Piece {
            at: 0x10_0000,
            first: 7,
            pages: 2,
            protection: PROT_READ | PROT_WRITE,
        };
        let next = Piece {
            at: piece.at + 2 * PAGE as usize,
            first: 9,
            pages: 3,
            ..piece
        };
        let both = Piece { pages: 5, ..piece };
        assert_eq!(piece.joined(next), Some(both));
        let others = [
            Piece {
                at: next.at + PAGE as usize,
                ..next
            },
            Piece { first: 10, ..next },
            Piece {
                protection: PROT_READ,
                ..next
            },
            piece,
        ];
        for other in others {
            assert_eq!(piece.joined(other), None, "{other:?}");
        }
    }
}
