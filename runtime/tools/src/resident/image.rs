//! What two captures of one program have in common, and what differs for a reason. Pure: no process is looked at here.
//!
//! Both were stopped at the same place, after the dynamic linker was done, with other arguments, environment, process, random bytes and
//! bases. A word that is the same in both is a part of the image. One that differs is the address of something that moved by just that
//! distance, or one of the values that each process has for itself. Anything else is not understood, and the program is not kept: so
//! nothing has to be known of how a libc lays out its structures.

use std::collections::BTreeMap;

use elfuse_format::snapshot::{
    FixUp, NO_FILE, PAGE, Region, Run, SLIDE_LEN, Value, head_flags, region_flags,
};
use elfuse_runtime::sys::memory::OWN;

/// Content of a page.
pub type Page = [u8; PAGE as usize];

/// A mapping of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// End.
    pub end: u64,
    /// Bits as PROT of mmap(2).
    pub protection: u16,
    /// Offset in the file.
    pub offset: u64,
    /// The number of the file, or [`NO_FILE`].
    pub file: u32,
    /// The number of what was mapped at once: within it, all lies as it lay. Objects have their numbers by when they were mapped.
    pub object: u32,
}

/// A process at the point where it is captured.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// By objects, ascending in each.
    pub mappings: Vec<Mapping>,
    /// What was mapped at once: start, end. Parts may have been unmapped since.
    pub objects: Vec<(u64, u64)>,
    /// Pages that may differ from their file, by the number of the mapping and of the page in it. Both images have the same ones.
    pub pages: BTreeMap<(u32, u32), Box<Page>>,
    /// What this process has for itself.
    pub values: Vec<(Value, u64)>,
    /// Where the vDSO lies: start, end; empty: nowhere.
    pub vdso: (u64, u64),
    /// The time stamp counter before it was started and after it was stopped.
    pub ticks: (u64, u64),
    /// The dynamic linker's own memory: start, end.
    pub loader: (u64, u64),
    /// What the kernel writes to: address and length of the area given to rseq(2).
    pub rseq: (u64, u64),
}

/// Why two images do not make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The mappings are not the same.
    #[error("the two captures have different mappings: {first} and {second}")]
    Mappings {
        /// In the first.
        first: String,
        /// In the second.
        second: String,
    },
    /// Nothing moved, so that nothing can be learnt from comparing.
    #[error(
        "both captures lie at the same addresses: is address space randomisation off (/proc/sys/kernel/randomize_va_space)?"
    )]
    NotRandom,
    /// Memory that may be written and executed.
    #[error("a mapping at {0:#x} can be written to and executed")]
    WritableCode(u64),
    /// Code was changed.
    #[error("code at {0:#x} was relocated: the program has text relocations")]
    TextRelocation(u64),
    /// A word that is not understood.
    #[error(
        "the word at {address:#x} (mapping {mapping}) differs and is not understood: {first:#x} and {second:#x}"
    )]
    Word {
        /// Where, in the first capture.
        address: u64,
        /// The number of the mapping.
        mapping: usize,
        /// In the first.
        first: u64,
        /// In the second.
        second: u64,
    },
    /// A word that leads into the runtime.
    #[error("the word at {address:#x} leads into elfuse itself: {value:#x}")]
    Own {
        /// Where, in the first capture.
        address: u64,
        /// What it is.
        value: u64,
    },
}

/// The image without what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// As the snapshot has them.
    pub regions: Vec<Region>,
    /// As the snapshot has them.
    pub runs: Vec<Run>,
    /// As the snapshot has them.
    pub slides: Vec<[u8; SLIDE_LEN]>,
    /// As the snapshot has them.
    pub fix_ups: Vec<FixUp>,
    /// As the snapshot has them.
    pub pages: Vec<u8>,
}

impl Common {
    /// Whether what lies at `address` moves.
    #[must_use]
    pub fn moves(&self, address: u64) -> bool {
        let mut regions = self.regions.iter();
        regions.any(|region| {
            (region.start..region.start + region.len).contains(&address)
                && region.flags & region_flags::MOVES != 0
        })
    }

