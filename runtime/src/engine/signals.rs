//! SIGSYS, SIGSEGV and SIGBUS belong to the runtime: by the first it is called, by the others it learns of bad pointers. What the
//! guest does with these signals is remembered and passed on.
//!
//! # Safety
//! The kernel calls `elfuse_signal_entry` with a signal frame, whose `siginfo` and `ucontext` are live and this thread's alone until the handler
//! returns. It leaves every register and the frame as it found them before it jumps to a handler of the guest, so that one
//! sees what the kernel would have shown it. Everything else here is atomics.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::dispatch;
use super::handlers::handler_entered;
use super::patched;
use super::process::process;
use super::store;
use crate::errno::Errno;
use crate::guest::{Address, fix_up};
use crate::sys::abi::{
    SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTORER, SA_SIGINFO, SIG_BLOCK, SIG_DFL, SIG_IGN,
    SIGBUS, SIGSEGV, SIGSET_LEN, SIGSYS, SYS_SECCOMP, SigAction, SigInfo, SignalSet, UContext,
};
use crate::sys::host::{getpid, gettid, signal_action, signal_mask, tgkill};
use crate::sys::nr;
use crate::sys::raw::call;

// Entered like a C function by the kernel: rsp + 8 is a multiple of 16, the return address is the restorer's. `elfuse_signal` says
// where to go on: 0, the work is done; else a handler of the guest, which is entered as if by the kernel. The restorer has the very
// bytes by which unwinders and debuggers know a signal frame.
global_asm!(
    ".globl elfuse_signal_entry, elfuse_restorer",
    ".balign 16",
    "elfuse_signal_entry:",
    "push rdi",
    "push rsi",
    "push rdx",
    "call {handler}",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "test rax, rax",
    "jz 2f",
    "mov r11, rax",
    "xor eax, eax",
    "jmp r11",
    "2:",
    "ret",
    ".balign 16",
    "nop",
    "elfuse_restorer:",
    "mov rax, 15",
    "syscall",
    handler = sym on_signal,
);

unsafe extern "C" {
    static elfuse_signal_entry: u8;
    static elfuse_restorer: u8;
}

/// The signals that are the runtime's.
pub const OWN: [u32; 3] = [SIGSYS, SIGSEGV, SIGBUS];

/// What the guest has asked to be done with one of [`OWN`].
#[derive(Debug)]
struct Remembered {
    handler: AtomicUsize,
    flags: AtomicU64,
    restorer: AtomicUsize,
    mask: AtomicU64,
}

static GUEST: [Remembered; 3] = [const { Remembered::new() }; 3];

impl Remembered {
    const fn new() -> Self {
        Self {
            handler: AtomicUsize::new(SIG_DFL),
            flags: AtomicU64::new(0),
            restorer: AtomicUsize::new(0),
            mask: AtomicU64::new(0),
        }
    }

    fn of(signal: u32) -> Option<&'static Self> {
        let place = OWN.iter().position(|own| *own == signal)?;
        GUEST.get(place)
    }

    fn load(&self) -> SigAction {
        SigAction {
            handler: self.handler.load(Ordering::Acquire),
            flags: self.flags.load(Ordering::Relaxed),
            restorer: self.restorer.load(Ordering::Relaxed),
            mask: SignalSet(self.mask.load(Ordering::Relaxed)),
        }
    }

    fn store(&self, action: &SigAction) {
        self.flags.store(action.flags, Ordering::Relaxed);
        self.restorer.store(action.restorer, Ordering::Relaxed);
        self.mask.store(action.mask.0, Ordering::Relaxed);
        self.handler.store(action.handler, Ordering::Release);
    }
}

