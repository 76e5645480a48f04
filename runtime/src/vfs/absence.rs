//! Names that the host said are absent, for directories that the index does not cover.
//!
//! A name is remembered together with the state of its directory (device, inode, mtime, ctime), and absent while the directory is in that
//! very state. What state it is in is remembered by its canonical guest path, for as long as leases last. So a burst of failing
//! look-ups of names that failed before costs one look at the directory.
//!
//! ```text
//! places   path of a directory -> state, lease          at most 112 bytes of path
//! names    state, name -> absent                        at most 80 bytes of name
//! ```
//!
//! Order matters: a state is attached to a name only if it was seen before the name was found absent. If it is seen again later, nothing
//! has changed in between. And nothing is remembered of a directory that changed within the last two seconds: another change
//! could leave it with the same time stamps.
//!
//! Both are tables of slots without locks: a slot's first word is odd while it is written, and a reader that finds it changed has read
//! nothing.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use elfuse_format::checksum::checksum;
use elfuse_format::keys::{State, Time};

use super::arena::Arena;
use super::coherence::{Coherence, Lease, Note, Ticket};
use super::host::{HostStat, Moment};

/// Words of a state: device, inode, seconds of both times, their nanoseconds.
const STATE: usize = 5;
/// Words of the longest path, and of the longest name.
const PATH: usize = 14;
const NAME: usize = 10;
/// Words of a lease.
const LEASE: usize = 3;
/// Words of a slot: the sequence number, the text's length and words, the rest.
const PLACE_SLOT: usize = 1 + 1 + PATH + STATE + LEASE;
const NAME_SLOT: usize = 1 + 1 + NAME + STATE;
/// How many slots are looked at for one key.
const PROBES: usize = 4;
/// How many directories and how many names are remembered: powers of two.
const PLACES: usize = 256;
const NAMES: usize = 2048;
/// How old a change has to be, in seconds, for the next one to show.
const RACY: i64 = 2;

/// What is remembered. Shared by all threads.
#[derive(Debug, Clone, Copy)]
pub struct Absences<'a> {
    places: &'a [[AtomicU64; PLACE_SLOT]],
    names: &'a [[AtomicU64; NAME_SLOT]],
}

/// What is known of a directory that has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A name was absent there before.
    Seen,
    /// This is the state it was in. True: the lease still holds, so it is in that state.
    Known(State, bool),
    /// Not everybody may search it; the lease still holds.
    Private,
}

/// The words of a text, behind its length; `None`: too long.
fn words_of<const N: usize>(text: &[u8]) -> Option<[u64; N]> {
    let mut words = [0; N];
    words[0] = text.len() as u64;
    if text.len() > (N - 1) * 8 {
        return None;
    }
    for (word, bytes) in words[1..].iter_mut().zip(text.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(whole);
    }
    Some(words)
}

fn words_of_state(state: &State) -> [u64; STATE] {
    [
        state.dev,
        state.ino,
        state.mtime.secs.cast_unsigned(),
        state.ctime.secs.cast_unsigned(),
        u64::from(state.mtime.nanos) << 32 | u64::from(state.ctime.nanos),
    ]
}

fn state_of_words(words: &[u64]) -> State {
    State {
        dev: words[0],
        ino: words[1],
        mtime: Time {
            secs: words[2].cast_signed(),
            nanos: (words[4] >> 32) as u32,
        },
        ctime: Time {
            secs: words[3].cast_signed(),
            nanos: words[4] as u32,
        },
    }
}

