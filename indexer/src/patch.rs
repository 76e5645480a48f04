//! Patched copies: an ELF file's system calls made to jump to the runtime, at build time.
//!
//! bytes → [`Image`] → sites, each with the number it calls → a window for each → a stub for each window → the copy's bytes.
//! All of it is a pure function of the file's content, and so are the bytes. What is not understood is left as it is and counted,
//! so that a run knows that it has to trap there: nothing here may be guessed.
//!
//! | module | what |
//! |---|---|
//! | [`scan`] | is there anything at all? Most files end here |
//! | `elf`, `unwind` | what the file says of itself |
//! | `code` | instructions, and what branches reach |
//! | `number` | which call it is |
//! | `window`, `stub` | what is moved, and what runs instead |

mod code;
mod elf;
pub mod names;
mod number;
pub mod scan;
mod stub;
mod unwind;
mod window;

use std::ops::Range;

use elfuse_format::elf_facts::ContentHash;
use elfuse_format::text::{
    Class, Layout as Block, PAGE, Segment, TextVerdict, block_start, class, copy_flags, word,
    words_len,
};
use iced_x86::Code;

use self::code::{Around, Layout};
pub use self::elf::Image;
pub(crate) use self::elf::{Load, loads, program_headers, u64_at};
use self::scan::Pattern;
use self::window::{Chooser, Window};
pub use self::window::{Refusal, Shape};

/// The largest file that is copied, in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// What a site does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `syscall`, with this number where it is known.
    Syscall(Option<u32>),
    /// `cpuid`.
    Cpuid,
    /// `int 0x80`.
    Int80,
    /// `sysenter`.
    Sysenter,
    /// Bytes that would be one of these, of which it is not known whether they are code.
    Unclear,
}

/// What is done with a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It does not matter.
    Left,
    /// It is patched.
    Patched {
        /// How.
        shape: Shape,
        /// Which addresses the jump takes the place of.
        window: Range<u64>,
    },
    /// It should be patched and is not.
    Refused(Refusal),
}

/// An instruction that makes a system call or tells of the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its address in the file.
    pub vaddr: u64,
    /// What it does.
    pub kind: Kind,
    /// What is done with it.
    pub outcome: Outcome,
}

impl Site {
    /// Whether a file is complete only with this site patched.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        match self.kind {
            Kind::Syscall(None) | Kind::Int80 | Kind::Sysenter | Kind::Unclear => true,
            Kind::Syscall(Some(number)) => matches!(
                class(number),
                Class::Served | Class::Guarded | Class::Descriptors
            ),
            Kind::Cpuid => false,
        }
    }

    /// Whether a call made here may end leases.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        let ends = |number| {
            matches!(
                class(number),
                Class::Ending | Class::Reading | Class::Control
            )
        };
        matches!(self.kind, Kind::Syscall(Some(number)) if ends(number))
    }

    /// Whether the runtime may make something of a call made here, and nothing is lost where it does not see it.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        let grows = |number| class(number) == Class::Growing;
        matches!(self.kind, Kind::Syscall(Some(number)) if grows(number))
    }

    fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_))
    }

    fn is_patched(&self) -> bool {
        matches!(self.outcome, Outcome::Patched { .. })
    }
}

/// How many sites there are of what is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sites that must be patched, and are.
    pub patched: u32,
    /// Sites that must be patched, and are not.
    pub refused: u32,
    /// Sites that end leases, and do.
    pub ending: u32,
    /// Sites that should end leases, and do not.
    pub ending_refused: u32,
    /// CPUID sites that are patched.
    pub cpuid: u32,
    /// Sites by which memory grows that are patched.
    pub growing: u32,
}

/// What is known of a file's sites.
#[derive(Debug)]
pub struct Analysis<'a> {
    image: Image<'a>,
    segment: Option<Segment>,
    /// Ascending.
    pub sites: Vec<Site>,
    /// Why the file can have no copy, if so.
    pub refusal: Option<&'static str>,
    /// Of the sites that are patched, in their order.
    windows: Vec<(Around, Window)>,
    can_be_written: bool,
}