    /// [`head_flags`] of a program with this entry.
    #[must_use]
    pub fn head_flags(&self, entry: u64) -> u32 {
        if self.moves(entry) {
            head_flags::PROGRAM_MOVES
        } else {
            0
        }
    }
}

/// What `rseq_cs`, `cpu_id` and their like are before the kernel has been told of them (`include/uapi/linux/rseq.h`).
fn unregistered(len: usize) -> Vec<u8> {
    let mut area = vec![0; len];
    if let Some(cpu_id) = area.get_mut(4..8) {
        cpu_id.fill(0xff);
    }
    area
}

/// The most words of the dynamic linker's that say how long something took: loading, relocating, all of it.
const MOST_SPANS: usize = 4;

/// What is known of both processes.
struct Known<'i> {
    images: [&'i Image; 2],
    /// How far each mapping lies apart.
    deltas: Vec<u64>,
}

/// What a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Same,
    Moves,
    /// A value, how far behind it, and at which byte of the word.
    Value(Value, u64, u16),
    Unknown,
    Own,
}

impl Known<'_> {
    fn of(&self, [first, second]: [u64; 2]) -> Meaning {
        let is_own = usize::try_from(first).is_ok_and(|address| OWN.contains(&address));
        if first == second && !is_own {
            return Meaning::Same;
        }
        if let Some((value, _)) = self.values(8).find(|(_, both)| *both == [first, second]) {
            return Meaning::Value(value, 0, 0);
        }
        if is_own {
            return Meaning::Own;
        }
        let delta = second.wrapping_sub(first);
        let [one, other] = self.images.map(|image| image.vdso);
        if one.0 != 0 && (one.0..=one.1).contains(&first) && delta == other.0.wrapping_sub(one.0) {
            return Meaning::Value(Value::Vdso, first - one.0, 0);
        }
        // After the vDSO, which may lie next to the dynamic linker, but goes its own way.
        if self.is_address(first, delta) {
            return Meaning::Moves;
        }
        if let Some(below) = self
            .below_the_stack(first)
            .filter(|_| self.stack_moved(delta))
        {
            return Meaning::Value(Value::StackPointer, below, 0);
        }
        let ran = self.images.map(|image| image.ticks.0..image.ticks.1);
        if ran[0].contains(&first) && ran[1].contains(&second) {
            return Meaning::Value(Value::Ticks, 0, 0);
        }
        Meaning::Unknown
    }

    /// Whether `address`, which lies `delta` further on in the other image, is one of an object that does. The dynamic linker also keeps
    /// addresses outside of objects, to which it adds the number of a symbol; they are never further away than the object is long.
    fn is_address(&self, address: u64, delta: u64) -> bool {
        let objects = self.images.map(|image| image.objects.iter());
        let [ours, theirs] = objects;
        ours.zip(theirs).any(|((start, end), (other, _))| {
            let len = end - start;
            let near = start.saturating_sub(len)..=end.saturating_add(len);
            delta != 0 && other.wrapping_sub(*start) == delta && near.contains(&address)
        })
    }

    /// How far from the stack pointer an address of a frame lies that has been left: musl's dynamic linker keeps one. Nobody looks there any more.
    fn below_the_stack(&self, address: u64) -> Option<u64> {
        const FRAMES: u64 = 1 << 16;
        let below = self.stack_pointer(0)?.checked_sub(address)?;
        (below < FRAMES).then_some(below.wrapping_neg())
    }

    fn stack_moved(&self, delta: u64) -> bool {
        let both = self.stack_pointer(0).zip(self.stack_pointer(1));
        both.is_some_and(|(one, other)| other.wrapping_sub(one) == delta)
    }

    fn stack_pointer(&self, which: usize) -> Option<u64> {
        let mut values = self.images[which].values.iter();
        let found = values.find(|(value, _)| *value == Value::StackPointer);
        found.map(|(_, at)| *at)
    }

    /// The values of so many bytes in both.
    fn values(&self, width: usize) -> impl Iterator<Item = (Value, [u64; 2])> + '_ {
        let [first, second] = self.images;
        let pairs = first.values.iter().zip(&second.values);
        pairs
            .filter(move |((value, one), (_, other))| value.width() == width && one != other)
            .map(|((value, one), (_, other))| (*value, [*one, *other]))
            .chain(self.execfn().filter(move |_| width == 8))
    }

    /// The path that was executed lies in the runtime's own memory, which is the same in both.
    fn execfn(&self) -> impl Iterator<Item = (Value, [u64; 2])> + '_ {
        let [first, second] = self.images.map(|image| {
            let mut values = image.values.iter();
            values.find(|(value, _)| *value == Value::ExecFn)
        });
        let both = first.zip(second);
        both.map(|((value, one), (_, other))| (*value, [*one, *other]))
            .into_iter()
    }

    /// A half of a word, of which the two processes have `both`.
    fn half(&self, both: [u32; 2]) -> Option<Value> {
        let both = both.map(u64::from);
        let mut values = self.values(4);
        values
            .find(|(_, known)| *known == both)
            .map(|(value, _)| value)
    }

    /// Whether a word may say how long something took, in ticks, in either run. ld.so keeps a few of these, for statistics; they stay what
    /// they were.
    fn is_span(&self, address: u64, both: [u64; 2]) -> bool {
        let (start, end) = self.images[0].loader;
        if !(start..end).contains(&address) {
            return false;
        }
        let longest = self.images.map(|image| image.ticks.1 - image.ticks.0);
        both.iter()
            .zip(longest)
            .all(|(span, longest)| *span < longest)
    }

    /// What a word is, by its halves: the first thing that is not just the same.
    fn halves(&self, [first, second]: [u64; 2]) -> Option<Vec<Meaning>> {
        let mut found = Vec::new();
        for at in [0, 4] {
            let both = [first, second].map(|word| (word >> (8 * at)) as u32);
            if both[0] == both[1] {
                continue;
            }
            found.push(Meaning::Value(self.half(both)?, 0, at));
        }
        Some(found)
    }
}

