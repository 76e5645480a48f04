//! What is mapped where code is asked for: the file as it is, its patched copy, or the file after the filter was armed. Decided here, without
//! touching memory; done by [`super::block`], [`super::arm`] and who asks.
//!
//! The rule: before the first executable mapping that is not completely patched the filter is armed, for all threads. Until then it is not
//! installed at all.

use core::ffi::CStr;

use elfuse_format::keys::State;
use elfuse_format::text::{ArchivedTextCopy, Layout, PAGE, Segment};

use super::host::time;
use crate::loader::plan::{Piece, Plan as Image};
use crate::sys::abi::{MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE, Stat};
use crate::sys::host::{Fd, fstat};
use crate::vfs::{FileNumber, Text, Texts};

/// What a run knows of code.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// What the index says of files.
    pub texts: Texts<'static>,
    /// The store, where the copies are.
    pub store: &'static CStr,
}

/// A mapping of a file that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// PROT bits.
    pub protection: usize,
    /// MAP bits.
    pub flags: usize,
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What to do about it.
#[derive(Debug, Clone, Copy)]
pub enum Plan<'a> {
    /// Map what was asked for: no call can be made from there that the runtime would miss.
    AsGiven,
    /// Arm the filter, then map what was asked for.
    Arm,
    /// Map the copy.
    Copy(Copy<'a>),
}

/// A copy that fits what was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Copy<'a> {
    /// What the index says of it.
    pub row: &'a ArchivedTextCopy,
    /// Where its block lies.
    pub layout: Layout,
    /// The segment that it stands in for.
    pub segment: Segment,
    /// Whether all its calls that matter go through the runtime; else the filter is armed as well.
    pub is_complete: bool,
}

/// A segment in whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// Offset in the file.
    pub offset: u64,
    /// Address before the bias is added.
    pub vaddr: u64,
    /// Length.
    pub len: u64,
}

impl Pages {
    /// The pages of a segment; `None`: it does not end.
    #[must_use]
    pub fn of(segment: &Segment) -> Option<Self> {
        let within = segment.offset % PAGE;
        let len = segment.file_len.checked_add(within)?;
        Some(Self {
            offset: segment.offset - within,
            vaddr: segment.vaddr.checked_sub(within)?,
            len: len.checked_next_multiple_of(PAGE)?,
        })
    }
}

/// What to do about a mapping of a file of which so much is known. `asked` is to be executable.
#[must_use]
pub fn plan<'a>(asked: &Asked, known: Text<'a>) -> Plan<'a> {
    const TYPE: usize = 0xf;
    let is_private = asked.flags & TYPE == MAP_PRIVATE && asked.flags & MAP_ANONYMOUS == 0;
    // What can be written to can become any code.
    if !is_private || asked.protection & PROT_WRITE != 0 {
        return Plan::Arm;
    }
    match known {
        Text::Clean => Plan::AsGiven,
        Text::Copy { is_complete, row } => {
            fitting(asked, row, is_complete).map_or(Plan::Arm, Plan::Copy)
        }
        Text::Unknown => Plan::Arm,
    }
}

fn fitting<'a>(asked: &Asked, row: &'a ArchivedTextCopy, is_complete: bool) -> Option<Copy<'a>> {
    let (layout, segment) = (row.layout()?, row.segment()?);
    let pages = Pages::of(&segment)?;
    let len = asked.len.checked_next_multiple_of(PAGE)?;
    let is_segment = (asked.offset, len) == (pages.offset, pages.len);
    // Behind its end the copy has what the original has not.
    let is_inside = pages.offset.checked_add(pages.len)? <= layout.annex();
    (is_segment && is_inside).then_some(Copy {
        row,
        layout,
        segment,
        is_complete,
    })
}

