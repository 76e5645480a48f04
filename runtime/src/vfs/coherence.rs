//! How long an answer may be given without asking the host again.

mod generation;
mod lease;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

pub use self::generation::{GENERATION_LEN, Generation};
pub use self::lease::LEASE;
pub(super) use self::lease::{Lease, Note, Terms, Ticket, View};
use super::host::Moment;

/// When names of the index may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A directory is compared with its key at first touch, and again when [`LEASE`] has run out or something was changed through
    /// elfuse. The default.
    #[default]
    Lease,
    /// Nobody changes the tree but its guests: a directory is compared at first touch, and again after a change made through elfuse.
    Frozen,
    /// Directories are compared at every touch, and every answer with the host's, whose word counts.
    Strict,
    /// There is no index, and nothing is remembered.
    Off,
}

/// Under what rule answers are given. One for all threads of a guest.
#[derive(Debug)]
pub struct Coherence<'a> {
    /// The rule.
    pub mode: Mode,
    /// Compare every answer with the walker's: `ELFUSE_INDEX=shadow`.
    pub shadow: bool,
    generation: &'a Generation,
    /// Raised when this process may have learnt of a change by others.
    epoch: AtomicU64,
    /// See [`Coherence::ended_flag`]. 0: nothing to do; [`ENDED`]; else the mark of a thread that is raising `epoch` for it.
    ended: AtomicU8,
    /// The mark given last.
    mark: AtomicU8,
}

/// What is stored to [`Coherence::ended_flag`].
pub const ENDED: u8 = 1;

impl<'a> Coherence<'a> {
    /// `generation` is the mapped file's; where there can be none, one of this process's (shared with its children, so mapped shared
    /// too): then changes made through another run count when leases end, like all other changes from outside.
    #[must_use]
    pub const fn new(mode: Mode, shadow: bool, generation: &'a Generation) -> Self {
        Self {
            mode,
            shadow,
            generation,
            epoch: AtomicU64::new(0),
            ended: AtomicU8::new(0),
            mark: AtomicU8::new(0),
        }
    }

    /// Before a call that makes, removes or renames a name, or changes who may search a directory. Calls may nest.
    pub fn mutate_begin(&self) {
        self.generation.begin();
    }

    /// After it, whether it failed or not.
    pub fn mutate_end(&self) {
        self.generation.end();
    }

    /// Before and after a call that may change what stat returns of something in the sysroot; before a descriptor that somebody may write to
    /// is given out. From then on attributes are asked of the host.
    pub fn touch(&self) {
        let next = |stamp: u64| (stamp != 0).then(|| stamp.wrapping_add(1).max(1));
        let stamp = &self.generation.stamp;
        let _ = stamp.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    /// Whether nothing has been touched since the stamp was this.
    #[inline]
    pub(super) fn is_untouched_since(&self, stamp: u64) -> bool {
        stamp != 0 && self.generation.stamp.load(Ordering::SeqCst) == stamp
    }

    /// Ends all leases of this process: it may have learnt of a change by others.
    pub fn end_leases(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// For calls by which a thread may learn of a change by others: storing [`ENDED`] here *before* the call, by a plain store, ends the
    /// leases of all threads, at the next look at any of them. Those that other threads are granted while this one is in its call
    /// are no good to it: a lease is its thread's alone.
    ///
    /// In [`Mode::Frozen`] nobody but guests changes anything, and it means nothing.
    #[must_use]
    pub const fn ended_flag(&self) -> &AtomicU8 {
        &self.ended
    }

    /// Ends leases if the flag says so.
    #[inline]
    fn heed_flag(&self) {
        if self.ended.load(Ordering::Acquire) != 0 {
            self.heed();
        }
    }

    /// The epoch has to be raised between seeing the flag and clearing it, or who stored it could see it cleared and the epoch as it was;
    /// and what was stored again meanwhile must stay. So the flag becomes a mark first, and who marked it clears that mark only.
    /// Whoever meets a mark does the rest too: the thread that made it may be gone, in a child of fork(2).
    #[cold]
    fn heed(&self) {
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        let mark = self.mark.fetch_add(1, Ordering::Relaxed) | 0x80;
        let marked = match self.ended.compare_exchange(ENDED, mark, order, failed) {
            Ok(_) => mark,
            Err(other) => other,
        };
        self.end_leases();
        if marked != 0 {
            let _ = self.ended.compare_exchange(marked, 0, order, failed);
        }
    }

    /// What an answer given now has to be from. `None`: a change is being made, so nothing may be kept.
    fn stamp(&self) -> Option<u64> {
        let generation = self.generation.generation.load(Ordering::SeqCst);
        let in_flight = self.generation.in_flight.load(Ordering::SeqCst);
        // Neither of the two ever goes down, so their sum is the same only if both are.
        let stamp = generation.wrapping_add(self.epoch.load(Ordering::SeqCst));
        (in_flight == 0).then_some(stamp)
    }

    /// What a lease was given for, if it still holds.
    #[inline]
    pub(super) fn holds(&self, lease: &Lease, now: impl FnOnce() -> Moment) -> Option<Note> {
        let until = lease.until.load(Ordering::Acquire);
        if until == 0 {
            return None;
        }
        self.view(now)?.holds(lease)
    }

    /// What leases are compared with now; `None`: none holds, whatever it says.
    #[inline]
    pub(super) fn view(&self, now: impl FnOnce() -> Moment) -> Option<View> {
        if self.shadow {
            return None;
        }
        let now = match self.mode {
            // What the guest itself changes counts in a tree that nobody else changes.
            Mode::Frozen => None,
            Mode::Strict | Mode::Off => return None,
            Mode::Lease => {
                self.heed_flag();
                Some(now())
            }
        };
        let stamp = self.stamp()?;
        Some(View { stamp, now })
    }

    /// To be taken before the host is asked; [`Ticket::grant`] after.
    pub(super) fn ticket(&self, now: impl FnOnce() -> Moment) -> Ticket {
        let now = match self.mode {
            Mode::Lease => {
                self.heed_flag();
                now()
            }
            // For ever, and for all.
            Mode::Frozen => Moment {
                ticks: u64::MAX,
                thread: 0,
            },
            Mode::Strict | Mode::Off => return Ticket(None),
        };
        Ticket(self.stamp().map(|stamp| Terms {
            until: now.ticks.saturating_add(LEASE),
            stamp,
            thread: now.thread,
        }))
    }

    /// The generation that a ticket was taken under in a frozen tree in which nothing turned out to be wrong; `None` elsewhere.
    pub(super) fn generation_of(&self, ticket: Ticket) -> Option<u64> {
        let stamp = ticket.0?.stamp;
        let is_whole = self.mode == Mode::Frozen && self.epoch.load(Ordering::SeqCst) == 0;
        is_whole.then_some(stamp)
    }

    /// The generation now; `None`: a change is being made.
    #[must_use]
    pub fn settled_generation(&self) -> Option<u64> {
        self.stamp()
            .filter(|_| self.epoch.load(Ordering::SeqCst) == 0)
    }

    /// Something that was believed turned out to be otherwise: what else was made of it is not to be believed either.
    pub(super) fn was_wrong(&self) {
        self.end_leases();
    }
}
