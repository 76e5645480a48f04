//! Memory that is certain to be written to, or nearly so, is populated: made the process's own at once. A fault for each page costs twice as
//! much.
//!
//! | what | how it is known |
//! |---|---|
//! | pages of a file's data in which its dynamic linker relocates words | the index says so of the file whose code was mapped last |
//! | pages of a dump that relocates itself | the index says so of the file that so much is mapped of ([`MUCH`]) |
//! | the next part of a heap | those before it were used up, else it would not grow |
//! | what could not be written to and is opened | a file that is mapped to be read, or a block that was reserved ([`closed`]) |
//! | pages of a snapshot in which words are filled in | its tables ([`super::resident`]) |
//!
//! Contents are the same with and without, and so is what a call returns: whatever is wrong here costs memory or time. Pages that cannot be
//! had (a limit of the control group, a file that has been cut) are left to faults: the call that populates fails, and nobody is told.
//!
//! Nothing is populated where the kernel does not know how (before 5.14), and from when the guest installs a filter of system calls: it may
//! kill for a call that the guest itself never makes.

pub mod closed;

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use elfuse_format::text::RelocatedRun;

use super::process::Process;
use super::tell;
use super::text::Asked;
use crate::errno::Errno;
use crate::loader::map::Bias;
use crate::loader::plan::{Piece, Plan as Image};
use crate::sys::abi::{
    MADV_POPULATE_WRITE, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PAGE, PROT_EXEC,
    PROT_WRITE,
};
use crate::sys::host::Fd;
use crate::sys::memory::advise;
use crate::trace::Reason;
use crate::vfs::FileNumber;

/// The least that is worth a call, in bytes.
pub const LEAST: usize = 4 * PAGE;

/// From which length on, in bytes, a mapping of data pays for finding out which file it is of.
const MUCH: u64 = 1 << 20;

/// By how much a heap has to grow beyond its top for the runtime to look, in bytes. Less is for who asks in small steps.
pub const HEAP_STEP: usize = 64 << 10;

/// By how much it may grow at once, in bytes: more is not asked for to be used up next.
const HEAP_MOST: usize = 1 << 20;

/// What part of the heap's length so far its next part may have for all of that to be populated.
const HEAP_PART: usize = 2;

/// A top that no heap grows beyond.
const NEVER: usize = usize::MAX >> 1;

/// The highest end that the heap has had; the entry for patched calls compares with it.
pub static HEAP_TOP: AtomicUsize = AtomicUsize::new(NEVER);
static HEAP_START: AtomicUsize = AtomicUsize::new(NEVER);

static STOPPED: AtomicBool = AtomicBool::new(false);

/// A descriptor that code was mapped from, in the upper half, and the number of its file.
static EXPECTED: AtomicU64 = AtomicU64::new(NOTHING);
const NOTHING: u64 = u64::MAX;

/// Nothing is populated any more.
pub fn stop() {
    STOPPED.store(true, Ordering::Relaxed);
    HEAP_TOP.store(NEVER, Ordering::Relaxed);
}

/// Whether anything is populated.
#[must_use]
pub fn is_on(process: &Process) -> bool {
    process.run.populate && !STOPPED.load(Ordering::Relaxed)
}

/// Makes pages the process's own that can be written to, as if they were.
pub fn populate(at: usize, len: usize, reason: Reason) {
    match advise(at, len, MADV_POPULATE_WRITE) {
        Ok(()) => tell::populated(reason, (len / PAGE) as u64),
        // The kernel does not know how; or what the guest has opened is a device's.
        Err(Errno::EINVAL) if reason != Reason::Opened => stop(),
        Err(_) => {}
    }
}

/// Code of a file was mapped from this descriptor: its data may follow.
pub fn expect(file: Fd, number: Option<FileNumber>) {
    let expected = number.map_or(NOTHING, |number| {
        u64::from(file.0.cast_unsigned()) << 32 | u64::from(number.0)
    });
    EXPECTED.store(expected, Ordering::Relaxed);
    closed::forget();
}

/// Whether it is asked for as dynamic linkers map data: privately, to be written to, where the rest of the library is.
#[must_use]
fn is_data(asked: &Asked) -> bool {
    const TYPE: usize = 0xf;
    let way = asked.flags & (TYPE | MAP_FIXED | MAP_ANONYMOUS);
    way == MAP_PRIVATE | MAP_FIXED
        && asked.protection & (PROT_WRITE | PROT_EXEC) == PROT_WRITE
        && asked.len >= LEAST as u64
}