/// What the kernel is told to do with one of [`OWN`] while the guest wants `wanted`.
fn installed(signal: u32, wanted: &SigAction) -> SigAction {
    let handler = (&raw const elfuse_signal_entry).addr();
    let restorer = (&raw const elfuse_restorer).addr();
    let is_guests = wanted.handler > SIG_IGN && signal != SIGSYS;
    if !is_guests {
        let flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER;
        return SigAction {
            handler,
            flags,
            restorer,
            mask: SignalSet::default(),
        };
    }
    // The stack, the mask and the restart rule are those of the guest's handler, which is entered on the same frame.
    SigAction {
        handler,
        flags: (wanted.flags | SA_SIGINFO | SA_RESTORER) & !SA_RESETHAND,
        restorer: if wanted.flags & SA_RESTORER != 0 {
            wanted.restorer
        } else {
            restorer
        },
        mask: wanted.mask.without(SIGSYS),
    }
}

fn set_action(signal: u32, action: &SigAction) -> Result<(), Errno> {
    let at = core::ptr::from_ref(action).expose_provenance();
    // SAFETY: a live kernel `struct sigaction` whose handler is `entry` or none.
    unsafe { call(nr::RT_SIGACTION, [signal as usize, at, 0, SIGSET_LEN, 0, 0]) }
        .result()
        .map(drop)
}

/// The same, and what was there before.
fn exchange_action(signal: u32, action: &SigAction) -> Result<SigAction, Errno> {
    let mut before = SigAction::default();
    let at = core::ptr::from_ref(action).expose_provenance();
    let into = core::ptr::from_mut(&mut before).expose_provenance();
    let args = [signal as usize, at, into, SIGSET_LEN, 0, 0];
    // SAFETY: as of `set_action`; the buffer is a kernel `struct sigaction`.
    unsafe { call(nr::RT_SIGACTION, args) }.result()?;
    Ok(before)
}

/// Takes the three signals. What an earlier program of this process left ignored stays so for the guest.
///
/// # Errors
/// Those of rt_sigaction(2).
pub fn install() -> Result<(), Errno> {
    let ours = |signal| installed(signal, &SigAction::default());
    for (signal, guest) in OWN.into_iter().zip(&GUEST) {
        let before = exchange_action(signal, &ours(signal))?;
        if before.handler == SIG_IGN {
            guest.store(&SigAction {
                handler: SIG_IGN,
                ..SigAction::default()
            });
        }
    }
    Ok(())
}

/// Address to go on at for the guest's rt_sigreturn(2), made from here: one from the guest's own code is trapped.
#[must_use]
pub fn return_from_signal() -> usize {
    (&raw const elfuse_restorer).addr()
}

/// A context as the kernel reads it from a frame.
#[must_use]
pub fn context_bytes(context: &UContext) -> &[u8] {
    const _: () = assert!(size_of::<UContext>() == 304);
    // SAFETY: a live structure of words and half-words without a hole between them: 304 bytes of fields.
    unsafe {
        core::slice::from_raw_parts(core::ptr::from_ref(context).cast(), size_of::<UContext>())
    }
}

/// Gives the kernel the guest's own word on the three signals as far as it lasts over an exec: whether they are ignored.
pub fn uninstall_for_exec(shared: bool) {
    for (signal, guest) in OWN.into_iter().zip(&GUEST) {
        // Only there is the kernel's action marked.
        let action = shared.then(|| signal_action(signal).ok()).flatten();
        let marked = action.map_or(0, |action| action.flags & (MARK_IGNORED | MARK_DEFAULT));
        let ignored = match marked {
            MARK_IGNORED => true,
            MARK_DEFAULT => false,
            _ => guest.load().handler == SIG_IGN,
        };
        if ignored {
            let ignore = SigAction {
                handler: SIG_IGN,
                ..SigAction::default()
            };
            let _ = set_action(signal, &ignore);
        }
    }
}

/// Flags that mean nothing for these signals (SA_NOCLDSTOP, SA_NOCLDWAIT): they mark the kernel's own copy of an action of a process
/// that shares another one's memory and so cannot write down what its guest wants.
const MARK_IGNORED: u64 = 1;
const MARK_DEFAULT: u64 = 2;

/// Takes the signals back after an exec that failed.
pub fn reinstall(shared: bool) {
    if shared {
        // The kernel's actions are as they were: nothing but SIG_IGN was set, which lasts.
        return;
    }
    for (signal, guest) in OWN.into_iter().zip(&GUEST) {
        let _ = set_action(signal, &installed(signal, &guest.load()));
    }
}

