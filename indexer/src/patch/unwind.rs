//! `.eh_frame`: where functions begin and end, and where exceptions land in them.

use std::ops::Range;

use object::elf;

use super::elf::{Image, u16_at, u32_at, u64_at};

/// What unwinding tells of a file's code.
#[derive(Debug, Default)]
pub(super) struct Unwind {
    /// Addresses of functions, or of parts of one.
    pub(super) functions: Vec<Range<u64>>,
    /// Addresses that exceptions land at.
    pub(super) landing_pads: Vec<u64>,
}

/// Bytes at an address, read from the front.
#[derive(Clone)]
struct Reader<'a> {
    bytes: &'a [u8],
    vaddr: u64,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, len: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        self.vaddr = self.vaddr.wrapping_add(len as u64);
        Some(skipped)
    }

    fn byte(&mut self) -> Option<u8> {
        self.skip(1).map(|bytes| bytes[0])
    }

    fn uleb(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A pointer in one of the encodings that compilers use; only its format if `base` is to stay out.
    fn pointer(&mut self, encoding: u8, with_base: bool) -> Option<u64> {
        let base = match (with_base, encoding & 0x70) {
            (false, _) | (true, 0) => 0,
            (true, 0x10) => self.vaddr,
            _ => return None,
        };
        let value = match encoding & 0x0f {
            0x0 | 0x4 | 0xc => u64_at(self.skip(8)?, 0)?,
            0x1 => self.uleb()?,
            0x2 => u16_at(self.skip(2)?, 0)?.into(),
            0x3 => u32_at(self.skip(4)?, 0)?.into(),
            0xa => i64::from(u16_at(self.skip(2)?, 0)?.cast_signed()).cast_unsigned(),
            0xb => i64::from(u32_at(self.skip(4)?, 0)?.cast_signed()).cast_unsigned(),
            _ => return None,
        };
        Some(base.wrapping_add(value))
    }
}

/// What a common information entry says of the entries that name it.
#[derive(Debug, Clone, Copy, Default)]
struct Common {
    pointer: u8,
    lsda: Option<u8>,
    has_augmentation: bool,
    /// Of what handlers of signals return to.
    is_signal_frame: bool,
}

const OMITTED: u8 = 0xff;

fn common(mut entry: Reader<'_>) -> Option<Common> {
    let version = entry.byte()?;
    let end = entry.bytes.iter().position(|byte| *byte == 0)?;
    let augmentation = entry.skip(end + 1)?;
    entry.uleb()?;
    entry.uleb()?;
    if version == 1 {
        entry.byte()?;
    } else {
        entry.uleb()?;
    }
    let mut found = Common::default();
    for letter in augmentation {
        match letter {
            b'z' => {
                entry.uleb()?;
                found.has_augmentation = true;
            }
            b'R' => found.pointer = entry.byte()?,
            b'L' => found.lsda = Some(entry.byte()?).filter(|lsda| *lsda != OMITTED),
            b'P' => {
                let encoding = entry.byte()?;
                entry.pointer(encoding, false)?;
            }
            b'S' => found.is_signal_frame = true,
            b'B' | 0 => {}
            _ => return None,
        }
    }
    Some(found)
}

impl Unwind {
    /// What can be read; a table that is damaged ends where the damage begins.
    pub(super) fn read(image: &Image<'_>) -> Self {
        let mut unwind = Self::default();
        if let Some(table) = Self::table(image) {
            unwind.read_table(image, table);
        }
        unwind
    }

    fn table<'a>(image: &Image<'a>) -> Option<Reader<'a>> {
        let section = image
            .sections()
            .find(|section| section.name == b".eh_frame");
        if let Some(section) = section {
            return Some(Reader {
                bytes: image.section_bytes(&section),
                vaddr: section.addr,
            });
        }
        let header = (image.loads()).find(|load| load.kind == elf::PT_GNU_EH_FRAME.0)?;
        let mut reader = Reader {
            bytes: image.bytes_of(&header),
            vaddr: header.vaddr,
        };
        let encodings = reader.skip(4)?;
        let vaddr = reader.pointer(encodings[1], true)?;
        Some(Reader {
            bytes: image.at(vaddr, u64::MAX)?,
            vaddr,
        })
    }

    fn read_table(&mut self, image: &Image<'_>, table: Reader<'_>) -> Option<()> {
        let start = table.vaddr;
        let mut rest = table.clone();
        let mut known: Option<(u64, Option<Common>)> = None;
        loop {
            let len = u32_at(rest.skip(4)?, 0)?;
            if len == 0 || len == u32::MAX {
                return None;
            }
            let mut entry = Reader {
                vaddr: rest.vaddr,
                bytes: rest.skip(len as usize)?,
            };
            let id_at = entry.vaddr;
            let id = u32_at(entry.skip(4)?, 0)?;
            if id == 0 {
                continue;
            }
            let common_at = id_at.wrapping_sub(id.into());
            let common = match known {
                Some((at, common)) if at == common_at => common,
                _ => {
                    let mut at = table.clone();
                    at.skip(usize::try_from(common_at.wrapping_sub(start)).ok()?)?;
                    let len = u32_at(at.skip(4)?, 0)?;
                    let mut entry = Reader {
                        vaddr: at.vaddr,
                        bytes: at.skip(len as usize)?,
                    };
                    entry.skip(4)?;
                    let common = common(entry);
                    known = Some((common_at, common));
                    common
                }
            };
            if let Some(common) = common {
                self.read_function(image, entry, common);
            }
        }
    }

    fn read_function(
        &mut self,
        image: &Image<'_>,
        mut entry: Reader<'_>,
        common: Common,
    ) -> Option<()> {
        let start = entry.pointer(common.pointer, true)?;
        let len = entry.pointer(common.pointer, false)?;
        // A return address is looked up one byte before itself, so that entries for these begin one byte before their code.
        let first = start + u64::from(common.is_signal_frame);
        self.functions.push(first..start.checked_add(len)?);
        let (true, Some(encoding)) = (common.has_augmentation, common.lsda) else {
            return None;
        };
        entry.uleb()?;
        // Of an indirect pointer or none there is nothing to follow in the file.
        let here = entry.clone().pointer(encoding & 0x0f, false)?;
        let lsda = entry.pointer(encoding, true).filter(|_| here != 0)?;
        self.read_landing_pads(image, start, lsda)
    }

    fn read_landing_pads(&mut self, image: &Image<'_>, start: u64, lsda: u64) -> Option<()> {
        let mut reader = Reader {
            bytes: image.at(lsda, u64::MAX)?,
            vaddr: lsda,
        };
        let base = match reader.byte()? {
            OMITTED => start,
            encoding => reader.pointer(encoding, true)?,
        };
        if reader.byte()? != OMITTED {
            reader.uleb()?;
        }
        let encoding = reader.byte()?;
        let len = usize::try_from(reader.uleb()?).ok()?;
        let mut sites = Reader {
            vaddr: reader.vaddr,
            bytes: reader.skip(len)?,
        };
        while !sites.bytes.is_empty() {
            sites.pointer(encoding, false)?;
            sites.pointer(encoding, false)?;
            let pad = sites.pointer(encoding, false)?;
            sites.uleb()?;
            if pad != 0 {
                self.landing_pads.push(base.wrapping_add(pad));
            }
        }
        Some(())
    }
}
