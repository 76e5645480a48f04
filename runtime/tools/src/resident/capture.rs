//! Runs a program up to where its dynamic linker is done, twice, and makes a snapshot of what both have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use elfuse_format::checksum::checksum;
use elfuse_format::snapshot::{Content, Head, Outcome, PROGRAM, Value, Word, head_flags};
use elfuse_format::span::Span;
use elfuse_runtime::sys::abi::at;
use elfuse_runtime::sys::memory::OWN;

use super::calls::{self, Call};
use super::image::{self, Image};
use super::program::Program;
use super::stopped::{self, Files};
use super::trace::{self, Stop, Tracee};

/// What is to be captured.
#[derive(Debug, Clone)]
pub struct Request<'r> {
    /// `elfuse` itself.
    pub elfuse: &'r Path,
    /// The sysroot, symlinks resolved.
    pub sysroot: &'r Path,
    /// The program as `elfuse run` takes it.
    pub program: &'r OsStr,
    /// Whether it is always to lie where it was captured.
    pub is_fixed: bool,
}

/// A snapshot that was made.
#[derive(Debug)]
pub struct Captured {
    /// The program's path in the guest, symlinks resolved.
    pub exe: Vec<u8>,
    /// The file.
    pub bytes: Vec<u8>,
    /// How many files are mapped or were read.
    pub files: usize,
    /// How many pages are kept.
    pub pages: usize,
}

/// Files that were changed so short a time ago might change again without another time stamp.
const YOUNG: Duration = Duration::from_secs(2);

/// Captures a program.
///
/// # Errors
/// Why it cannot be kept.
pub fn capture(request: &Request<'_>) -> anyhow::Result<Captured> {
    let cpu = trace::any_cpu();
    let mut first = Run::start(request, cpu, &["first"], &[("ELFUSE_CAPTURE", "1")])?;
    let wait = first.files.identities.iter().map(age).min();
    if let Some(wait) = wait.and_then(|age| YOUNG.checked_sub(age)) {
        std::thread::sleep(wait + Duration::from_millis(10));
        first = Run::start(request, cpu, &["first"], &[("ELFUSE_CAPTURE", "1")])?;
        let youngest = first.files.identities.iter().map(age).min();
        ensure!(
            youngest.is_none_or(|age| age >= YOUNG),
            "a file that it is made of keeps changing; try again when it does not"
        );
    }
    let variables = [("ELFUSE_CAPTURE", "22"), ("ELFUSE_AGAIN", "333"), ("X", "")];
    let second = Run::start(request, cpu, &["second", "of", "two"], &variables)?;
    ensure!(
        first.log.lookups == second.log.lookups
            && first.files.identities == second.files.identities,
        "its files changed while it was being captured; try again"
    );
    let [one, other] = images(&first, &second)?;
    let common = image::compare(&one, &other)?;
    let flags = common.head_flags(first.entry)
        | if request.is_fixed {
            head_flags::FIXED
        } else {
            0
        };
    let head = first.head(flags)?;
    let content = Content {
        head,
        exe: &first.exe,
        files: first.files.identities.clone(),
        lookups: first.log.lookups.clone(),
        regions: common.regions,
        runs: common.runs,
        slides: common.slides,
        fix_ups: common.fix_ups,
        auxiliary: first.key_words(),
        pages: common.pages,
    };
    let bytes = content.to_bytes().context("writing the snapshot")?;
    Ok(Captured {
        exe: first.exe.clone(),
        bytes,
        files: content.files.len(),
        pages: content.slides.len(),
    })
}

fn age(file: &elfuse_format::snapshot::File) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let newest = file.mtime.max(file.ctime);
    let changed = Duration::new(u64::try_from(newest.secs).unwrap_or(0), newest.nanos);
    now.saturating_sub(changed)
}

fn images(first: &Run, second: &Run) -> anyhow::Result<[Image; 2]> {
    let runs = [first, second];
    let mut wanted = BTreeSet::new();
    for run in runs {
        wanted.extend(
            stopped::own_pages(&run.tracee, &run.mappings.all).context("reading its page map")?,
        );
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let image = |run: &Run| -> anyhow::Result<Image> {
        // Where the mappings differ in number, comparing says so.
        let all = &run.mappings.all;
        let there: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|(number, page)| {
                all.get(*number as usize)
                    .is_some_and(|mapping| u64::from(*page) * 4096 < mapping.end - mapping.start)
            })
            .collect();
        Ok(Image {
            mappings: all.clone(),
            pages: stopped::read_pages(&run.tracee, all, &there).context("reading its memory")?,
            objects: run.objects.clone(),
            values: run.values.clone(),
            vdso: run.mappings.vdso,
            rseq: (run.log.rseq[0], run.log.rseq[1]),
            ticks: run.ticks,
            loader: run.objects.get(1).copied().unwrap_or_default(),
        })
    };
    Ok([image(first)?, image(second)?])
}

