//! `.elfuse/cpuid`: what CPUID says on this machine. In a virtual machine the instruction traps to the hypervisor and takes some 7 us; glibc's
//! start-up executes it dozens of times.
//!
//! A header without parts, and a payload of fixed width:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 64 | 16 | boot id of the running kernel |
//! | 80 | 8 | `AT_HWCAP` |
//! | 88 | 8 | `AT_HWCAP2` |
//! | 96 | 4 | bits: 0, CPUID is cheap here, and there are no rows |
//! | 100 | 4 | rows |
//! | 104 | 24 each | leaf, subleaf or 0xffffffff, EAX, EBX, ECX, EDX |

use crate::checksum::checksum;
use crate::error::FormatError;
use crate::header::{HEADER_LEN, Header, Kind};

/// The most rows.
pub const MAX_ROWS: usize = 128;
/// Length of a row in bytes.
pub const ROW_LEN: usize = 24;
/// The longest file.
pub const MAX_LEN: usize = ROWS_AT + MAX_ROWS * ROW_LEN;
/// Instead of a subleaf: the leaf has none, and ECX is not looked at.
pub const ANY_SUBLEAF: u32 = u32::MAX;

const ROWS_AT: usize = HEADER_LEN + 40;
const CHEAP: u32 = 1;

/// What a table is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `/proc/sys/kernel/random/boot_id`: neither another machine nor another kernel has it.
    pub boot_id: [u8; 16],
    /// `AT_HWCAP`, as the kernel gave it to this process.
    pub hwcap: u64,
    /// `AT_HWCAP2`.
    pub hwcap2: u64,
}

impl Machine {
    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.boot_id);
        bytes[16..24].copy_from_slice(&self.hwcap.to_le_bytes());
        bytes[24..].copy_from_slice(&self.hwcap2.to_le_bytes());
        bytes
    }
}

/// One answer of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// EAX before.
    pub leaf: u32,
    /// ECX before; [`ANY_SUBLEAF`]: whatever it was.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX after.
    pub registers: [u32; 4],
}

impl Row {
    /// Whether it answers a CPUID with these registers.
    #[must_use]
    pub fn answers(&self, leaf: u32, subleaf: u32) -> bool {
        self.leaf == leaf && (self.subleaf == ANY_SUBLEAF || self.subleaf == subleaf)
    }
}

/// A table whose every byte is checked.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// CPUID is cheap: there are no rows, and none are wanted.
    pub is_cheap: bool,
    rows: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}

impl<'a> Table<'a> {
    /// Checks that `bytes` are the whole table of this machine; `None`: it is another's, or of an earlier boot.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(bytes: &'a [u8], machine: &Machine) -> Result<Option<Self>, FormatError> {
        let header = Header::parse(bytes)?;
        if header.kind != Kind::Cpuid as u16 {
            return Err(FormatError::Kind {
                expected: Kind::Cpuid as u16,
                found: header.kind,
            });
        }
        let expected = header.file_len();
        if expected != bytes.len() as u64 || header.header_len != HEADER_LEN as u32 {
            return Err(FormatError::Length {
                expected,
                found: bytes.len() as u64,
            });
        }
        let found = checksum(&bytes[HEADER_LEN..]);
        if found != header.payload_checksum {
            return Err(FormatError::Checksum {
                of: "payload",
                expected: header.payload_checksum,
                found,
            });
        }
        let malformed = FormatError::Malformed {
            what: "CPUID table",
        };
        let rows = bytes.get(ROWS_AT..).ok_or(malformed)?;
        let (bits, count) = (u32_at(bytes, 96), u32_at(bytes, 100) as usize);
        let is_cheap = bits == CHEAP;
        if bits & !CHEAP != 0
            || count > MAX_ROWS
            || rows.len() != count * ROW_LEN
            || is_cheap != (count == 0)
        {
            return Err(malformed);
        }
        let is_ours = bytes[HEADER_LEN..HEADER_LEN + 32] == machine.to_bytes();
        Ok(is_ours.then_some(Self { is_cheap, rows }))
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<'a> {
        self.rows.chunks_exact(ROW_LEN).map(|row| Row {
            leaf: u32_at(row, 0),
            subleaf: u32_at(row, 4),
            registers: [8, 12, 16, 20].map(|at| u32_at(row, at)),
        })
    }
}