/// What of a mapping of a file is to be populated: offset from its start and length in bytes.
fn part(run: RelocatedRun, offset: u64, len: u64) -> Option<(usize, usize)> {
    let (from, len) = run.within(offset, len)?;
    (len >= LEAST as u64).then_some((from as usize, len as usize))
}

/// The file that is open here, if it is the one whose code was mapped last.
fn expected(file: Fd) -> Option<FileNumber> {
    let expected = EXPECTED.load(Ordering::Relaxed);
    let is_it = expected != NOTHING && expected >> 32 == u64::from(file.0.cast_unsigned());
    is_it.then_some(FileNumber(expected as u32))
}

/// The file that is open here, where that may matter. The index is asked for it.
fn identified(process: &Process, file: Fd) -> Option<FileNumber> {
    process.code.as_ref().filter(|_| is_on(process))?.file(file)
}

/// Something was mapped at `at` that is not to be executed.
pub fn mapped(process: &Process, asked: &Asked, file: Fd, at: usize) {
    if is_data(asked) {
        data(process, asked, file, at);
    } else if (asked.flags & MAP_SHARED != 0 || asked.protection & PROT_WRITE == 0)
        && is_on(process)
    {
        closed::mapped(asked, at);
    }
}

/// What memory may be used for was changed to this.
pub fn protected(process: &Process, at: usize, len: usize, protection: usize) {
    if is_on(process) {
        closed::protected(at, len, protection);
    }
}

/// Data was mapped at `at`, as [`is_data`] has it.
fn data(process: &Process, asked: &Asked, file: Fd, at: usize) {
    // A file without code is never expected, and its descriptor may have been that of one with code.
    let number = match asked.len {
        MUCH.. => identified(process, file),
        _ => expected(file),
    };
    let run = number.and_then(|number| relocated(process, number));
    if let Some((from, len)) = run.and_then(|run| part(run, asked.offset, asked.len)) {
        populate(at + from, len, Reason::Relocated);
        // A file has one run. The number may be another file's next.
        EXPECTED.store(NOTHING, Ordering::Relaxed);
    }
}

/// A program or an interpreter was mapped.
pub fn image(process: &Process, image: &Image<'_>, bias: Bias, number: Option<FileNumber>) {
    let is_data = |piece: &Piece| piece.flags.writable() && piece.file_len >= LEAST as u64;
    // What the index says is looked at only where it may matter.
    let number = number.filter(|_| image.pieces().any(|piece| is_data(&piece)));
    let Some(run) = number.and_then(|number| relocated(process, number)) else {
        return;
    };
    for piece in image.pieces().filter(is_data) {
        if let Some((from, len)) = part(run, piece.file_offset, piece.file_len) {
            populate(bias.apply(piece.start) + from, len, Reason::Relocated);
        }
    }
}

fn relocated(process: &Process, number: FileNumber) -> Option<RelocatedRun> {
    let code = process.code.as_ref().filter(|_| is_on(process))?;
    code.texts.relocated(number)
}

/// The heap starts here, if the kernel has taken our word for it.
pub fn heap_starts(process: &Process, at: usize) {
    if is_on(process) {
        HEAP_START.store(at, Ordering::Relaxed);
        HEAP_TOP.store(at, Ordering::Relaxed);
    }
}

/// A heap from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heap {
    start: usize,
    /// The highest end that it has had.
    top: usize,
}

impl Heap {
    /// How many bytes from the top on to populate where it is to end at `end`. An allocator takes from below, so it is the beginning that is
    /// used for certain: the more the longer the heap has become without.
    fn grown(self, end: usize) -> usize {
        let growth = end.saturating_sub(self.top);
        let so_far = self.top.saturating_sub(self.start);
        if growth > HEAP_MOST {
            return 0;
        }
        let len = growth.min(so_far / HEAP_PART) & !(PAGE - 1);
        if len < LEAST { 0 } else { len }
    }
}

