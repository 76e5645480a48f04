//! The whole of a loader cache at once, for tools: a run checks what it touches.

use alloc::vec::Vec;

use super::{LoaderCache, NONE, Reason};
use crate::error::FormatError;
use crate::header::PartKind;
use crate::sidecar::Block;
use crate::span::ArchivedSpan;

const fn malformed(part: PartKind) -> FormatError {
    FormatError::Malformed { what: part.name() }
}

/// Whether spans lie end to end from 0: then reading through them costs no more than the table is long.
fn tile<'a>(spans: impl Iterator<Item = &'a ArchivedSpan>, len: usize) -> bool {
    let mut next = 0_u64;
    for span in spans {
        if u64::from(span.start.to_native()) != next {
            return false;
        }
        next += u64::from(span.len.to_native());
    }
    next == len as u64
}

/// What is known of the directories once their rows are checked.
struct Dirs<'a> {
    blocks: Vec<Option<Block<'a>>>,
}

impl Dirs<'_> {
    fn has(&self, dir: u32, entry: u32) -> bool {
        let block = self.blocks.get(dir as usize).and_then(Option::as_ref);
        block.is_some_and(|block| (entry as usize) < block.len())
    }
}

impl<'a> LoaderCache<'a> {
    /// Checks everything that a reader may rely on: every part and block, the numbering of directories, that each number means
    /// something, and the order of every table.
    ///
    /// # Errors
    /// Those of [`File::check`](crate::header::File::check); [`FormatError::Malformed`].
    pub fn check(&self) -> Result<(), FormatError> {
        self.file.check()?;
        let dirs = self.check_dirs()?;
        self.check_inputs()?;
        self.check_sonames(&dirs)?;
        self.check_closures(&dirs)
    }

    fn check_dirs(&self) -> Result<Dirs<'a>, FormatError> {
        const MALFORMED: FormatError = malformed(PartKind::Dirs);
        let rows = self.dirs()?;
        let mut blocks = Vec::with_capacity(rows.len());
        let (mut next_child, mut next_elf, mut next_block) = (1_u64, 0_u64, 0_u64);
        for (number, row) in (0_u32..).zip(rows) {
            let block = self.block(row)?;
            let (mut directories, mut elves) = (0, 0);
            if let Some(block) = block {
                block.check()?;
                let is_directory = |entry: &crate::sidecar::Entry<'_>| entry.rank().is_some();
                let children = block.entries().filter(is_directory);
                for entry in children {
                    let child = usize::try_from(next_child + directories).map_err(|_| MALFORMED)?;
                    let child = rows.get(child).ok_or(MALFORMED)?;
                    if (child.parent.to_native(), child.entry.to_native()) != (number, entry.index)
                    {
                        return Err(MALFORMED);
                    }
                    directories += 1;
                }
                elves = block.elf_count() as u64;
            }
            let first = if directories == 0 { 0 } else { next_child };
            // A directory that none before it leads to could be its own parent.
            let is_reached = number == 0 || u64::from(number) < next_child;
            let joins = is_reached
                && u64::from(row.first_child.to_native()) == first
                && u64::from(row.child_count.to_native()) == directories
                && u64::from(row.first_elf.to_native()) == next_elf
                && row.block_offset.to_native() == next_block
                && (block.is_some() || row.block_checksum.to_native() == 0);
            if !joins {
                return Err(MALFORMED);
            }
            next_child += directories;
            next_elf += elves;
            next_block += u64::from(row.block_len.to_native());
            blocks.push(block);
        }
        let root = rows
            .first()
            .map(|row| (row.parent.to_native(), row.entry.to_native()));
        let blocks_len = self.file.part_unchecked(PartKind::Blocks)?.len() as u64;
        let all = rows.is_empty() || (root == Some((0, NONE)) && next_child == rows.len() as u64);
        if !all || next_block != blocks_len {
            return Err(MALFORMED);
        }
        Ok(Dirs { blocks })
    }

    fn check_inputs(&self) -> Result<(), FormatError> {
        let inputs = self.inputs()?;
        let paths = inputs.rows().map(|(path, _)| path);
        let sorted = paths.is_sorted_by(|a, b| a < b);
        let absolute = inputs.rows().all(|(path, _)| path.starts_with(b"/"));
        if sorted && absolute && inputs.rows().count() == inputs.files.len() {
            Ok(())
        } else {
            Err(malformed(PartKind::Inputs))
        }
    }

    fn check_sonames(&self, dirs: &Dirs<'_>) -> Result<(), FormatError> {
        let sonames = self.sonames()?;
        let candidates = sonames.candidates.get();
        let sorted = sonames
            .rows()
            .map(|(name, _)| name)
            .is_sorted_by(|a, b| a < b);
        let spans = sonames.names.get().iter().map(|row| &row.candidates);
        let known = |row: &super::ArchivedCandidateRow| {
            dirs.has(row.dir.to_native(), row.entry.to_native())
        };
        if sorted
            && tile(spans, candidates.len())
            && sonames.rows().count() == sonames.names.len()
            && candidates.iter().all(known)
        {
            Ok(())
        } else {
            Err(malformed(PartKind::Sonames))
        }
    }

    fn check_closures(&self, dirs: &Dirs<'_>) -> Result<(), FormatError> {
        const MALFORMED: FormatError = malformed(PartKind::Closures);
        let closures = self.closures()?;
        let (programs, objects) = (closures.programs.get(), closures.objects.get());
        let place = |row: &super::ArchivedProgramRow| (row.dir.to_native(), row.entry.to_native());
        let sorted = programs.is_sorted_by(|a, b| place(a) < place(b));
        if !sorted || !tile(programs.iter().map(|row| &row.objects), objects.len()) {
            return Err(MALFORMED);
        }
        for program in programs {
            let (dir, entry) = place(program);
            let own = closures.objects(program);
            let legal = |object: &super::ArchivedObjectRow| {
                let strings = closures.strings.get();
                let (dir, entry) = (object.dir.to_native(), object.entry.to_native());
                object.name.of(strings).is_some()
                    && object.search_dir.of(strings).is_some()
                    && object.requester.to_native() as usize <= own.len()
                    && Reason::from_byte(object.reason).is_some()
                    && ((dir, entry) == (NONE, NONE) || dirs.has(dir, entry))
            };
            if !dirs.has(dir, entry) || !own.iter().all(legal) {
                return Err(MALFORMED);
            }
        }
        Ok(())
    }
}
