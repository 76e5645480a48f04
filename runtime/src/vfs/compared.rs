//! What earlier runs found out of a frozen tree: which of its directories are as their keys say.
//!
//! In [`Mode::Frozen`](super::Mode::Frozen) a directory that was compared stays good until something changes under elfuse, and who compared it does not
//! matter. So runs tell each other, and a later one does not ask the host for what an earlier one has asked. On a FUSE mount each such question is a
//! round trip to the server.

use core::sync::atomic::{AtomicU8, Ordering};

use elfuse_format::compared::{Bound, place};

use super::coherence::{Coherence, Ticket};
use super::host::HostStat;
use crate::errno::Errno;
use crate::index::DirId;

/// The directories that were compared under one generation.
#[derive(Debug)]
pub struct Compared<'a> {
    bound: Bound,
    bits: &'a [AtomicU8],
}

impl<'a> Compared<'a> {
    /// `bits`: shared with other runs; at least [`Bound::bits_len`] bytes. `None`: there are fewer.
    #[must_use]
    pub fn new(bound: Bound, bits: &'a [AtomicU8]) -> Option<Self> {
        (bits.len() >= bound.bits_len()).then_some(Self { bound, bits })
    }

    /// The bits are good for one generation: what is found out after a change is told by nobody before the next start.
    fn bit(
        &self,
        coherence: &Coherence<'_>,
        ticket: Ticket,
        dir: DirId,
    ) -> Option<(&'a AtomicU8, u8)> {
        let (byte, bit) = place(dir.get());
        let is_now = coherence.generation_of(ticket) == Some(self.bound.generation);
        Some((self.bits.get(byte).filter(|_| is_now)?, bit))
    }

    /// Whether a directory was compared under the rule and the generation that this ticket is for.
    pub(super) fn has(&self, coherence: &Coherence<'_>, ticket: Ticket, dir: DirId) -> bool {
        let bit = self.bit(coherence, ticket, dir);
        bit.is_some_and(|(byte, bit)| byte.load(Ordering::Relaxed) & bit != 0)
    }

    /// A directory was found to be as its key says: this is what the host said. The ticket was taken before.
    pub(super) fn note(
        &self,
        coherence: &Coherence<'_>,
        ticket: Ticket,
        dir: DirId,
        found: &Result<HostStat, Errno>,
    ) {
        // Whether another process may search a directory that not everybody may, is for the host to say.
        let is_for_all = found.is_ok_and(|found| found.is_public());
        if let Some((byte, bit)) = self.bit(coherence, ticket, dir).filter(|_| is_for_all) {
            byte.fetch_or(bit, Ordering::Relaxed);
        }
    }
}
