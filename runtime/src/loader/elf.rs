//! ELF headers of programs as the kernel reads them (`fs/binfmt_elf.c`), without trusting a byte.

/// Program header types that matter to a start.
mod pt {
    pub(super) const LOAD: u32 = 1;
    pub(super) const INTERP: u32 = 3;
    pub(super) const PHDR: u32 = 6;
    pub(super) const GNU_STACK: u32 = 0x6474_e551;
}

/// Bytes of an ELF64 header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a program header.
pub const PHDR_LEN: usize = 56;
/// The most bytes of program headers the kernel takes.
pub const MAX_PHDRS: usize = 65536;

/// Why a file is not loaded, before anything was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLoadable {
    /// Neither ELF nor a script.
    NotElf,
    /// A 32-bit ELF file.
    Class32,
    /// For another processor: its `e_machine`.
    Machine(u16),
    /// An ELF file, but no executable and no shared object.
    NotExecutable,
    /// Its headers contradict themselves.
    Malformed(&'static str),
}

/// Whether the image chooses its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `ET_EXEC`: the addresses are as they stand.
    Fixed,
    /// `ET_DYN`: relative to a base.
    Relative,
}

/// The fields of an ELF header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// See [`Addressing`].
    pub addressing: Addressing,
    /// Address of the first instruction.
    pub entry: u64,
    /// Offset of the program headers.
    pub phdr_offset: u64,
    /// How many there are.
    pub phdr_count: u16,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    found.map_or(0, u64::from_le_bytes)
}

impl Header {
    /// Reads the header that `file` starts with.
    ///
    /// # Errors
    /// [`NotLoadable`].
    pub fn parse(file: &[u8]) -> Result<Self, NotLoadable> {
        const ELFCLASS64: u8 = 2;
        const ET_EXEC: u16 = 2;
        const ET_DYN: u16 = 3;
        const EM_X86_64: u16 = 62;
        const EM_AARCH64: u16 = 183;
        let machine = if cfg!(target_arch = "aarch64") {
            EM_AARCH64
        } else {
            EM_X86_64
        };
        if !file.starts_with(b"\x7fELF") {
            return Err(NotLoadable::NotElf);
        }
        if file.len() < HEADER_LEN {
            return Err(NotLoadable::Malformed("the header is cut short"));
        }
        if u16_at(file, 18) != machine {
            return Err(NotLoadable::Machine(u16_at(file, 18)));
        }
        if file[4] != ELFCLASS64 {
            return Err(NotLoadable::Class32);
        }
        let addressing = match u16_at(file, 16) {
            ET_EXEC => Addressing::Fixed,
            ET_DYN => Addressing::Relative,
            _ => return Err(NotLoadable::NotExecutable),
        };
        if usize::from(u16_at(file, 54)) != PHDR_LEN {
            return Err(NotLoadable::Malformed("program headers of another size"));
        }
        let phdr_count = u16_at(file, 56);
        if phdr_count == 0 || usize::from(phdr_count) * PHDR_LEN > MAX_PHDRS {
            return Err(NotLoadable::Malformed("the number of program headers"));
        }
        Ok(Self {
            addressing,
            entry: u64_at(file, 24),
            phdr_offset: u64_at(file, 32),
            phdr_count,
        })
    }

    /// Length of the program headers in bytes.
    #[must_use]
    pub fn phdrs_len(&self) -> usize {
        usize::from(self.phdr_count) * PHDR_LEN
    }
}

/// `PF_X`, `PF_W`, `PF_R`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Whether the segment is executable.
    #[must_use]
    pub const fn executable(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the segment is writable.
    #[must_use]
    pub const fn writable(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether the segment is readable.
    #[must_use]
    pub const fn readable(self) -> bool {
        self.0 & 4 != 0
    }
}

/// A `PT_LOAD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Address, before the base is added.
    pub vaddr: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Bytes in memory.
    pub memory_len: u64,
    /// Alignment, a power of two; others count as a page.
    pub align: u64,
    /// Protection.
    pub flags: Flags,
}

/// Program headers, checked one by one as they are read.
#[derive(Debug, Clone, Copy)]
pub struct ProgramHeaders<'a> {
    bytes: &'a [u8],
}

impl<'a> ProgramHeaders<'a> {
    /// `bytes`: as many as [`Header::phdrs_len`] says.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn rows(&self, wanted: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let rows = self.bytes.chunks_exact(PHDR_LEN);
        rows.filter(move |row| u32_at(row, 0) == wanted)
    }

    /// The segments to load, in file order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + use<'a> {
        self.rows(pt::LOAD).map(|row| Segment {
            offset: u64_at(row, 8),
            vaddr: u64_at(row, 16),
            file_len: u64_at(row, 32),
            memory_len: u64_at(row, 40),
            align: u64_at(row, 48),
            flags: Flags(u32_at(row, 4)),
        })
    }

    /// Where the interpreter's path stands in the file: offset and length, the NUL counted.
    #[must_use]
    pub fn interpreter(&self) -> Option<(u64, u64)> {
        let row = self.rows(pt::INTERP).next()?;
        Some((u64_at(row, 8), u64_at(row, 32)))
    }

    /// Address of the program headers in memory, if a segment of their own says it.
    #[must_use]
    pub fn own_vaddr(&self) -> Option<u64> {
        self.rows(pt::PHDR).next().map(|row| u64_at(row, 16))
    }

    /// Whether the stack is to be executable: `PT_GNU_STACK` that says so. Without the header it is not, on x86-64.
    #[must_use]
    pub fn executable_stack(&self) -> bool {
        self.rows(pt::GNU_STACK)
            .next()
            .is_some_and(|row| Flags(u32_at(row, 4)).executable())
    }
}
