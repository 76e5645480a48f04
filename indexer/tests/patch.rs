//! Patched copies: of a library with one function for each shape, each run beside its original; and of files that lie.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_format::text::TextVerdict;
use elfuse_indexer::patch::{self, Analysis, Kind, Outcome, Refusal, Shape};
use proptest::prelude::*;

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/patch")
        .join(name)
}

fn compile(name: &str, arguments: &[&str], sources: &[&str]) -> PathBuf {
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Tests run side by side, and a program that runs cannot be written to.
    let unique = output.with_extension(format!("{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(arguments)
        .args(sources.iter().map(|name| source(name)));
    let status = cc.arg("-o").arg(&unique).status().expect("a C compiler");
    assert!(status.success());
    std::fs::rename(&unique, &output).unwrap();
    output
}

/// The functions of `snippets.s`, as a file that is named like a dynamic linker.
fn snippets(name: &str) -> Vec<u8> {
    let flags = [
        "-shared",
        "-nostdlib",
        "-Wl,-soname,ld-test.so",
        "-Wl,-z,separate-code",
    ];
    std::fs::read(compile(name, &flags, &["snippets.s"])).unwrap()
}

fn shapes(analysis: &Analysis<'_>) -> BTreeMap<String, Outcome> {
    let sites = analysis.sites.iter().map(|site| {
        let (function, _) = analysis.function(site.vaddr).expect("a symbol");
        (String::from_utf8(function).unwrap(), site.outcome.clone())
    });
    sites.collect()
}

const FUNCTIONS: [(&str, Shape); 17] = [
    ("before_only", Shape::A),
    ("with_what_follows", Shape::A),
    ("through_r11", Shape::A),
    ("ends_with_a_jump", Shape::A),
    ("ends_with_a_return", Shape::A),
    ("number_is_given", Shape::D),
    ("number_of_a_loop", Shape::A),
    ("ends_leases", Shape::B),
    ("ends_leases_and_keeps_r11", Shape::B),
    ("reads", Shape::B),
    ("reads_behind_a_branch", Shape::B),
    ("reads_always_as_flags_are_in_use", Shape::B),
    ("reads_always_as_the_descriptor_comes_later", Shape::B),
    ("controls", Shape::B),
    ("controls_always_as_the_command_comes_later", Shape::B),
    ("closes", Shape::A),
    ("cpuid_leaf", Shape::C),
];

#[test]
fn each_function_gets_its_shape_and_what_must_not_be_patched_a_reason() {
    let bytes = snippets("shapes.so");
    let analysis = patch::analyse(&bytes).unwrap();
    let found = shapes(&analysis);
    for (name, expected) in FUNCTIONS {
        let Outcome::Patched { shape, window } = &found[name] else {
            panic!("{name}: {:?}", found[name]);
        };
        assert_eq!(*shape, expected, "{name}");
        assert!(window.end - window.start >= 7, "{name}");
    }
    assert_eq!(found["branch_into"], Outcome::Refused(Refusal::Branch));
    assert_eq!(found["gate"], Outcome::Refused(Refusal::Gate));
    // Its two bytes are the inside of an instruction, which is a system call all the same.
    assert_eq!(found["prefixed"], Outcome::Refused(Refusal::NotCode));
    assert_eq!(found["signal_return"], Outcome::Left);
    assert_eq!(found["plain"], Outcome::Left);
    assert_eq!(analysis.verdict(), TextVerdict::Partial);
    let looped = analysis
        .sites
        .iter()
        .filter(|site| site.kind == Kind::Syscall(Some(79)));
    // Not of `branch_into`, whose second call has the first one's result for a number.
    assert_eq!(looped.count(), 6);
}

#[test]
fn a_patched_function_leaves_what_its_original_leaves() {
    let bytes = snippets("run.so");
    let analysis = patch::analyse(&bytes).unwrap();
    let hash = [7; 32];
    let copy = analysis.copy(&hash).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (original, patched) = (directory.path().join("a"), directory.path().join("b"));
    std::fs::write(&original, &bytes).unwrap();
    std::fs::write(&patched, &copy.bytes).unwrap();
    let program = compile("run-patched", &["-O1", "-w"], &["run.c"]);
    let mut run = Command::new(program);
    run.arg(original).arg(patched);
    let block = &copy.block;
    let numbers = [
        block.data(),
        block.annex(),
        block.data_len(),
        block.code_len(),
    ];
    run.args(numbers.map(|number| number.to_string()));
    run.arg(block.slots().to_string());
    for site in &analysis.sites {
        let (name, offset) = analysis.function(site.vaddr).unwrap();
        let name = String::from_utf8(name).unwrap();
        if matches!(site.outcome, Outcome::Patched { .. }) {
            let is_cpuid = u8::from(site.kind == Kind::Cpuid);
            let address = site.vaddr - offset;
            run.args([name, address.to_string(), is_cpuid.to_string()]);
        }
    }
    let output = run.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}\n{text}", output.status);
    assert_eq!(text, "");
}

#[test]
fn a_copy_is_the_same_bytes_each_time_and_its_data_are_what_a_run_accepts() {
    let bytes = snippets("same.so");
    let copy = |bytes: &[u8]| patch::analyse(bytes).unwrap().copy(&[9; 32]).unwrap();
    let first = copy(&bytes);
    assert_eq!(first, copy(&bytes));
    let annex = first.block.annex() as usize;
    let data = &first.bytes[annex..annex + first.block.data_len() as usize];
    assert!(first.block.accepts(data, &first.segment));
    assert_eq!(first.bytes.len() as u64, first.block.file_len());
    // Outside of windows, the original.
    let same = bytes
        .iter()
        .zip(&first.bytes)
        .filter(|(a, b)| a == b)
        .count();
    assert!(bytes.len() - same < 200);
}

#[test]
fn a_file_that_cannot_be_mapped_from_a_copy_gets_none() {
    let bytes = snippets("refused.so");
    let headers = |bytes: &[u8]| -> Vec<usize> {
        let count = u16::from_le_bytes(bytes[56..58].try_into().unwrap());
        (0..usize::from(count)).map(|i| 64 + 56 * i).collect()
    };
    let code = (headers(&bytes).into_iter())
        .find(|&at| bytes[at] == 1 && bytes[at + 4] & 1 != 0)
        .unwrap();
    let other = (headers(&bytes).into_iter())
        .find(|&at| bytes[at] == 1 && bytes[at + 4] & 1 == 0)
        .unwrap();
    for (at, bits, why) in [
        (code + 4, 2_u8, "its code can be written to"),
        (other + 4, 1, "two executable segments"),
        (code + 8, 1, "a segment that cannot be mapped as it is"),
    ] {
        let mut changed = bytes.clone();
        changed[at] |= bits;
        let analysis = patch::analyse(&changed).unwrap();
        assert_eq!(analysis.refusal, Some(why));
        assert_eq!(analysis.copy(&[0; 32]), None);
        assert_eq!(analysis.verdict(), TextVerdict::Unpatched);
    }
}

#[test]
fn code_that_is_said_to_be_longer_than_its_file_takes_no_memory_and_makes_no_copy() {
    let mut bytes = snippets("endless.so");
    let count = u16::from_le_bytes(bytes[56..58].try_into().unwrap());
    let mut headers = (0..usize::from(count)).map(|i| 64 + 56 * i);
    // The segment in front of the code, which is to be code as well. p_filesz: some petabytes.
    let other = headers.find(|&at| bytes[at] == 1).unwrap();
    bytes[other + 4] |= 1;
    bytes[other + 38] = 0x77;
    let analysis = patch::analyse(&bytes);
    assert!(analysis.is_none_or(|analysis| analysis.copy(&[0; 32]).is_none()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_file_that_lies_makes_no_copy_that_lies(at in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..40), cut in 0.0..1.5_f64) {
        static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = BYTES.get_or_init(|| snippets("lies.so")).clone();
        for (place, byte) in at {
            let place = (place * bytes.len() as f64) as usize;
            bytes[place] = byte;
        }
        bytes.truncate((cut * bytes.len() as f64) as usize);
        if let Some(analysis) = patch::analyse(&bytes)
            && let Some(copy) = analysis.copy(&[3; 32])
        {
            let annex = copy.block.annex() as usize;
            let data = &copy.bytes[annex..annex + copy.block.data_len() as usize];
            prop_assert!(copy.block.accepts(data, &copy.segment));
            prop_assert_eq!(copy.bytes.len() as u64, copy.block.file_len());
        }
    }
}
