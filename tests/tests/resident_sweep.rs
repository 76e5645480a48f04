//! Programs of the Debian sysroot's `/usr/bin`, each asked for its version and its usage, natively and from its snapshot: a hundred of them, and
//! all when they are asked for:
//!
//! ```text
//! cargo test --release -p elfuse-tests --test resident_sweep -- --ignored
//! ```
//!
//! which writes `tests/RESIDENT.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use elfuse_tests::oracle::programs::Sysroot;
use elfuse_tests::oracle::sweep::{self, OPTIONS, Row, Swept, Verdict};
use elfuse_tests::{oracle_programs, sysroot};

fn debian() -> Sysroot<'static> {
    Sysroot {
        name: "debian",
        root: sysroot::debian(),
        shell: "/bin/bash",
    }
}

fn differences(swept: &Swept) -> String {
    let mut text = String::new();
    for row in &swept.rows {
        if let Verdict::Differs(how) = &row.verdict {
            let _ = write!(text, "  {} {}\n{how}", row.name, row.option);
        }
    }
    text
}

#[test]
fn a_hundred_programs_say_from_their_snapshots_what_they_say_natively() {
    const SAMPLE: usize = 100;
    let all = sweep::names(sysroot::debian());
    let step = all.len() / SAMPLE;
    let names: Vec<_> = all.into_iter().step_by(step).take(SAMPLE).collect();
    assert_eq!(names.len(), SAMPLE);
    let swept = sweep::sweep(debian(), &names, &oracle_programs!());
    let differences = differences(&swept);
    assert!(
        differences.is_empty(),
        "(- expected, + found)\n{differences}"
    );
    let restored = |row: &&Row| row.restored.starts > 0 && row.verdict == Verdict::Same;
    let count = swept.rows.iter().filter(restored).count();
    // Some are asked in vain and some are static; that few went on from a snapshot would mean that little was tried.
    assert!(count > SAMPLE, "{count} of {}", swept.rows.len());
}

#[test]
#[ignore = "takes minutes, and writes tests/RESIDENT.md"]
fn every_program_says_from_its_snapshot_what_it_says_natively() {
    let swept = sweep::sweep(
        debian(),
        &sweep::names(sysroot::debian()),
        &oracle_programs!(),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESIDENT.md");
    std::fs::write(path, document(&swept)).expect("writing the results");
    let differences = differences(&swept);
    assert!(
        differences.is_empty(),
        "(- expected, + found)\n{differences}"
    );
}

fn verdict(row: &Row) -> &'static str {
    match row.verdict {
        Verdict::Same if row.restored.starts == 0 => "same, loaded",
        Verdict::Same => "same, restored",
        Verdict::Differs(_) => "differs",
        Verdict::Varies => "varies natively",
        Verdict::RanOn(_) => "does not end natively",
    }
}

/// The results as a document: the same for the same sysroot, on any machine.
fn document(swept: &Swept) -> String {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for row in &swept.rows {
        *counts.entry((verdict(row), row.starts())).or_default() += 1;
    }
    let mut text = String::from(
        "# Programs of a Debian sysroot, from their snapshots\n\n\
         Made by `cargo test --release -p elfuse-tests --test resident_sweep -- --ignored`. Every program of `/usr/bin` is asked `--version` and `--help`: \
         under the real kernel in the sysroot as its root, by `elfuse run` as if nothing were kept, and with every program of the sysroot kept. \
         Compared are standard output, standard error and exit status.\n\n\
         *restored*: it went on from a snapshot, or what it is a script for did, as the runtime counts itself; *loaded*: nothing did, as it is static, \
         or was not started. What is said to vary or not to end does so under the real kernel.\n\n\
         | | ends with 0 | ends otherwise |\n|---|---|---|\n",
    );
    let kinds = [
        "same, restored",
        "same, loaded",
        "differs",
        "varies natively",
        "does not end natively",
    ];
    for kind in kinds {
        let count = |well| counts.get(&(kind, well)).copied().unwrap_or(0);
        let _ = writeln!(text, "| {kind} | {} | {} |", count(true), count(false));
    }
    let refused: Vec<_> = swept
        .added
        .iter()
        .filter(|added| added.refused.is_some())
        .collect();
    let _ = writeln!(
        text,
        "\n## Kept\n\n{} of the {} programs with a dynamic linker in the whole sysroot.",
        swept.added.len() - refused.len(),
        swept.added.len()
    );
    if !refused.is_empty() {
        text.push_str("\n| not kept | why |\n|---|---|\n");
    }
    for added in refused {
        let reason = added.refused.as_deref().unwrap_or_default();
        let _ = writeln!(text, "| `{}` | {reason} |", added.program);
    }
    let _ = writeln!(
        text,
        "\n## Asked\n\n| program | {} | {} |\n|---|---|---|",
        OPTIONS[0], OPTIONS[1]
    );
    for rows in swept.rows.chunks(OPTIONS.len()) {
        let _ = write!(text, "| {} |", rows[0].name);
        for row in rows {
            let end = row
                .end
                .replace("exited with ", "")
                .replace("killed by signal ", "signal ");
            let _ = write!(text, " {end}: {} |", verdict(row));
        }
        text.push('\n');
    }
    text
}
