//! What the readers of the indexer must take: arbitrary bytes. One function a fuzz target; the fuzz targets in `fuzz/` call
//! these too, and what they found is replayed from `fuzz/fixtures/`.
#![allow(dead_code, reason = "each fuzz target takes what it needs")]

pub(crate) mod tree;

use std::collections::BTreeSet;

use elfuse_indexer::inspect;
use elfuse_indexer::patch;
use elfuse_indexer::relocated;
use elfuse_indexer::resolve::conf::{LD_SO_CONF, LdSoConf};
use elfuse_indexer::resolve::{self, Outcome, Question};
use elfuse_indexer::tree::{Elf, Kind, Tree};

use tree::RandomTree;

/// An ELF file. What is kept of it is bounded, and comes from the file.
pub(crate) fn inspect(data: &[u8]) {
    let Elf::Facts(facts) = inspect::inspect_bytes(data).expect("memory can be read") else {
        return;
    };
    assert_eq!(facts.size, data.len() as u64);
    let single = [
        &facts.interpreter,
        &facts.soname,
        &facts.rpath,
        &facts.runpath,
    ];
    let strings = single.into_iter().flatten().chain(&facts.needed);
    for string in strings {
        assert!(!string.contains(&0), "a string holds its terminator");
        let stands_there = string.is_empty() || data.windows(string.len()).any(|w| w == &**string);
        assert!(stands_there, "a string that is not in the file");
    }
    let total: usize = facts
        .needed
        .iter()
        .chain(&facts.filters)
        .map(Vec::len)
        .sum();
    assert!(total <= inspect::MAX_STRINGS + facts.filters.len());
}

/// The code of an ELF file: as it is, and in an executable that is made around it. A copy, if there is one, is what a run accepts,
/// and its original but for windows.
pub(crate) fn patch(data: &[u8]) {
    patch_file(data);
    patch_file(&around_code(data));
}

fn patch_file(bytes: &[u8]) {
    let runs = [relocated::of_bytes(bytes), relocated::dump::of_bytes(bytes)];
    for run in runs.into_iter().flatten() {
        let pages = (bytes.len() as u64).div_ceil(4096);
        assert!(run.pages as usize >= relocated::MIN_PAGES);
        assert!(u64::from(run.first) + u64::from(run.pages) <= pages);
    }
    let Some(analysis) = patch::analyse(bytes) else {
        return;
    };
    assert!(analysis.sites.is_sorted_by_key(|site| site.vaddr));
    let Some(copy) = analysis.copy(&[3; 32]) else {
        return;
    };
    assert!(analysis.refusal.is_none());
    let annex = copy.block.annex() as usize;
    let words = &copy.bytes[annex..annex + copy.block.data_len() as usize];
    assert!(copy.block.accepts(words, &copy.segment));
    assert_eq!(copy.bytes.len() as u64, copy.block.file_len());
    let mut expected = bytes.to_vec();
    for site in &analysis.sites {
        if let patch::Outcome::Patched { window, .. } = &site.outcome {
            let start = window.start - copy.segment.vaddr + copy.segment.offset;
            let range = start as usize..(start + window.end - window.start) as usize;
            assert!(range.len() >= 7);
            expected[range.clone()].copy_from_slice(&copy.bytes[range]);
        }
    }
    assert_eq!(expected, copy.bytes[..bytes.len()]);
}

/// An executable without sections that is one segment of this code.
fn around_code(code: &[u8]) -> Vec<u8> {
    let len = (64 + 56 + code.len()) as u64;
    let mut file = vec![0; 64 + 56];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &0x40_0078_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(64 + 16, &0x40_0000_u64.to_le_bytes());
    put(64 + 32, &len.to_le_bytes());
    put(64 + 40, &len.to_le_bytes());
    file.extend_from_slice(code);
    file
}

/// A path in a tree: the first line is the path, the rest the tree.
pub(crate) fn walk(data: &[u8]) {
    let (path, rest) = split_line(data);
    let tree = RandomTree::new(rest);
    for follow in [true, false] {
        let Ok(node) = tree.locate(path, follow) else {
            continue;
        };
        let components: Vec<_> = node.real.split(|&byte| byte == b'/').skip(1).collect();
        assert_eq!(node.real.first(), Some(&b'/'));
        assert!(!components.iter().any(|c| matches!(*c, b"." | b"..")));
        assert!(&*node.real == b"/" || components.iter().all(|c| !c.is_empty()));
        assert!(!follow || node.kind != Kind::Symlink);
        // A path without symlinks means itself, whoever walks it.
        if node.real.len() < elfuse_indexer::tree::PATH_MAX {
            assert_eq!(tree.locate(&node.real, false), Ok(node));
        }
    }
}

/// `ld.so.conf` and what it includes: the whole input is a tree.
pub(crate) fn conf(data: &[u8]) {
    let tree = RandomTree::new(data);
    let conf = LdSoConf::read(&tree, LD_SO_CONF);
    for directory in &conf.directories {
        assert!(!directory.path.is_empty() && directory.line > 0);
    }
}

/// The resolver, with `ld.so.cache`, path files and RUNPATHs as the input has them: the first line is the program, the rest a
/// tree.
pub(crate) fn resolve(data: &[u8]) {
    let (program, rest) = split_line(data);
    let tree = RandomTree::new(rest);
    let question = Question {
        library_path: rest
            .first()
            .is_some_and(|byte| byte % 2 == 0)
            .then(|| program.to_vec()),
        ..Question::new(program)
    };
    let Ok(Outcome::Linked(linked)) = resolve::resolve(&tree, &question) else {
        return;
    };
    let loaded: BTreeSet<_> = linked.order.iter().map(|id| id.0).collect();
    assert_eq!(loaded.len(), linked.order.len(), "an object loaded twice");
    for edge in &linked.edges {
        assert!(edge.from.0 < linked.objects.len());
        assert!(edge.to.is_none_or(|to| to.0 < linked.objects.len()));
    }
}

fn split_line(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n');
    end.map_or((data, &[]), |end| (&data[..end], &data[end + 1..]))
}