/// rt_sigaction(2) of the guest on one of [`OWN`]: the old action. `remember` says false in a process that shares another one's memory.
///
/// # Errors
/// Those of rt_sigaction(2). `None`: the signal is not one of them.
pub fn guest_action(
    signal: u32,
    new: Option<&SigAction>,
    remember: impl FnOnce() -> bool,
) -> Option<Result<SigAction, Errno>> {
    let guest = Remembered::of(signal)?;
    let old = guest.load();
    if let Some(new) = new
        && !remember()
    {
        let mark = match new.handler {
            SIG_DFL => MARK_DEFAULT,
            SIG_IGN => MARK_IGNORED,
            _ => 0,
        };
        let ours = installed(signal, &SigAction::default());
        let marked = SigAction {
            flags: ours.flags | mark,
            ..ours
        };
        let _ = set_action(signal, &marked);
    } else if let Some(new) = new {
        // The kernel's action first: between the two the old handler must not run under the new flags' mask for long, and a
        // failure leaves everything as it was.
        if let Err(errno) = set_action(signal, &installed(signal, new)) {
            return Some(Err(errno));
        }
        guest.store(new);
    }
    Some(Ok(old))
}

extern "C" fn on_signal(signal: i32, info: *const SigInfo, context: *mut UContext) -> usize {
    // SAFETY: the kernel's own frame, this thread's until the handler returns.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let signal = signal.cast_unsigned();
    let is_call = signal == SIGSYS && info.code == SYS_SECCOMP;
    if is_call && dispatch::trapped(info, context) {
        return 0;
    }
    if matches!(signal, SIGSEGV | SIGBUS) {
        let rip = context.context.rip;
        if let Some(rip) = fix_up(rip).or_else(|| patched::fix_up(rip)) {
            context.context.rip = rip;
            return 0;
        }
        if signal == SIGBUS && store::heal(info.addr) {
            return 0;
        }
    }
    let handler = pass_on(signal, info);
    if handler != 0 {
        handler_entered(context);
    }
    handler
}

/// The guest's handler, after what the kernel would have done before it; 0: there is none, and nothing is left to do.
fn pass_on(signal: u32, info: &SigInfo) -> usize {
    let Some(guest) = Remembered::of(signal) else {
        return 0;
    };
    let action = guest.load();
    // Codes above 0 are the kernel's: a fault, which cannot be ignored.
    let is_sent = info.code <= 0;
    match action.handler {
        SIG_IGN if is_sent => 0,
        SIG_DFL | SIG_IGN => {
            let _ = set_action(signal, &SigAction::default());
            if is_sent || signal == SIGSYS {
                let _ = tgkill(getpid(), gettid(), signal);
            }
            // A fault happens again, now without handler, with the registers and the signal information it has.
            0
        }
        handler => {
            if action.flags & SA_RESETHAND != 0 {
                guest.store(&SigAction::default());
                let _ = set_action(signal, &installed(signal, &SigAction::default()));
            }
            if signal == SIGSYS {
                // Ours is installed without mask; leaving the handler restores the one of the frame.
                signal_mask(SIG_BLOCK, action.mask.without(SIGSYS));
            }
            handler
        }
    }
}

/// Whether this process runs in memory that another one owns (vfork), so that what it says of signals is not to be remembered.
#[must_use]
pub fn may_remember() -> bool {
    !process().pool.is_guest_in_memory()
}

/// Where a guest's `struct sigaction` lies, read.
#[must_use]
pub fn decode_action(bytes: [u8; 32]) -> SigAction {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    SigAction {
        handler: word(0) as usize,
        flags: word(8),
        restorer: word(16) as usize,
        mask: SignalSet(word(24)),
    }
}

/// The bytes of a kernel `struct sigaction`.
#[must_use]
pub fn encode_action(action: &SigAction) -> [u8; 32] {
    let words = [
        action.handler as u64,
        action.flags,
        action.restorer as u64,
        action.mask.0,
    ];
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// An address in a guest's structure, as a value that nothing is known of.
#[must_use]
pub const fn pointer(register: usize) -> Address {
    Address(register)
}
