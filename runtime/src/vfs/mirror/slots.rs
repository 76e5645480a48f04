//! Memory for pages, handed out slot by slot.
//!
//! # Safety
//! The memory is the slots' alone. Each slot is handed out once, as memory that is its taker's alone; what is given out of it later is for
//! the caller of [`Slots::bytes`] to answer for.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};

use elfuse_format::pages::PAGE_LEN;

use super::{Arena, Miss, Verdict};
use crate::vfs::arena::Once;

/// Number of a slot, at least [`Slot::FIRST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// Number of the first slot: the smaller ones mean something else where slots are written down.
    pub(super) const FIRST: u16 = 3;
    /// How many slots there can be: for 32 MiB of pages.
    const MOST: usize = (u16::MAX - Self::FIRST) as usize + 1;

    /// The slot so many behind this one, of the same run.
    pub(super) fn behind(self, count: usize) -> Self {
        Self(self.0 + count as u16)
    }
}

/// Slots that were taken at once: the first one's number, and the memory of all.
pub(super) struct Run<'a> {
    pub(super) slot: Slot,
    pub(super) memory: &'a mut [u8],
}

/// Room for pages: some beside what else an index keeps, which is all that most starts take, and far more behind that.
pub(in crate::vfs) struct Slots<'a> {
    arena: &'a Arena<'a>,
    near: Room,
    /// Taken out of the arena when the near ones are used up.
    far: Once<Room>,
    /// How many slots were taken, the near ones first.
    taken: AtomicU32,
}

/// Slots one behind the other.
#[derive(Debug, Clone, Copy)]
struct Room {
    memory: NonNull<u8>,
    count: u32,
}

// SAFETY: what lies there is reached by the rule at the top.
unsafe impl Sync for Room {}
// SAFETY: as before.
unsafe impl Send for Room {}

impl Room {
    /// As many slots as half of what is left of the arena has room for, and no more than `most`.
    fn new(arena: &Arena<'_>, most: usize) -> Option<Self> {
        let count = (arena.left() / 2 / PAGE_LEN).min(most);
        Some(Self {
            memory: arena.pages(count * PAGE_LEN)?,
            count: count as u32,
        })
    }
}

impl<'a> Slots<'a> {
    /// How many slots are near.
    const NEAR: usize = 512;

    /// Slots in the arena; `None`: it is full.
    pub(in crate::vfs) fn new(arena: &'a Arena<'a>) -> Option<Self> {
        Some(Self {
            arena,
            near: Room::new(arena, Self::NEAR)?,
            far: Once::default(),
            taken: AtomicU32::new(0),
        })
    }

    /// So many slots one behind the other, their memory zeroed.
    ///
    /// # Errors
    /// There are no more; or somebody else is making room for more at the moment.
    pub(super) fn take(&self, count: usize) -> Result<Run<'a>, Miss> {
        const FULL: Miss = Miss::Known(Verdict::NotCovered);
        if count > Slot::MOST {
            return Err(FULL);
        }
        let (near, len) = (self.near.count, count * PAGE_LEN);
        let count = count as u32;
        // A run that does not fit into what is left of the near ones lies among the far ones, the first of which is never handed out: numbers
        // that follow each other are of memory that does.
        let start = |taken: u32| match taken + count <= near {
            true => taken,
            false => taken.max(near + 1),
        };
        let step =
            |taken: u32| Some(start(taken) + count).filter(|end| *end as usize <= Slot::MOST);
        let (relaxed, taken) = (Ordering::Relaxed, &self.taken);
        let start = start((taken.fetch_update(relaxed, relaxed, step)).map_err(|_| FULL)?);
        if start + count > near {
            let make = || Room::new(self.arena, Slot::MOST);
            let far = self.far.get_or_try(make).ok_or(Miss::Busy)?;
            if start + count - near > far.count {
                return Err(FULL);
            }
        }
        // Below `Slot::MOST`.
        let slot = Slot(Slot::FIRST + start as u16);
        // SAFETY: inside the room, as was just made sure of; `taken` gives each slot to one caller only.
        let memory = unsafe { slice::from_raw_parts_mut(self.at(slot), len) };
        Ok(Run { slot, memory })
    }

    /// Where a slot that was taken lies.
    #[inline]
    fn at(&self, slot: Slot) -> *mut u8 {
        let number = usize::from(slot.0 - Slot::FIRST);
        let near = self.near.count as usize;
        let (room, number) = match self.far.get() {
            Some(far) if number >= near => (far, number - near),
            _ => (&self.near, number),
        };
        room.memory.as_ptr().wrapping_add(number * PAGE_LEN)
    }

    /// `len` bytes from byte `start` of a slot on, and of those behind it.
    ///
    /// # Safety
    /// All of these slots were taken, lie one behind the other, and are not written to any more.
    #[inline]
    pub(super) unsafe fn bytes(&self, slot: Slot, start: usize, len: usize) -> &'a [u8] {
        // SAFETY: inside the memory of the slots, initialised, and not written to, as the caller says.
        unsafe { slice::from_raw_parts(self.at(slot).add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::{Arena, PAGE_LEN, Slot, Slots};

    fn with_slots(pages: usize, test: impl FnOnce(&Slots<'_>)) {
        let mut memory = std::vec![7; pages * PAGE_LEN];
        let arena = Arena::cleared(&mut memory);
        test(&Slots::new(&arena).unwrap());
    }

    #[test]
    fn slots_are_handed_out_one_behind_the_other_and_each_once() {
        with_slots(20, |slots| {
            let one = slots.take(1).unwrap();
            let three = slots.take(3).unwrap();
            assert_eq!(one.slot, Slot(Slot::FIRST));
            assert_eq!(three.slot, one.slot.behind(1));
            assert!(three.memory.len() == 3 * PAGE_LEN);
            assert!(three.memory.iter().all(|byte| *byte == 0));
            one.memory.fill(1);
            three.memory.fill(3);
            // SAFETY: both are taken, and nobody writes them any more.
            let across = unsafe { slots.bytes(one.slot, PAGE_LEN - 1, 2) };
            assert_eq!(across, [1, 3]);
        });
    }

    #[test]
    fn a_run_that_is_too_long_for_the_near_ones_lies_among_the_far_ones_until_there_are_no_more() {
        with_slots(2 * Slots::NEAR + 201, |slots| {
            let near = slots.take(Slots::NEAR - 1).unwrap();
            let far = slots.take(2).unwrap();
            assert_eq!(far.slot.0, Slot::FIRST + Slots::NEAR as u16 + 1);
            let distance = far.memory.as_ptr().addr() - near.memory.as_ptr().addr();
            assert!(distance >= Slots::NEAR * PAGE_LEN);
            far.memory.fill(9);
            // SAFETY: taken, and nobody writes it any more.
            assert_eq!(unsafe { slots.bytes(far.slot, PAGE_LEN, 1) }, [9]);
            assert!(slots.take(1000).is_err());
            assert!(slots.take(usize::MAX).is_err());
        });
    }
}
