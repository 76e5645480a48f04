//! Leases: until when, and for whom, an answer of the host's is good.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::vfs::host::Moment;

/// How long a comparison is good for, in ticks of [`Moment`]: 2 ms at most, less where the clock goes faster than once a nanosecond.
pub const LEASE: u64 = 2_000_000;

/// The moment at which leases are looked at.
#[derive(Debug, Clone, Copy)]
pub(in crate::vfs) struct View {
    pub(super) stamp: u64,
    /// `None`: leases last.
    pub(super) now: Option<Moment>,
}

impl View {
    /// What a lease was given for, if it holds.
    #[inline]
    pub(super) fn holds(&self, lease: &Lease) -> Option<Note> {
        self.granted(lease).map(|(note, _)| note)
    }

    /// A ticket of this moment: what the host is asked for after it.
    pub(in crate::vfs) fn ticket(&self) -> Ticket {
        let longest = self.longest();
        let until = self
            .now
            .map_or(u64::MAX, |now| now.ticks.saturating_add(LEASE));
        Ticket(Some(Terms { until, ..longest }))
    }

    /// Terms that hold as long as any.
    pub(in crate::vfs) fn longest(&self) -> Terms {
        Terms {
            until: u64::MAX,
            stamp: self.stamp,
            thread: self.now.map_or(0, |now| now.thread),
        }
    }

    /// What a lease was given for, and on what terms, if it holds.
    #[inline]
    pub(in crate::vfs) fn granted(&self, lease: &Lease) -> Option<(Note, Terms)> {
        let terms = Terms {
            until: lease.until.load(Ordering::Acquire),
            stamp: lease.stamp.load(Ordering::Acquire),
            thread: lease.thread.load(Ordering::Acquire),
        };
        // Again, and last: see `Lease`.
        let until = lease.until.load(Ordering::Acquire);
        let holds = until != 0 && until == terms.until && self.accepts(&terms);
        holds.then(|| (Note::of(until), terms))
    }

    /// Whether what was granted on these terms holds.
    #[inline]
    pub(in crate::vfs) fn accepts(&self, terms: &Terms) -> bool {
        if terms.stamp != self.stamp || terms.thread == BEING_GRANTED {
            return false;
        }
        // A clock that was set back ends it too.
        self.now.is_none_or(|now| {
            terms.thread == now.thread
                && terms.until > now.ticks
                && terms.until - now.ticks <= LEASE
        })
    }
}

/// On what terms something is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vfs) struct Terms {
    /// The time from which on it is not; the lowest bits may hold a [`Note`].
    pub(in crate::vfs) until: u64,
    pub(in crate::vfs) stamp: u64,
    /// The thread it was granted to.
    pub(in crate::vfs) thread: u64,
}

/// Until when something may be believed that the host said. All zero: it has not been asked.
///
/// The words are not written as one. Whoever writes them makes the thread [`BEING_GRANTED`] first and theirs last, and who reads them reads
/// it after the others; so a thread that finds its own there has read words that it has written itself, all by one grant. In a tree that
/// is frozen the thread does not count. There the stamp could be a new one beside the old time with its note: so that one is read again
/// behind the thread.
///
/// A grant that is left half-way, by a jump out of a handler, is never finished: then this is asked of the host each time.
#[derive(Debug, Default)]
pub(in crate::vfs) struct Lease {
    pub(super) until: AtomicU64,
    pub(super) stamp: AtomicU64,
    pub(super) thread: AtomicU64,
}

/// Stands for the thread while a lease is being written.
pub(super) const BEING_GRANTED: u64 = u64::MAX;

impl Lease {
    /// A lease kept elsewhere.
    pub(in crate::vfs) fn of([until, stamp, thread]: [u64; 3]) -> Self {
        Self {
            until: AtomicU64::new(until),
            stamp: AtomicU64::new(stamp),
            thread: AtomicU64::new(thread),
        }
    }

    /// To be kept elsewhere: until when, the stamp, and whose. Where none was granted, the time is 1, which is long past, and not 0.
    pub(in crate::vfs) fn words(&self) -> [u64; 3] {
        let until = self.until.load(Ordering::Acquire).max(1);
        let stamp = self.stamp.load(Ordering::Acquire);
        [until, stamp, self.thread.load(Ordering::Acquire)]
    }

    /// Whether the last grant was for a directory that is as its key says, whether that holds or not.
    pub(in crate::vfs) fn was_good(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != 0 && Note::of(until) == Note::Good
    }

    pub(in crate::vfs) fn revoke(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// What the host's answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vfs) enum Note {
    /// The directory is as its key says.
    Good,
    /// It is not.
    Stale,
    /// It is, but not everybody may search it.
    Private,
}

impl Note {
    /// A note is kept in the lowest two bits of the time, which ends up to 6 ns earlier for it.
    const BITS: u64 = 3;

    fn of(until: u64) -> Self {
        match until & Self::BITS {
            1 => Note::Good,
            2 => Note::Private,
            _ => Note::Stale,
        }
    }

    fn on(self, until: u64) -> u64 {
        let bits = match self {
            Note::Good => 1,
            Note::Private => 2,
            Note::Stale => 3,
        };
        until.saturating_sub(Self::BITS) & !Self::BITS | bits
    }
}

/// The moment before the host was asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::vfs) struct Ticket(pub(super) Option<Terms>);

impl Ticket {
    /// The host's answer came, and was this.
    pub(in crate::vfs) fn grant(self, lease: &Lease, note: Note) {
        let Some(terms) = self.0 else { return };
        if lease.thread.swap(BEING_GRANTED, Ordering::AcqRel) == BEING_GRANTED {
            return;
        }
        lease.stamp.store(terms.stamp, Ordering::Release);
        lease.until.store(note.on(terms.until), Ordering::Release);
        lease.thread.store(terms.thread, Ordering::Release);
    }
}
