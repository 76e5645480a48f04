//! How long an answer may be given without asking the host again.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use elfuse_format::FormatError;
use elfuse_format::generation;
use elfuse_format::header::{HEADER_LEN, Header, Kind};

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

/// How long a comparison is good for, in ticks of [`Moment`]: 2 ms at most, less where the clock goes faster than once a nanosecond.
pub const LEASE: u64 = 2_000_000;

/// What all runs on a sysroot share: the payload of the store's `generation`, mapped shared.
///
/// The third word is for attributes of what lies in the sysroot: it moves on with every change that may concern one.
///
/// Who changes names raises `in_flight` before and moves `generation` on after; both words only ever go up, but for `in_flight`
/// going down again. If it dies in between, `in_flight` stays up, and nothing is believed without a look at the host from then on,
/// until `elfuse-index build` or `seal` sets it to 0.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Generation {
    /// How many changes are being made.
    in_flight: AtomicU64,
    /// How many changes have been made.
    generation: AtomicU64,
    /// See [`Coherence::touch`]. 0: it stays so, and nothing that stat returns is believed.
    stamp: AtomicU64,
    /// 0: there never was a snapshot in the store.
    snapshots: AtomicU64,
}

/// Length of the file [`Generation`] lies in, in bytes: a plain header, then the words.
pub const GENERATION_LEN: usize = HEADER_LEN + size_of::<Generation>();
const _: () = assert!(GENERATION_LEN == generation::LEN);
const _: () = assert!(core::mem::offset_of!(Generation, stamp) + HEADER_LEN == generation::STAMP);
const _: () =
    assert!(core::mem::offset_of!(Generation, snapshots) + HEADER_LEN == generation::SNAPSHOTS);

impl Generation {
    /// No changes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
        }
    }

    /// No changes since attributes were captured under this stamp.
    #[must_use]
    pub const fn with_stamp(stamp: u64) -> Self {
        Self {
            stamp: AtomicU64::new(stamp),
            ..Self::new()
        }
    }

    /// The bytes of a file that is made at this time, in nanoseconds. No attributes are good under it.
    #[must_use]
    pub fn new_file(time_ns: u64) -> [u8; GENERATION_LEN] {
        // A stamp is given by who captures attributes: it has to be another than those of earlier files.
        generation::new_file(time_ns, 0)
    }

    /// Whether a file of `len` bytes that starts with `head` is one.
    ///
    /// # Errors
    /// [`FormatError`]: make a new one, and rename it into place.
    pub fn check_file(head: &[u8; HEADER_LEN], len: u64) -> Result<(), FormatError> {
        let header = Header::parse(head)?;
        let expected = GENERATION_LEN as u64;
        if header.kind != Kind::Generation as u16 {
            return Err(FormatError::Kind {
                expected: Kind::Generation as u16,
                found: header.kind,
            });
        }
        let stated = u64::from(header.header_len).saturating_add(header.payload_len);
        match [stated, len].into_iter().find(|&found| found != expected) {
            Some(found) => Err(FormatError::Length { expected, found }),
            None => Ok(()),
        }
    }

    /// Whether there may be snapshots in the store that this is the generation of.
    #[must_use]
    pub fn may_have_snapshots(&self) -> bool {
        self.snapshots.load(Ordering::SeqCst) != 0
    }

    /// There may be snapshots.
    pub fn has_snapshots(&self) {
        self.snapshots.fetch_max(1, Ordering::SeqCst);
    }

    fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // Sealing sets the count to 0 while others are at work: it must not go below.
        let down = |count: u64| count.checked_sub(1);
        let _ = (self.in_flight).fetch_update(Ordering::SeqCst, Ordering::SeqCst, down);
    }
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

/// The moment at which leases are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    stamp: u64,
    /// `None`: leases last.
    now: Option<Moment>,
}

impl View {
    /// What a lease was given for, if it holds.
    #[inline]
    fn holds(&self, lease: &Lease) -> Option<Note> {
        self.granted(lease).map(|(note, _)| note)
    }

    /// A ticket of this moment: what the host is asked for after it.
    pub(super) fn ticket(&self) -> Ticket {
        let longest = self.longest();
        let until = self
            .now
            .map_or(u64::MAX, |now| now.ticks.saturating_add(LEASE));
        Ticket(Some(Terms { until, ..longest }))
    }

    /// Terms that hold as long as any.
    pub(super) fn longest(&self) -> Terms {
        Terms {
            until: u64::MAX,
            stamp: self.stamp,
            thread: self.now.map_or(0, |now| now.thread),
        }
    }

