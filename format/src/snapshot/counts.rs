//! `.elfuse/resident/*.count`: how often a program went on from its snapshot, and why it did not. The runtime changes the words by atomic
//! operations on a shared mapping; here is where they lie, and what a new file holds.

use crate::header::{HEADER_LEN, Header, Kind};

/// Length of the file in bytes.
pub const LEN: usize = HEADER_LEN + 8 * WORDS;
/// Words behind the header.
pub const WORDS: usize = 32;
/// Number of the word that counts the starts from the snapshot.
pub const STARTS: usize = 0;
/// Number of the word that says why it was not used the last time; 0: it always was.
pub const LAST: usize = 1;

/// Why a snapshot is not used. The word of a reason is that of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// It is not one that this build reads, or it is damaged.
    Malformed = 2,
    /// It is somebody else's, or others may write to it.
    Owner = 3,
    /// The program is another file, or another path.
    Program = 4,
    /// The machine was booted since.
    Boot = 5,
    /// The kernel tells something else of the hardware and of signals.
    Auxiliary = 6,
    /// The limit of the stack is another.
    StackLimit = 7,
    /// The vDSO is another.
    Vdso = 8,
    /// The environment has something to say to the dynamic linker or to malloc.
    Environment = 9,
    /// It is started with privileges that it gains by that.
    Secure = 10,
    /// A file that it is made of is another.
    File = 11,
    /// A name that was not there is there, or the other way round.
    Lookup = 12,
    /// Something lies where it belongs.
    Collision = 13,
    /// The host refused a mapping.
    Memory = 14,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::Owner,
        Self::Program,
        Self::Boot,
        Self::Auxiliary,
        Self::StackLimit,
        Self::Vdso,
        Self::Environment,
        Self::Secure,
        Self::File,
        Self::Lookup,
        Self::Collision,
        Self::Memory,
    ];

    /// The reason that a number stands for.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| *reason as u64 == number)
    }

    /// One word, for tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Owner => "owner",
            Self::Program => "program",
            Self::Boot => "boot",
            Self::Auxiliary => "auxiliary",
            Self::StackLimit => "stack-limit",
            Self::Vdso => "vdso",
            Self::Environment => "environment",
            Self::Secure => "secure",
            Self::File => "file",
            Self::Lookup => "lookup",
            Self::Collision => "collision",
            Self::Memory => "memory",
        }
    }

    /// For people, with what to do.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => {
                "the snapshot is damaged or of another version: add the program again"
            }
            Self::Owner => {
                "the snapshot is not root's or the caller's own, or others may write to it"
            }
            Self::Program => "the program's file was changed: add the program again",
            Self::Boot => "it was captured before the machine was booted: add the program again",
            Self::Auxiliary => {
                "the hardware or the kernel's signal frames are others than when it was captured"
            }
            Self::StackLimit => "`ulimit -s` is another than when it was captured",
            Self::Vdso => "the kernel's vDSO is another than when it was captured",
            Self::Environment => "LD_*, GLIBC_TUNABLES or MALLOC_* is set",
            Self::Secure => "it was started with privileges",
            Self::File => {
                "a library, the dynamic linker or ld.so.cache was changed: add the program again"
            }
            Self::Lookup => {
                "a library that was not there is there, or the other way round: add the program again"
            }
            Self::Collision => "another mapping lay where it belongs",
            Self::Memory => "the kernel refused a mapping",
        }
    }
}

/// The bytes of a new file.
#[must_use]
pub fn new_file() -> [u8; LEN] {
    let header = Header {
        kind: Kind::Counts as u16,
        header_len: HEADER_LEN as u32,
        payload_len: (LEN - HEADER_LEN) as u64,
        payload_checksum: 0,
        flags: 0,
        part_count: 0,
        bound_to: 0,
        top_checksum: 0,
    };
    let mut file = [0; LEN];
    file[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    file
}

/// The words of a file; `None`: it is none.
#[must_use]
pub fn words(file: &[u8]) -> Option<[u64; WORDS]> {
    let header = Header::parse(file).ok()?;
    if header.kind != Kind::Counts as u16 || file.len() != LEN {
        return None;
    }
    let (chunks, _) = file.get(HEADER_LEN..)?.as_chunks::<8>();
    let chunks: &[[u8; 8]; WORDS] = chunks.try_into().ok()?;
    Some(chunks.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::{LAST, LEN, Refusal, WORDS, new_file, words};

    #[test]
    fn every_reason_has_a_word_of_its_own_behind_the_first_two() {
        for (number, reason) in (LAST as u64 + 1..).zip(Refusal::ALL) {
            assert_eq!(reason as u64, number);
            assert_eq!(Refusal::from_number(number), Some(reason));
        }
        assert!(Refusal::ALL.len() + 2 <= WORDS);
        assert_eq!(Refusal::from_number(0), None);
        assert_eq!(Refusal::from_number(1), None);
    }

    #[test]
    fn a_new_file_counts_nothing_and_another_is_none() {
        let file = new_file();
        assert_eq!(words(&file), Some([0; WORDS]));
        assert_eq!(words(&file[..LEN - 1]), None);
        assert_eq!(words(&[0; LEN]), None);
    }
}
