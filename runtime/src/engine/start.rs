//! From the runtime's entry to the guest's first instruction.
//!
//! # Safety
//! [`begin`] runs once, on the initial stack the kernel made, while there is one thread. The vector on that stack is the process's own;
//! it is rewritten in place before the guest owns it. The last step jumps to addresses of mappings made for the guest and never
//! returns.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicI32};

use elfuse_format::text::BLOCKS_END;

use super::arena::Arena;
use super::arm::arm;
use super::call::Call;
use super::command;
use super::pool::Pool;
use super::process::{self, Process, Trust};
use super::resident::{self, Kept};
use super::say::say;
use super::stacks::Stacks;
use super::tell::{self, Step};
use super::text::Code;
use super::{cpuid, exec, image, signals, store};
use crate::errno::Errno;
use crate::loader::elf::{Header, ProgramHeaders};
use crate::loader::map::{Base, Bias};
use crate::loader::plan::Plan;
use crate::loader::stack::{Auxiliary, auxiliary, words_down};
use crate::options::Inherited;
use crate::sys::abi::{
    ADDR_NO_RANDOMIZE, O_CLOEXEC, O_RDONLY, PAGE, PATH_MAX, PR_SET_MM, PR_SET_MM_MAP, PROT_EXEC,
    PROT_READ, PROT_WRITE, PrctlMmMap, READ_IMPLIES_EXEC, SIG_SETMASK, SIGSYS, SignalSet, at,
};
use crate::sys::host::{
    Fd, close, exit, openat, personality, pread, random, readlinkat, set_name, signal_mask,
};
use crate::sys::raw::call;
use crate::sys::{clock, memory, nr};
use crate::trace::TraceBits;
use crate::vfs::{Mount, Mounts, Vfs};

/// Exit status of the runtime's own failure.
pub const FAILED: u8 = 125;
/// Exit status: the program was found and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status: the program was not found.
pub const NOT_FOUND: u8 = 127;

/// The vector that the kernel made: argc, arguments, environment, auxiliary vector, word by word.
#[derive(Debug)]
pub struct Vector {
    words: &'static mut [usize],
    arguments: usize,
    environment: usize,
}

impl Vector {
    /// # Safety
    /// `stack` is the stack pointer at the process's entry, and nothing of the vector is referred to by anything else.
    unsafe fn at(stack: *mut usize) -> Self {
        // SAFETY: argc, and behind it three lists each ended by a null word, the last one of pairs (System V ABI, 3.4.1).
        unsafe {
            let arguments = *stack;
            let mut environment = 0;
            while *stack.add(2 + arguments + environment) != 0 {
                environment += 1;
            }
            let auxiliary = 3 + arguments + environment;
            let mut pairs = 0;
            while *stack.add(auxiliary + 2 * pairs) != 0 {
                pairs += 1;
            }
            let len = auxiliary + 2 * pairs + 2;
            Self {
                words: core::slice::from_raw_parts_mut(stack, len),
                arguments,
                environment,
            }
        }
    }

    fn auxiliary_at(&self) -> usize {
        3 + self.arguments + self.environment
    }

    /// A value of the auxiliary vector; 0 if it is not there.
    #[must_use]
    pub fn auxiliary(&self, key: usize) -> usize {
        auxiliary(&self.words[self.auxiliary_at()..], key).unwrap_or(0)
    }

    /// Addresses of the arguments.
    #[must_use]
    pub fn argument_words(&self) -> &[usize] {
        &self.words[1..=self.arguments]
    }

    /// Addresses of the environment's strings.
    #[must_use]
    pub fn environment_words(&self) -> &[usize] {
        &self.words[2 + self.arguments..][..self.environment]
    }

    /// The arguments.
    pub fn arguments(&self) -> impl Iterator<Item = &'static [u8]> + Clone + '_ {
        self.argument_words().iter().map(|word| string(*word))
    }

    /// The environment.
    pub fn environment(&self) -> impl Iterator<Item = &'static [u8]> + Clone + '_ {
        self.environment_words().iter().map(|word| string(*word))
    }

