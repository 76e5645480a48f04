//! Which directory a path's beginning leads to, so that a path six deep costs little more than one that is one deep.
//!
//! What was walked is remembered by the very bytes of the path up to its last name. It is believed on terms that are those of all
//! directories on the way together: the stamp that all their leases had, the thread they were granted to, and the earliest of their ends.
//! So it is believed only while each of these leases would be; and where one of them is found to have been wrong before its end,
//! [`super::Coherence`] is told, which ends all.
//!
//! A table of slots without locks, as in [`super::absence`]. A row of places says which slots a beginning may have; slots are given to places in
//! the order in which they are wanted, so that the few that a start takes lie in one page of memory.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use super::arena::Arena;
use super::coherence::{Terms, View};
use super::room::Room;
use crate::index::DirId;

/// Words of the longest beginning, and of the longest guest path of its directory.
const PATH: usize = 13;
/// Where the words of a slot stand.
const UNTIL: usize = 1;
const STAMP: usize = 2;
const THREAD: usize = 3;
const WHAT: usize = 4;
const KEY: usize = 5;
const GUEST: usize = KEY + PATH;
const SLOT: usize = GUEST + PATH;
/// How many places there are: a power of two.
const PLACES: usize = 256;
/// How many slots, of which a place has the number plus one, or 0: none.
const SLOTS: usize = u8::MAX as usize;

type Slot = [AtomicU64; SLOT];

/// What is remembered. Shared by all threads.
#[derive(Debug, Clone, Copy)]
pub struct Prefixes<'a> {
    places: &'a [AtomicU8],
    slots: &'a [Slot],
    /// How many slots places have.
    given: &'a AtomicU32,
}

/// The bytes of a path as words, and their hash. It is kept in registers: words are read as they are wanted.
#[derive(Clone, Copy)]
pub(super) struct Key<'p> {
    eights: &'p [[u8; 8]],
    /// The up to seven bytes behind them; 0: there are none.
    last: u64,
    len: usize,
    hash: u64,
}

/// Where a path's beginning leads. It is kept in registers: the words of the slot are looked at as they are wanted.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    slot: &'a Slot,
    sequence: u64,
    /// The word [`WHAT`].
    what: u64,
}

/// Stands for the directory where a beginning leads nowhere: something on the way is absent.
const NOWHERE: DirId = DirId::new(u32::MAX);

/// Odd numbers, one for each word.
const FACTORS: [u64; PATH] = {
    let mut factors = [0x9e37_79b9_7f4a_7c15_u64; PATH];
    let mut i = 1;
    while i < PATH {
        let next = (factors[i - 1] ^ factors[i - 1] >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        factors[i] = (next ^ next >> 32) | 1;
        i += 1;
    }
    factors
};

impl<'p> Key<'p> {
    /// `None`: too long to be remembered.
    #[inline(always)]
    pub(super) fn of(path: &'p [u8]) -> Option<Self> {
        let len = path.len();
        if len > PATH * 8 {
            return None;
        }
        let (eights, rest) = path.as_chunks();
        let last = match path.last_chunk() {
            _ if rest.is_empty() => 0,
            // The bytes before it are shifted out.
            Some(last) => u64::from_le_bytes(*last) >> (64 - rest.len() * 8),
            None => short_word(rest),
        };
        let hashed = |word: u64, factor: u64| (word ^ word >> 32).wrapping_mul(factor);
        let mut hash = len as u64;
        for (eight, factor) in eights.iter().zip(FACTORS) {
            hash = hash.wrapping_add(hashed(u64::from_le_bytes(*eight), factor));
        }
        if let Some(factor) = FACTORS.get(eights.len()) {
            hash = hash.wrapping_add(hashed(last, *factor));
        }
        Some(Self {
            eights,
            last,
            len,
            hash,
        })
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        let eights = self.eights.iter().map(|eight| u64::from_le_bytes(*eight));
        eights.chain((!self.len.is_multiple_of(8)).then_some(self.last))
    }

    /// Whether these words are its own. They are no fewer.
    #[inline(always)]
    fn is(&self, words: &[AtomicU64; PATH]) -> bool {
        let mut eights = self.eights.iter().zip(words);
        let is_same = |(ours, found): (&[u8; 8], &AtomicU64)| {
            u64::from_le_bytes(*ours) == found.load(Ordering::Relaxed)
        };
        let has_last = || {
            self.len.is_multiple_of(8)
                || (words.get(self.eights.len()))
                    .is_some_and(|found| found.load(Ordering::Relaxed) == self.last)
        };
        eights.all(is_same) && has_last()
    }
}

/// Up to seven bytes as a word. They are read in pieces that overlap, and are the same where they do.
#[inline(always)]
fn short_word(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
        return first | last << (8 * (len - 4));
    }
    [0, len / 2, len.saturating_sub(1)]
        .into_iter()
        .fold(0, |word, at| {
            word | bytes.get(at).map_or(0, |&byte| u64::from(byte) << (8 * at))
        })
}

