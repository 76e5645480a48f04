//! Memory for files that are read whole: bounded however many threads read, and used again, as fresh pages cost more than reading
//! into them does.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::patch::MAX_FILE;

/// Files that are being read have together no more bytes than this, which is as much as one may have.
const AT_ONCE: u64 = MAX_FILE;
/// Buffers that nobody uses have together no more room than this, in bytes.
const KEPT: usize = AT_ONCE as usize;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Room {
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of the files that are being read.
    taken: u64,
    free: Vec<Vec<u8>>,
}

/// An empty buffer for a file of so many bytes, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken<'r> {
    room: &'r Room,
    len: u64,
    bytes: Vec<u8>,
}

impl State {
    /// The smallest buffer that a file of `len` bytes fits into; else the largest.
    fn best(&mut self, len: usize) -> Vec<u8> {
        let fitting = |(_, bytes): &(usize, &Vec<u8>)| bytes.capacity() >= len;
        let free = self.free.iter().enumerate();
        let smallest = free
            .clone()
            .filter(fitting)
            .min_by_key(|(_, bytes)| bytes.capacity());
        let best = smallest.or_else(|| free.max_by_key(|(_, bytes)| bytes.capacity()));
        match best.map(|(at, _)| at) {
            Some(at) => self.free.swap_remove(at),
            None => Vec::new(),
        }
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        let kept: usize = self.free.iter().map(Vec::capacity).sum();
        if kept + bytes.capacity() <= KEPT {
            self.free.push(bytes);
        }
    }
}

impl Room {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer for a file of `len` bytes. Waits until others have given back enough; nobody who has one may ask for another.
    pub(super) fn take(&self, len: u64) -> Taken<'_> {
        let is_full = |state: &mut State| state.taken > 0 && state.taken + len > AT_ONCE;
        let mut state = (self.given_back)
            .wait_while(self.state(), is_full)
            .unwrap_or_else(PoisonError::into_inner);
        state.taken += len;
        let room = usize::try_from(len).unwrap_or(0);
        let mut bytes = state.best(room);
        drop(state);
        bytes.reserve_exact(room);
        Taken {
            room: self,
            len,
            bytes,
        }
    }
}

impl Deref for Taken<'_> {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut state = self.room.state();
        state.taken -= self.len;
        state.keep(bytes);
        drop(state);
        self.room.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::{AT_ONCE, KEPT, Room};

    #[test]
    fn a_buffer_is_used_again_and_is_empty() {
        let room = Room::new();
        let mut first = room.take(1000);
        first.extend_from_slice(&[1; 1000]);
        let at = first.as_ptr();
        drop(first);
        let second = room.take(500);
        assert_eq!((second.as_ptr(), second.len()), (at, 0));
    }

    #[test]
    fn the_smallest_buffer_that_fits_is_taken() {
        let room = Room::new();
        let (small, large) = (room.take(100), room.take(10_000));
        let at = small.as_ptr();
        drop((small, large));
        assert_eq!(room.take(50).as_ptr(), at);
    }

    #[test]
    fn who_asks_for_more_than_there_is_waits_until_it_is_given_back() {
        let room = Room::new();
        let (sender, receiver) = mpsc::channel();
        let first = room.take(AT_ONCE / 2 + 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let second = room.take(AT_ONCE / 2 + 1);
                sender.send(()).unwrap();
                drop(second);
            });
            let early = receiver.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err());
            drop(first);
            receiver.recv().unwrap();
        });
    }

    #[test]
    fn one_file_is_let_in_however_large_it_is() {
        let room = Room::new();
        assert!(room.take(AT_ONCE + 1).is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let room = Room::new();
        for _ in 0..4 {
            let taken: Vec<_> = (0..4).map(|_| room.take(AT_ONCE / 4)).collect();
            drop(taken);
        }
        let kept: usize = room.state().free.iter().map(Vec::capacity).sum();
        assert!((1..=KEPT).contains(&kept));
    }
}
