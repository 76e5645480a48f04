//! ELF bytes to facts: what a file says of how it wants to be linked. Nothing is executed, nothing is mapped.
//!
//! Read by `pread` and not through a mapping: a file that is truncated while it is mapped costs a SIGBUS.
//! Strings of the dynamic section are found as ld.so finds them, through `PT_DYNAMIC` and `PT_LOAD`; section headers
//! may be stripped or lie.
//!
//! All declared sizes are lies until compared with the size of the file, and what is kept is capped besides
//! ([`MAX_DYNAMIC`], [`MAX_STRINGS`]): a sparse file may be larger than memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use elfuse_format::elf_facts::{ContentHash, ElfFacts, flags};
use elfuse_format::text::RelocatedRun;
use object::elf;
use object::endian::Endianness;
use object::pod;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use crate::patch::scan::{FirstLook, Look};
use crate::relocated;
use crate::tree::Elf;

/// Bytes of a dynamic section that are looked at. Real ones have a few hundred.
pub const MAX_DYNAMIC: u64 = 1 << 20;

/// Bytes of all strings kept of one file. The longest RUNPATHs of package-per-directory trees have some ten thousand.
pub const MAX_STRINGS: usize = elfuse_format::elf_facts::MAX_STRINGS / 2;

/// Why a file is [`Elf::Broken`]: the version in its first 16 bytes.
pub const BAD_IDENT_VERSION: &str = "unknown ELF version in e_ident";
/// Why a file is [`Elf::Broken`]: the version after them.
pub const BAD_VERSION: &str = "unknown ELF version in e_version";
/// Why a file is [`Elf::Broken`]: `e_phentsize`.
pub const BAD_SEGMENT_SIZE: &str = "program headers are not of the expected size";
/// Why a file is [`Elf::Broken`]: `e_phoff` and `e_phnum`.
pub const SEGMENTS_OUTSIDE: &str = "program headers outside the file";

/// The largest ELF file that is read through for its hash. A sparse one may promise more than can ever be read.
pub const MAX_HASHED: u64 = 64 << 30;

/// Bytes of one note segment that are looked at.
const MAX_NOTES: u64 = 64 << 10;

/// Bytes of all note segments that are looked at: a program header table has room for 65,535 that overlap.
const MAX_ALL_NOTES: u64 = 1 << 20;

/// The size of the larger ELF header: what the first read asks for.
const HEADER: usize = 64;

/// Reads at an offset; what a file and, in tests, a slice can do.
pub(crate) trait ReadAt {
    /// Fills as much of `into` as there is and says how much that was.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let Some(at) = offset.checked_add(done as u64) else {
                break;
            };
            // A hostile e_phoff over i64::MAX is beyond the end of any file, not an error of reading.
            if i64::try_from(at).is_err() {
                break;
            }
            match FileExt::read_at(self, &mut into[done..], at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// What of an ELF file is no fact of how it is linked, and is found when its hash is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether its code may make system calls.
    pub look: FirstLook,
    /// See [`crate::relocated`]; all zeros where there is none.
    pub relocated: RelocatedRun,
}