impl<'a> Prefixes<'a> {
    /// Nothing is remembered yet. Takes some 62 KiB of the arena, of which what is not used is not touched.
    #[must_use]
    pub fn new(arena: &Arena<'a>) -> Option<Self> {
        Some(Self {
            places: arena.zeroed(PLACES)?,
            given: arena.place(AtomicU32::new(0))?,
            slots: arena.zeroed(SLOTS)?,
        })
    }

    /// The places that a beginning may have.
    #[inline]
    fn places(&self, key: &Key<'_>) -> [&'a AtomicU8; 2] {
        let at = (key.hash >> 40) as usize % PLACES;
        [&self.places[at], &self.places[at ^ 1]]
    }

    /// The slot of a place, if it has one.
    #[inline]
    fn slot(&self, place: &AtomicU8) -> Option<&'a Slot> {
        let number = usize::from(place.load(Ordering::Relaxed));
        self.slots.get(number.wrapping_sub(1))
    }

    /// The slot of a place, given to it if it has none; `None`: somebody else was just given the last one.
    fn slot_for(&self, place: &AtomicU8) -> Option<&'a Slot> {
        if let Some(slot) = self.slot(place) {
            return Some(slot);
        }
        let step = |given: u32| (given < SLOTS as u32).then_some(given + 1);
        let relaxed = Ordering::Relaxed;
        let given = self.given.fetch_update(relaxed, relaxed, step).ok()?;
        // Where somebody else was faster this one is nobody's: there are as many as places, nearly.
        let number = given as u8 + 1;
        let _ = place.compare_exchange(0, number, relaxed, relaxed);
        self.slot(place)
    }

    /// Where a beginning leads, if that may be believed in this view.
    #[inline(always)]
    pub(super) fn find(&self, key: &Key<'_>, view: &View) -> Option<Known<'a>> {
        // No closure: it would become a function, which hands what it found on in memory.
        for place in self.places(key) {
            if let Some(slot) = self.slot(place)
                && let Some(known) = Self::read(slot, key, view)
            {
                return Some(known);
            }
        }
        None
    }

    #[inline(always)]
    fn read(slot: &'a Slot, key: &Key<'_>, view: &View) -> Option<Known<'a>> {
        let sequence = slot[0].load(Ordering::Acquire);
        let known = Known {
            slot,
            sequence,
            what: slot[WHAT].load(Ordering::Relaxed),
        };
        let is_it = sequence != 0
            && sequence.is_multiple_of(2)
            && known.key_len() == key.len
            && key.is(key_words(slot));
        (is_it && view.accepts(&known.terms()?)).then_some(known)
    }

    /// Remembers that a beginning leads nowhere, where that takes no place of one that does lead somewhere.
    pub(super) fn put_nowhere(&self, key: &Key<'_>, terms: &Terms) {
        let is_free = |place: &&AtomicU8| self.slot(place).is_none_or(leads_nowhere);
        let free = self.places(key).into_iter().find(is_free);
        if let (Some(place), Some(guest)) = (free, Key::of(b""))
            && let Some(slot) = self.slot_for(place)
        {
            write(slot, key, (NOWHERE, &guest), 0, terms);
        }
    }

    /// Remembers where a beginning leads: to the directory with this canonical guest path.
    pub(super) fn put(
        &self,
        key: &Key<'_>,
        dir: DirId,
        guest: &[u8],
        symlinks: u32,
        terms: &Terms,
    ) {
        let (Some(guest), Ok(symlinks)) = (Key::of(guest), u8::try_from(symlinks)) else {
            return;
        };
        let places = self.places(key);
        // The one that has it, or else the one that ends first.
        let holds = |slot: &&Slot| {
            let len = (slot[WHAT].load(Ordering::Relaxed) >> 24) as u8;
            usize::from(len) == key.len && key.is(key_words(slot))
        };
        let ends = |place: &&AtomicU8| {
            let until = |slot: &Slot| (!leads_nowhere(slot), slot[UNTIL].load(Ordering::Relaxed));
            self.slot(place).map(until)
        };
        let same = places
            .into_iter()
            .find_map(|place| self.slot(place).filter(holds));
        let first = || places.into_iter().min_by_key(ends);
        let Some(slot) = same.or_else(|| self.slot_for(first()?)) else {
            return;
        };
        write(slot, key, (dir, &guest), symlinks, terms);
    }
}