/// A state as the keys have it, and the size.
#[must_use]
pub fn state(found: &Stat) -> (State, u64) {
    let state = State {
        dev: found.dev,
        ino: found.ino,
        mtime: time(found.mtime),
        ctime: time(found.ctime),
    };
    (state, found.size.cast_unsigned())
}

/// What to do about a mapping, and which file it is of.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    /// What to do.
    pub plan: Plan<'static>,
    /// The file; `None`: the index does not know it.
    pub file: Option<FileNumber>,
}

impl Code {
    /// What to do about a mapping of this file.
    #[must_use]
    pub fn plan(&self, asked: &Asked, file: Fd) -> Planned {
        match fstat(file) {
            Ok(found) => {
                let (state, size) = state(&found);
                let known = self.texts.of(&state, size);
                Planned {
                    plan: plan(asked, known.text),
                    file: known.file,
                }
            }
            Err(_) => Planned {
                plan: Plan::Arm,
                file: None,
            },
        }
    }

    /// Which file is open here; `None`: none that the index knows.
    #[must_use]
    pub fn file(&self, file: Fd) -> Option<FileNumber> {
        let (state, size) = state(&fstat(file).ok()?);
        self.texts.of(&state, size).file
    }

    /// What to do about a program or an interpreter that the runtime maps itself.
    #[must_use]
    pub fn plan_image(&self, image: &Image<'_>, file: Fd) -> Planned {
        let of_nothing = |plan| Planned { plan, file: None };
        let mut pieces = image.pieces().filter(|piece| piece.flags.executable());
        let Some(piece) = pieces.next() else {
            return of_nothing(Plan::AsGiven);
        };
        let planned = match pieces.next() {
            None => self.plan(&asked(&piece), file),
            Some(_) => of_nothing(Plan::Arm),
        };
        match planned.plan {
            Plan::Copy(copy) if piece.zero_len != 0 || covers(image, &copy.layout) => Planned {
                plan: Plan::Arm,
                ..planned
            },
            _ => planned,
        }
    }
}

/// PROT bits of a piece.
#[must_use]
pub fn protection(piece: &Piece) -> usize {
    let bit = |on: bool, bit: usize| if on { bit } else { 0 };
    bit(piece.flags.readable(), PROT_READ)
        | bit(piece.flags.writable(), PROT_WRITE)
        | bit(piece.flags.executable(), PROT_EXEC)
}

fn asked(piece: &Piece) -> Asked {
    Asked {
        protection: protection(piece),
        flags: MAP_PRIVATE,
        offset: piece.file_offset,
        len: piece.file_len,
    }
}