/// The facts of an ELF file with its content hash, and what else is seen in it, for which the file is read once.
/// What does not start as ELF costs one read of 64 bytes.
///
/// The caller opens the file, and sees to it that it is a regular one.
///
/// # Errors
/// What reading gives. That the bytes are not ELF, or broken, is no error but an answer.
pub fn inspect(file: &File) -> io::Result<(Elf, Option<Seen>)> {
    let elf = inspect_without_hash(file)?;
    Ok(match elf {
        Elf::Facts(facts) if facts.size > MAX_HASHED => {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Elf::Facts(mut facts) => {
            let (mut look, mut size) = (None, 0);
            let hash = read_through(file, |offset, piece| {
                let look = look.get_or_insert_with(|| Look::new(piece));
                look.see(offset, piece);
                size = offset + piece.len() as u64;
            })?;
            Arc::make_mut(&mut facts).content_hash = hash;
            let seen = match look.map(|look| look.found(size)) {
                None => None,
                Some(look) => Some(Seen {
                    look,
                    relocated: relocated_run(file, size)?,
                }),
            };
            (Elf::Facts(facts), seen)
        }
        other => (other, None),
    })
}

/// What of the data of a file of `size` bytes is certain to be written to; all zeros: no run that is worth anything.
///
/// # Errors
/// What reading gives.
pub fn relocated_run(file: &File, size: u64) -> io::Result<RelocatedRun> {
    let mut head = [0; HEADER];
    let read = ReadAt::read_at(file, &mut head, 0)?;
    Ok(relocated::relocated(file, &head[..read], size)?.unwrap_or_default())
}

/// As [`inspect`], with a content hash of zeros: for a question that is answered once and not written down.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_without_hash(file: &File) -> io::Result<Elf> {
    let mut head = [0; HEADER];
    let read = ReadAt::read_at(file, &mut head, 0)?;
    let head = &head[..read];
    if !head.starts_with(&elf::ELFMAG) {
        return Ok(Elf::NotElf);
    }
    let size = file.metadata()?.len();
    read_facts(file, head, size)
}

/// As [`inspect`], of a file that is in memory.
///
/// # Errors
/// None: there is nothing that reading memory could give.
pub fn inspect_bytes(bytes: &[u8]) -> io::Result<Elf> {
    let head = &bytes[..bytes.len().min(HEADER)];
    if !head.starts_with(&elf::ELFMAG) {
        return Ok(Elf::NotElf);
    }
    let elf = read_facts(&bytes, head, bytes.len() as u64)?;
    Ok(match elf {
        Elf::Facts(mut facts) => {
            Arc::make_mut(&mut facts).content_hash = blake3::hash(bytes).into();
            Elf::Facts(facts)
        }
        other => other,
    })
}

/// BLAKE3-256 of the whole file, read in pieces.
///
/// # Errors
/// What reading gives.
pub fn content_hash(file: &File) -> io::Result<ContentHash> {
    read_through(file, |_, _| ())
}

/// The content hash; `see` gets every piece and its offset on the way.
fn read_through(file: &File, mut see: impl FnMut(u64, &[u8])) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 128 << 10];
    let mut offset = 0;
    loop {
        let read = ReadAt::read_at(file, &mut piece, offset)?;
        hasher.update(&piece[..read]);
        see(offset, &piece[..read]);
        offset += read as u64;
        if read < piece.len() {
            return Ok(hasher.finalize().into());
        }
    }
}

/// Bytes at an address that suits every type of [`object::elf`], which are read in place.
struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    fn zeroed(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(size_of::<u64>())],
            len,
        }
    }

    /// `len` bytes at `offset`; `None` where that is not all inside the file.
    fn read(file: &impl ReadAt, offset: u64, len: u64, size: u64) -> io::Result<Option<Self>> {
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Ok(None);
        }
        let Ok(len) = usize::try_from(len) else {
            return Ok(None);
        };
        let mut bytes = Self::zeroed(len);
        // Fewer bytes than the size promised: the file was truncated just now.
        let read = file.read_at(bytes.bytes_mut(), offset)?;
        Ok((read == len).then_some(bytes))
    }

    fn bytes(&self) -> &[u8] {
        &pod::bytes_of_slice(&self.words)[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut pod::bytes_of_slice_mut(&mut self.words)[..self.len]
    }

    /// As many `T` as there are.
    fn rows<T: pod::Pod>(&self) -> &[T] {
        let count = self.len / size_of::<T>();
        pod::slice_from_bytes(self.bytes(), count).map_or(&[], |(rows, _)| rows)
    }
}