/// What the guest did up to the point.
#[derive(Debug, Default)]
struct Log {
    lookups: Vec<(Vec<u8>, Outcome)>,
    open: BTreeMap<u64, u32>,
    heap: u64,
    thread_pointer: u64,
    clear_tid: u64,
    robust_list: [u64; 2],
    rseq: [u64; 3],
}

/// A call that is being made.
struct Pending {
    call: Call,
    name: String,
    path: Vec<u8>,
    ip: u64,
    value: Option<i64>,
}

/// A process stopped at the point.
struct Run {
    tracee: Tracee,
    log: Log,
    files: Files,
    mappings: stopped::Mappings,
    objects: Vec<stopped::Object>,
    exe: Vec<u8>,
    resume: u64,
    entry: u64,
    auxiliary: BTreeMap<u64, u64>,
    values: Vec<(Value, u64)>,
    /// The time stamp counter before it was started and after it was stopped.
    ticks: (u64, u64),
    /// Below here nothing was mapped so far.
    floor: u64,
}

/// Where a dynamic linker hands over: when the instruction there is about to be executed it is done, and its frames are gone.
///
/// glibc's `_start` is `mov rdi, rsp; call _dl_start`, and behind it lies `_dl_start_user`; musl's goes to the program's entry.
fn point(start: &[u8], loader_entry: u64, program_entry: u64) -> Option<u64> {
    const GLIBC: &[u8] = b"\x48\x89\xe7\xe8";
    const MUSL: &[u8] = b"\x48\x31\xed\x48\x89\xe7\x48\x8d\x35";
    if start.starts_with(GLIBC) {
        Some(loader_entry + 8)
    } else {
        start.starts_with(MUSL).then_some(program_entry)
    }
}

fn is_own(ip: u64) -> bool {
    usize::try_from(ip).is_ok_and(|ip| OWN.contains(&ip))
}