/// Writes a table to `into`: its length. Without rows it says that CPUID is cheap.
///
/// # Errors
/// [`FormatError::TooLarge`]: more than [`MAX_ROWS`].
pub fn encode(
    machine: &Machine,
    rows: &[Row],
    into: &mut [u8; MAX_LEN],
) -> Result<usize, FormatError> {
    if rows.len() > MAX_ROWS {
        return Err(FormatError::TooLarge {
            what: "the CPUID table",
        });
    }
    let bits = if rows.is_empty() { CHEAP } else { 0 };
    into[HEADER_LEN..HEADER_LEN + 32].copy_from_slice(&machine.to_bytes());
    into[96..100].copy_from_slice(&bits.to_le_bytes());
    into[100..ROWS_AT].copy_from_slice(&(rows.len() as u32).to_le_bytes());
    for (to, row) in into[ROWS_AT..].chunks_exact_mut(ROW_LEN).zip(rows) {
        let [eax, ebx, ecx, edx] = row.registers;
        let words = [row.leaf, row.subleaf, eax, ebx, ecx, edx];
        for (to, word) in to.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    let len = ROWS_AT + rows.len() * ROW_LEN;
    let header = Header {
        kind: Kind::Cpuid as u16,
        header_len: HEADER_LEN as u32,
        payload_len: (len - HEADER_LEN) as u64,
        payload_checksum: checksum(&into[HEADER_LEN..len]),
        flags: 0,
        part_count: 0,
        bound_to: 0,
        top_checksum: 0,
    };
    into[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::{ANY_SUBLEAF, MAX_LEN, MAX_ROWS, Machine, Row, Table, encode};
    use std::vec::Vec;

    const HERE: Machine = Machine {
        boot_id: *b"0123456789abcdef",
        hwcap: 7,
        hwcap2: 2,
    };

    fn rows() -> Vec<Row> {
        let row = |leaf, subleaf| Row {
            leaf,
            subleaf,
            registers: [leaf, 2, 3, 4],
        };
        Vec::from([row(0, ANY_SUBLEAF), row(4, 0), row(4, 1)])
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = [0; MAX_LEN];
        let len = encode(&HERE, &rows(), &mut bytes).unwrap();
        let table = Table::parse(&bytes[..len], &HERE).unwrap().unwrap();
        assert!(!table.is_cheap);
        assert_eq!(table.rows().collect::<Vec<_>>(), rows());
        let len = encode(&HERE, &[], &mut bytes).unwrap();
        let table = Table::parse(&bytes[..len], &HERE).unwrap().unwrap();
        assert!(table.is_cheap && table.rows().next().is_none());
        assert!(encode(&HERE, &[Row::default(); MAX_ROWS + 1], &mut bytes).is_err());
    }

    #[test]
    fn the_table_of_another_machine_or_boot_is_none() {
        let mut bytes = [0; MAX_LEN];
        let len = encode(&HERE, &rows(), &mut bytes).unwrap();
        let others = [
            Machine {
                boot_id: [0; 16],
                ..HERE
            },
            Machine { hwcap: 6, ..HERE },
            Machine { hwcap2: 0, ..HERE },
        ];
        for other in others {
            assert!(Table::parse(&bytes[..len], &other).unwrap().is_none());
        }
    }

    #[test]
    fn no_bit_can_flip_and_no_byte_be_missing_unnoticed() {
        let mut bytes = [0; MAX_LEN];
        let len = encode(&HERE, &rows(), &mut bytes).unwrap();
        let bytes = &mut bytes[..len];
        for cut in 0..len {
            assert!(Table::parse(&bytes[..cut], &HERE).is_err(), "cut at {cut}");
        }
        for bit in 0..8 * len {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = Table::parse(bytes, &HERE);
            assert!(found.is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_leaf_without_subleaves_answers_whatever_ecx_is() {
        let [any, first, _] = rows()[..] else {
            panic!("three rows");
        };
        assert!(any.answers(0, 0) && any.answers(0, 77) && !any.answers(1, 0));
        assert!(first.answers(4, 0) && !first.answers(4, 1));
    }
}
