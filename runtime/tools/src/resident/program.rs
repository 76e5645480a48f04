//! What a program's headers say of where it lies.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use elfuse_runtime::loader::elf::{Header, MAX_PHDRS, ProgramHeaders};
use elfuse_runtime::loader::plan::Plan;

use super::stopped::Object;

/// A program or dynamic linker, as far as its headers go.
#[derive(Debug)]
pub struct Program {
    file: File,
    start: Vec<u8>,
    header: Header,
}

impl Program {
    /// Reads its headers.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let len = file.metadata()?.len().min(MAX_PHDRS as u64 + 4096);
        let mut start = vec![0; usize::try_from(len)?];
        file.read_exact_at(&mut start, 0)
            .with_context(|| format!("reading {}", path.display()))?;
        let header = Header::parse(&start)
            .map_err(|why| anyhow!("{} cannot be loaded: {why:?}", path.display()))?;
        Ok(Self {
            file,
            start,
            header,
        })
    }

    fn headers(&self) -> anyhow::Result<ProgramHeaders<'_>> {
        let rows = || {
            let start = usize::try_from(self.header.phdr_offset).ok()?;
            self.start
                .get(start..start.checked_add(self.header.phdrs_len())?)
        };
        let rows = rows().context("its program headers are out of reach")?;
        Ok(ProgramHeaders::new(rows))
    }

    /// What is mapped for it.
    ///
    /// # Errors
    /// Its headers contradict themselves.
    pub fn plan(&self) -> anyhow::Result<Plan<'_>> {
        Plan::new(self.header, self.headers()?)
            .map_err(|why| anyhow!("it cannot be loaded: {why:?}"))
    }

    /// Where its segments lie, from the first to the end of the last; `bias` is what its addresses are moved by.
    ///
    /// # Errors
    /// As of [`Program::plan`].
    pub fn span(&self, bias: impl Fn(&Header) -> u64) -> anyhow::Result<Object> {
        let plan = self.plan()?;
        let start = plan.start.wrapping_add(bias(&self.header));
        Ok((start, start + plan.len))
    }

    /// The path of its dynamic linker.
    ///
    /// # Errors
    /// It names none, or no absolute path.
    pub fn interpreter(&self) -> anyhow::Result<Vec<u8>> {
        const PATH_MAX: u64 = 4096;
        let (offset, len) = self
            .headers()?
            .interpreter()
            .context("it names no dynamic linker")?;
        let mut path = vec![0; usize::try_from(len.min(PATH_MAX))?];
        self.file.read_exact_at(&mut path, offset)?;
        while path.last() == Some(&0) {
            path.pop();
        }
        ensure!(
            path.starts_with(b"/"),
            "its dynamic linker has no absolute path"
        );
        Ok(path)
    }
}
