//! One run of the program, up to the point.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use elfuse_format::snapshot::{Outcome, PROGRAM, Value};
use elfuse_runtime::sys::abi::at;
use elfuse_runtime::sys::memory::OWN;

use super::Request;
use super::log::{Log, Pending};
use super::point::point;
use crate::resident::calls::Call;
use crate::resident::program::Program;
use crate::resident::stopped::{self, Files};
use crate::resident::trace::{self, Stop, Tracee};

/// A process stopped at the point.
pub(super) struct Run {
    /// The process.
    pub(super) tracee: Tracee,
    /// What it did.
    pub(super) log: Log,
    /// Its files.
    pub(super) files: Files,
    /// What is mapped at the point.
    pub(super) mappings: stopped::Mappings,
    /// The program's path in the guest.
    pub(super) exe: Vec<u8>,
    /// The point.
    pub(super) resume: u64,
    /// AT_ENTRY.
    pub(super) entry: u64,
    /// The auxiliary vector.
    pub(super) auxiliary: BTreeMap<u64, u64>,
    /// What its words may be explained by.
    pub(super) values: Vec<(Value, u64)>,
    /// The time stamp counter before it was started and after it was stopped.
    pub(super) ticks: (u64, u64),
    /// Below here nothing was mapped so far.
    floor: u64,
}

fn is_own(ip: u64) -> bool {
    usize::try_from(ip).is_ok_and(|ip| OWN.contains(&ip))
}

impl Run {
    /// Starts the program, and stops it there.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub(super) fn start(
        request: &Request<'_>,
        cpu: usize,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let (mut messages, said) = std::io::pipe()?;
        let mut command = Command::new(request.elfuse);
        command
            .arg("run")
            .arg("--sysroot")
            .arg(request.sysroot)
            // No index, no patched copies: then every call of the program's shows, and no byte of its code differs.
            .args(["--coherence", "off", "--no-resident", "--"])
            .arg(request.program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let before = trace::ticks();
        let tracee = Tracee::start(&mut command, cpu)
            .with_context(|| format!("tracing {}", request.elfuse.display()))?;
        drop(command);
        let mut run = Self {
            tracee,
            log: Log::default(),
            files: Files::default(),
            mappings: stopped::Mappings::default(),
            exe: Vec::new(),
            resume: 0,
            entry: 0,
            auxiliary: BTreeMap::new(),
            values: Vec::new(),
            ticks: (before, before),
            floor: 0,
        };
        match run.go_to_point(request) {
            Ok(true) => {}
            Ok(false) => {
                let mut text = String::new();
                messages.read_to_string(&mut text)?;
                bail!("it ended before it was loaded: {}", text.trim());
            }
            Err(error) => return Err(error),
        }
        run.ticks.1 = trace::ticks();
        run.look()?;
        Ok(run)
    }

    /// Whether the point was reached; else it has ended.
    fn go_to_point(&mut self, request: &Request<'_>) -> anyhow::Result<bool> {
        let mut pending: Option<Pending> = None;
        let mut signal = 0;
        loop {
            let stop = self.tracee.go_on(signal)?;
            signal = 0;
            match stop {
                Stop::Entry { ip, .. } if is_own(ip) => {}
                Stop::Entry { nr, args, ip } => {
                    self.finish(pending.take())?;
                    if self.resume == 0 {
                        self.begin(request)?;
                    }
                    let call = Pending::judge(&self.tracee, nr, args, ip)?;
                    match call.call {
                        Call::Map(len) => {
                            let at = self.room(len);
                            self.tracee.set_first_argument(at)?;
                        }
                        // Who is not granted a heap maps memory instead.
                        Call::Break(_) => self.tracee.set_first_argument(0)?,
                        _ => {}
                    }
                    pending = Some(call);
                }
                Stop::Exit { value, ip } => {
                    // After a trap it is the return from the handler that brings the result.
                    if let Some(pending) = pending.as_mut().filter(|pending| pending.ip == ip) {
                        pending.value = Some(value);
                        // A system call keeps its arguments, and the code behind it may count on that.
                        match pending.call {
                            Call::Map(_) => self.tracee.set_first_argument(0)?,
                            Call::Break(wanted) => self.tracee.set_first_argument(wanted)?,
                            _ => {}
                        }
                    }
                }
                Stop::Signal(found) => {
                    if let Some(pending) = pending.as_mut().filter(|_| found == libc::SIGSYS) {
                        pending.value = None;
                    }
                    signal = found;
                }
                Stop::Trap if self.resume != 0 => {
                    let at = self.tracee.registers()?.rip;
                    ensure!(at == self.resume, "it stopped at {at:#x}");
                    self.finish(pending.take())?;
                    return Ok(true);
                }
                Stop::Trap => signal = libc::SIGTRAP,
                Stop::Exec => bail!(
                    "it executes another program at its start: of a script, keep the interpreter"
                ),
                Stop::Ended(_) => return Ok(false),
            }
        }
    }

    fn finish(&mut self, pending: Option<Pending>) -> anyhow::Result<()> {
        self.log.finish(pending, &self.tracee, &mut self.files)
    }