    /// Address of the first argument that `skip` others come before: an `argv`.
    #[must_use]
    pub fn arguments_from(&self, skip: usize) -> usize {
        (&raw const self.words[1 + skip]).addr()
    }

    /// Address of the environment: an `envp`.
    #[must_use]
    pub fn environment_address(&self) -> usize {
        (&raw const self.words[2 + self.arguments]).addr()
    }
}

/// A string of the initial stack.
fn string(at: usize) -> &'static [u8] {
    // SAFETY: a word of the kernel's vector: a C string that lasts as long as the process's stack does.
    unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(at)) }.to_bytes()
}

/// Ends the process because the runtime failed.
pub fn fail(what: core::fmt::Arguments<'_>) -> ! {
    say(what);
    exit(FAILED)
}

/// The runtime's first function.
///
/// # Safety
/// Called by the entry point alone, with the stack pointer that the kernel set.
pub unsafe fn begin(stack: *mut usize) -> ! {
    tell::begin();
    // SAFETY: as the caller says.
    let vector = unsafe { Vector::at(stack) };
    clock::begin(vector.auxiliary(at::HWCAP2));
    let first = vector.arguments().nth(1);
    match first {
        Some(first) if Inherited::is_claimed_by(first) => match Inherited::decode(first) {
            Ok(run) => resume(vector, run),
            Err(error) => fail(format_args!("started with a malformed argument: {error}")),
        },
        _ => command::command(vector),
    }
}

/// Goes on with a program that a guest executed.
fn resume(vector: Vector, run: Inherited<'static>) -> ! {
    let mut arena = store::reserve()
        .and_then(|()| Arena::new())
        .unwrap_or_else(|errno| fail(format_args!("no memory: {}", errno.text())));
    let mut mounts = Mounts::new(run.sysroot)
        .unwrap_or_else(|_| fail(format_args!("the sysroot's path is not canonical")));
    for mount in run.mounts.iter() {
        let row = Mount {
            guest: mount.guest,
            host: mount.host,
            procfs: false,
        };
        if mounts.add(row).is_err() {
            fail(format_args!("a mount's path is not canonical"));
        }
    }
    tell::open(&run);
    let process = set_up(&mut arena, run, mounts.clone());
    let process = settle(&mut arena, process, run, mounts);
    tell::done(Step::Settled, run.trace);
    let file = Fd(run.program_fd);
    let mask = SignalSet(run.signal_mask);
    launch(&mut arena, process, vector, 2, file, mask)
}

/// Ends the process because there is no memory for its state.
pub fn no_memory(errno: Errno) -> ! {
    fail(format_args!("no memory: {}", errno.text()))
}

/// Makes the process's state, without an index so far.
pub fn set_up(
    arena: &mut Arena,
    run: Inherited<'static>,
    mounts: Mounts<'static>,
) -> &'static Process {
    let mut text = [0; PATH_MAX];
    let len = readlinkat(Fd::CWD, c"/proc/self/exe", &mut text).unwrap_or_else(|errno| {
        fail(format_args!(
            "cannot read /proc/self/exe: {}; is /proc mounted?",
            errno.text()
        ))
    });
    let mut made = || {
        let mounts = arena.place(mounts.clone())?;
        let state = Process {
            run,
            runtime_path: arena.string(&text[..len])?.to_bytes(),
            armed: AtomicBool::new(run.filter_armed),
            sysroot_path: arena.string(run.sysroot)?,
            sysroot_fd: AtomicI32::new(run.sysroot_fd.unwrap_or(-1)),
            trust: Trust::new(None),
            pool: { arena.place(Pool::new()?)? },
            stacks: { arena.place(Stacks::new()?)? },
            vfs: Vfs::new(mounts),
            code: None,
            coherence: None,
        };
        arena.place(state)
    };
    process::set(made().unwrap_or_else(|errno| no_memory(errno)))
}

