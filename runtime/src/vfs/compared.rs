//! What earlier runs found out of a frozen tree: which of its directories are as their keys say.
//!
//! In [`Mode::Frozen`](super::Mode::Frozen) a directory that was compared stays good until something changes under elfuse, and who compared it does not matter. So
//! runs tell each other, and a later one does not ask the host for what an earlier one has asked. On a FUSE mount each such question is a
//! round trip to the server.

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use elfuse_format::compared::{Bound, place};

use super::coherence::{Coherence, Ticket};
use crate::index::DirId;

/// Where it is kept for later runs.
pub trait Board: Sync {
    /// A directory was found to be as its key says. If it cannot be told, a later run asks again.
    fn tell(&self, bound: &Bound, dir: DirId);
}

/// The directories that were compared under one generation.
pub struct Compared<'a> {
    bound: Bound,
    bits: &'a [AtomicU8],
    board: &'a dyn Board,
}

impl fmt::Debug for Compared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compared")
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl<'a> Compared<'a> {
    /// `bits`: what earlier runs have found, at least [`Bound::bits_len`] bytes. `None`: there are fewer.
    #[must_use]
    pub fn new(bound: Bound, bits: &'a [AtomicU8], board: &'a dyn Board) -> Option<Self> {
        (bits.len() >= bound.bits_len()).then_some(Self { bound, bits, board })
    }

    /// Whether a directory was compared under the rule and the generation that this ticket is for.
    pub(super) fn has(&self, coherence: &Coherence<'_>, ticket: Ticket, dir: DirId) -> bool {
        let (byte, bit) = place(dir.get());
        coherence.generation_of(ticket) == Some(self.bound.generation)
            && (self.bits.get(byte)).is_some_and(|byte| byte.load(Ordering::Relaxed) & bit != 0)
    }

    /// A directory was found to be as its key says. The ticket was taken before.
    pub(super) fn note(&self, coherence: &Coherence<'_>, ticket: Ticket, dir: DirId) {
        let (at, bit) = place(dir.get());
        // What is found out after a change is told by nobody before the next start: a tree that changes is none to hurry for.
        if coherence.generation_of(ticket) != Some(self.bound.generation) {
            return;
        }
        if let Some(byte) = self.bits.get(at)
            && byte.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            self.board.tell(&self.bound, dir);
        }
    }
}