/// Why there are no facts: the file cannot be read, or says something impossible.
enum Failure {
    Io(io::Error),
    Broken(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn read_facts(file: &impl ReadAt, head: &[u8], size: u64) -> io::Result<Elf> {
    let facts = match head
        .get(elf::ELFMAG.len())
        .map(|&class| elf::FileClass(class))
    {
        Some(elf::ELFCLASS64) => {
            Reader::<elf::FileHeader64<Endianness>, _>::facts(file, head, size)
        }
        Some(elf::ELFCLASS32) => {
            Reader::<elf::FileHeader32<Endianness>, _>::facts(file, head, size)
        }
        Some(_) => Err(Failure::Broken("unknown ELF class")),
        None => Err(Failure::Broken("file too short")),
    };
    match facts {
        Ok(facts) => Ok(Elf::Facts(Arc::new(facts))),
        Err(Failure::Broken(why)) => Ok(Elf::Broken(why)),
        Err(Failure::Io(error)) => Err(error),
    }
}

/// One ELF file being read, after its header.
struct Reader<'a, H: FileHeader, R> {
    file: &'a R,
    size: u64,
    endian: Endianness,
    segments: Vec<H::ProgramHeader>,
    /// What is left of [`MAX_STRINGS`].
    strings_left: usize,
    /// Becomes [`flags::DAMAGED`].
    damaged: bool,
}

impl<'a, H, R> Reader<'a, H, R>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadAt,
{
    fn facts(file: &'a R, head: &[u8], size: u64) -> Result<ElfFacts, Failure> {
        let mut aligned = Aligned::zeroed(head.len());
        aligned.bytes_mut().copy_from_slice(head);
        let [header, ..] = aligned.rows::<H>() else {
            return Err(Failure::Broken("file too short"));
        };
        let ident = header.e_ident();
        let endian = match ident.data {
            elf::ELFDATA2LSB => Endianness::Little,
            elf::ELFDATA2MSB => Endianness::Big,
            _ => return Err(Failure::Broken("unknown data encoding")),
        };
        if ident.version != elf::EV_CURRENT {
            return Err(Failure::Broken(BAD_IDENT_VERSION));
        }
        if header.e_version(endian) != u32::from(elf::EV_CURRENT.0) {
            return Err(Failure::Broken(BAD_VERSION));
        }
        let mut facts = ElfFacts {
            size,
            class: ident.class.0,
            data: ident.data.0,
            os_abi: ident.os_abi.0,
            abi_version: ident.abi_version,
            elf_type: header.e_type(endian).0,
            machine: header.e_machine(endian).0,
            e_flags: header.e_flags(endian).0,
            ..ElfFacts::default()
        };
        let mut reader = Self {
            file,
            size,
            endian,
            segments: Self::segments(file, header, endian, size)?,
            strings_left: MAX_STRINGS,
            damaged: false,
        };
        reader.read_segments(&mut facts)?;
        reader.read_dynamic(&mut facts)?;
        let interpreted = facts.elf_type == elf::ET_DYN.0 && facts.interpreter.is_some();
        if interpreted || facts.dt_flags_1 & elf::DF_1_PIE.0 as u32 != 0 {
            facts.flags |= flags::PIE;
        }
        if reader.damaged {
            facts.flags |= flags::DAMAGED;
        }
        Ok(facts)
    }

    fn segments(
        file: &R,
        header: &H,
        endian: Endianness,
        size: u64,
    ) -> Result<Vec<H::ProgramHeader>, Failure> {
        let count = u64::from(header.e_phnum(endian));
        if count == 0 {
            return Ok(Vec::new());
        }
        let entry_size = size_of::<H::ProgramHeader>();
        if usize::from(header.e_phentsize(endian)) != entry_size {
            return Err(Failure::Broken(BAD_SEGMENT_SIZE));
        }
        // At most 65,535 entries of 56 bytes: no cap of our own is needed.
        let table = Aligned::read(
            file,
            header.e_phoff(endian).into(),
            count * entry_size as u64,
            size,
        )?
        .ok_or(Failure::Broken(SEGMENTS_OUTSIDE))?;
        Ok(table.rows::<H::ProgramHeader>().to_vec())
    }