/// A copy to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Where its block lies.
    pub block: Block,
    /// The segment that it replaces.
    pub segment: Segment,
    /// Checksum of data and code.
    pub checksum: u64,
    /// See [`copy_flags`].
    pub flags: u16,
}

/// Analyses the bytes of a file; `None`: not one that has executable code for x86-64.
#[must_use]
pub fn analyse(bytes: &[u8]) -> Option<Analysis<'_>> {
    let image = Image::new(bytes)?;
    let segment = image.segment();
    let refusal = match &segment {
        Err(why) => Some(*why),
        Ok(_) if bytes.len() as u64 > MAX_FILE => Some("over 64 MiB"),
        Ok(_) if image.has_text_relocations() => Some("text relocations"),
        Ok(_) if image.is_go() => Some("made by Go, whose stacks are small"),
        Ok(_) => None,
    };
    let mut analysis = Analysis {
        image,
        segment: segment.ok().map(|(_, segment)| segment),
        sites: Vec::new(),
        refusal,
        windows: Vec::new(),
        can_be_written: image
            .loads()
            .any(|load| load.is_code() && load.is_writable()),
    };
    analysis.find();
    Some(analysis)
}

impl Analysis<'_> {
    fn find(&mut self) {
        let with_cpuid = self.image.starts_programs();
        let candidates = scan::candidates(&self.image, with_cpuid);
        if candidates.is_empty() {
            return;
        }
        let layout = Layout::new(&self.image);
        let nowhere = code::no_marks();
        let mut found: Vec<(Site, Option<Around>)> = Vec::new();
        let mut marks = None;
        let mut rest = &candidates[..];
        while let [(vaddr, _), ..] = rest {
            let stretch = layout.find(*vaddr);
            let count = stretch.map_or(1, |stretch| {
                rest.partition_point(|(vaddr, _)| *vaddr < stretch.end())
            });
            let (here, others) = rest.split_at(count.max(1));
            rest = others;
            let Some(stretch) = stretch else {
                found.extend(here.iter().filter_map(|one| self.unclear(*one)));
                continue;
            };
            // So it is nearly everywhere, and no more needs to be known.
            let vaddrs = here.iter().map(|(vaddr, _)| *vaddr);
            if code::are_inside_others(&self.image, stretch, vaddrs) {
                continue;
            }
            let instructions = code::read(&self.image, stretch, &layout);
            let mut seen = Vec::new();
            if code::has_sites(&instructions) {
                let marks = marks.get_or_insert_with(|| code::targets(&self.image, &layout));
                seen = code::sites(&instructions, marks.as_ref().unwrap_or(&nowhere));
            }
            for candidate in here {
                let at =
                    (seen.iter()).position(|around| around.code[around.at].ip() == candidate.0);
                match at {
                    Some(at) => {
                        let around = seen.swap_remove(at);
                        found.push((site_of(&around), Some(around)));
                    }
                    _ if code::are_inside_others(&self.image, stretch, [candidate.0]) => {}
                    _ if code::is_out_of_reach(
                        &self.image,
                        (stretch, &layout),
                        marks
                            .get_or_insert_with(|| code::targets(&self.image, &layout))
                            .as_ref()
                            .unwrap_or(&nowhere),
                        candidate.0,
                    ) => {}
                    _ => found.extend(self.unclear(*candidate)),
                }
            }
        }
        let marks = marks.flatten().unwrap_or(nowhere);
        self.choose(found, &marks);
    }

    fn unclear(&self, (vaddr, pattern): (u64, Pattern)) -> Option<(Site, Option<Around>)> {
        if pattern == Pattern::Cpuid || code::is_no_code(&self.image, vaddr) {
            return None;
        }
        let site = Site {
            vaddr,
            kind: Kind::Unclear,
            outcome: Outcome::Refused(Refusal::NotCode),
        };
        Some((site, None))
    }

    fn choose(&mut self, found: Vec<(Site, Option<Around>)>, marks: &code::Marks) {
        let mut chooser = Chooser::new(marks);
        for (mut site, around) in found {
            let Some(around) = around else {
                self.sites.push(site);
                continue;
            };
            let window = match site.kind {
                Kind::Int80 | Kind::Sysenter => Err(Refusal::Gate),
                _ if self.refusal.is_some()
                    && (site.is_needed() || site.is_ending() || site.is_growing()) =>
                {
                    Err(Refusal::File)
                }
                Kind::Cpuid => chooser.cpuid(&around),
                _ if site.is_needed() || site.is_growing() => chooser.served(&around),
                _ if site.is_ending() => chooser.ending(&around),
                _ => {
                    self.sites.push(site);
                    continue;
                }
            };
            let window = window.and_then(|window| {
                self.try_out(&around, &window)?;
                Ok(window)
            });
            site.outcome = match window {
                Ok(window) => {
                    let addresses = chooser.take(&around, &window);
                    let shape = window.shape;
                    self.windows.push((around, window));
                    Outcome::Patched {
                        shape,
                        window: addresses,
                    }
                }
                Err(why) => Outcome::Refused(why),
            };
            self.sites.push(site);
        }
    }

    /// Whether the window's stub can be made, for which it does not matter where.
    fn try_out(&self, around: &Around, window: &Window) -> Result<(), Refusal> {
        let somewhere = Block::new(elfuse_format::text::BLOCKS_START, PAGE, PAGE, 2, 0);
        let somewhere = somewhere.ok_or(Refusal::File)?;
        let original = self.original(around, window);
        let segment = self.segment.ok_or(Refusal::File)?;
        let way_back = window.way_back(around).wrapping_sub(segment.vaddr);
        if way_back > segment.file_len {
            return Err(Refusal::Branch);
        }
        stub::stub(around, window, original, (&somewhere, 0), somewhere.code())
            .map(drop)
            .map_err(|stub::NotMovable| Refusal::Register)
    }

    fn original(&self, around: &Around, window: &Window) -> &[u8] {
        let addresses = window.addresses(around);
        let len = addresses.end - addresses.start;
        self.image.at(addresses.start, len).unwrap_or_default()
    }

    /// How many sites there are of what.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for site in &self.sites {
            let counter = match (site.is_needed(), site.is_ending(), site.is_patched()) {
                (true, _, true) => &mut counts.patched,
                (true, _, false) => &mut counts.refused,
                (_, true, true) => &mut counts.ending,
                (_, true, false) => &mut counts.ending_refused,
                (.., true) if site.is_growing() => &mut counts.growing,
                (.., true) => &mut counts.cpuid,
                (.., false) => continue,
            };
            *counter += 1;
        }
        counts
    }

    /// What may be mapped for the file, given that the copy can be made.
    #[must_use]
    pub fn verdict(&self) -> TextVerdict {
        let needed = self.sites.iter().filter(|site| site.is_needed());
        let all = !self.can_be_written && !needed.clone().any(Site::is_refused);
        match (all, self.windows.is_empty()) {
            (true, true) => TextVerdict::Clean,
            (false, true) => TextVerdict::Unpatched,
            (true, false) => TextVerdict::Complete,
            (false, false) => TextVerdict::Partial,
        }
    }

    /// The copy; `None` where there is nothing to patch, or its block does not fit where its hash puts it.
    #[must_use]
    pub fn copy(&self, hash: &ContentHash) -> Option<Copy> {
        let segment = self.segment?;
        let slots = |window: &Window| if window.shape == Shape::D { 2 } else { 1 };
        let count: u32 = self.windows.iter().map(|(_, window)| slots(window)).sum();
        if count == 0 || self.refusal.is_some() {
            return None;
        }
        let start = block_start(hash);
        let data_len = words_len(count).next_multiple_of(PAGE);
        let annex = (self.image.bytes().len() as u64).next_multiple_of(PAGE);
        // The code's own length follows from the stubs, which are as long wherever they stand.
        let preliminary = Block::new(start, data_len, PAGE, count, annex)?;
        let mut bytes = self.image.bytes().to_vec();
        let mut data = vec![0; usize::try_from(data_len).ok()?];
        let mut code: Vec<u8> = Vec::new();
        let mut set = |vaddr: u64, value: u64| {
            let at = usize::try_from(vaddr - start).ok()?;
            let word = data.get_mut(at..)?.first_chunk_mut()?;
            *word = value.to_le_bytes();
            Some(())
        };
        let mut index = 0;
        for (around, window) in &self.windows {
            code.resize(code.len().next_multiple_of(16), INT3);
            let stub_at = preliminary.code() + code.len() as u64;
            let original = self.original(around, window);
            let stub = stub::stub(around, window, original, (&preliminary, index), stub_at);
            code.extend(stub.ok()?);
            let addresses = window.addresses(around);
            set(preliminary.slot(index), stub_at)?;
            set(preliminary.back(index), window.way_back(around))?;
            if window.shape == Shape::D {
                set(preliminary.slot(index + 1), stub_at)?;
                set(
                    preliminary.back(index + 1),
                    around.code[around.at].next_ip(),
                )?;
            }
            let at = addresses.start - segment.vaddr + segment.offset;
            let len = addresses.end - addresses.start;
            let place = usize::try_from(at).ok()?..usize::try_from(at + len).ok()?;
            let place = bytes.get_mut(place)?;
            place.fill(INT3);
            let (jump, target) = place.split_at_mut_checked(JUMP_THROUGH.len())?;
            jump.copy_from_slice(&JUMP_THROUGH);
            let slot = u32::try_from(preliminary.slot(index)).ok()?;
            *target.first_chunk_mut()? = slot.to_le_bytes();
            index += slots(window);
        }
        code.resize(code.len().next_multiple_of(PAGE as usize), INT3);
        let block = Block::new(start, data_len, code.len() as u64, count, annex)?;
        bytes.resize(usize::try_from(annex).ok()?, 0);
        bytes.append(&mut data);
        bytes.append(&mut code);
        let counts = self.counts();
        let mut flags = 0;
        if counts.ending_refused > 0 {
            flags |= copy_flags::ENDINGS_LEFT;
        }
        if counts.cpuid > 0 {
            flags |= copy_flags::CPUID;
        }
        debug_assert_eq!(block.data() + 8 * word::SLOTS, block.slot(0));
        Some(Copy {
            checksum: elfuse_format::checksum::checksum(bytes.get(usize::try_from(annex).ok()?..)?),
            bytes,
            block,
            segment,
            flags,
        })
    }

    /// The function that an address lies in, and how far in.
    #[must_use]
    pub fn function(&self, vaddr: u64) -> Option<(Vec<u8>, u64)> {
        let symbols = self.image.symbols();
        let inside = symbols.iter().filter(|symbol| {
            symbol.is_function && vaddr.wrapping_sub(symbol.value) < symbol.len.max(1)
        });
        // Of several names for one function the one that programs use has no underscores, or fewest.
        let best = inside.min_by_key(|symbol| {
            let underscores = symbol.name.iter().take_while(|byte| **byte == b'_');
            (vaddr - symbol.value, underscores.count(), symbol.name)
        })?;
        Some((best.name.to_vec(), vaddr - best.value))
    }
}

const INT3: u8 = 0xcc;
/// `jmp *[abs32]`, without the address.
const JUMP_THROUGH: [u8; 3] = [0xff, 0x24, 0x25];

fn site_of(around: &Around) -> Site {
    let instruction = &around.code[around.at];
    let kind = match instruction.code() {
        Code::Syscall => Kind::Syscall(around.number),
        Code::Cpuid => Kind::Cpuid,
        Code::Sysenter => Kind::Sysenter,
        _ => Kind::Int80,
    };
    Site {
        vaddr: instruction.ip(),
        kind,
        outcome: Outcome::Left,
    }
}