/// The same state for another run, with its mounts and the index of its sysroot.
pub fn settle(
    arena: &mut Arena,
    process: &Process,
    run: Inherited<'static>,
    mounts: Mounts<'static>,
) -> &'static Process {
    let mut made = || {
        let mounts = arena.place(mounts.clone())?;
        let store = store::directory(arena, &run)?;
        let (vfs, coherence) = store::vfs(arena, &run, mounts, store)?;
        // A trace of all calls needs every one to be trapped.
        let texts = vfs
            .texts()
            .filter(|_| run.patched && !run.trace.has(TraceBits::SYSCALLS));
        let state = Process {
            vfs,
            code: texts.map(|texts| Code { texts, store }),
            coherence,
            trust: Trust::new(store::common_word()),
            ..process.with_run(run)
        };
        arena.place(state)
    };
    process::set(made().unwrap_or_else(|errno| no_memory(errno)))
}

#[derive(Debug, Clone, Copy)]
struct Image {
    code: image::Mapped,
    entry: usize,
    /// Address and number of the program headers.
    phdr: usize,
    phnum: usize,
    /// Where the heap may start.
    brk: usize,
    extent: crate::loader::plan::Extent,
    executable_stack: bool,
}

/// Loads the program and goes to it. `skip`: how many arguments are not the guest's.
pub fn launch(
    arena: &mut Arena,
    process: &'static Process,
    vector: Vector,
    skip: usize,
    file: Fd,
    mask: SignalSet,
) -> ! {
    let run = &process.run;
    let broken = |what: &str, errno: Errno| -> ! {
        say(format_args!(
            "cannot load {}: {what}: {}",
            crate::text::Shown(run.exe),
            errno.text()
        ));
        exit(NOT_EXECUTABLE)
    };
    let persona = personality();
    let no_randomize = persona & ADDR_NO_RANDOMIZE != 0;
    let random = if no_randomize { 0 } else { random() };
    if let Some(kept) = resident::restore(arena, process, &vector, file) {
        close(file);
        tell::done(Step::Mapped, run.trace);
        let images = Images::of(&kept);
        go_on(
            arena,
            process,
            vector,
            skip,
            mask,
            (images, Some(kept)),
            (persona, random),
        );
    }
    const HEAD: usize = PAGE;
    let room = arena
        .bytes(HEAD + 3 * PATH_MAX)
        .unwrap_or_else(|errno| broken("memory", errno));
    let (head, rest) = room.split_at_mut(HEAD);
    let len = pread(file, head, 0).unwrap_or_else(|errno| broken("reading it", errno));
    let head = &head[..len];
    let interpreter =
        exec::interpreter(file, head, rest).unwrap_or_else(|errno| broken("its headers", errno));
    let interpreter = interpreter.map(|path| {
        let path = &*path;
        open_guest(process, path).unwrap_or_else(|errno| broken("its interpreter", errno))
    });
    tell::done(Step::Inspected, run.trace);
    let program = load(arena, process, file, Base::Program { random }).unwrap_or_else(|errno| {
        let what = match errno {
            // It is linked to them, as elfuse is to its own.
            Errno::EEXIST => "it wants addresses that are taken (elfuse does not run in elfuse)",
            _ => "mapping it",
        };
        broken(what, errno)
    });
    tell::done(Step::Mapped, run.trace);
    let loader = interpreter.map(|file| {
        let loaded = load(arena, process, file, Base::Interpreter);
        let loaded = loaded.unwrap_or_else(|errno| broken("mapping its interpreter", errno));
        close(file);
        loaded
    });
    close(file);
    tell::done(Step::Interpreter, run.trace);
    let images = Images { program, loader };
    go_on(
        arena,
        process,
        vector,
        skip,
        mask,
        (images, None),
        (persona, random),
    )
}

/// A program that is mapped, and its interpreter.
struct Images {
    program: Image,
    loader: Option<Image>,
}