    /// At the guest's first call: program and dynamic linker are mapped.
    fn begin(&mut self, request: &Request<'_>) -> anyhow::Result<()> {
        self.auxiliary = stopped::auxiliary(&self.tracee)?.into_iter().collect();
        let word = |key| self.auxiliary.get(&(key as u64)).copied().unwrap_or(0);
        let (base, phdr) = (word(at::BASE), word(at::PHDR));
        self.entry = word(at::ENTRY);
        ensure!(
            base != 0,
            "it has no dynamic linker: there is nothing to be saved"
        );
        let host = |address| self.host_path(address);
        let (program, loader) = (host(phdr)?, host(base)?);
        self.log.objects = vec![
            Program::read(&program)?.span(|header| self.entry.wrapping_sub(header.entry))?,
            Program::read(&loader)?.span(|_| base)?,
        ];
        let in_guest = program.strip_prefix(request.sysroot).ok();
        let in_guest = in_guest.with_context(|| {
            format!(
                "{} does not lie in the sysroot {}; what is mounted there is not kept",
                program.display(),
                request.sysroot.display()
            )
        })?;
        self.exe = Path::new("/")
            .join(in_guest)
            .into_os_string()
            .as_bytes()
            .to_vec();
        const STEP: u64 = 2 << 20;
        self.floor = (base - STEP) & !(STEP - 1);
        const E_ENTRY: u64 = 24;
        let loader_entry = base + self.tracee.word(base + E_ENTRY)?;
        let mut start = [0; 16];
        self.tracee.read(loader_entry, &mut start)?;
        self.resume = point(&start, loader_entry, self.entry).with_context(|| {
            format!(
                "its dynamic linker {} begins as none that is known: {start:02x?}",
                loader.display()
            )
        })?;
        ensure!(self.files.number(&program)? == PROGRAM);
        let loader = self.files.number(&loader)?;
        let path = Program::read(&program)?.interpreter()?;
        self.log.lookups.push((path, Outcome::File(loader)));
        self.tracee
            .break_at(self.resume)
            .context("setting a hardware breakpoint")
    }

    /// Where so many bytes are to be mapped. ld.so keeps a table of what it has mapped in the order of the addresses, which has to be the same
    /// in both captures; the kernel's choice is not, as it aligns large files to huge pages.
    fn room(&mut self, len: u64) -> u64 {
        const HUGE: u64 = 2 << 20;
        let align = if len < HUGE { 4096 } else { HUGE };
        self.floor = self.floor.saturating_sub(len) & !(align - 1);
        self.floor
    }

    /// The host's path of the file mapped at an address.
    fn host_path(&self, address: u64) -> anyhow::Result<PathBuf> {
        let mut files = Files::default();
        let mappings = stopped::mappings(&self.tracee, &mut files, &[])?;
        let mut all = mappings.all.iter();
        let found = all.find(|mapping| (mapping.start..mapping.end).contains(&address));
        let path = found.and_then(|mapping| files.paths.get(mapping.file as usize));
        path.cloned()
            .with_context(|| format!("no file is mapped at {address:#x}"))
    }

    /// At the point.
    fn look(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.log.open.is_empty(),
            "it leaves files open: {:?}",
            self.log.open
        );
        let known = self.files.identities.len();
        self.mappings = stopped::mappings(&self.tracee, &mut self.files, &self.log.objects)?;
        ensure!(
            self.files.identities.len() == known,
            "it maps {}, and no lookup led there",
            self.files.paths[known].display()
        );
        let registers = self.tracee.registers()?;
        ensure!(
            registers.fs_base == self.log.thread_pointer,
            "its thread pointer was set by an instruction"
        );
        let tracee = &self.tracee;
        let sp = registers.rsp;
        let count = tracee.word(sp)?;
        let environment = sp + 8 * (count + 2);
        let mut auxiliary = environment;
        while tracee.word(auxiliary)? != 0 {
            auxiliary += 8;
        }
        auxiliary += 8;
        self.auxiliary.clear();
        for at in (auxiliary..).step_by(16) {
            let key = tracee.word(at)?;
            if key == 0 {
                break;
            }
            self.auxiliary.insert(key, tracee.word(at + 8)?);
        }
        let word = |key| self.auxiliary.get(&(key as u64)).copied().unwrap_or(0);
        let random = word(at::RANDOM);
        self.values = vec![
            (Value::StackPointer, sp),
            (Value::Arguments, sp + 8),
            (Value::Environment, environment),
            (Value::Auxiliary, auxiliary),
            (Value::Random, random),
            (Value::Platform, word(at::PLATFORM)),
            (Value::ExecFn, word(at::EXECFN)),
            (Value::FirstArgument, tracee.word(sp + 8)?),
            (Value::Canary, tracee.word(random)? & !0xff),
            (Value::Guard, tracee.word(random + 8)?),
            (Value::Break, self.log.heap),
            (Value::ArgumentCount, count),
            (Value::ThreadId, u64::from(tracee.pid().unsigned_abs())),
        ];
        Ok(())
    }
}
