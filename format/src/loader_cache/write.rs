//! Making a loader cache.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rkyv::rancor::Failure;

use super::{
    CandidateRow, Closures, DirRow, InputRow, Inputs, ObjectRow, ProgramRow, Reason, SonameRow,
    Sonames,
};
use crate::checksum::checksum;
use crate::elf_facts::ContentHash;
use crate::error::FormatError;
use crate::header::{Kind, PartKind, Writer};
use crate::span::Span;

/// A directory, in breadth-first order.
#[derive(Debug, Clone)]
pub struct NewDir<'a> {
    /// Number of the parent.
    pub parent: u32,
    /// Its entry there.
    pub entry: u32,
    /// First child and number of children.
    pub children: Span,
    /// Number of ELF rows in the block.
    pub elf_count: u32,
    /// The payload of its sidecar; empty: not covered.
    pub block: &'a [u8],
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NewInput {
    /// Guest path.
    pub path: Vec<u8>,
    /// BLAKE3-256 of its content.
    pub content_hash: ContentHash,
}

/// A SONAME and its candidates in search order.
#[derive(Debug, Clone)]
pub struct NewSoname {
    /// The name.
    pub name: Vec<u8>,
    /// Who may satisfy it.
    pub candidates: Vec<CandidateRow>,
}

/// An object of a closure.
#[derive(Debug, Clone)]
pub struct NewObject {
    /// The name it was asked for by.
    pub name: Vec<u8>,
    /// (directory, entry), if found.
    pub place: Option<(u32, u32)>,
    /// 0 is the program, n the closure's object n - 1.
    pub requester: u32,
    /// Why there.
    pub reason: Reason,
    /// The search directory as the loader put it together.
    pub search_dir: Vec<u8>,
}

/// A program and its closure.
#[derive(Debug, Clone)]
pub struct NewProgram {
    /// Directory.
    pub dir: u32,
    /// Entry.
    pub entry: u32,
    /// See [`super::program_flags`].
    pub flags: u32,
    /// In load order.
    pub objects: Vec<NewObject>,
}

/// Everything that goes into the file.
#[derive(Debug, Clone, Default)]
pub struct LoaderCacheContent<'a> {
    /// Which rules SONAMEs and closures were computed by: the header's `flags`. A maker that has others computes them anew.
    pub rules: u32,
    /// Breadth-first.
    pub dirs: Vec<NewDir<'a>>,
    /// In any order.
    pub inputs: Vec<NewInput>,
    /// In any order.
    pub sonames: Vec<NewSoname>,
    /// In any order.
    pub programs: Vec<NewProgram>,
}

/// A blob in which each string stands once, in the order of first use.
#[derive(Debug, Default)]
pub struct Interner {
    blob: Vec<u8>,
    known: BTreeMap<Vec<u8>, Span>,
}

const TOO_LARGE: FormatError = FormatError::TooLarge {
    what: "the loader cache",
};

fn small(number: usize) -> Result<u32, FormatError> {
    u32::try_from(number).map_err(|_| TOO_LARGE)
}

impl Interner {
    /// Where `bytes` stands, adding it if it is new.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] at 4 GiB.
    pub fn add(&mut self, bytes: &[u8]) -> Result<Span, FormatError> {
        if let Some(span) = self.known.get(bytes) {
            return Ok(*span);
        }
        let span = Span {
            start: small(self.blob.len())?,
            len: small(bytes.len())?,
        };
        self.blob.extend_from_slice(bytes);
        self.known.insert(bytes.to_vec(), span);
        Ok(span)
    }

    /// The blob.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }
}

macro_rules! archive {
    ($value:expr) => {
        rkyv::to_bytes::<Failure>($value)
            .map(|bytes| bytes.into_vec())
            .map_err(|_| TOO_LARGE)
    };
}

fn inputs(mut new: Vec<NewInput>) -> Result<Vec<u8>, FormatError> {
    new.sort();
    let mut strings = Interner::default();
    let rows = new.iter().map(|input| {
        Ok(InputRow {
            path: strings.add(&input.path)?,
            content_hash: input.content_hash,
        })
    });
    let files = rows.collect::<Result<Vec<_>, FormatError>>()?;
    archive!(&Inputs {
        strings: strings.blob(),
        files: &files
    })
}

fn sonames(mut new: Vec<NewSoname>) -> Result<Vec<u8>, FormatError> {
    new.sort_by(|a, b| a.name.cmp(&b.name));
    let mut strings = Interner::default();
    let (mut names, mut candidates) = (Vec::with_capacity(new.len()), Vec::new());
    for soname in &new {
        names.push(SonameRow {
            name: strings.add(&soname.name)?,
            candidates: Span {
                start: small(candidates.len())?,
                len: small(soname.candidates.len())?,
            },
        });
        candidates.extend_from_slice(&soname.candidates);
    }
    archive!(&Sonames {
        strings: strings.blob(),
        names: &names,
        candidates: &candidates
    })
}

fn closures(mut new: Vec<NewProgram>) -> Result<Vec<u8>, FormatError> {
    new.sort_by_key(|program| (program.dir, program.entry));
    let mut strings = Interner::default();
    let (mut programs, mut objects) = (Vec::with_capacity(new.len()), Vec::new());
    for program in &new {
        programs.push(ProgramRow {
            dir: program.dir,
            entry: program.entry,
            flags: program.flags,
            objects: Span {
                start: small(objects.len())?,
                len: small(program.objects.len())?,
            },
        });
        for object in &program.objects {
            let (dir, entry) = object.place.unwrap_or((super::NONE, super::NONE));
            objects.push(ObjectRow {
                name: strings.add(&object.name)?,
                dir,
                entry,
                requester: object.requester,
                search_dir: strings.add(&object.search_dir)?,
                reason: object.reason as u8,
            });
        }
    }
    archive!(&Closures {
        strings: strings.blob(),
        programs: &programs,
        objects: &objects
    })
}

impl LoaderCacheContent<'_> {
    /// The bytes of the file. The order of inputs, SONAMEs and programs does not matter; that of directories does.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`].
    pub fn encode(self) -> Result<Vec<u8>, FormatError> {
        let total = self.dirs.iter().map(|dir| dir.block.len()).sum();
        let mut blocks = Vec::with_capacity(total);
        let mut rows = Vec::with_capacity(self.dirs.len());
        let mut first_elf = 0_u32;
        for dir in &self.dirs {
            rows.push(DirRow {
                parent: dir.parent,
                entry: dir.entry,
                first_child: dir.children.start,
                child_count: dir.children.len,
                first_elf,
                block_len: small(dir.block.len())?,
                block_offset: blocks.len() as u64,
                block_checksum: match dir.block {
                    [] => 0,
                    block => checksum(block),
                },
            });
            first_elf = first_elf.checked_add(dir.elf_count).ok_or(TOO_LARGE)?;
            blocks.extend_from_slice(dir.block);
        }
        let mut file = Writer::new();
        file.table(PartKind::Dirs, &rows);
        file.part(PartKind::Blocks, blocks);
        file.part(PartKind::Inputs, inputs(self.inputs)?);
        file.part(PartKind::Sonames, sonames(self.sonames)?);
        file.part(PartKind::Closures, closures(self.programs)?);
        file.finish(Kind::LoaderCache, self.rules, 0)
    }
}
