//! What all runs on a sysroot share, and the file it lies in.

use core::sync::atomic::{AtomicU64, Ordering};

use elfuse_format::FormatError;
use elfuse_format::generation;
use elfuse_format::header::{HEADER_LEN, Header, Kind};

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
    pub(super) in_flight: AtomicU64,
    /// How many changes have been made.
    pub(super) generation: AtomicU64,
    /// See [`Coherence::touch`](super::Coherence::touch). 0: it stays so, and nothing that stat returns is believed.
    pub(super) stamp: AtomicU64,
    /// 0: there never was a snapshot in the store.
    pub(super) snapshots: AtomicU64,
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

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // Sealing sets the count to 0 while others are at work: it must not go below.
        let down = |count: u64| count.checked_sub(1);
        let _ = (self.in_flight).fetch_update(Ordering::SeqCst, Ordering::SeqCst, down);
    }
}
