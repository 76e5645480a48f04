//! Goes on with a program from its snapshot: what the dynamic linker left when it was captured is mapped, and it is not run again.
//!
//! `elfuse resident add` makes snapshots. One is used only while everything that the dynamic linker went by is as it was ([`key`]); its file
//! says what that is. Whatever does not hold, the program is started as if there were none, and the reason is counted. Text is mapped by the same rule
//! as at any start: from the patched copy where the index has one, else the filter is armed.
//!
//! ```text
//! caller ── find ── read ── key ── map ─┬─ fill ── the program goes on
//!    any of these refused: count, undo, None
//! ```

pub mod counts;
pub mod fill;
pub mod key;
pub mod map;
pub mod pieces;
pub mod snap;
pub mod tables;

use elfuse_format::snapshot::counts::Refusal;
use elfuse_format::snapshot::{Head, Snapshot, head_flags};

use super::arena::Arena;
use super::call::Call;
use super::populate;
use super::process::Process;
use super::store;
use super::vector::Vector;
use crate::errno::Errno;
use crate::sys::abi::{ADDR_NO_RANDOMIZE, SignalSet};
use crate::sys::host::{Fd, close, personality, random};
use snap::Names;
use tables::Tables;

pub use fill::Stack;

/// A program that is mapped from its snapshot; what each process has for itself is still missing.
#[derive(Debug)]
pub struct Kept {
    tables: Tables,
    /// How far it lies from where it was captured.
    delta: u64,
    /// Whether every call from its code that matters goes through the runtime.
    pub is_complete: bool,
}

/// Maps the program in `file` from its snapshot. `None`: it is to be loaded, and nothing of it is mapped.
pub fn restore(
    arena: &mut Arena,
    process: &'static Process,
    vector: &Vector,
    file: Fd,
) -> Option<Kept> {
    if !process.run.resident || !store::may_have_snapshots() {
        return None;
    }
    let store = store::directory(arena, &process.run).ok()?;
    let names = Names::of(process.run.exe);
    // Looked at first, as no file has to be opened for it; of a program that is not kept there are no counters either.
    let restored = match key::caller(vector) {
        Ok(()) => {
            let snap = snap::open(store, &names)?;
            let restored = kept(arena, process, vector, file, snap);
            close(snap);
            restored
        }
        Err(refusal) => Err(refusal),
    };
    counts::count(
        store,
        &names,
        restored.as_ref().map(drop).map_err(|refusal| *refusal),
    );
    restored.ok()
}

fn kept(
    arena: &mut Arena,
    process: &'static Process,
    vector: &Vector,
    file: Fd,
    snap: Fd,
) -> Result<Kept, Refusal> {
    let tables = snap::read(arena, vector, snap)?;
    let snapshot = tables.snapshot();
    key::machine(arena, snapshot, vector)?;
    if snapshot.exe() != process.run.exe {
        return Err(Refusal::Program);
    }
    let call = Call::own(process, SignalSet::default());
    let files = key::Files::open(arena, &call, snapshot, file)?;
    let delta = delta(snapshot);
    let mapped = map::map(arena, process, snapshot, &files, (snap, delta));
    files.close();
    Ok(Kept {
        tables,
        delta,
        is_complete: mapped?,
    })
}

/// How far what moves is put from where it was captured: so many steps of 2 MiB down that it is not known beforehand where.
fn delta(snapshot: &Snapshot<'_>) -> u64 {
    const STEP: u32 = 21;
    /// The most steps: half a TiB, which leaves what lies at two thirds of the address space above the lowest third.
    const STEPS: u64 = 1 << 18;
    let is_fixed = snapshot.head().flags & head_flags::FIXED != 0 || !snapshot.moves();
    if is_fixed || personality() & ADDR_NO_RANDOMIZE != 0 {
        return 0;
    }
    let mut moving = snapshot.regions.iter().filter(|region| region.moves());
    let lowest = moving.next().map_or(0, |region| region.start.to_native());
    let steps = STEPS.min((lowest / 2) >> STEP).max(1);
    ((random() % steps) << STEP).wrapping_neg()
}

impl Kept {
    fn head(&self) -> Head {
        self.tables.snapshot().head()
    }

    /// An address of the program in this process.
    fn program(&self, address: u64) -> u64 {
        if self.head().flags & head_flags::PROGRAM_MOVES == 0 {
            return address;
        }
        address.wrapping_add(self.delta)
    }

    /// AT_ENTRY; it is also what rax holds where the program goes on.
    #[must_use]
    pub fn entry(&self) -> usize {
        self.program(self.head().entry) as usize
    }

    /// AT_PHDR and AT_PHNUM.
    #[must_use]
    pub fn phdrs(&self) -> (usize, usize) {
        let head = self.head();
        (self.program(head.phdr) as usize, head.phnum as usize)
    }

    /// AT_BASE.
    #[must_use]
    pub fn base(&self) -> usize {
        self.head().base.wrapping_add(self.delta) as usize
    }

    /// Where the program goes on.
    #[must_use]
    pub fn resume(&self) -> usize {
        let head = self.head();
        // Where it goes on is the dynamic linker's, or the program's own entry.
        if head.resume == head.entry {
            return self.entry();
        }
        head.resume.wrapping_add(self.delta) as usize
    }

    /// Where the heap may start.
    #[must_use]
    pub fn heap(&self) -> usize {
        self.program(self.head().heap) as usize
    }

    /// Code and data: start, end, start, end.
    #[must_use]
    pub fn extent(&self) -> [u64; 4] {
        self.head().extent.map(|at| self.program(at))
    }

    /// Fills in what each process has for itself, and tells the kernel of the thread what the dynamic linker told it.
    ///
    /// # Errors
    /// Those of mprotect(2) and arch_prctl(2): the process cannot go on.
    pub fn fill(self, process: &Process, stack: &Stack) -> Result<(), Errno> {
        let populates = populate::is_on(process);
        fill::fill(self.tables.snapshot(), self.delta, stack, populates)?;
        fill::thread(&self.head(), self.delta)
    }
}