impl Images {
    /// Those of a program that goes on from its snapshot: its dynamic linker starts behind its work.
    fn of(kept: &Kept) -> Self {
        let (phdr, phnum) = kept.phdrs();
        let [code_start, code_end, data_start, data_end] = kept.extent();
        let code = |bias| image::Mapped {
            bias,
            is_complete: kept.is_complete,
            asks_cpuid: false,
        };
        let program = Image {
            code: code(Bias(0)),
            entry: kept.entry(),
            phdr,
            phnum,
            brk: kept.heap(),
            extent: crate::loader::plan::Extent {
                code: (code_start, code_end),
                data: (data_start, data_end),
                end: kept.heap() as u64,
            },
            executable_stack: false,
        };
        let loader = Image {
            code: code(Bias(kept.base() as u64)),
            entry: kept.resume(),
            ..program
        };
        Self {
            program,
            loader: Some(loader),
        }
    }
}

/// Makes the stack the guest's, and goes to what is mapped.
fn go_on(
    arena: &mut Arena,
    process: &'static Process,
    vector: Vector,
    skip: usize,
    mask: SignalSet,
    (Images { program, loader }, kept): (Images, Option<Kept>),
    (persona, random): (usize, u64),
) -> ! {
    let run = &process.run;
    let no_randomize = persona & ADDR_NO_RANDOMIZE != 0;
    let words = resident::Stack {
        pointer: 0,
        arguments: vector.arguments - skip,
        first_argument: vector.argument_words().get(skip).copied().unwrap_or(0),
        auxiliary: 0,
        random: vector.auxiliary(at::RANDOM),
        random_words: random_words(&vector),
        platform: vector.auxiliary(at::PLATFORM),
        execfn: 0,
        vdso: vector.auxiliary(at::SYSINFO_EHDR),
    };
    let auxiliary = Auxiliary {
        phdr: program.phdr,
        phnum: program.phnum,
        base: loader.map_or(0, |loader| loader.code.bias.apply(0)),
        entry: program.entry,
        execfn: arena
            .string(run.execfn)
            .map_or(0, |execfn| execfn.as_ptr().addr()),
        handler_stack: HANDLER_STACK,
    };
    let mut images = [Some(program), loader].into_iter().flatten();
    if run.cpuid_table
        && let Some(code) = &process.code
        && images.clone().any(|image| image.code.asks_cpuid)
    {
        let hwcaps = [at::HWCAP, at::HWCAP2].map(|key| vector.auxiliary(key) as u64);
        cpuid::load(code.store, hwcaps);
    }
    let strings = Strings::of(&vector, skip);
    let stack = rewrite(vector, skip, &auxiliary);
    // A heap that grew from a program at a low address would meet the blocks of patched copies.
    let is_below_blocks = process.code.is_some() && program.brk < BLOCKS_END as usize;
    let start_brk = if is_below_blocks && !no_randomize {
        BLOCKS_END as usize
    } else {
        program.brk
    } + if no_randomize {
        0
    } else {
        (random >> 32) as usize % (0x0200_0000 / PAGE) * PAGE
    };
    show(&program.extent, start_brk, &stack, &strings);
    name(run);
    if program.executable_stack {
        const PROT_GROWSDOWN: usize = 0x0100_0000;
        let page = stack.pointer & !(PAGE - 1);
        // SAFETY: more may be done to the stack than before, nothing less.
        let _ = unsafe {
            memory::protect(
                page,
                PAGE,
                PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN,
            )
        };
    }
    tell::done(Step::Stack, run.trace);
    if let Err(errno) = signals::install() {
        fail(format_args!("cannot take SIGSYS: {}", errno.text()));
    }
    let is_complete = images.all(|image| image.code.is_complete)
        && !program.executable_stack
        && persona & READ_IMPLIES_EXEC == 0;
    if !is_complete && let Err(errno) = arm(process) {
        fail(format_args!(
            "cannot install a seccomp filter: {}; `elfuse doctor` says what this host allows",
            errno.text()
        ));
    }
    tell::done(Step::Armed, run.trace);
    tell::entered(run);
    // Whoever started elfuse may have blocked everything.
    signal_mask(SIG_SETMASK, mask.without(SIGSYS));
    let entry = loader.map_or(program.entry, |loader| loader.entry);
    let Some(kept) = kept else {
        enter(entry, stack.pointer, 0)
    };
    let filled = kept.fill(&resident::Stack {
        pointer: stack.pointer,
        auxiliary: stack.auxiliary,
        execfn: auxiliary.execfn,
        ..words
    });
    if let Err(errno) = filled {
        fail(format_args!(
            "cannot go on with the resident {}: {}; `--no-resident` loads it",
            crate::text::Shown(run.exe),
            errno.text()
        ));
    }
    enter(entry, stack.pointer, program.entry)
}

