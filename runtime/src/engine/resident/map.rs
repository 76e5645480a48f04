//! Maps a snapshot's regions: clean pages from the files, so that the page cache is shared, the others privately from the snapshot.
//!
//! # Safety
//! A region goes only where nothing is, and so do pages that begin or end one. Other pages are put over a region mapped a moment ago. What is taken
//! away again where a later one fails was mapped here, for the guest, which does not run yet; nothing of Rust's is there.
#![allow(unsafe_code)]

use core::ops::Range;

use elfuse_format::snapshot::counts::Refusal;
use elfuse_format::snapshot::{ArchivedRegion, ArchivedRun, NO_FILE, PAGE, Snapshot};

use super::key::Files;
use super::pieces::{Piece, clean, pieces};
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

/// What has been mapped so far.
#[derive(Debug)]
struct Done {
    /// Among so many regions, all that are not code.
    plain: usize,
    /// So many pieces of the snapshot.
    pieces: usize,
    /// Among so many regions, all that are code.
    code: usize,
    blocks: Blocks,
}

/// The blocks of copies that are mapped for code.
#[derive(Debug)]
struct Blocks {
    /// Of each, the start and the length in bytes.
    places: &'static mut [[u8; 16]],
    count: usize,
}

impl Blocks {
    fn new(arena: &mut Arena, most: usize) -> Result<Self, Errno> {
        let (places, _) = arena.bytes(16 * most)?.as_chunks_mut();
        Ok(Self { places, count: 0 })
    }

    fn push(&mut self, at: u64, len: u64) {
        if let Some(place) = self.places.get_mut(self.count) {
            *place = (u128::from(at) << 64 | u128::from(len)).to_ne_bytes();
            self.count += 1;
        }
    }

    /// Start and length of each in bytes.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let places = self.places.iter().take(self.count);
        let words = places.map(|place| u128::from_ne_bytes(*place));
        words.map(|words| ((words >> 64) as usize, words as u64 as usize))
    }
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
    let code = snapshot.regions.iter().filter(|code| code.is_executable());
    let mut done = Done {
        plain: 0,
        pieces: 0,
        code: 0,
        blocks: Blocks::new(arena, code.count()).map_err(refusal)?,
    };
    let is_complete = data(snapshot, files, (snap, delta), &mut done)
        .and_then(|()| all_code(process, snapshot, files, (delta, room), &mut done));
    if is_complete.is_err() {
        undo(snapshot, &done, delta);
    }
    is_complete.map_err(refusal)
}

/// Maps all but code.
fn data(
    snapshot: &Snapshot<'_>,
    files: &Files,
    (snap, delta): (Fd, u64),
    done: &mut Done,
) -> Result<(), Errno> {
    for (number, region) in snapshot.regions.iter().enumerate() {
        let pages = clean(snapshot, number);
        if !region.is_executable() && !pages.is_empty() {
            plain(region, pages, files, delta)?;
        }
        done.plain = number + 1;
    }
    for piece in pieces(snapshot, delta) {
        put(snapshot, &piece, snap, delta)?;
        done.pieces += 1;
    }
    Ok(())
}

/// Maps code: whether it is complete. Last: what comes with it lies elsewhere, and is better not mapped for nothing.
fn all_code(
    process: &Process,
    snapshot: &Snapshot<'_>,
    files: &Files,
    (delta, room): (u64, &mut Room),
    done: &mut Done,
) -> Result<bool, Errno> {
    let mut is_complete = true;
    for (number, region) in snapshot.regions.iter().enumerate() {
        if region.is_executable() {
            is_complete &= code(process, region, files, (delta, room), &mut done.blocks)?;
        }
        done.code = number + 1;
    }
    Ok(is_complete)
}

/// Where pages of a region lie in this process, and their bytes.
fn part(region: &ArchivedRegion, pages: &Range<u64>, delta: u64) -> (usize, usize) {
    let at = start(region, delta) + (pages.start * PAGE) as usize;
    (at, ((pages.end - pages.start) * PAGE) as usize)
}