    /// What the segments themselves say: interpreter, notes, stack.
    fn read_segments(&mut self, facts: &mut ElfFacts) -> Result<(), Failure> {
        let mut notes_left = MAX_ALL_NOTES;
        for segment in self.segments.clone() {
            let (offset, len) = segment.file_range(self.endian);
            match segment.p_type(self.endian) {
                // The kernel takes the first.
                elf::PT_INTERP if facts.interpreter.is_none() => {
                    facts.interpreter = self.string_at(offset, len)?;
                }
                elf::PT_GNU_STACK if segment.p_flags(self.endian).0 & elf::PF_X.0 != 0 => {
                    facts.flags |= flags::EXEC_STACK;
                }
                elf::PT_NOTE | elf::PT_GNU_PROPERTY => {
                    let len = len.min(MAX_NOTES).min(notes_left);
                    notes_left -= len;
                    match Aligned::read(self.file, offset, len, self.size)? {
                        Some(notes) => self.read_notes(
                            notes.bytes(),
                            segment.p_align(self.endian).into(),
                            facts,
                        ),
                        // Files with the debug information alone keep headers of segments they no longer have.
                        None => continue,
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_notes(&self, mut bytes: &[u8], align: u64, facts: &mut ElfFacts) {
        let align = if align == 8 { 8 } else { 4 };
        while let (Some(name_len), Some(desc_len), Some(kind)) = (
            self.word(bytes, 0),
            self.word(bytes, 4),
            self.word(bytes, 8),
        ) {
            let desc_start = (12 + name_len as usize).next_multiple_of(align);
            let desc_end = desc_start + desc_len as usize;
            let (Some(name), Some(desc)) = (
                bytes.get(12..12 + name_len as usize),
                bytes.get(desc_start..desc_end),
            ) else {
                return;
            };
            if name == b"GNU\0" {
                match elf::NoteType(kind) {
                    elf::NT_GNU_BUILD_ID => facts.build_id = Some(desc.to_vec()),
                    elf::NT_GNU_PROPERTY_TYPE_0 => self.read_properties(desc, align, facts),
                    _ => {}
                }
            }
            let Some(rest) = bytes.get(desc_end.next_multiple_of(align)..) else {
                return;
            };
            bytes = rest;
        }
    }

    fn read_properties(&self, mut bytes: &[u8], align: usize, facts: &mut ElfFacts) {
        while let (Some(kind), Some(len)) = (self.word(bytes, 0), self.word(bytes, 4)) {
            if elf::GnuPropertyType(kind) == elf::GNU_PROPERTY_X86_ISA_1_NEEDED
                && len == 4
                && let Some(levels) = self.word(bytes, 8)
            {
                facts.x86_isa_needed |= levels;
            }
            let Some(rest) = bytes.get((8 + len as usize).next_multiple_of(align)..) else {
                return;
            };
            bytes = rest;
        }
    }

    /// The 32-bit word at `at`, in the order of the file.
    fn word(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = bytes.get(at..)?.first_chunk()?;
        Some(match self.endian {
            Endianness::Little => u32::from_le_bytes(*word),
            Endianness::Big => u32::from_be_bytes(*word),
        })
    }

    fn read_dynamic(&mut self, facts: &mut ElfFacts) -> Result<(), Failure> {
        // ld.so takes the last one.
        let dynamic = self
            .segments
            .iter()
            .rfind(|s| s.p_type(self.endian) == elf::PT_DYNAMIC);
        let Some((offset, len)) = dynamic
            .map(|s| s.file_range(self.endian))
            .filter(|&(_, len)| len > 0)
        else {
            return Ok(());
        };
        facts.flags |= flags::DYNAMIC;
        let table = Aligned::read(self.file, offset, len.min(MAX_DYNAMIC), self.size)?
            .ok_or(Failure::Broken("dynamic section outside the file"))?;
        let rows: Vec<(elf::DynamicTag, u64)> = table
            .rows::<H::Dyn>()
            .iter()
            .map(|row| (row.tag(self.endian), row.val(self.endian)))
            .take_while(|&(tag, _)| tag != elf::DT_NULL)
            .collect();
        // Of a tag that may stand once, ld.so takes the last.
        let last = |tag| {
            rows.iter()
                .rfind(|&&(t, _)| t == tag)
                .map(|&(_, value)| value)
        };

        facts.dt_flags_1 = last(elf::DT_FLAGS_1).unwrap_or(0) as u32;
        let dt_flags = last(elf::DT_FLAGS).unwrap_or(0);
        if last(elf::DT_TEXTREL).is_some() || dt_flags & elf::DF_TEXTREL.0 != 0 {
            facts.flags |= flags::TEXTREL;
        }

        let strings = last(elf::DT_STRTAB).and_then(|address| self.in_file(address));
        let mut string = |value: u64| -> Result<Option<Vec<u8>>, Failure> {
            let inside = strings.filter(|&(_, len)| value < len);
            let at = inside.and_then(|(start, len)| Some((start.checked_add(value)?, len - value)));
            match at {
                Some((start, limit)) => self.string_at(start, limit),
                None => {
                    self.damaged = true;
                    Ok(None)
                }
            }
        };
        facts.soname = last(elf::DT_SONAME).map(&mut string).transpose()?.flatten();
        facts.rpath = last(elf::DT_RPATH).map(&mut string).transpose()?.flatten();
        facts.runpath = last(elf::DT_RUNPATH)
            .map(&mut string)
            .transpose()?
            .flatten();
        for &(tag, value) in &rows {
            match tag {
                elf::DT_NEEDED => facts.needed.extend(string(value)?),
                elf::DT_AUXILIARY | elf::DT_FILTER => {
                    let letter = if tag == elf::DT_AUXILIARY { b'a' } else { b'f' };
                    facts.filters.extend(string(value)?.map(|mut name| {
                        name.insert(0, letter);
                        name
                    }));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where in the file `address` is loaded from, and how many bytes follow there in the same segment.
    fn in_file(&self, address: u64) -> Option<(u64, u64)> {
        self.segments
            .iter()
            .filter(|s| s.p_type(self.endian) == elf::PT_LOAD)
            .find_map(|segment| {
                let (offset, len) = segment.file_range(self.endian);
                let into = address
                    .checked_sub(segment.p_vaddr(self.endian).into())
                    .filter(|&into| into < len)?;
                Some((offset.checked_add(into)?, len - into))
            })
    }

    /// The bytes at `offset` up to a NUL, which must come within `limit` bytes. `None`, and noted as damage, where it
    /// does not or the strings of this file are too many.
    fn string_at(&mut self, mut offset: u64, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let limit = limit.min(self.strings_left as u64) as usize;
        let mut string = Vec::new();
        while string.len() < limit {
            // Most names are shorter than this, some RUNPATHs longer.
            let mut piece = [0; 256];
            let wanted = piece.len().min(limit - string.len());
            let read = self.file.read_at(&mut piece[..wanted], offset)?;
            let piece = &piece[..read];
            if let Some(end) = piece.iter().position(|&b| b == 0) {
                string.extend_from_slice(&piece[..end]);
                self.strings_left -= string.len() + 1;
                return Ok(Some(string));
            }
            string.extend_from_slice(piece);
            if read < wanted {
                break;
            }
            offset = offset.saturating_add(read as u64);
        }
        // Counted although nothing is kept: else each of 65,536 rows may have the same 4 MiB read again.
        self.strings_left -= string.len();
        self.damaged = true;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
