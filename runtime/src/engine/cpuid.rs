//! CPUID from a table. In a virtual machine the instruction traps to the hypervisor, and glibc's start-up executes it dozens of times. Only the
//! patched copies of dynamic linkers and static programs come here; a program's own CPUID is its own.
//!
//! The table is made by the first run after a boot that needs it, and kept in the store; where that may not be written to, in `/dev/shm`. A
//! machine on which the instruction is cheap gets none, and says so in the file.
//!
//! # Safety
//! `elfuse_cpuid_entry` is called from stubs on the guest's stack, below its red zone. It reads the table, which is written before the guest's first
//! instruction and never after, and changes nothing but the four registers that CPUID changes. The file is read into memory of this
//! process's own and checked there.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::arch::x86_64::__cpuid_count;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use elfuse_format::cpuid::{ANY_SUBLEAF, MAX_LEN, MAX_ROWS, Machine, Row, Table, encode};
use elfuse_format::names;

use super::store;
use crate::errno::Errno;
use crate::options::inherited::BootId;
use crate::sys::abi::{
    O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY, PATH_MAX, S_IFMT, S_IFREG,
};
use crate::sys::host::{
    Fd, chmod, close, fstat, getpid, getuid, monotonic_ns, openat, pread, read, rename, unlink,
    write,
};

// As CPUID: eax and ecx in; eax, ebx, ecx, edx out, their upper halves zero; all else, the flags too, as it was.
global_asm!(
    ".globl elfuse_cpuid_entry",
    ".balign 16",
    "elfuse_cpuid_entry:",
    "pushfq",
    "push rsi",
    "push rdi",
    "lea rsi, [rip + {rows}]",
    "mov edi, [rip + {count}]",
    "2:",
    "sub edi, 1",
    "jb 5f",
    "cmp eax, [rsi]",
    "jne 3f",
    "mov ebx, [rsi + 4]",
    "cmp ebx, -1",
    "je 4f",
    "cmp ebx, ecx",
    "je 4f",
    "3:",
    "add rsi, 24",
    "jmp 2b",
    "4:",
    "mov eax, [rsi + 8]",
    "mov ebx, [rsi + 12]",
    "mov ecx, [rsi + 16]",
    "mov edx, [rsi + 20]",
    "pop rdi",
    "pop rsi",
    "popfq",
    "ret",
    "5:",
    "cpuid",
    "pop rdi",
    "pop rsi",
    "popfq",
    "ret",
    rows = sym ROWS,
    count = sym COUNT,
);

unsafe extern "C" {
    static elfuse_cpuid_entry: u8;
}

/// Words of a row.
const WORDS: usize = 6;

static ROWS: [AtomicU32; MAX_ROWS * WORDS] = [const { AtomicU32::new(0) }; MAX_ROWS * WORDS];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Address of what stands in for a CPUID: without a table, the instruction itself.
#[must_use]
pub fn entry_address() -> usize {
    (&raw const elfuse_cpuid_entry).addr()
}

/// Finds or makes the table. `store`: the directory it is kept in; `hwcaps`: AT_HWCAP and AT_HWCAP2. Whatever fails, CPUID is executed.
pub fn load(store: &CStr, hwcaps: [u64; 2]) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        return;
    }
    let Some(boot_id) = boot_id() else { return };
    let mut machine = Machine {
        boot_id,
        hwcap: hwcaps[0],
        hwcap2: hwcaps[1],
    };
    let kept = Place {
        dir: store,
        name: names::CPUID.as_bytes(),
        owner: None,
        mode: 0o644,
    };
    if kept.read(&machine).is_ok() {
        return;
    }
    let user = getuid();
    let mut name = super::say::Line::new();
    name.put(format_args!("elfuse-{user}-cpuid"));
    let own = Place {
        dir: c"/dev/shm",
        name: name.bytes(),
        owner: Some(user),
        mode: 0o600,
    };
    if own.read(&machine).is_ok() {
        return;
    }
    // What is written down is to be of this boot, whatever somebody who executed the runtime says.
    if IS_INHERITED.load(Ordering::Relaxed) {
        let Some(boot_id) = read_boot_id() else {
            return;
        };
        machine.boot_id = boot_id;
        if kept.read(&machine).or_else(|_| own.read(&machine)).is_ok() {
            return;
        }
    }
    let mut rows = [Row::default(); MAX_ROWS];
    let count = if is_cheap() { 0 } else { all(&mut rows) };
    let rows = &rows[..count];
    take(rows.iter().copied());
    let _ = kept
        .write(&machine, rows)
        .or_else(|_| own.write(&machine, rows));
}

