//! What a snapshot says of the process that it was taken from.

use anyhow::{Context, ensure};
use elfuse_format::checksum::checksum;
use elfuse_format::snapshot::{Head, Word};
use elfuse_format::span::Span;
use elfuse_runtime::sys::abi::at;

use super::run::Run;
use crate::resident::program::Program;
use crate::resident::{stopped, trace};

impl Run {
    /// The words of the auxiliary vector that have to be the same: all but addresses, and who runs it.
    pub(super) fn key_words(&self) -> Vec<Word> {
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

    /// What the snapshot says once.
    ///
    /// # Errors
    /// Its files cannot be read again, or it wants an executable stack.
    pub(super) fn head(&self, flags: u32) -> anyhow::Result<Head> {
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
