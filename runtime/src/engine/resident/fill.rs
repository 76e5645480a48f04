//! Fills in what each process has for itself: addresses of what moved, the stack's, the vDSO's, random words; and makes the calls that the dynamic
//! linker made for its thread.
//!
//! # Safety
//! Words are written inside pages of the snapshot, which [`super::map`] has mapped privately and so that they can be written to; the
//! snapshot's tables were checked for that. The guest does not run yet, and nothing of Rust's lies there. The calls for the thread are given addresses in
//! the guest's memory, as its dynamic linker gave them.
#![allow(unsafe_code)]

use elfuse_format::snapshot::{Head, SLIDE_LEN, Snapshot, Value};

use super::map::{place, protection, spot};
use super::pieces::pieces;
use crate::engine::populate::populate;
use crate::engine::vector::Vector;
use crate::errno::Errno;
use crate::sys::abi::{PAGE, PROT_READ, PROT_WRITE, at};
use crate::sys::clock;
use crate::sys::host::gettid;
use crate::sys::memory::protect;
use crate::sys::nr;
use crate::sys::raw::call;
use crate::trace::Reason;

/// Where the words of the initial stack are, in this process.
#[derive(Debug, Clone, Copy)]
pub struct Stack {
    /// The stack pointer: argc lies there.
    pub pointer: usize,
    /// Number of arguments.
    pub arguments: usize,
    /// Address of the first argument.
    pub first_argument: usize,
    /// Address of the auxiliary vector.
    pub auxiliary: usize,
    /// AT_RANDOM.
    pub random: usize,
    /// The sixteen bytes there.
    pub random_words: [u64; 2],
    /// AT_PLATFORM.
    pub platform: usize,
    /// AT_EXECFN.
    pub execfn: usize,
    /// AT_SYSINFO_EHDR.
    pub vdso: usize,
}

/// Where the heap ends, which at a start is where it begins. The kernel is asked: it may not have let itself be told.
fn heap_end() -> u64 {
    // SAFETY: the call changes nothing when it is given 0.
    unsafe { call(nr::BRK, [0; 6]) }.0.cast_unsigned() as u64
}

impl Stack {
    /// What is known of it before `vector` is the guest's, which loses its first `skip` arguments; the rest is 0.
    #[must_use]
    pub fn of(vector: &Vector, skip: usize) -> Self {
        let arguments = vector.argument_words().get(skip..).unwrap_or_default();
        Self {
            pointer: 0,
            arguments: arguments.len(),
            first_argument: arguments.first().copied().unwrap_or(0),
            auxiliary: 0,
            random: vector.auxiliary(at::RANDOM),
            random_words: vector.random_words(),
            platform: vector.auxiliary(at::PLATFORM),
            execfn: 0,
            vdso: vector.auxiliary(at::SYSINFO_EHDR),
        }
    }

    fn value(&self, value: Value) -> u64 {
        let word = size_of::<usize>();
        let found = match value {
            Value::StackPointer => self.pointer,
            Value::Arguments => self.pointer + word,
            Value::Environment => self.pointer + word * (self.arguments + 2),
            Value::Auxiliary => self.auxiliary,
            Value::Random => self.random,
            Value::Platform => self.platform,
            Value::ExecFn => self.execfn,
            Value::FirstArgument => self.first_argument,
            Value::Vdso => self.vdso,
            Value::Canary => return self.random_words[0] & !0xff,
            Value::Guard => return self.random_words[1],
            Value::Break => return heap_end(),
            Value::ArgumentCount => self.arguments,
            Value::ThreadId => gettid() as usize,
            Value::Ticks => return clock::counter(),
        };
        found as u64
    }
}

/// Adds `delta` to the words of a page that move.
///
/// # Safety
/// `at`: a page that can be written to, and that nothing else refers to.
unsafe fn slide(at: usize, bits: &[u8; SLIDE_LEN], delta: u64) {
    let page = core::ptr::with_exposed_provenance_mut::<u64>(at);
    let (words, _) = bits.as_chunks::<8>();
    for (group, bits) in words.iter().enumerate() {
        let mut left = u64::from_le_bytes(*bits);
        while left != 0 {
            let word = group * 64 + left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: one of the page's 512 words.
            unsafe {
                let at = page.add(word);
                at.write(at.read().wrapping_add(delta));
            }
        }
    }
}