/// The rows become those that CPUID is answered from.
fn take(rows: impl Iterator<Item = Row>) {
    let mut count = 0;
    for (to, row) in ROWS.chunks_exact(WORDS).zip(rows) {
        let [eax, ebx, ecx, edx] = row.registers;
        for (to, word) in to.iter().zip([row.leaf, row.subleaf, eax, ebx, ecx, edx]) {
            to.store(word, Ordering::Relaxed);
        }
        count += 1;
    }
    COUNT.store(count, Ordering::Relaxed);
}

/// Where a table is kept.
struct Place<'p> {
    dir: &'p CStr,
    name: &'p [u8],
    /// In a directory that anybody may write to: whose it has to be.
    owner: Option<u32>,
    mode: usize,
}

impl Place<'_> {
    fn read(&self, machine: &Machine) -> Result<(), Errno> {
        let mut room = [0; MAX_LEN + 1];
        let fd = store::open(self.dir, self.name, O_RDONLY)?;
        let is_trusted = self.owner.is_none_or(|owner| {
            fstat(fd).is_ok_and(|found| found.uid == owner && found.mode & S_IFMT == S_IFREG)
        });
        let len = pread(fd, &mut room, 0);
        close(fd);
        let table = Table::parse(&room[..len?], machine).map_err(|_| Errno::EINVAL)?;
        let table = table.filter(|_| is_trusted).ok_or(Errno::ENOENT)?;
        take(table.rows());
        Ok(())
    }

    /// Writes it under a temporary name and renames it.
    fn write(&self, machine: &Machine, rows: &[Row]) -> Result<(), Errno> {
        let mut bytes = [0; MAX_LEN];
        let len = encode(machine, rows, &mut bytes).map_err(|_| Errno::EINVAL)?;
        let mut temporary = super::say::Line::new();
        let name = core::str::from_utf8(self.name).map_err(|_| Errno::EINVAL)?;
        temporary.put(format_args!("{name}.{}.tmp", getpid()));
        let (mut room, mut target) = ([0; PATH_MAX], [0; PATH_MAX]);
        let temporary = store::joined(self.dir, temporary.bytes(), &mut room)?;
        let target = store::joined(self.dir, self.name, &mut target)?;
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
        let fd = openat(Fd::CWD, temporary, flags, self.mode)?;
        // Others than the one who made it read it too, whatever the umask is.
        let _ = chmod(fd, self.mode);
        let written = write(fd, &bytes[..len]);
        close(fd);
        let placed = match written {
            Ok(found) if found == len => rename(temporary, target),
            Ok(_) => Err(Errno::ENOSPC),
            Err(errno) => Err(errno),
        };
        if placed.is_err() {
            unlink(temporary);
        }
        placed
    }
}

/// The boot id, once it is known, and whether another process read it. 0: it is not; no boot id is, as it is a random UUID.
static BOOT_ID: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static IS_INHERITED: AtomicBool = AtomicBool::new(false);

/// The running kernel's boot id, read once a process at most.
///
/// It lasts as long as any process, and so is handed on over exec. A process that was restored on another machine from a checkpoint
/// hands on the id of the machine that it came from: then a table counts that was made there, if the store has it still. That is for
/// machines between which a running program can be moved, which goes on with what it knows of the CPU too.
#[must_use]
pub fn boot_id() -> Option<[u8; 16]> {
    match known_boot_id() {
        Some([first, last]) => {
            let id = u128::from(first) << 64 | u128::from(last);
            Some(id.to_be_bytes())
        }
        None => read_boot_id(),
    }
}

/// The boot id, if this process or the one before it has read it.
#[must_use]
pub fn known_boot_id() -> Option<BootId> {
    let words = [0, 1].map(|at: usize| BOOT_ID[at].load(Ordering::Relaxed));
    (words != [0; 2]).then_some(words)
}

/// The process that executed this one says that the boot id is this.
pub fn inherit_boot_id(id: BootId) {
    remember(id);
    IS_INHERITED.store(true, Ordering::Relaxed);
}

fn remember(words: BootId) {
    for (to, word) in BOOT_ID.iter().zip(words) {
        to.store(word, Ordering::Relaxed);
    }
}

