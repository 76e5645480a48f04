//! A process under ptrace(2), from its exec on.
//!
//! # Safety
//! ptrace(2) and waitpid(2) are called for a child of this very thread, which is stopped whenever it is asked about; what the kernel writes
//! goes to values that are large enough and live until the call returns. Between fork and exec nothing is called but system calls.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr::null_mut;

use libc::{c_int, c_void, pid_t};

/// A process that is stopped.
#[derive(Debug)]
pub struct Tracee {
    child: Child,
    memory: File,
}

/// Why it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is about to make a system call.
    Entry {
        /// Number.
        nr: u64,
        /// Arguments.
        args: [u64; 6],
        /// Behind the instruction.
        ip: u64,
    },
    /// A system call has returned.
    Exit {
        /// Result, as the kernel has it: an error is negative.
        value: i64,
        /// Where it goes on.
        ip: u64,
    },
    /// A trap: the breakpoint, or a step.
    Trap,
    /// It has executed another program.
    Exec,
    /// A signal is about to be delivered.
    Signal(c_int),
    /// It has ended, with this status as wait(2) has it.
    Ended(c_int),
}

/// The general registers that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Stack pointer.
    pub rsp: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Base of `fs`: the thread pointer.
    pub fs_base: u64,
}

fn last(result: i64) -> io::Result<i64> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn limits(pid: pid_t, new: Option<&libc::rlimit>) -> io::Result<libc::rlimit> {
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: see the top.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_STACK, new, &raw mut old) };
    last(result.into()).map(|_| old)
}

/// Bytes that the stack may have grown to, as far as where the kernel puts mappings is concerned: they begin so far below it. Where
/// mappings of a process with an ordinary stack lie, nothing of a snapshot's is.
const STACK_ROOM: u64 = 1 << 40;

impl Tracee {
    /// Starts a program, which stops before its first instruction. It runs on one CPU, as its dynamic linker may keep what tells that from others.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn start(command: &mut Command, cpu: usize) -> io::Result<Self> {
        let stack = limits(0, None)?;
        let room = libc::rlimit {
            rlim_cur: stack.rlim_max.min(STACK_ROOM).max(stack.rlim_cur),
            rlim_max: stack.rlim_max,
        };
        let prepare = move || {
            limits(0, Some(&room))?;
            // SAFETY: a set of the size given; see the top.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut set);
                libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
                last(libc::ptrace(
                    libc::PTRACE_TRACEME,
                    0,
                    null_mut::<c_void>(),
                    0,
                ))?;
            }
            Ok(())
        };
        // SAFETY: `prepare` only makes system calls.
        let child = unsafe { command.pre_exec(prepare) }.spawn()?;
        let pid = child.id().cast_signed();
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut tracee = Self { child, memory };
        match tracee.wait()? {
            Stop::Trap => {}
            other => return Err(io::Error::other(format!("it did not start: {other:?}"))),
        }
        let options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEEXEC;
        tracee.request(libc::PTRACE_SETOPTIONS, 0, options as usize)?;
        // What the program is told is the limit that it will have.
        limits(pid, Some(&stack))?;
        Ok(tracee)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> pid_t {
        self.child.id().cast_signed()
    }

    fn request(&self, request: libc::c_uint, address: usize, data: usize) -> io::Result<i64> {
        // SAFETY: see the top.
        last(unsafe { libc::ptrace(request, self.pid(), address, data) })
    }

    fn wait(&mut self) -> io::Result<Stop> {
        let mut status = 0;
        // SAFETY: see the top.
        last(unsafe { libc::waitpid(self.pid(), &raw mut status, libc::__WALL) }.into())?;
        if !libc::WIFSTOPPED(status) {
            return Ok(Stop::Ended(status));
        }
        const CALL: c_int = libc::SIGTRAP | 0x80;
        Ok(match libc::WSTOPSIG(status) {
            CALL => self.call()?,
            libc::SIGTRAP if status >> 16 == libc::PTRACE_EVENT_EXEC => Stop::Exec,
            libc::SIGTRAP => Stop::Trap,
            signal => Stop::Signal(signal),
        })
    }

    fn call(&self) -> io::Result<Stop> {
        // SAFETY: integers and a union of them.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let at = (&raw mut info).expose_provenance();
        self.request(libc::PTRACE_GET_SYSCALL_INFO, size_of_val(&info), at)?;
        let ip = info.instruction_pointer;
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                // SAFETY: the operation says which member it is.
                let entry = unsafe { info.u.entry };
                Ok(Stop::Entry {
                    nr: entry.nr,
                    args: entry.args,
                    ip,
                })
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => Ok(Stop::Exit {
                // SAFETY: as before.
                value: unsafe { info.u.exit }.sval,
                ip,
            }),
            other => Err(io::Error::other(format!("a stop of kind {other}"))),
        }
    }

    /// Lets it run to the next stop, delivering `signal` if it is not 0.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn go_on(&mut self, signal: c_int) -> io::Result<Stop> {
        self.request(libc::PTRACE_SYSCALL, 0, signal as usize)?;
        self.wait()
    }

    /// Makes it stop when it comes to `address`, by a debug register, so that no byte of it changes.
    ///
    /// # Errors
    /// Those of ptrace(2).
    pub fn break_at(&self, address: u64) -> io::Result<()> {
        const ENABLE: usize = 1;
        let registers = std::mem::offset_of!(libc::user, u_debugreg);
        self.request(libc::PTRACE_POKEUSER, registers, address as usize)?;
        self.request(libc::PTRACE_POKEUSER, registers + 7 * 8, ENABLE)?;
        Ok(())
    }

    /// Its registers.
    ///
    /// # Errors
    /// Those of ptrace(2).
    pub fn registers(&self) -> io::Result<Registers> {
        // SAFETY: integers.
        let mut all: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, (&raw mut all).expose_provenance())?;
        Ok(Registers {
            rsp: all.rsp,
            rip: all.rip,
            fs_base: all.fs_base,
        })
    }

    /// Sets what it passes, or has passed, as the first argument of a system call.
    ///
    /// # Errors
    /// Those of ptrace(2).
    pub fn set_first_argument(&self, value: u64) -> io::Result<()> {
        let at = std::mem::offset_of!(libc::user_regs_struct, rdi);
        self.request(libc::PTRACE_POKEUSER, at, value as usize)
            .map(drop)
    }

    /// Copies memory of its.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(&self, address: u64, into: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(into, address)
    }

    /// A word of its.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn word(&self, address: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// A string of its, without the NUL.
    ///
    /// # Errors
    /// Those of pread(2); there is no NUL in 4096 bytes.
    pub fn string(&self, address: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() <= 4096 {
            // Never over the end of a page: what follows may not be mapped.
            let at = address + text.len() as u64;
            let mut piece = vec![0; (64 - at % 64) as usize];
            self.read(at, &mut piece)?;
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&piece[..end]);
                return Ok(text);
            }
            text.extend_from_slice(&piece);
        }
        Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It is ours, and stopped: nobody waits for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CPU that this process may run on.
#[must_use]
pub fn any_cpu() -> usize {
    // SAFETY: no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// RLIMIT_STACK of this process: soft, hard.
///
/// # Errors
/// Those of prlimit(2).
pub fn stack_limits() -> io::Result<[u64; 2]> {
    limits(0, None).map(|found| [found.rlim_cur, found.rlim_max])
}

/// The time stamp counter.
#[must_use]
pub fn ticks() -> u64 {
    #[allow(unused_unsafe, reason = "newer compilers take it for safe")]
    // SAFETY: reads a register; where the kernel forbids that, it faults.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}