/// The heap ends at `end`, above its top.
///
/// Threads that grow it at once, and children of vfork(2), may lose a step here. It is the kernel that knows where it ends.
pub fn heap(process: &Process, end: usize) {
    let heap = Heap {
        start: HEAP_START.load(Ordering::Relaxed),
        top: HEAP_TOP.load(Ordering::Relaxed),
    };
    if heap.top == NEVER || end <= heap.top || !is_on(process) {
        return;
    }
    HEAP_TOP.store(end, Ordering::Relaxed);
    let len = heap.grown(end);
    if len != 0 {
        // The page of the old end is in use.
        let from = (heap.top + PAGE - 1) & !(PAGE - 1);
        populate(from, len.min(end - from) & !(PAGE - 1), Reason::Heap);
    }
}

#[cfg(test)]
mod tests {
    use super::{HEAP_MOST, Heap, LEAST, PAGE, is_data, part};
    use crate::engine::text::Asked;
    use crate::sys::abi::{
        MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE,
    };
    use elfuse_format::text::RelocatedRun;

    const DATA: Asked = Asked {
        protection: PROT_READ | PROT_WRITE,
        flags: MAP_PRIVATE | MAP_FIXED,
        offset: 0x3000,
        len: LEAST as u64,
    };

    #[test]
    fn data_is_what_dynamic_linkers_map_as_such() {
        assert!(is_data(&DATA));
        let others = [
            Asked {
                flags: MAP_PRIVATE,
                ..DATA
            },
            Asked {
                flags: MAP_SHARED | MAP_FIXED,
                ..DATA
            },
            Asked {
                flags: MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS,
                ..DATA
            },
            Asked {
                protection: PROT_READ,
                ..DATA
            },
            Asked {
                protection: PROT_READ | PROT_WRITE | PROT_EXEC,
                ..DATA
            },
            Asked {
                len: LEAST as u64 - 1,
                ..DATA
            },
        ];
        for asked in others {
            assert!(!is_data(&asked), "{asked:?}");
        }
    }

    #[test]
    fn of_a_mapping_the_part_that_the_run_covers_is_populated() {
        let page = PAGE as u64;
        let run = RelocatedRun {
            first: 10,
            pages: 6,
        };
        let part = |offset: u64, pages: u64| part(run, offset * page, pages * page - 1);
        assert_eq!(part(10, 6), Some((0, 6 * PAGE)));
        assert_eq!(part(8, 20), Some((2 * PAGE, 6 * PAGE)));
        assert_eq!(part(12, 20), Some((0, 4 * PAGE)));
        assert_eq!(part(13, 20), None, "three pages are not worth it");
        assert_eq!(part(16, 20), None);
        assert_eq!(part(0, 10), None);
        let none = RelocatedRun::default();
        assert_eq!(super::part(none, 0, 20 * page), None);
        assert_eq!(super::part(run, u64::MAX - 4095, 4096), None);
    }

    const STEP: usize = 33 * PAGE;
    const START: usize = 0x5555_0000_0000;

    /// What is populated of a heap that is `before` steps long and grows by `growth` bytes.
    fn populated(before: usize, growth: usize) -> usize {
        let top = START + before * STEP;
        let start = START;
        Heap { start, top }.grown(top + growth)
    }

    #[test]
    fn of_a_heap_that_grows_more_is_populated_the_longer_it_is_and_never_more_than_it_grows_by() {
        assert_eq!(populated(0, STEP), 0, "nothing of it was used before");
        assert_eq!(populated(1, STEP), 16 * PAGE);
        assert_eq!(populated(2, STEP), STEP);
        assert_eq!(populated(20, STEP), STEP);
        for before in 0..30 {
            for growth in [1, PAGE, LEAST, STEP, 3 * STEP, HEAP_MOST] {
                let len = populated(before, growth);
                assert!(len <= growth && len <= before * STEP / 2);
                assert!(len == 0 || len >= LEAST && len.is_multiple_of(PAGE));
            }
        }
    }

    #[test]
    fn a_heap_that_grows_by_very_much_at_once_or_not_at_all_is_left_alone() {
        assert_eq!(populated(100, HEAP_MOST), HEAP_MOST);
        assert_eq!(populated(100, HEAP_MOST + 1), 0);
        let heap = Heap {
            start: START,
            top: START + 2 * STEP,
        };
        assert_eq!(heap.grown(START + STEP), 0);
        assert_eq!(heap.grown(0), 0);
        assert_eq!(heap.grown(usize::MAX), 0);
    }
}
