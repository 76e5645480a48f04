//! How often the index was asked, and what came of it.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident $label:literal)*) => {
        /// What came of asking the index.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Verdict {
            $($(#[$doc])* $name,)*
        }

        impl Verdict {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$name),*];

            /// Its name in reports.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Verdict::$name => $label,)*
                }
            }
        }
    };
}

verdicts! {
    /// An answer was given without the host: that there is no such name, that a name is no directory, that too many symlinks were
    /// met, or what a symlink's text is.
    Hit "hit"
    /// The absence cache gave the answer.
    AbsenceHit "absence hit"
    /// A directory is not as its key says: it changed since the index was made.
    Stale "stale"
    /// A directory was too young when the index was made.
    Racy "racy"
    /// A directory has no key for another reason: it changed while it was read, or could not be.
    Unsealed "unsealed"
    /// The index holds bytes that cannot be.
    Corrupt "corrupt"
    /// The index has nothing on a directory, or the memory for what it has is used up.
    NotCovered "not covered"
    /// Not everybody may search a directory, so the answer depends on who asks.
    Private "private"
    /// The host was asked for a name.
    AskedHost "asked host"
    /// The host was asked for the state of a directory.
    Validated "validated"
    /// `strict`: the host said something else than the index, and was believed.
    Overruled "overruled"
}

/// A counter for each verdict, and what was copied of the index to give them.
#[derive(Debug)]
pub struct Verdicts {
    counts: [AtomicU64; Verdict::ALL.len()],
    pieces: AtomicU64,
    bytes: AtomicU64,
}

impl Verdicts {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; Verdict::ALL.len()],
            pieces: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Counts one.
    #[inline]
    pub fn count(&self, verdict: Verdict) {
        self.counts[verdict as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a piece of the index that was copied, and is checked.
    pub fn copied(&self, bytes: u64) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many pieces of the index were copied, and how many bytes they had together.
    #[must_use]
    pub fn all_copied(&self) -> [u64; 2] {
        [&self.pieces, &self.bytes].map(|count| count.load(Ordering::Relaxed))
    }

    /// How often it was.
    #[must_use]
    pub fn get(&self, verdict: Verdict) -> u64 {
        self.counts[verdict as usize].load(Ordering::Relaxed)
    }

    /// All counters, each with its verdict.
    pub fn all(&self) -> impl Iterator<Item = (Verdict, u64)> + '_ {
        Verdict::ALL
            .iter()
            .map(|&verdict| (verdict, self.get(verdict)))
    }
}

impl Default for Verdicts {
    fn default() -> Self {
        Self::new()
    }
}