impl Run {
    fn start(
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
            objects: Vec::new(),
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
                    let call = self.judge(nr, args, ip)?;
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
        self.objects = vec![
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

    fn judge(&self, nr: u64, args: [u64; 6], ip: u64) -> anyhow::Result<Pending> {
        let call = calls::judge(nr, args).with_context(|| {
            format!(
                "it calls {}({:#x}, {:#x}, {:#x}) before its first constructor",
                calls::name(nr),
                args[0],
                args[1],
                args[2]
            )
        })?;
        let path = match call {
            Call::Open(at) | Call::Access(at) | Call::Stat(at, _) | Call::ReadLink(at) => {
                self.tracee.string(at)?
            }
            _ => Vec::new(),
        };
        Ok(Pending {
            call,
            name: calls::name(nr),
            path,
            ip,
            value: None,
        })
    }

    /// A call has been made.
    fn finish(&mut self, pending: Option<Pending>) -> anyhow::Result<()> {
        let Some(Pending {
            call,
            name,
            path,
            value,
            ..
        }) = pending
        else {
            return Ok(());
        };
        let value = value.with_context(|| format!("what {name} returned was not seen"))?;
        let shown = String::from_utf8_lossy(&path).into_owned();
        let is_lookup = !path.is_empty();
        if is_lookup && path == b"/proc/self/exe" && matches!(call, Call::ReadLink(_)) {
            return Ok(());
        }
        ensure!(
            !is_lookup || path.starts_with(b"/"),
            "it looks for {shown} in its working directory"
        );
        ensure!(
            !path.starts_with(b"/proc/") && !path.starts_with(b"/sys/"),
            "it looks at {shown}, which tells every process something else"
        );
        if let Some(outcome) = calls::failure(value).filter(|_| is_lookup) {
            self.log.lookups.push((path, outcome));
            return Ok(());
        }
        let was_made = value >= 0;
        match call {
            Call::Plain => {}
            Call::Map(len) if was_made => {
                let start = value.cast_unsigned();
                let end = (start + len).next_multiple_of(4096);
                self.objects.push((start, end));
            }
            Call::Map(_) => {}
            Call::Break(_) => self.log.heap = value.cast_unsigned(),
            Call::Open(_) => {
                let link = PathBuf::from(format!("/proc/{}/fd/{value}", self.tracee.pid()));
                let host = fs::read_link(&link)?;
                let file = self.files.number(&host)?;
                self.log.open.insert(value.cast_unsigned(), file);
                self.log.lookups.push((path, Outcome::File(file)));
            }
            Call::Stat(_, into) => {
                /// Offset of `st_mode`.
                const MODE: u64 = 24;
                let mode = self.tracee.word(into + MODE)? as u32;
                let outcome = match mode & libc::S_IFMT {
                    libc::S_IFDIR => Outcome::Directory,
                    _ => Outcome::Other,
                };
                self.log.lookups.push((path, outcome));
            }
            Call::Access(_) | Call::ReadLink(_) => {
                bail!("it goes by {shown}, which is there ({name})")
            }
            Call::Close(fd) => {
                self.log.open.remove(&fd);
            }
            Call::Absent => ensure!(!was_made, "it makes use of {name}"),
            Call::ThreadPointer(at) if was_made => self.log.thread_pointer = at,
            Call::ClearTid(at) => self.log.clear_tid = at,
            Call::RobustList(list) if was_made => self.log.robust_list = list,
            Call::Rseq(area) if was_made => self.log.rseq = area,
            Call::ThreadPointer(_) | Call::RobustList(_) | Call::Rseq(_) => {}
        }
        Ok(())
    }

    /// At the point.
    fn look(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.log.open.is_empty(),
            "it leaves files open: {:?}",
            self.log.open
        );
        let known = self.files.identities.len();
        self.mappings = stopped::mappings(&self.tracee, &mut self.files, &self.objects)?;
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

    /// The words of the auxiliary vector that have to be the same: all but addresses, and who runs it.
    fn key_words(&self) -> Vec<Word> {
        const OWN_WORDS: [usize; 12] = [
            at::PHDR,
            at::PHNUM,
            at::BASE,
            at::ENTRY,
            at::UID,
            at::EUID,
            at::GID,
            at::EGID,
            at::PLATFORM,
            at::RANDOM,
            at::EXECFN,
            at::SYSINFO_EHDR,
        ];
        let is_own = |key: u64| OWN_WORDS.iter().any(|own| *own as u64 == key);
        let words = self.auxiliary.iter().filter(|(key, _)| !is_own(**key));
        words
            .map(|(key, value)| Word {
                key: *key,
                value: *value,
            })
            .collect()
    }

    fn head(&self, flags: u32) -> anyhow::Result<Head> {
        let program = Program::read(self.files.paths.first().context("no program")?)?;
        let plan = program.plan()?;
        ensure!(
            !plan.phdrs.executable_stack(),
            "it wants an executable stack"
        );
        let bias = self.entry.wrapping_sub(plan.header.entry);
        let at = |vaddr: u64| vaddr.wrapping_add(bias);
        let extent = plan.extent();
        let (start, end) = self.mappings.vdso;
        let mut vdso = vec![0; (end - start) as usize];
        self.tracee.read(start, &mut vdso)?;
        let word = |key| self.auxiliary.get(&(key as u64)).copied().unwrap_or(0);
        Ok(Head {
            boot_id: stopped::boot_id()?,
            vdso_checksum: if vdso.is_empty() { 0 } else { checksum(&vdso) },
            vdso_len: vdso.len() as u64,
            stack_limits: trace::stack_limits()?,
            resume: self.resume,
            entry: self.entry,
            phdr: word(at::PHDR),
            phnum: word(at::PHNUM),
            base: word(at::BASE),
            thread_pointer: self.log.thread_pointer,
            clear_tid: self.log.clear_tid,
            robust_list: self.log.robust_list,
            rseq: self.log.rseq,
            heap: at(extent.end).next_multiple_of(4096),
            extent: [extent.code.0, extent.code.1, extent.data.0, extent.data.1].map(at),
            exe: Span::default(),
            flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::point;

    #[test]
    fn the_point_is_known_by_how_a_dynamic_linker_begins() {
        let glibc = b"\x48\x89\xe7\xe8\x58\x0c\x00\x00\x49\x89\xc4";
        assert_eq!(point(glibc, 0x1000, 0x5000), Some(0x1008));
        let musl = b"\x48\x31\xed\x48\x89\xe7\x48\x8d\x35\x00";
        assert_eq!(point(musl, 0x1000, 0x5000), Some(0x5000));
        assert_eq!(
            point(b"\xf3\x0f\x1e\xfa\x48\x89\xe7\xe8", 0x1000, 0x5000),
            None
        );
    }
}