/// The bytes that AT_RANDOM leads to.
fn random_words(vector: &Vector) -> [u64; 2] {
    let at = vector.auxiliary(at::RANDOM);
    if at == 0 {
        return [0; 2];
    }
    // SAFETY: sixteen bytes on the initial stack, at any alignment.
    unsafe { core::ptr::read_unaligned(core::ptr::with_exposed_provenance(at)) }
}

/// Bytes of the guest's stack that serving a call takes below the kernel's frame, at most. Measured: less than 3 KiB for a path and less
/// than 4 KiB for an exec, in development builds too. A test holds it.
pub const HANDLER_STACK: usize = 8192;

/// Opens a guest path of the runtime's own: an interpreter.
fn open_guest(process: &'static Process, path: &[u8]) -> Result<Fd, Errno> {
    exec::open_guest(&Call::own(process, SignalSet::default()), path)
}

fn load(arena: &mut Arena, process: &Process, file: Fd, base: Base) -> Result<Image, Errno> {
    let head = arena.bytes(PAGE)?;
    let len = pread(file, head, 0)?;
    let head = &head[..len];
    let header = Header::parse(head).map_err(|_| Errno::ENOEXEC)?;
    let len = header.phdrs_len();
    let start = usize::try_from(header.phdr_offset).map_err(|_| Errno::ENOEXEC)?;
    let phdrs = match start.checked_add(len).and_then(|end| head.get(start..end)) {
        Some(phdrs) => phdrs,
        None => {
            let phdrs = arena.bytes(len)?;
            if pread(file, phdrs, header.phdr_offset)? != len {
                return Err(Errno::ENOEXEC);
            }
            phdrs
        }
    };
    let plan = Plan::new(header, ProgramHeaders::new(phdrs)).map_err(|_| Errno::ENOEXEC)?;
    let mut room = [0; PATH_MAX];
    let code = image::map(process, &plan, file, base, &mut room)?;
    let bias = code.bias;
    let mut extent = plan.extent();
    for at in [
        &mut extent.code.0,
        &mut extent.code.1,
        &mut extent.data.0,
        &mut extent.data.1,
        &mut extent.end,
    ] {
        *at = at.wrapping_add(bias.0);
    }
    let brk = (extent.end as usize + PAGE - 1) & !(PAGE - 1);
    Ok(Image {
        code,
        entry: bias.apply(header.entry),
        phdr: plan.phdr_vaddr().map_or(0, |vaddr| bias.apply(vaddr)),
        phnum: usize::from(header.phdr_count),
        brk,
        extent,
        executable_stack: plan.phdrs.executable_stack(),
    })
}

/// Where the guest's arguments and environment stand as text, for `/proc/self/cmdline` and `environ`.
struct Strings {
    arguments: (usize, usize),
    environment: (usize, usize),
}

impl Strings {
    fn of(vector: &Vector, skip: usize) -> Self {
        let end = |words: &[usize]| words.last().map(|last| last + string(*last).len() + 1);
        let arguments = &vector.argument_words()[skip..];
        let start = arguments.first().copied().unwrap_or(0);
        let arguments = (start, end(arguments).unwrap_or(start));
        let words = vector.environment_words();
        let start = words.first().copied().unwrap_or(arguments.1);
        Self {
            arguments,
            environment: (start, end(words).unwrap_or(start)),
        }
    }
}

/// The guest's vector on the stack.
struct Stack {
    pointer: usize,
    auxiliary: usize,
    auxiliary_len: usize,
}

