//! How long an answer may be given without asking the host again.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use elfuse_format::FormatError;
use elfuse_format::header::{HEADER_LEN, Header, Kind};

use super::host::Nanos;

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

/// How long a comparison is good for, in nanoseconds: 2 ms.
pub const LEASE: u64 = 2_000_000;

/// What all runs on a sysroot share: the payload of the store's `generation`, mapped shared.
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
}

/// Length of the file [`Generation`] lies in, in bytes: a plain header, then the two words.
pub const GENERATION_LEN: usize = HEADER_LEN + size_of::<Generation>();

impl Generation {
    /// No changes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// The bytes of a new file.
    #[must_use]
    pub fn new_file() -> [u8; GENERATION_LEN] {
        let header = Header {
            kind: Kind::Generation as u16,
            header_len: HEADER_LEN as u32,
            payload_len: size_of::<Generation>() as u64,
            payload_checksum: 0,
            flags: 0,
            part_count: 0,
            bound_to: 0,
        };
        let mut file = [0; GENERATION_LEN];
        file[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        file
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
    ended: AtomicU8,
}

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

    /// Ends all leases of this process: it may have learnt of a change by others.
    pub fn end_leases(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// A byte that ends all leases when it is set.
    pub const fn ended_flag(&self) -> &AtomicU8 {
        &self.ended
    }

    /// What an answer given now has to be from. `None`: a change is being made, so nothing may be kept.
    fn stamp(&self) -> Option<u64> {
        if self.ended.load(Ordering::Acquire) != 0 && self.ended.swap(0, Ordering::SeqCst) != 0 {
            self.end_leases();
        }
        let generation = self.generation.generation.load(Ordering::SeqCst);
        let in_flight = self.generation.in_flight.load(Ordering::SeqCst);
        // Neither of the two ever goes down, so their sum is the same only if both are.
        let stamp = generation.wrapping_add(self.epoch.load(Ordering::SeqCst));
        (in_flight == 0).then_some(stamp)
    }

    /// What a lease was given for, if it still holds.
    #[inline]
    pub(super) fn holds(&self, lease: &Lease, now: impl FnOnce() -> Nanos) -> Option<Note> {
        let until = lease.until.load(Ordering::Acquire);
        if until == 0 || self.shadow {
            return None;
        }
        let holds = match self.mode {
            // What the guest itself changes counts in a tree that nobody else changes.
            Mode::Frozen => self.stamp() == Some(lease.stamp.load(Ordering::Acquire)),
            Mode::Strict | Mode::Off => false,
            Mode::Lease => {
                self.stamp() == Some(lease.stamp.load(Ordering::Acquire)) && now().0 < until
            }
        };
        holds.then(|| Note::of(until))
    }

    /// To be taken before the host is asked; [`Ticket::grant`] after.
    pub(super) fn ticket(&self, now: impl FnOnce() -> Nanos) -> Ticket {
        match self.mode {
            Mode::Lease => Ticket(
                self.stamp()
                    .map(|stamp| (now().0.saturating_add(LEASE), stamp)),
            ),
            Mode::Frozen => Ticket(self.stamp().map(|stamp| (u64::MAX, stamp))),
            Mode::Strict | Mode::Off => Ticket(None),
        }
    }
}

/// Until when something may be believed that the host said. All zero: it has not been asked.
///
/// The two words are not written as one. Whatever pair a reader sees, each is of a look at the host: the stamp says that nothing was
/// changed through elfuse since the later one, and time and answer are one of them's, which is then at most [`LEASE`] old.
#[derive(Debug, Default)]
pub(super) struct Lease {
    until: AtomicU64,
    stamp: AtomicU64,
}

impl Lease {
    /// A lease kept elsewhere.
    pub(super) fn of(until: u64, stamp: u64) -> Self {
        Self {
            until: AtomicU64::new(until),
            stamp: AtomicU64::new(stamp),
        }
    }

    /// To be kept elsewhere: until when, and the stamp. Where none was granted, the time is 1, which is long past, and not 0.
    pub(super) fn words(&self) -> [u64; 2] {
        let until = self.until.load(Ordering::Acquire).max(1);
        [until, self.stamp.load(Ordering::Acquire)]
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
pub(super) struct Ticket(Option<(u64, u64)>);

impl Ticket {
    /// The host's answer came, and was this.
    pub(super) fn grant(self, lease: &Lease, note: Note) {
        if let Some((until, stamp)) = self.0 {
            lease.stamp.store(stamp, Ordering::Release);
            lease.until.store(note.on(until), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Coherence, GENERATION_LEN, Generation, HEADER_LEN, LEASE, Lease, Mode, Nanos, Note,
    };

    fn holds(coherence: &Coherence<'_>, lease: &Lease, at: u64) -> bool {
        match coherence.holds(lease, || Nanos(at)) {
            Some(note) => {
                assert_eq!(note, Note::Good);
                true
            }
            None => false,
        }
    }

    fn granted(coherence: &Coherence<'_>, at: u64) -> Lease {
        let lease = Lease::default();
        coherence.ticket(|| Nanos(at)).grant(&lease, Note::Good);
        lease
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
        let ticket = coherence.ticket(|| Nanos(100));
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
        generation
            .in_flight
            .store(0, core::sync::atomic::Ordering::SeqCst);
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
        let file = Generation::new_file();
        let head: [u8; HEADER_LEN] = file[..HEADER_LEN].try_into().unwrap();
        assert_eq!(Generation::check_file(&head, GENERATION_LEN as u64), Ok(()));
        assert!(Generation::check_file(&head, GENERATION_LEN as u64 - 1).is_err());
        let mut other = head;
        other[10] = 1;
        assert!(Generation::check_file(&other, GENERATION_LEN as u64).is_err());
    }
}