fn leads_nowhere(slot: &Slot) -> bool {
    (slot[WHAT].load(Ordering::Relaxed) >> 32) as u32 == NOWHERE.get()
}

/// Where the words of a slot's beginning are.
#[inline(always)]
fn key_words(slot: &Slot) -> &[AtomicU64; PATH] {
    let (_, words) = slot.split_at(KEY);
    words.first_chunk().expect("they lie in the slot")
}

fn write(slot: &Slot, key: &Key<'_>, (dir, guest): (DirId, &Key<'_>), symlinks: u8, terms: &Terms) {
    let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
    let claim = |before: u64| slot[0].compare_exchange(before, before | 1, acquire, relaxed);
    // As if nobody had used it: memory that was never touched is written to before it is read, see `Touched`.
    let before = match claim(0) {
        Err(before) if before.is_multiple_of(2) => claim(before),
        claimed => claimed,
    };
    let Ok(before) = before else { return };
    fence(Ordering::Release);
    let store = |at: usize, word| slot[at].store(word, Ordering::Relaxed);
    store(UNTIL, terms.until);
    store(STAMP, terms.stamp);
    store(THREAD, terms.thread);
    let lens = (key.len as u64) << 24 | (guest.len as u64) << 16;
    store(
        WHAT,
        u64::from(dir.get()) << 32 | lens | u64::from(symlinks) << 8,
    );
    for (at, word) in (KEY..).zip(key.words()) {
        store(at, word);
    }
    for (at, word) in (GUEST..).zip(guest.words()) {
        store(at, word);
    }
    slot[0].store(before.wrapping_add(2), Ordering::Release);
}