/// Makes the vector the guest's: without the first `skip` arguments, with its auxiliary words.
fn rewrite(vector: Vector, skip: usize, auxiliary: &Auxiliary) -> Stack {
    let at = vector.auxiliary_at();
    let Vector {
        words, arguments, ..
    } = vector;
    auxiliary.apply(&mut words[at..]);
    // The word before the first argument that stays becomes argc.
    let down = words_down((&raw const words[skip]).addr());
    let first = skip - down;
    words.copy_within(skip.., first);
    words[first] = arguments - skip;
    let len = words.len() - at;
    Stack {
        pointer: (&raw const words[first]).addr(),
        auxiliary: (&raw const words[at - down]).addr(),
        auxiliary_len: len * size_of::<usize>(),
    }
}

/// Tells the kernel what `/proc` is to show of the process. Where it cannot be told (a kernel without CONFIG_CHECKPOINT_RESTORE) the heap
/// starts behind the runtime's image and `cmdline` shows the runtime's arguments.
fn show(extent: &crate::loader::plan::Extent, start_brk: usize, stack: &Stack, strings: &Strings) {
    let map = PrctlMmMap {
        start_code: extent.code.0,
        end_code: extent.code.1,
        start_data: extent.data.0,
        end_data: extent.data.1,
        start_brk: start_brk as u64,
        brk: start_brk as u64,
        start_stack: stack.pointer as u64,
        arg_start: strings.arguments.0 as u64,
        arg_end: strings.arguments.1 as u64,
        env_start: strings.environment.0 as u64,
        env_end: strings.environment.1 as u64,
        auxv: stack.auxiliary as u64,
        auxv_size: stack.auxiliary_len as u32,
        exe_fd: u32::MAX,
    };
    let at = core::ptr::from_ref(&map).addr();
    // SAFETY: a live structure of the size given, which the kernel copies.
    let _ = unsafe {
        call(
            nr::PRCTL,
            [PR_SET_MM, PR_SET_MM_MAP, at, size_of::<PrctlMmMap>(), 0, 0],
        )
    };
}

/// Sets `comm` as exec does: the last component of the path that was executed, or, of a program executed by its descriptor, the file's
/// own name.
fn name(run: &Inherited<'_>) {
    let by_descriptor = run.execfn.strip_prefix(b"/dev/fd/");
    let path = match by_descriptor {
        Some(number) if !number.contains(&b'/') => {
            run.exe.strip_suffix(b" (deleted)").unwrap_or(run.exe)
        }
        _ => run.execfn,
    };
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let mut name = [0; 16];
    let len = last.len().min(15);
    name[..len].copy_from_slice(&last[..len]);
    if let Ok(name) = CStr::from_bytes_until_nul(&name) {
        set_name(name);
    }
}

/// Goes to the guest's entry point with the registers as the kernel leaves them, but for rax.
fn enter(entry: usize, stack: usize, rax: usize) -> ! {
    // SAFETY: both are of mappings made for the guest; nothing of the runtime's is on the stack above the pointer.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebx, ebx",
            "xor ecx, ecx",
            "xor edx, edx",
            "xor esi, esi",
            "xor edi, edi",
            "xor ebp, ebp",
            "xor r8d, r8d",
            "xor r9d, r9d",
            "xor r10d, r10d",
            "xor r12d, r12d",
            "xor r13d, r13d",
            "xor r14d, r14d",
            "xor r15d, r15d",
            "push r11",
            "xor r11d, r11d",
            "ret",
            stack = in(reg) stack,
            in("r11") entry,
            in("rax") rax,
            options(noreturn),
        )
    }
}

/// The flags an own descriptor is opened with.
pub const OWN: usize = O_RDONLY | O_CLOEXEC;

/// Opens a host path of the runtime's own.
///
/// # Errors
/// Those of open(2).
pub fn open_own(path: &CStr) -> Result<Fd, Errno> {
    openat(Fd::CWD, path, OWN, 0)
}
