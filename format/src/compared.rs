//! `/dev/shm/elfuse-USER-DEVICE-INODE-compared`: which directories of a frozen tree one user's runs have found to be as their keys say.
//!
//! A plain header, which names the keys; the generation under which the directories were compared; a bit for each directory, by its
//! number, the lowest first. Header and generation never change: for others there is another file, which takes the place of this one by a
//! rename. So who has found them to be his may set a bit without looking again.

use crate::header::{HEADER_LEN, Header, Kind};

/// Length in bytes of what comes before the bits.
pub const HEAD_LEN: usize = HEADER_LEN + 8;

/// With more directories than this there is no such file.
pub const MAX_DIRECTORIES: u32 = 1 << 20;

/// What the bits of a file are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// `payload_checksum` of the keys.
    pub keys: u64,
    /// The generation.
    pub generation: u64,
    /// How many directories the keys have.
    pub directories: u32,
}

impl Bound {
    /// Length of the bits in bytes.
    #[must_use]
    pub const fn bits_len(&self) -> usize {
        self.directories.div_ceil(8) as usize
    }

    /// What comes before the bits.
    #[must_use]
    pub fn head(&self) -> [u8; HEAD_LEN] {
        let header = Header {
            kind: Kind::Compared as u16,
            header_len: HEADER_LEN as u32,
            payload_len: (HEAD_LEN - HEADER_LEN + self.bits_len()) as u64,
            payload_checksum: 0,
            flags: 0,
            part_count: 0,
            bound_to: self.keys,
            top_checksum: 0,
        };
        let mut head = [0; HEAD_LEN];
        head[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        head[HEADER_LEN..].copy_from_slice(&self.generation.to_le_bytes());
        head
    }
}

/// Byte of the bits that a directory's is in, and the bit there.
#[must_use]
pub const fn place(directory: u32) -> (usize, u8) {
    ((directory / 8) as usize, 1 << (directory % 8))
}

#[cfg(test)]
mod tests {
    use super::{Bound, HEAD_LEN, place};
    use crate::header::{HEADER_LEN, Header, Kind};

    const BOUND: Bound = Bound {
        keys: 7,
        generation: 9,
        directories: 17,
    };

    #[test]
    fn a_head_is_a_header_that_tells_the_length_and_what_the_bits_are_bound_to() {
        let head = BOUND.head();
        let header = Header::parse(&head).unwrap();
        assert_eq!(header.kind, Kind::Compared as u16);
        assert_eq!(header.bound_to, 7);
        assert_eq!(header.file_len(), (HEAD_LEN + 3) as u64);
        assert_eq!(head[HEADER_LEN..], 9_u64.to_le_bytes());
    }

    #[test]
    fn heads_differ_where_anything_that_the_bits_are_bound_to_does() {
        let others = [
            Bound { keys: 8, ..BOUND },
            Bound {
                generation: 8,
                ..BOUND
            },
            Bound {
                directories: 25,
                ..BOUND
            },
        ];
        for other in others {
            assert_ne!(other.head(), BOUND.head(), "{other:?}");
        }
    }

    #[test]
    fn every_directory_has_a_bit_of_its_own_within_the_bits() {
        let all: std::collections::BTreeSet<_> = (0..BOUND.directories).map(place).collect();
        assert_eq!(all.len(), BOUND.directories as usize);
        assert!(
            all.iter()
                .all(|&(byte, bit)| byte < BOUND.bits_len() && bit.count_ones() == 1)
        );
    }
}