fn read_boot_id() -> Option<[u8; 16]> {
    let path = c"/proc/sys/kernel/random/boot_id";
    let fd = openat(Fd::CWD, path, O_RDONLY | O_CLOEXEC, 0).ok()?;
    let mut text = [0; 40];
    let len = read(fd, &mut text);
    close(fd);
    let id = parse_boot_id(text.get(..len.ok()?)?)?;
    let whole = u128::from_be_bytes(id);
    remember([(whole >> 64) as u64, whole as u64]);
    IS_INHERITED.store(false, Ordering::Relaxed);
    Some(id)
}

/// 32 hexadecimal digits with dashes among them.
fn parse_boot_id(text: &[u8]) -> Option<[u8; 16]> {
    let mut digits = text
        .trim_ascii()
        .iter()
        .filter(|byte| **byte != b'-')
        .map(|byte| char::from(*byte).to_digit(16));
    let mut id = [0; 16];
    for byte in &mut id {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = (high << 4 | low) as u8;
    }
    digits.next().is_none().then_some(id)
}

/// What the instruction says.
fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    #[allow(unused_unsafe, reason = "newer compilers take it for safe")]
    // SAFETY: every x86-64 CPU has the instruction, and it touches no memory.
    let found = unsafe { __cpuid_count(leaf, subleaf) };
    [found.eax, found.ebx, found.ecx, found.edx]
}

/// Whether the instruction costs less than looking for a table would save: it takes some 30 to 100 ns where it does not trap.
fn is_cheap() -> bool {
    const TIMES: u64 = 8;
    const CHEAP_NS: u64 = 250;
    let start = monotonic_ns();
    for _ in 0..TIMES {
        core::hint::black_box(cpuid(0, 0));
    }
    monotonic_ns().saturating_sub(start) < TIMES * CHEAP_NS
}

/// Collects rows.
struct Rows<'r> {
    rows: &'r mut [Row; MAX_ROWS],
    count: usize,
}

impl Rows<'_> {
    fn push(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let registers = cpuid(leaf, if subleaf == ANY_SUBLEAF { 0 } else { subleaf });
        if let Some(row) = self.rows.get_mut(self.count) {
            *row = Row {
                leaf,
                subleaf,
                registers,
            };
            self.count += 1;
        }
        registers
    }
}