fn show(mapping: &Mapping) -> String {
    let Mapping {
        start,
        end,
        protection,
        offset,
        file,
        object,
    } = mapping;
    format!("{start:x}-{end:x} protection {protection} file {file} at {offset:#x} object {object}")
}

fn pair_up(first: &Image, second: &Image) -> Result<Vec<u64>, Difference> {
    let none = String::from("nothing");
    let shape = |mapping: &Mapping| {
        let len = mapping.end - mapping.start;
        let offset = if mapping.file == NO_FILE {
            0
        } else {
            mapping.offset
        };
        (
            len,
            mapping.protection,
            offset,
            mapping.file,
            mapping.object,
        )
    };
    let count = first.mappings.len().max(second.mappings.len());
    (0..count)
        .map(|number| {
            let both = [first, second].map(|image| image.mappings.get(number));
            match both {
                [Some(one), Some(other)] if shape(one) == shape(other) => {
                    Ok(other.start.wrapping_sub(one.start))
                }
                _ => {
                    let [first, second] = both.map(|one| one.map_or(none.clone(), show));
                    Err(Difference::Mappings { first, second })
                }
            }
        })
        .collect()
}

/// Compares two captures.
///
/// # Errors
/// [`Difference`]: the first thing that is not understood.
pub fn compare(first: &Image, second: &Image) -> Result<Common, Difference> {
    let deltas = pair_up(first, second)?;
    if deltas.iter().all(|delta| *delta == 0) {
        return Err(Difference::NotRandom);
    }
    let known = Known {
        images: [first, second],
        deltas,
    };
    let mut common = Common::default();
    let mut order: Vec<_> = (0..first.mappings.len()).collect();
    order.sort_by_key(|number| first.mappings[*number].start);
    for number in &order {
        let (mapping, delta) = (&first.mappings[*number], &known.deltas[*number]);
        if mapping.protection & 6 == 6 {
            return Err(Difference::WritableCode(mapping.start));
        }
        common.regions.push(Region {
            start: mapping.start,
            len: mapping.end - mapping.start,
            offset: if mapping.file == NO_FILE {
                0
            } else {
                mapping.offset
            },
            file: mapping.file,
            protection: mapping.protection,
            flags: if *delta == 0 { 0 } else { region_flags::MOVES },
        });
    }
    let mut spans = 0;
    let pages = (0..).zip(&order).flat_map(|(region, number)| {
        let number = *number as u32;
        let pages = first.pages.range((number, 0)..=(number, u32::MAX));
        pages.map(move |((_, index), page)| (region, number, *index, page))
    });
    for (region, number, index, one) in pages {
        let mapping = &first.mappings[number as usize];
        let address = mapping.start + u64::from(index) * PAGE;
        let other = second.pages.get(&(number, index)).unwrap_or(one);
        let [one, other] = [
            normal(one, address, first.rseq),
            normal(
                other,
                address.wrapping_add(known.deltas[number as usize]),
                second.rseq,
            ),
        ];
        if mapping.protection & 4 != 0 {
            return Err(Difference::TextRelocation(address));
        }
        if mapping.file == NO_FILE && one.iter().chain(&*other).all(|byte| *byte == 0) {
            continue;
        }
        page(
            &mut common,
            &known,
            (region, index, address),
            [&one, &other],
            &mut spans,
        )?;
    }
    Ok(common)
}

