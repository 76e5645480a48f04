//! Makes small ELF files that a real dynamic linker takes: x86-64, one segment, no code.

/// What is to stand in the file.
#[derive(Debug, Clone, Default)]
pub struct ElfFile {
    /// `PT_INTERP`; with it the file is a program.
    pub interpreter: Option<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// `DT_RPATH`.
    pub rpath: Option<String>,
    /// `DT_RUNPATH`.
    pub runpath: Option<String>,
    /// `DT_NEEDED`.
    pub needed: Vec<String>,
    /// `DT_AUXILIARY`.
    pub auxiliary: Vec<String>,
    /// `DT_FILTER`.
    pub filter: Vec<String>,
    /// `DT_FLAGS_1`.
    pub flags_1: u64,
}

const HEADER: usize = 64;
const SEGMENT: usize = 56;

impl ElfFile {
    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        const DT_NEEDED: u64 = 1;
        const DT_HASH: u64 = 4;
        const DT_STRTAB: u64 = 5;
        const DT_SYMTAB: u64 = 6;
        const DT_STRSZ: u64 = 10;
        const DT_SYMENT: u64 = 11;
        const DT_SONAME: u64 = 14;
        const DT_RPATH: u64 = 15;
        const DT_RUNPATH: u64 = 29;
        const DT_FLAGS_1: u64 = 0x6fff_fffb;
        const DT_AUXILIARY: u64 = 0x7fff_fffd;
        const DT_FILTER: u64 = 0x7fff_ffff;

        let mut strings = vec![0];
        let mut rows: Vec<(u64, u64)> = Vec::new();
        let lists = [
            (DT_NEEDED, self.needed.iter().collect::<Vec<_>>()),
            (DT_SONAME, self.soname.iter().collect()),
            (DT_RPATH, self.rpath.iter().collect()),
            (DT_RUNPATH, self.runpath.iter().collect()),
            (DT_AUXILIARY, self.auxiliary.iter().collect()),
            (DT_FILTER, self.filter.iter().collect()),
        ];
        for (tag, names) in lists {
            for name in names {
                rows.push((tag, strings.len() as u64));
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
            }
        }
        if self.flags_1 != 0 {
            rows.push((DT_FLAGS_1, self.flags_1));
        }

        // Headers, interpreter, strings, one empty symbol, a hash table with one empty bucket, the dynamic section.
        let interpreter = self
            .interpreter
            .clone()
            .map(|path| path + "\0")
            .unwrap_or_default();
        let segment_count = if interpreter.is_empty() { 3 } else { 5 };
        let interpreter_at = HEADER + segment_count * SEGMENT;
        let strings_at = interpreter_at + interpreter.len();
        let symbols_at = (strings_at + strings.len()).next_multiple_of(8);
        let hash_at = symbols_at + 24;
        let dynamic_at = (hash_at + 16).next_multiple_of(8);
        rows.extend([
            (DT_HASH, hash_at as u64),
            (DT_STRTAB, strings_at as u64),
            (DT_SYMTAB, symbols_at as u64),
            (DT_STRSZ, strings.len() as u64),
            (DT_SYMENT, 24),
            (0, 0),
        ]);
        let dynamic_len = rows.len() * 16;
        let end = dynamic_at + dynamic_len;

        let mut file = Writer::default();
        file.bytes(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.halves(&[3, 62]);
        file.words(&[1]);
        file.longs(&[0, HEADER as u64, 0]);
        file.words(&[0]);
        file.halves(&[64, 56, segment_count as u16, 64, 0, 0]);
        let table_len = segment_count * SEGMENT;
        if !interpreter.is_empty() {
            // PT_PHDR tells ld.so where the kernel has put the program.
            file.segment(6, 4, HEADER, table_len, 8);
            file.segment(3, 4, interpreter_at, interpreter.len(), 1);
        }
        file.segment(1, 6, 0, end, 0x1000);
        file.segment(2, 6, dynamic_at, dynamic_len, 8);
        file.segment(0x6474_e551, 6, 0, 0, 16);
        file.bytes(interpreter.as_bytes());
        file.bytes(&strings);
        file.pad_to(hash_at);
        file.words(&[1, 1, 0, 0]);
        file.pad_to(dynamic_at);
        for (tag, value) in rows {
            file.longs(&[tag, value]);
        }
        file.0
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn halves(&mut self, values: &[u16]) {
        values
            .iter()
            .for_each(|value| self.bytes(&value.to_le_bytes()));
    }

    fn words(&mut self, values: &[u32]) {
        values
            .iter()
            .for_each(|value| self.bytes(&value.to_le_bytes()));
    }

    fn longs(&mut self, values: &[u64]) {
        values
            .iter()
            .for_each(|value| self.bytes(&value.to_le_bytes()));
    }

    fn segment(&mut self, kind: u32, flags: u32, at: usize, len: usize, align: u64) {
        self.words(&[kind, flags]);
        let (at, len) = (at as u64, len as u64);
        self.longs(&[at, at, at, len, len, align]);
    }

    fn pad_to(&mut self, at: usize) {
        self.0.resize(at, 0);
    }
}