/// What glibc asks while a program starts (`cpu_features.c`, `dl-cacheinfo.h`, `cpuid.h` of libgcc): how many rows. What is not here is
/// asked of the CPU.
fn all(rows: &mut [Row; MAX_ROWS]) -> usize {
    const LEVELS: u32 = 8;
    let mut rows = Rows { rows, count: 0 };
    let [highest, ..] = rows.push(0, ANY_SUBLEAF);
    let [highest_extended, ..] = rows.push(0x8000_0000, ANY_SUBLEAF);
    let has = |leaf: u32| match leaf {
        0x8000_0000.. => leaf <= highest_extended,
        _ => leaf <= highest,
    };
    let is_hybrid = has(7) && cpuid(7, 0)[3] & 1 << 15 != 0;
    let simple = [1, 0x19, 0x8000_0001, 0x8000_0007, 0x8000_0008];
    for leaf in simple.into_iter().filter(|leaf| has(*leaf)) {
        rows.push(leaf, ANY_SUBLEAF);
    }
    for (leaf, subleaves) in [(7, 0..3), (0xd, 0..20), (0x14, 0..2), (0x24, 0..2)] {
        for subleaf in subleaves.filter(|_| has(leaf)) {
            rows.push(leaf, subleaf);
        }
    }
    if is_hybrid {
        // Caches and topology are those of the CPU that asks.
        return rows.count;
    }
    for leaf in [2, 0x8000_0005, 0x8000_0006] {
        if has(leaf) {
            rows.push(leaf, ANY_SUBLEAF);
        }
    }
    // Levels of caches end with one of type 0 in EAX, those of the topology with one in ECX. The row that says so is wanted too.
    let levels = [
        (4, 0, 0x1f_u32),
        (0xb, 2, 0xff00),
        (0x1f, 2, 0xff00),
        (0x8000_001d, 0, 0x1f),
    ];
    for (leaf, register, kind) in levels {
        for subleaf in (0..LEVELS).take_while(|_| has(leaf)) {
            if rows.push(leaf, subleaf)[register] & kind == 0 {
                break;
            }
        }
    }
    rows.count
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::arch::asm;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::{Mutex, PoisonError};

    use super::{
        MAX_ROWS, Machine, Row, Table, all, boot_id, cpuid, entry_address, inherit_boot_id,
        known_boot_id, load, parse_boot_id, read_boot_id, take,
    };

    /// There is one table in a process.
    static TABLE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_boot_id_that_another_process_says_is_believed_and_never_written_down() {
        let _held = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = std::format!("elfuse-cpuid-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let store = CString::new(dir.as_os_str().as_bytes()).unwrap();
        let hwcaps = [3, 4];
        let is_of = |boot_id| {
            let machine = Machine {
                boot_id,
                hwcap: hwcaps[0],
                hwcap2: hwcaps[1],
            };
            let bytes = std::fs::read(dir.join("cpuid")).unwrap();
            Table::parse(&bytes, &machine).unwrap().is_some()
        };
        take([].into_iter());
        inherit_boot_id([1, 2]);
        let said = (1_u128 << 64 | 2).to_be_bytes();
        assert_eq!(boot_id(), Some(said));
        load(&store, hwcaps);
        let known = known_boot_id();
        let real = read_boot_id().unwrap();
        assert_eq!((boot_id(), known_boot_id()), (Some(real), known));
        assert!(is_of(real) && !is_of(said));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_boot_id_is_sixteen_bytes_in_hexadecimal_and_nothing_else() {
        let text = b"01234567-89ab-cdef-0011-223344556677\n";
        let id = parse_boot_id(text).unwrap();
        assert_eq!(id[..4], [1, 0x23, 0x45, 0x67]);
        assert_eq!(id[15], 0x77);
        for other in [
            &text[..35],
            b"",
            b"\n",
            b"x1234567-89ab-cdef-0011-223344556677",
        ] {
            assert_eq!(parse_boot_id(other), None);
        }
        assert_eq!(parse_boot_id(&[text.trim_ascii(), b"0"].concat()), None);
    }

    /// Calls the entry as a stub does, with the carry flag set and all registers known; what it left in them.
    fn call(leaf: u32, subleaf: u32) -> ([u64; 4], bool) {
        let (mut a, mut b, mut c, mut d): (u64, u64, u64, u64);
        let (carry, rsi, rdi): (u8, u64, u64);
        // SAFETY: the entry changes the four registers only; rbx, which Rust keeps for itself, is put back.
        unsafe {
            asm!(
                "mov {rbx}, rbx",
                "stc",
                "call {entry}",
                "setc {carry}",
                "xchg {rbx}, rbx",
                entry = in(reg) entry_address(),
                rbx = out(reg) b,
                carry = out(reg_byte) carry,
                inout("rax") 0xffff_ffff_0000_0000 | u64::from(leaf) => a,
                inout("rcx") 0xffff_ffff_0000_0000 | u64::from(subleaf) => c,
                inout("rdx") u64::MAX => d,
                inout("rsi") 7_u64 => rsi,
                inout("rdi") 9_u64 => rdi,
            );
        }
        assert_eq!((rsi, rdi), (7, 9));
        ([a, b, c, d], carry != 0)
    }

    #[test]
    fn the_entry_answers_as_the_instruction_does_with_and_without_a_table() {
        // The CPU it runs on and what changes with time: APIC ids.
        let comparable = |leaf: u32, registers: [u64; 4]| match leaf {
            1 => [
                registers[0],
                registers[1] & 0xff_ffff,
                registers[2],
                registers[3],
            ],
            0xb | 0x1f => [registers[0], registers[1], registers[2], 0],
            _ => registers,
        };
        let _held = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = [Row::default(); MAX_ROWS];
        let count = all(&mut rows);
        assert!(count > 8 && count < MAX_ROWS, "{count}");
        for with_table in [false, true] {
            if with_table {
                let mut marked = rows;
                marked[count] = Row {
                    leaf: 0x7777_7777,
                    subleaf: 3,
                    registers: [1, 2, 3, 4],
                };
                take(marked[..=count].iter().copied());
                assert_eq!(call(0x7777_7777, 3), ([1, 2, 3, 4], true));
            }
            for row in &rows[..count] {
                let subleaf = if row.subleaf == u32::MAX {
                    0
                } else {
                    row.subleaf
                };
                let (found, carry) = call(row.leaf, subleaf);
                assert!(carry, "the flags are as they were");
                let wanted = cpuid(row.leaf, subleaf).map(u64::from);
                assert_eq!(
                    comparable(row.leaf, found),
                    comparable(row.leaf, wanted),
                    "{row:?} {with_table}"
                );
            }
        }
    }
}