/// A page in which what only the kernel writes is as it is before.
fn normal(page: &Page, address: u64, (rseq, len): (u64, u64)) -> Box<Page> {
    let mut page = Box::new(*page);
    if let Some(at) = rseq.checked_sub(address).filter(|at| len > 0 && *at < PAGE) {
        let at = at as usize;
        let end = (at + len as usize).min(PAGE as usize);
        page[at..end].copy_from_slice(&unregistered(end - at));
    }
    page
}

fn page(
    common: &mut Common,
    known: &Known<'_>,
    (region, first, address): (u32, u32, u64),
    pages: [&Page; 2],
    spans: &mut usize,
) -> Result<(), Difference> {
    let number = common.slides.len() as u32;
    let mut slide = [0; SLIDE_LEN];
    let mut content = *pages[0];
    for word in 0..PAGE as usize / 8 {
        let at = 8 * word;
        let both = pages.map(|page| {
            let bytes = page[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        });
        let meanings = match known.of(both) {
            Meaning::Same => continue,
            Meaning::Moves => {
                slide[word / 8] |= 1 << (word % 8);
                continue;
            }
            Meaning::Own => {
                return Err(Difference::Own {
                    address: address + at as u64,
                    value: both[0],
                });
            }
            Meaning::Unknown => match known.halves(both) {
                Some(meanings) => meanings,
                None if known.is_span(address, both) && *spans < MOST_SPANS => {
                    *spans += 1;
                    continue;
                }
                None => {
                    return Err(Difference::Word {
                        address: address + at as u64,
                        mapping: region as usize,
                        first: both[0],
                        second: both[1],
                    });
                }
            },
            found => vec![found],
        };
        for meaning in meanings {
            if let Meaning::Value(value, addend, half) = meaning {
                let at = at + usize::from(half);
                // What belongs to one process is not handed to another.
                content[at..at + value.width()].fill(0);
                common.fix_ups.push(FixUp {
                    addend,
                    page: number,
                    at: at as u16,
                    value: value as u16,
                });
            }
        }
    }
    match common.runs.last_mut() {
        Some(run) if run.region == region && run.first + run.pages == first => run.pages += 1,
        _ => common.runs.push(Run {
            region,
            first,
            pages: 1,
        }),
    }
    common.slides.push(slide);
    common.pages.extend_from_slice(&content);
    Ok(())
}

#[cfg(test)]
mod tests;