/// Whether an image that cannot lie elsewhere lies where a block belongs.
fn covers(image: &Image<'_>, layout: &Layout) -> bool {
    let end = layout.code() + layout.code_len();
    !image.is_relative() && image.start < end && layout.data() < image.start + image.len
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use elfuse_format::header::rows;
    use elfuse_format::keys::Time;
    use elfuse_format::text::{
        ArchivedTextCopy, PAGE, SET_VERSION, Segment, TextCopy, block_start,
    };

    use super::{Asked, Pages, Plan, plan};
    use crate::sys::abi::{
        MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE,
    };
    use crate::vfs::Text;

    const HASH: [u8; 32] = [3; 32];

    fn archived(change: impl Fn(&mut TextCopy)) -> Vec<u8> {
        let mut row = TextCopy {
            content_hash: HASH,
            block: block_start(&HASH) as u32,
            data_len: PAGE as u32,
            code_len: PAGE as u32,
            slots: 2,
            annex: 8 * PAGE,
            p_offset: PAGE + 16,
            p_vaddr: 5 * PAGE + 16,
            p_filesz: 2 * PAGE,
            checksum: 0,
            ino: 1,
            size: 10 * PAGE,
            mtime: Time::default(),
            ctime: Time::default(),
            set_version: SET_VERSION,
            device: 0,
            flags: 0,
        };
        change(&mut row);
        rows::encode(&[row])
    }

    fn text(bytes: &[u8], is_complete: bool) -> Text<'_> {
        let rows: &[ArchivedTextCopy] = rows::decode(bytes, "copies").unwrap();
        Text::Copy {
            is_complete,
            row: &rows[0],
        }
    }

    const SEGMENT: Asked = Asked {
        protection: PROT_READ | PROT_EXEC,
        flags: MAP_PRIVATE,
        offset: PAGE,
        len: 3 * PAGE,
    };

    fn is_copy(asked: &Asked, known: Text<'_>) -> bool {
        matches!(plan(asked, known), Plan::Copy(_))
    }

    #[test]
    fn a_copy_stands_in_for_its_segment_and_for_nothing_else() {
        let bytes = archived(|_| ());
        assert!(is_copy(&SEGMENT, text(&bytes, true)));
        let others = [
            Asked {
                offset: 0,
                ..SEGMENT
            },
            Asked {
                offset: 2 * PAGE,
                ..SEGMENT
            },
            Asked {
                len: 2 * PAGE,
                ..SEGMENT
            },
            Asked {
                len: 4 * PAGE,
                ..SEGMENT
            },
            Asked {
                len: u64::MAX,
                ..SEGMENT
            },
        ];
        for asked in others {
            assert!(
                matches!(plan(&asked, text(&bytes, true)), Plan::Arm),
                "{asked:?}"
            );
        }
        let cut = Asked {
            len: 2 * PAGE + 1,
            ..SEGMENT
        };
        assert!(is_copy(&cut, text(&bytes, false)), "the kernel rounds up");
    }

    #[test]
    fn what_can_be_written_to_is_never_complete() {
        let bytes = archived(|_| ());
        for known in [Text::Clean, text(&bytes, true), Text::Unknown] {
            for asked in [
                Asked {
                    flags: MAP_SHARED,
                    ..SEGMENT
                },
                Asked {
                    flags: MAP_SHARED | MAP_PRIVATE,
                    ..SEGMENT
                },
                Asked {
                    flags: MAP_PRIVATE | MAP_ANONYMOUS,
                    ..SEGMENT
                },
                Asked {
                    protection: PROT_READ | PROT_WRITE | PROT_EXEC,
                    ..SEGMENT
                },
            ] {
                assert!(matches!(plan(&asked, known), Plan::Arm), "{asked:?}");
            }
        }
        assert!(matches!(plan(&SEGMENT, Text::Clean), Plan::AsGiven));
        assert!(matches!(plan(&SEGMENT, Text::Unknown), Plan::Arm));
    }

    #[test]
    fn a_row_that_contradicts_itself_is_not_followed() {
        let changes: [fn(&mut TextCopy); 6] = [
            |row| row.block += PAGE as u32,
            |row| row.size += 1,
            |row| row.slots = 300,
            |row| row.p_vaddr += 1,
            |row| row.p_filesz = u64::MAX,
            |row| (row.annex, row.size) = (3 * PAGE, 5 * PAGE),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let bytes = archived(change);
            assert!(!is_copy(&SEGMENT, text(&bytes, true)), "{number}");
        }
    }

    #[test]
    fn the_pages_of_a_segment_hold_all_of_it() {
        let segment = |offset, vaddr, file_len| Segment {
            offset,
            vaddr,
            file_len,
        };
        let pages = Pages::of(&segment(0x1010, 0x5010, 0xff0)).unwrap();
        assert_eq!(
            (pages.offset, pages.vaddr, pages.len),
            (PAGE, 5 * PAGE, PAGE)
        );
        let pages = Pages::of(&segment(0x1010, 0x5010, 0xff1)).unwrap();
        assert_eq!(pages.len, 2 * PAGE);
        assert_eq!(Pages::of(&segment(1, 1, u64::MAX)), None);
        assert_eq!(Pages::of(&segment(0x1010, 0, 1)), None);
    }
}