/// Fills in all words, and gives the pages their protection. `populates`: whether pages are populated before.
///
/// # Errors
/// Those of mprotect(2).
pub fn fill(
    snapshot: &Snapshot<'_>,
    delta: u64,
    stack: &Stack,
    populates: bool,
) -> Result<(), Errno> {
    let mut fix_ups = snapshot.fix_ups.iter().peekable();
    for piece in pieces(snapshot, delta).filter(|piece| piece.is_filled) {
        let (at, len, _) = spot(snapshot, &piece, delta).ok_or(Errno::EINVAL)?;
        // Just before they are written to: later they would have left the processor's caches. Where nothing moves few words are filled in.
        if delta != 0 && populates && piece.pages > 1 {
            populate(at, len, Reason::Resident);
        }
        for number in 0..piece.pages {
            let (at, page) = (at + number * PAGE, piece.first + number);
            if delta != 0 {
                // SAFETY: see the top.
                unsafe { slide(at, &snapshot.slide(page), delta) };
            }
            while let Some(fix_up) =
                fix_ups.next_if(|fix_up| fix_up.page.to_native() as usize == page)
            {
                let value = fix_up.value().ok_or(Errno::EINVAL)?;
                let word = stack.value(value).wrapping_add(fix_up.addend.to_native());
                let at = at + usize::from(fix_up.at.to_native());
                let to = core::ptr::with_exposed_provenance_mut::<u8>(at);
                // SAFETY: inside the page, as the tables were checked; see the top.
                unsafe {
                    match value.width() {
                        4 => to.cast::<u32>().write(word as u32),
                        _ => to.cast::<u64>().write(word),
                    }
                }
            }
        }
        for run in snapshot.runs.get(piece.runs).unwrap_or_default() {
            let region = snapshot.regions.get(run.region.to_native() as usize);
            let region = region.ok_or(Errno::EINVAL)?;
            let (start, len) = place(region, run, delta);
            if protection(region) != PROT_READ | PROT_WRITE {
                // SAFETY: nothing of Rust's lies there.
                unsafe { protect(start, len, protection(region)) }?;
            }
        }
    }
    Ok(())
}

/// Makes the calls that the dynamic linker made for its thread.
///
/// # Errors
/// Those of arch_prctl(2).
pub fn thread(head: &Head, delta: u64) -> Result<(), Errno> {
    const ARCH_SET_FS: usize = 0x1002;
    /// What glibc writes to `cpu_id` where it could not be registered.
    const REGISTRATION_FAILED: i32 = -2;
    const CPU_ID: usize = 4;
    let moved = |address: u64| address.wrapping_add(delta) as usize;
    let tell = |nr, args: [usize; 4]| {
        let [first, second, third, fourth] = args;
        // SAFETY: see the top.
        unsafe { call(nr, [first, second, third, fourth, 0, 0]) }.result()
    };
    tell(
        nr::ARCH_PRCTL,
        [ARCH_SET_FS, moved(head.thread_pointer), 0, 0],
    )?;
    if head.clear_tid != 0 {
        tell(nr::SET_TID_ADDRESS, [moved(head.clear_tid), 0, 0, 0])?;
    }
    let [list, len] = head.robust_list;
    if list != 0 {
        tell(nr::SET_ROBUST_LIST, [moved(list), len as usize, 0, 0])?;
    }
    let [area, len, signature] = head.rseq;
    if area != 0 {
        let area = moved(area);
        let registered = tell(nr::RSEQ, [area, len as usize, 0, signature as usize]);
        if registered.is_err() {
            let to = core::ptr::with_exposed_provenance_mut::<i32>(area + CPU_ID);
            // SAFETY: the thread's own area, in a page of the snapshot's.
            unsafe { to.write(REGISTRATION_FAILED) };
        }
    }
    Ok(())
}
