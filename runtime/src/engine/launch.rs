//! Loads a program whose process is settled, and goes to its first instruction.
//!
//! # Safety
//! There is one thread. The vector on the initial stack is the process's own; it is rewritten in place before the guest owns it. The last
//! step jumps to addresses of mappings made for the guest and never returns.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ffi::CStr;

use elfuse_format::text::BLOCKS_END;

use super::arena::Arena;
use super::arm::arm;
use super::call::Call;
use super::pool::{Text, Work};
use super::process::Process;
use super::program::{self, Rooms};
use super::resident::{self, Kept};
use super::say::say;
use super::start::{NOT_EXECUTABLE, fail};
use super::tell::{self, Step};
use super::vector::{Vector, string};
use super::{cpuid, head, image, populate, signals, store};
use crate::errno::Errno;
use crate::guest::Address;
use crate::loader::map::{Base, Bias};
use crate::loader::plan::{Extent, Plan};
use crate::loader::stack::{Auxiliary, words_down};
use crate::options::Inherited;
use crate::sys::abi::{
    ADDR_NO_RANDOMIZE, PAGE, PR_SET_MM, PR_SET_MM_MAP, PROT_EXEC, PROT_READ, PROT_WRITE,
    PrctlMmMap, READ_IMPLIES_EXEC, SIG_SETMASK, SIGSYS, SignalSet, at,
};
use crate::sys::host::{Fd, close, exit, personality, pread, random, set_name, signal_mask};
use crate::sys::raw::call;
use crate::sys::{memory, nr};

#[derive(Debug, Clone, Copy)]
struct Image {
    code: image::Mapped,
    entry: usize,
    /// Address and number of the program headers.
    phdr: usize,
    phnum: usize,
    /// Where the heap may start.
    brk: usize,
    extent: Extent,
    executable_stack: bool,
}

/// A program to be started.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its file.
    pub file: Fd,
    /// The beginning of that, if it was read: [`head::LEN`] bytes, or the whole file.
    pub head: Option<&'static [u8]>,
    /// The file of its interpreter, if that is open.
    pub interpreter: Option<Fd>,
    /// How many arguments are not the guest's.
    pub skip: usize,
    /// The signals that it is to start with blocked.
    pub mask: SignalSet,
    /// Those that are; `None`: others.
    pub mask_now: Option<SignalSet>,
}

/// Reads the beginning of a file.
fn read_head(arena: &mut Arena, file: Fd) -> Result<&'static [u8], Errno> {
    let head = arena.bytes(head::LEN)?;
    let len = pread(file, head, 0)?;
    Ok(&head[..len])
}

