//! The calls that a program makes up to the point, and what they came to.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use elfuse_format::snapshot::Outcome;

use crate::resident::calls::{self, Call};
use crate::resident::stopped::{Files, Object};
use crate::resident::trace::Tracee;

/// What the guest did up to the point.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Path and outcome, in order.
    pub(super) lookups: Vec<(Vec<u8>, Outcome)>,
    /// Descriptors that are open, and the numbers of their files.
    pub(super) open: BTreeMap<u64, u32>,
    /// What was mapped: the program, its dynamic linker, then in order.
    pub(super) objects: Vec<Object>,
    /// What the last brk(2) returned.
    pub(super) heap: u64,
    /// What arch_prctl(ARCH_SET_FS) was given.
    pub(super) thread_pointer: u64,
    /// What set_tid_address(2) was given.
    pub(super) clear_tid: u64,
    /// What set_robust_list(2) was given.
    pub(super) robust_list: [u64; 2],
    /// What rseq(2) was given.
    pub(super) rseq: [u64; 3],
}

/// A call that is being made.
pub(super) struct Pending {
    /// What it is to the capture.
    pub(super) call: Call,
    name: String,
    path: Vec<u8>,
    /// Behind its instruction.
    pub(super) ip: u64,
    /// What it returned, once that was seen.
    pub(super) value: Option<i64>,
}

impl Pending {
    /// A call that is about to be made.
    ///
    /// # Errors
    /// It is none that may come before the first constructor.
    pub(super) fn judge(tracee: &Tracee, nr: u64, args: [u64; 6], ip: u64) -> anyhow::Result<Self> {
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
                tracee.string(at)?
            }
            _ => Vec::new(),
        };
        Ok(Self {
            call,
            name: calls::name(nr),
            path,
            ip,
            value: None,
        })
    }
}

impl Log {
    /// A call has been made.
    ///
    /// # Errors
    /// What it came to is not what every process would have been told.
    pub(super) fn finish(
        &mut self,
        pending: Option<Pending>,
        tracee: &Tracee,
        files: &mut Files,
    ) -> anyhow::Result<()> {
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
            self.lookups.push((path, outcome));
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
            Call::Break(_) => self.heap = value.cast_unsigned(),
            Call::Open(_) => {
                let link = PathBuf::from(format!("/proc/{}/fd/{value}", tracee.pid()));
                let host = fs::read_link(&link)?;
                let file = files.number(&host)?;
                self.open.insert(value.cast_unsigned(), file);
                self.lookups.push((path, Outcome::File(file)));
            }
            Call::Stat(_, into) => {
                /// Offset of `st_mode`.
                const MODE: u64 = 24;
                let mode = tracee.word(into + MODE)? as u32;
                let outcome = match mode & libc::S_IFMT {
                    libc::S_IFDIR => Outcome::Directory,
                    _ => Outcome::Other,
                };
                self.lookups.push((path, outcome));
            }
            Call::Access(_) | Call::ReadLink(_) => {
                bail!("it goes by {shown}, which is there ({name})")
            }
            Call::Close(fd) => {
                self.open.remove(&fd);
            }
            Call::Absent => ensure!(!was_made, "it makes use of {name}"),
            Call::ThreadPointer(at) if was_made => self.thread_pointer = at,
            Call::ClearTid(at) => self.clear_tid = at,
            Call::RobustList(list) if was_made => self.robust_list = list,
            Call::Rseq(area) if was_made => self.rseq = area,
            Call::ThreadPointer(_) | Call::RobustList(_) | Call::Rseq(_) => {}
        }
        Ok(())
    }
}