    /// What a lease was given for, and on what terms, if it holds.
    #[inline]
    pub(super) fn granted(&self, lease: &Lease) -> Option<(Note, Terms)> {
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
    pub(super) fn accepts(&self, terms: &Terms) -> bool {
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
pub(super) struct Terms {
    /// The time from which on it is not; the lowest bits may hold a [`Note`].
    pub(super) until: u64,
    pub(super) stamp: u64,
    /// The thread it was granted to.
    pub(super) thread: u64,
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
pub(super) struct Lease {
    until: AtomicU64,
    stamp: AtomicU64,
    thread: AtomicU64,
}

/// Stands for the thread while a lease is being written.
const BEING_GRANTED: u64 = u64::MAX;

impl Lease {
    /// A lease kept elsewhere.
    pub(super) fn of([until, stamp, thread]: [u64; 3]) -> Self {
        Self {
            until: AtomicU64::new(until),
            stamp: AtomicU64::new(stamp),
            thread: AtomicU64::new(thread),
        }
    }

    /// To be kept elsewhere: until when, the stamp, and whose. Where none was granted, the time is 1, which is long past, and not 0.
    pub(super) fn words(&self) -> [u64; 3] {
        let until = self.until.load(Ordering::Acquire).max(1);
        let stamp = self.stamp.load(Ordering::Acquire);
        [until, stamp, self.thread.load(Ordering::Acquire)]
    }

    /// Whether the last grant was for a directory that is as its key says, whether that holds or not.
    pub(super) fn was_good(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != 0 && Note::of(until) == Note::Good
    }

    pub(super) fn revoke(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// What the host's answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
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
pub(super) struct Ticket(Option<Terms>);

impl Ticket {
    /// The host's answer came, and was this.
    pub(super) fn grant(self, lease: &Lease, note: Note) {
        let Some(terms) = self.0 else { return };
        if lease.thread.swap(BEING_GRANTED, Ordering::AcqRel) == BEING_GRANTED {
            return;
        }
        lease.stamp.store(terms.stamp, Ordering::Release);
        lease.until.store(note.on(terms.until), Ordering::Release);
        lease.thread.store(terms.thread, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Coherence, ENDED, GENERATION_LEN, Generation, HEADER_LEN, LEASE, Lease, Mode, Moment, Note,
    };

    use core::sync::atomic::Ordering;

    fn moment(ticks: u64, thread: u64) -> Moment {
        Moment { ticks, thread }
    }

    fn holds(coherence: &Coherence<'_>, lease: &Lease, at: u64) -> bool {
        holds_for(coherence, lease, moment(at, 7))
    }

    fn holds_for(coherence: &Coherence<'_>, lease: &Lease, now: Moment) -> bool {
        match coherence.holds(lease, || now) {
            Some(note) => {
                assert_eq!(note, Note::Good);
                true
            }
            None => false,
        }
    }

    fn granted(coherence: &Coherence<'_>, at: u64) -> Lease {
        let lease = Lease::default();
        grant(coherence, &lease, moment(at, 7));
        lease
    }

    fn grant(coherence: &Coherence<'_>, lease: &Lease, now: Moment) {
        coherence.ticket(|| now).grant(lease, Note::Good);
    }

    #[test]
    fn a_lease_ends_after_two_milliseconds() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let lease = granted(&coherence, 100);
        assert!(holds(&coherence, &lease, 90 + LEASE));
        assert!(!holds(&coherence, &lease, 100 + LEASE));
        assert!(!holds(&coherence, &Lease::default(), 0));
    }

    #[test]
    fn a_change_ends_all_leases_and_while_it_is_being_made_none_is_given() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let other_run = Coherence::new(Mode::Lease, false, &generation);
        let before = granted(&coherence, 100);
        other_run.mutate_begin();
        assert!(!holds(&coherence, &before, 101));
        let during = granted(&coherence, 100);
        assert!(!holds(&coherence, &during, 101));
        other_run.mutate_end();
        assert!(!holds(&coherence, &before, 101));
        assert!(!holds(&coherence, &during, 101));
        let after = granted(&coherence, 100);
        assert!(holds(&coherence, &after, 101));
    }

    #[test]
    fn a_lease_given_for_a_look_before_a_change_is_none_after_it() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let ticket = coherence.ticket(|| moment(100, 7));
        coherence.mutate_begin();
        coherence.mutate_end();
        let lease = Lease::default();
        ticket.grant(&lease, Note::Good);
        assert!(!holds(&coherence, &lease, 101));
    }

    #[test]
    fn a_change_that_was_never_finished_keeps_everything_from_being_believed_until_it_is_reset() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        coherence.mutate_begin();
        coherence.mutate_begin();
        coherence.mutate_end();
        assert!(!holds(&coherence, &granted(&coherence, 1), 2));
        generation.in_flight.store(0, Ordering::SeqCst);
        assert!(holds(&coherence, &granted(&coherence, 1), 2));
        coherence.mutate_end();
        assert!(holds(&coherence, &granted(&coherence, 1), 2));
    }

    #[test]
    fn leases_of_this_process_can_be_ended() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let other_process = Coherence::new(Mode::Lease, false, &generation);
        let lease = granted(&coherence, 100);
        let others = granted(&other_process, 100);
        coherence.end_leases();
        assert!(!holds(&coherence, &lease, 101));
        assert!(holds(&other_process, &others, 101));
    }

    #[test]
    fn a_clock_that_went_back_ends_a_lease() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let lease = granted(&coherence, 10 * LEASE);
        assert!(holds(&coherence, &lease, 10 * LEASE));
        assert!(!holds(&coherence, &lease, 10 * LEASE - 10));
        assert!(!holds(&coherence, &lease, 1));
    }

    #[test]
    fn a_lease_is_good_for_the_thread_that_looked_and_is_taken_over_by_the_next_one_that_does() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let lease = granted(&coherence, 100);
        assert!(!holds_for(&coherence, &lease, moment(101, 8)));
        grant(&coherence, &lease, moment(102, 8));
        assert!(holds_for(&coherence, &lease, moment(103, 8)));
        assert!(!holds_for(&coherence, &lease, moment(103, 7)));
    }