/// What a slot holds; `None` while it is being written.
fn read<const N: usize>(slot: &[AtomicU64; N]) -> Option<[u64; N]> {
    let before = slot[0].load(Ordering::Acquire);
    let words = core::array::from_fn(|i| slot[i].load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    let after = slot[0].load(Ordering::Relaxed);
    (before == after && before.is_multiple_of(2)).then_some(words)
}

/// Writes a slot's words but the first; not if somebody else is at it.
fn write<const N: usize>(slot: &[AtomicU64; N], words: &[u64; N]) {
    let before = slot[0].load(Ordering::Relaxed);
    let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
    if !before.is_multiple_of(2)
        || (slot[0].compare_exchange(before, before.wrapping_add(1), acquire, relaxed)).is_err()
    {
        return;
    }
    fence(Ordering::Release);
    for (to, word) in slot[1..].iter().zip(&words[1..]) {
        to.store(*word, Ordering::Relaxed);
    }
    slot[0].store(before.wrapping_add(2), Ordering::Release);
}

/// The slots that a key may stand in.
fn candidates<const N: usize>(
    table: &[[AtomicU64; N]],
    hash: u64,
) -> impl Iterator<Item = &[AtomicU64; N]> {
    (0..PROBES).map(move |i| &table[(hash as usize).wrapping_add(i) % table.len()])
}

/// Writes to the slot that holds this key, else to one that is free, else to any of those that it may stand in.
fn put<const N: usize>(table: &[[AtomicU64; N]], hash: u64, words: &[u64; N], key: usize) {
    let mut chosen = None;
    for slot in candidates(table, hash) {
        let Some(found) = read(slot) else { continue };
        if found[1..key] == words[1..key] {
            chosen = Some(slot);
            break;
        }
        if found[1] == 0 && chosen.is_none() {
            chosen = Some(slot);
        }
    }
    let any = || candidates(table, hash).nth((hash >> 62) as usize % PROBES);
    if let Some(slot) = chosen.or_else(any) {
        write(slot, words);
    }
}

impl<'a> Absences<'a> {
    /// Nothing is remembered yet. Takes some 320 KiB of the arena, of which what is not used is not touched.
    #[must_use]
    pub fn new(arena: &Arena<'a>) -> Option<Self> {
        Some(Self {
            places: arena.zeroed(PLACES)?,
            names: arena.zeroed(NAMES)?,
        })
    }

    /// What is known of the directory at this canonical guest path.
    pub(super) fn place(
        &self,
        path: &[u8],
        coherence: &Coherence<'_>,
        now: impl FnOnce() -> Moment,
    ) -> Option<Place> {
        let key: [u64; 1 + PATH] = words_of(path)?;
        let mut slots = candidates(self.places, checksum(path)).filter_map(read);
        let found = slots.find(|found| found[1..2 + PATH] == key)?;
        let (state, lease) = found[2 + PATH..].split_at(STATE);
        let lease = [lease[0], lease[1], lease[2]];
        let held = coherence.holds(&Lease::of(lease), now);
        Some(match (lease[0], held) {
            (0, _) => Place::Seen,
            (_, Some(Note::Private)) => Place::Private,
            (_, held) => Place::Known(state_of_words(state), held == Some(Note::Good)),
        })
    }

    /// Remembers that a name was absent in a directory of which nothing was known.
    pub(super) fn see(&self, path: &[u8]) {
        self.put_place(path, None, [0; LEASE]);
    }

    /// Remembers the state of a directory. The ticket was taken before the host was asked.
    pub(super) fn learn(&self, path: &[u8], found: &HostStat, ticket: Ticket) {
        let lease = Lease::default();
        let private = !found.is_searchable();
        ticket.grant(&lease, if private { Note::Private } else { Note::Good });
        self.put_place(path, Some(found.state()), lease.words());
    }

    fn put_place(&self, path: &[u8], state: Option<State>, lease: [u64; LEASE]) {
        let Some(key) = words_of::<{ 1 + PATH }>(path) else {
            return;
        };
        let mut words = [0; PLACE_SLOT];
        words[1..2 + PATH].copy_from_slice(&key);
        if let Some(state) = state {
            words[2 + PATH..2 + PATH + STATE].copy_from_slice(&words_of_state(&state));
        }
        words[PLACE_SLOT - LEASE..].copy_from_slice(&lease);
        put(self.places, checksum(path), &words, 2 + PATH);
    }

    fn name_words(state: &State, name: &[u8]) -> Option<[u64; NAME_SLOT]> {
        let key: [u64; 1 + NAME] = words_of(name)?;
        let mut words = [0; NAME_SLOT];
        words[1..2 + NAME].copy_from_slice(&key);
        words[2 + NAME..].copy_from_slice(&words_of_state(state));
        Some(words)
    }

    fn name_hash(state: &State, name: &[u8]) -> u64 {
        // Directories differ in their inode; one that changed is another key all the same.
        checksum(name)
            ^ (state.ino ^ u64::from(state.ctime.nanos)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Whether `name` is known to be absent in a directory that is in this state.
    pub(super) fn is_absent(&self, state: &State, name: &[u8]) -> bool {
        let Some(words) = Self::name_words(state, name) else {
            return false;
        };
        let mut slots = candidates(self.names, Self::name_hash(state, name)).filter_map(read);
        slots.any(|found| found[1..] == words[1..])
    }

    /// Remembers that `name` was absent in a directory that was in this state when it was looked at before. `now` is the time of
    /// the file system's clock.
    pub(super) fn remember(&self, state: &State, name: &[u8], now: Time) {
        let is_old = |time: Time| {
            let oldest = Time {
                secs: time.secs.saturating_add(RACY),
                nanos: time.nanos,
            };
            oldest <= now
        };
        if is_old(state.mtime)
            && is_old(state.ctime)
            && let Some(words) = Self::name_words(state, name)
        {
            put(self.names, Self::name_hash(state, name), &words, NAME_SLOT);
        }
    }
}

#[cfg(test)]
mod tests;