/// Maps pages of a region as they are in its file.
fn plain(
    region: &ArchivedRegion,
    pages: Range<u64>,
    files: &Files,
    delta: u64,
) -> Result<(), Errno> {
    let from = match region.file.to_native() {
        NO_FILE => None,
        number => {
            let file = files.get(number).ok_or(Errno::EBADF)?;
            let offset = region.offset.to_native();
            Some((file, offset.wrapping_add(pages.start * PAGE)))
        }
    };
    let (at, len) = part(region, &pages, delta);
    // SAFETY: only a free range is taken.
    unsafe { map_at(Place::Free(at), len, protection(region), from) }.map(drop)
}

/// Maps code by the rule of any start ([`crate::engine::text`]): whether it is complete.
fn code(
    process: &Process,
    region: &ArchivedRegion,
    files: &Files,
    (delta, room): (u64, &mut Room),
    blocks: &mut Blocks,
) -> Result<bool, Errno> {
    let pages = 0..region.len.to_native() / PAGE;
    let as_given = |is_complete| plain(region, pages, files, delta).map(|()| is_complete);
    let file = match region.file.to_native() {
        NO_FILE => return as_given(false),
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
    let (copy, layout, block) = match plan {
        Some((code, Plan::Copy(copy))) => match Block::reserve(code, copy, room) {
            Ok(block) => (copy, copy.layout, block),
            Err(_) => return as_given(false),
        },
        Some((_, Plan::AsGiven)) => return as_given(true),
        Some((_, Plan::Arm)) | None => return as_given(false),
    };
    let (at, len) = (start(region, delta), asked.len as usize);
    let from = Some((block.file, asked.offset));
    // SAFETY: only a free range is taken.
    if let Err(errno) = unsafe { map_at(Place::Free(at), len, protection, from) } {
        block.give_up();
        return Err(errno);
    }
    let is_copy = block.finish(at, file, protection);
    if is_copy {
        blocks.push(layout.data(), layout.data_len() + layout.code_len());
    }
    Ok(is_copy && copy.is_complete)
}

/// Where a piece lies in this process, and its bytes; with it, the protection of its first run.
#[must_use]
pub fn spot(snapshot: &Snapshot<'_>, piece: &Piece, delta: u64) -> Option<(usize, usize, usize)> {
    let run = snapshot.runs.get(piece.runs.start)?;
    let region = snapshot.regions.get(run.region.to_native() as usize)?;
    let (at, _) = place(region, run, delta);
    Some((at, piece.pages * PAGE as usize, protection(region)))
}

/// Puts pages of the snapshot in their places. Those that are filled in can be written to until they are.
fn put(snapshot: &Snapshot<'_>, piece: &Piece, snap: Fd, delta: u64) -> Result<(), Errno> {
    let (at, len, protection) = spot(snapshot, piece, delta).ok_or(Errno::EINVAL)?;
    let protection = match piece.is_filled {
        true => PROT_READ | PROT_WRITE,
        false => protection,
    };
    let to = match piece.is_free {
        true => Place::Free(at),
        false => Place::Replace(at),
    };
    let from = Some((snap, snapshot.pages_at + piece.first as u64 * PAGE));
    // SAFETY: a free range, or inside a region that was mapped a moment ago; the tables were checked for that.
    unsafe { map_at(to, len, protection, from) }.map(drop)
}

/// Takes away what was mapped.
fn undo(snapshot: &Snapshot<'_>, done: &Done, delta: u64) {
    // SAFETY: each range was mapped by `map`, and is known to nobody.
    let away = |at, len| unsafe { unmap(at, len) };
    for (number, region) in snapshot.regions.iter().enumerate() {
        let (looked_at, pages) = match region.is_executable() {
            true => (done.code, 0..region.len.to_native() / PAGE),
            false => (done.plain, clean(snapshot, number)),
        };
        if number < looked_at && !pages.is_empty() {
            let (at, len) = part(region, &pages, delta);
            away(at, len);
        }
    }
    for piece in pieces(snapshot, delta).take(done.pieces) {
        // Others lie in a region.
        if let Some((at, len, _)) = spot(snapshot, &piece, delta).filter(|_| piece.is_free) {
            away(at, len);
        }
    }
    for (at, len) in done.blocks.iter() {
        away(at, len);
    }
}
