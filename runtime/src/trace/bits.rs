//! `ELFUSE_STARTUP_TRACE`.

/// What `ELFUSE_STARTUP_TRACE` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceBits(u8);

impl TraceBits {
    /// Nothing.
    pub const NONE: TraceBits = TraceBits(0);
    /// `steps`, `1`: how long each phase of the start took.
    pub const STEPS: TraceBits = TraceBits(1);
    /// `syscalls`: the histogram of system calls.
    pub const SYSCALLS: TraceBits = TraceBits(2);
    /// `all`.
    pub const ALL: TraceBits = TraceBits(3);

    /// Reads words with commas between them. What is known counts; the first word that is not is returned for a warning.
    #[must_use]
    pub fn parse(words: &[u8]) -> (Self, Option<&[u8]>) {
        let mut bits = Self::NONE;
        let mut unknown = None;
        for word in words.split(|&byte| byte == b',') {
            match word.trim_ascii() {
                b"" | b"0" => {}
                b"1" | b"steps" => bits = bits.and(Self::STEPS),
                b"syscalls" => bits = bits.and(Self::SYSCALLS),
                b"all" => bits = bits.and(Self::ALL),
                other => unknown = unknown.or(Some(other)),
            }
        }
        (bits, unknown)
    }

    /// What either asks for.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all that `other` asks for is asked for here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Its number, for a process that takes over.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// What the number of [`TraceBits::number`] asks for; `None` if a bit is unknown.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        if number <= Self::ALL.0 as u64 {
            Some(Self(number as u8))
        } else {
            None
        }
    }
}
