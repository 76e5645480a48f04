//! Reads the files of an index from its standard input, one after the other in one stream, without std, libc or a byte of heap: what
//! the launcher to come has to do. Exit status 0: everything in them could be read; 1: something was refused; 2: this program is
//! at fault, or memory was asked for.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use elfuse_format::FormatError;
use elfuse_format::header::{Header, Kind};
use elfuse_format::keys::Keys;
use elfuse_format::ld_so_cache::{Flags, LdSoCache, Wanted};
use elfuse_format::loader_cache::LoaderCache;
use elfuse_format::sidecar::{self, Block};

/// Room for one file.
static mut INPUT: [u8; 1 << 20] = [0; 1 << 20];

// The kernel leaves the stack aligned to 16; a call expects that plus a return address.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);

extern "C" fn main() -> ! {
    let input = &raw mut INPUT;
    // SAFETY: the only reference to `INPUT`, and there is one thread.
    let input = unsafe { &mut *input };
    let mut len = 0;
    loop {
        let read = read(&mut input[len..]);
        match usize::try_from(read) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(_) => exit(2),
        }
        if len == input.len() {
            exit(2);
        }
    }
    let found = read_all(&input[..len]);
    exit(i32::from(found.is_err()))
}

/// Files of any kind, end to end: their headers say how long they are.
fn read_all(mut input: &[u8]) -> Result<(), FormatError> {
    while !input.is_empty() {
        let len = match Header::parse(input) {
            Ok(header) => usize::try_from(header.file_len()).unwrap_or(usize::MAX),
            // glibc's cache has no length: it comes last.
            Err(FormatError::NotOurs { .. }) => input.len(),
            Err(error) => return Err(error),
        };
        let file = input.get(..len).ok_or(FormatError::TooShort {
            expected: len as u64,
            found: input.len() as u64,
        })?;
        read_file(file)?;
        input = &input[len..];
    }
    Ok(())
}

fn read_file(file: &[u8]) -> Result<(), FormatError> {
    let kind = Header::parse(file).map(|header| Kind::from_number(header.kind));
    match kind {
        Ok(Some(Kind::Sidecar)) => read_block(Block::parse(sidecar::payload(file)?)?),
        Ok(Some(Kind::Keys)) => {
            let keys = Keys::parse(file)?;
            keys.dir(0)?;
            keys.text_identities()?;
            keys.relocated_runs()?;
            keys.devices()?;
            keys.inputs().map(drop)
        }
        Ok(Some(Kind::LoaderCache)) => {
            let cache = LoaderCache::parse(file)?;
            if let Some(block) = cache.block(cache.dir(0)?)? {
                read_block(block)?;
            }
            let closures = cache.closures()?;
            for program in closures.programs.get() {
                core::hint::black_box(closures.objects(program).len());
            }
            core::hint::black_box(cache.sonames()?.candidates(b"libc.so.6").len());
            cache.inputs().map(drop)
        }
        _ => {
            let cache = LdSoCache::parse(file)?;
            let found = cache.lookup(b"libc.so.6", &Wanted::new(Flags::X86_64), &[b"x86-64-v2"]);
            core::hint::black_box(found);
            Ok(())
        }
    }
}

fn read_block(block: Block<'_>) -> Result<(), FormatError> {
    block.check()?;
    for entry in block.entries() {
        let name = entry.name().unwrap_or_default();
        let found = block.find(name)?.map(|found| found.index);
        core::hint::black_box((found, entry.target(), entry.rank(), entry.host_spelling()));
        if let Some(elf) = entry.elf() {
            core::hint::black_box((elf.soname(), elf.interpreter(), elf.needed().count()));
        }
    }
    Ok(())
}

fn read(into: &mut [u8]) -> isize {
    let result;
    // SAFETY: read(0, into, its length) writes into `into` alone; the call clobbers rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") 0_isize => result, in("rdi") 0, in("rsi") into.as_mut_ptr(),
            in("rdx") into.len(), lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

fn exit(status: i32) -> ! {
    // SAFETY: exit_group does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(2)
}

/// What has to be there as soon as `alloc` is linked. Whoever asks it for memory ends in the panic handler.
#[cfg(feature = "alloc")]
mod no_memory {
    use core::alloc::{GlobalAlloc, Layout};

    struct NoMemory;

    // SAFETY: null is how an allocator refuses, and there is never a block that could be given back.
    unsafe impl GlobalAlloc for NoMemory {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            core::ptr::null_mut()
        }

        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }

    #[global_allocator]
    static ALLOCATOR: NoMemory = NoMemory;
}

/// Named by the unwinding tables of the compiled `core`, and never called, as a panic aborts.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// What the compiler calls for copies and comparisons; a libc has better ones.
mod memory {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: as memcpy; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: as memset.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        for i in 0..len {
            // SAFETY: as memcmp.
            let (a, b) = unsafe { (*a.add(i), *b.add(i)) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        // SAFETY: as bcmp.
        unsafe { memcmp(a, b, len) }
    }
}