impl Known<'_> {
    #[inline(always)]
    pub(super) fn dir(&self) -> DirId {
        DirId::new((self.what >> 32) as u32)
    }

    #[inline(always)]
    fn key_len(&self) -> usize {
        usize::from((self.what >> 24) as u8)
    }

    /// Length of its directory's canonical guest path; 0: the root.
    #[inline(always)]
    pub(super) fn guest_len(&self) -> usize {
        usize::from((self.what >> 16) as u8)
    }

    /// How many symlinks lie on the way.
    pub(super) fn symlinks(&self) -> u32 {
        u32::from((self.what >> 8) as u8)
    }

    /// On what terms it is believed; `None`: it is known no more.
    #[inline(always)]
    pub(super) fn terms(&self) -> Option<Terms> {
        let word = |at: usize| self.slot[at].load(Ordering::Relaxed);
        let terms = Terms {
            until: word(UNTIL),
            stamp: word(STAMP),
            thread: word(THREAD),
        };
        self.is_unchanged().then_some(terms)
    }

    /// Whether something on the way is absent, so that there is no directory.
    #[inline(always)]
    pub(super) fn is_nowhere(&self) -> bool {
        self.dir() == NOWHERE
    }

    /// Whether nobody has written to the slot since it was read.
    #[inline(always)]
    fn is_unchanged(&self) -> bool {
        fence(Ordering::Acquire);
        self.slot[0].load(Ordering::Relaxed) == self.sequence
    }

    /// Whether the beginning is the directory's canonical guest path itself; no: or it is known no more.
    #[inline(always)]
    pub(super) fn is_as_given(&self) -> bool {
        let words = self.guest_len().div_ceil(8);
        let (given, guest) = (&self.slot[KEY..][..words], &self.slot[GUEST..][..words]);
        let is_same = |(one, other): (&AtomicU64, &AtomicU64)| {
            one.load(Ordering::Relaxed) == other.load(Ordering::Relaxed)
        };
        self.guest_len() == self.key_len()
            && given.iter().zip(guest).all(is_same)
            && self.is_unchanged()
    }

    /// Puts its canonical guest path in the place of the first `end` bytes of `room`; `None`: it is known no more, or does not fit, and
    /// what is in the room means nothing.
    #[inline]
    pub(super) fn put_guest(&self, room: &mut Room, end: usize) -> Option<()> {
        room.replace_by_words(end, &self.slot[GUEST..], self.guest_len())?;
        self.is_unchanged().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, DirId, Key, Prefixes, Room, Terms};
    use crate::vfs::coherence::{Coherence, Generation, Mode};
    use crate::vfs::host::Moment;

    const TERMS: Terms = Terms {
        until: 200,
        stamp: 0,
        thread: 7,
    };

    fn with_prefixes(test: impl FnOnce(&Prefixes<'_>, &Coherence<'_>)) {
        #[repr(align(8))]
        struct Memory([u8; 1 << 17]);
        let mut memory = Memory([0; 1 << 17]);
        let arena = Arena::cleared(&mut memory.0);
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        test(&Prefixes::new(&arena).unwrap(), &coherence);
    }

    fn guest_of(
        (prefixes, coherence): (&Prefixes<'_>, &Coherence<'_>),
        path: &[u8],
        (ticks, thread): (u64, u64),
    ) -> Option<(u32, Room)> {
        let view = coherence.view(|| Moment { ticks, thread })?;
        let known = prefixes.find(&Key::of(path)?, &view)?;
        let mut room = Room::new();
        room.set(b"AAA/name")?;
        known.put_guest(&mut room, 3)?;
        Some((known.dir().get(), room))
    }

    #[test]
    fn a_beginning_of_any_length_is_found_by_its_very_bytes_and_while_its_terms_hold() {
        with_prefixes(|prefixes, coherence| {
            let path = &[b'p'; 105];
            for len in 0..=104 {
                let (path, longer) = (&path[..len], &path[..len + 1]);
                let mut other = [b'p'; 104];
                prefixes.put(
                    &Key::of(path).unwrap(),
                    DirId::new(len as u32),
                    path,
                    1,
                    &TERMS,
                );
                let both = (prefixes, coherence);
                let (dir, room) = guest_of(both, path, (100, 7)).unwrap();
                assert_eq!(dir, len as u32);
                assert_eq!(room.as_bytes().strip_suffix(b"/name"), Some(path));
                assert!(guest_of(both, longer, (100, 7)).is_none());
                if let Some(last) = other[..len].last_mut() {
                    *last = b'q';
                    assert!(guest_of(both, &other[..len], (100, 7)).is_none());
                }
                assert!(guest_of(both, path, (200, 7)).is_none());
                assert!(guest_of(both, path, (100, 8)).is_none());
            }
            assert!(Key::of(path).is_none());
            coherence.end_leases();
            assert!(guest_of((prefixes, coherence), &path[..104], (100, 7)).is_none());
        });
    }
}