/// Loads the program and goes to it.
pub fn launch(
    arena: &mut Arena,
    process: &'static Process,
    vector: Vector,
    started: &Program,
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
    let file = started.file;
    let persona = personality();
    let no_randomize = persona & ADDR_NO_RANDOMIZE != 0;
    let entered = Entered {
        persona,
        random: if no_randomize { 0 } else { random() },
    };
    if let Some(kept) = resident::restore(arena, process, &vector, file) {
        close(file);
        if let Some(interpreter) = started.interpreter {
            close(interpreter);
        }
        tell::done(Step::Mapped, run.trace);
        let images = Images::of(&kept);
        go_on(
            arena,
            process,
            vector,
            started,
            (images, Some(kept)),
            &entered,
        );
    }
    let call = Call::own(process, started.mask);
    let mut taken = call.area().unwrap_or_else(|errno| broken("memory", errno));
    let Work {
        first,
        second,
        told,
        start,
        area,
        scratch,
        state,
        ..
    } = taken.work();
    let head = started
        .head
        .map_or_else(|| read_head(arena, file), Ok)
        .unwrap_or_else(|errno| broken("reading it", errno));
    let head::Head { plan, interpreter } =
        head::read(file, head, scratch).unwrap_or_else(|errno| broken("its headers", errno));
    let interpreter = interpreter.map(|path| {
        let mut rooms = Rooms {
            first,
            second: &mut *second,
            told,
            start,
            area,
            headers: &mut *state,
        };
        let at = Address(path.as_ptr().expose_provenance());
        let open = || program::open_path(&call, at, path, &mut rooms).map(|(file, _)| file);
        (started.interpreter)
            .map_or_else(open, Ok)
            .unwrap_or_else(|errno| broken("its interpreter", errno))
    });
    tell::done(Step::Inspected, run.trace);
    let base = Base::Program {
        random: entered.random,
    };
    let program = load(process, &plan, file, base, second).unwrap_or_else(|errno| {
        let what = match errno {
            // It is linked to them, as elfuse is to its own.
            Errno::EEXIST => "it wants addresses that are taken (elfuse does not run in elfuse)",
            _ => "mapping it",
        };
        broken(what, errno)
    });
    tell::done(Step::Mapped, run.trace);
    let loader = interpreter.map(|file| {
        let mut read = || {
            let head = read_head(arena, file)?;
            let head = head::read(file, head, state)?;
            load(process, &head.plan, file, Base::Interpreter, second)
        };
        let loaded = read().unwrap_or_else(|errno| broken("mapping its interpreter", errno));
        close(file);
        loaded
    });
    drop(taken);
    close(file);
    tell::done(Step::Interpreter, run.trace);
    let images = Images { program, loader };
    go_on(arena, process, vector, started, (images, None), &entered)
}

/// A program that is mapped, and its interpreter.
#[derive(Debug, Clone, Copy)]
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
            extent: Extent {
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

/// How the kernel made the process, and what was drawn for it.
#[derive(Debug, Clone, Copy)]
struct Entered {
    /// personality(2).
    persona: usize,
    /// What addresses are drawn from; 0 where they are not.
    random: u64,
}

/// Makes the stack the guest's, and goes to what is mapped.
fn go_on(
    arena: &mut Arena,
    process: &'static Process,
    vector: Vector,
    started: &Program,
    (Images { program, loader }, kept): (Images, Option<Kept>),
    &Entered { persona, random }: &Entered,
) -> ! {
    let run = &process.run;
    let &Program { skip, mask, .. } = started;
    let no_randomize = persona & ADDR_NO_RANDOMIZE != 0;
    let own = kept.is_some().then(|| resident::Stack::of(&vector, skip));
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
    populate::heap_starts(process, start_brk);
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
    store::guest_begins();
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
    let mask = mask.without(SIGSYS);
    if started.mask_now != Some(mask) {
        signal_mask(SIG_SETMASK, mask);
    }
    let entry = loader.map_or(program.entry, |loader| loader.entry);
    let Some((kept, own)) = kept.zip(own) else {
        enter(entry, stack.pointer, 0)
    };
    let own = resident::Stack {
        pointer: stack.pointer,
        auxiliary: stack.auxiliary,
        execfn: auxiliary.execfn,
        ..own
    };
    if let Err(errno) = kept.fill(process, &own) {
        fail(format_args!(
            "cannot go on with the resident {}: {}; `--no-resident` loads it",
            crate::text::Shown(run.exe),
            errno.text()
        ));
    }
    enter(entry, stack.pointer, program.entry)
}

/// Bytes of the guest's stack that serving a call takes below the kernel's frame, at most. Measured: less than 3 KiB for a path and less
/// than 4 KiB for an exec, in development builds too. A test holds it.
pub const HANDLER_STACK: usize = 8192;

fn load(
    process: &Process,
    plan: &Plan<'_>,
    file: Fd,
    base: Base,
    room: &mut Text,
) -> Result<Image, Errno> {
    let code = image::map(process, plan, file, base, room)?;
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
        entry: bias.apply(plan.header.entry),
        phdr: plan.phdr_vaddr().map_or(0, |vaddr| bias.apply(vaddr)),
        phnum: usize::from(plan.header.phdr_count),
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
fn show(extent: &Extent, start_brk: usize, stack: &Stack, strings: &Strings) {
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