    #[test]
    fn the_flag_ends_the_leases_of_all_threads_and_is_cleared_by_the_next_look() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let (mine, others) = (granted(&coherence, 100), Lease::default());
        grant(&coherence, &others, moment(100, 8));
        coherence.ended_flag().store(ENDED, Ordering::Relaxed);
        assert!(!holds_for(&coherence, &others, moment(101, 8)));
        assert_eq!(coherence.ended_flag().load(Ordering::Relaxed), 0);
        assert!(!holds(&coherence, &mine, 101));
        let after = granted(&coherence, 101);
        assert!(holds(&coherence, &after, 102));
    }

    #[test]
    fn what_another_thread_is_granted_while_one_waits_is_no_good_to_the_one_that_waited() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let lease = granted(&coherence, 100);
        coherence.ended_flag().store(ENDED, Ordering::Relaxed);
        grant(&coherence, &lease, moment(101, 8));
        assert!(holds_for(&coherence, &lease, moment(102, 8)));
        assert!(!holds(&coherence, &lease, 102));
    }

    #[test]
    fn a_look_that_began_before_the_flag_was_set_grants_nothing_that_holds_after_it() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let ticket = coherence.ticket(|| moment(100, 7));
        coherence.ended_flag().store(ENDED, Ordering::Relaxed);
        let lease = Lease::default();
        ticket.grant(&lease, Note::Good);
        assert!(!holds(&coherence, &lease, 101));
    }

    #[test]
    fn a_mark_that_a_thread_which_is_gone_left_in_the_flag_is_cleared_by_the_next_one() {
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let lease = granted(&coherence, 100);
        coherence.ended_flag().store(0x85, Ordering::Relaxed);
        assert!(!holds(&coherence, &lease, 101));
        assert_eq!(coherence.ended_flag().load(Ordering::Relaxed), 0);
        assert!(holds(&coherence, &granted(&coherence, 101), 102));
    }

    #[test]
    fn a_lease_that_is_being_granted_holds_for_nobody() {
        let generation = Generation::new();
        for mode in [Mode::Lease, Mode::Frozen] {
            let coherence = Coherence::new(mode, false, &generation);
            let lease = granted(&coherence, 100);
            assert!(holds(&coherence, &lease, 101));
            lease.thread.store(super::BEING_GRANTED, Ordering::Relaxed);
            assert!(!holds(&coherence, &lease, 101));
        }
    }

    #[test]
    fn a_frozen_tree_heeds_neither_flag_nor_thread() {
        let generation = Generation::new();
        let frozen = Coherence::new(Mode::Frozen, false, &generation);
        let lease = granted(&frozen, 100);
        frozen.ended_flag().store(ENDED, Ordering::Relaxed);
        assert!(holds_for(&frozen, &lease, moment(u64::MAX, 8)));
    }

    #[test]
    fn a_frozen_tree_is_compared_once_and_after_changes_of_its_guests_and_the_strict_mode_compares_always()
     {
        let generation = Generation::new();
        let frozen = Coherence::new(Mode::Frozen, false, &generation);
        let lease = granted(&frozen, 100);
        assert!(holds(&frozen, &lease, u64::MAX));
        frozen.mutate_begin();
        assert!(!holds(&frozen, &lease, 101));
        frozen.mutate_end();
        assert!(!holds(&frozen, &lease, 101));
        assert!(!holds(&frozen, &Lease::default(), 0));
        for (mode, shadow) in [
            (Mode::Strict, false),
            (Mode::Off, false),
            (Mode::Lease, true),
        ] {
            let coherence = Coherence::new(mode, shadow, &generation);
            assert!(!holds(&coherence, &granted(&coherence, 100), 101));
            assert!(!holds(&coherence, &lease, 101));
        }
    }

    #[test]
    fn a_generation_file_is_told_from_all_others() {
        let file = Generation::new_file(5);
        let head: [u8; HEADER_LEN] = file[..HEADER_LEN].try_into().unwrap();
        assert_eq!(Generation::check_file(&head, GENERATION_LEN as u64), Ok(()));
        assert!(Generation::check_file(&head, GENERATION_LEN as u64 - 1).is_err());
        let mut other = head;
        other[10] = 1;
        assert!(Generation::check_file(&other, GENERATION_LEN as u64).is_err());
    }
}
