//! The engine's table of system calls: each line says where the call is made in a test, and that is so.

use std::fs;
use std::path::Path;

use elfuse_runtime::engine::dispatch::TABLE;
use elfuse_runtime::sys::names;

/// Calls that no test names, since every program makes them: what stands for them in the file.
const UNNAMED: &[(&str, &str)] = &[("rt_sigreturn", "uc_sigmask"), ("exit_group", "--stats")];

/// Whether a text has this word, alone or as `SYS_word`, `__NR_word` or `word-to`.
fn names_call(text: &str, word: &str) -> bool {
    let is_of_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_of_word(character)).any(|found| {
        let bare = found.trim_start_matches("SYS_");
        bare.trim_start_matches("__NR_") == word
    })
}

#[test]
fn each_call_of_the_table_is_made_in_the_test_that_its_line_names() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut wrong = Vec::new();
    for row in TABLE {
        let call = names::name(row.nr.0 as usize).expect("the kernel's table has it");
        let path = cases.join(row.test);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let unnamed = UNNAMED.iter().find(|(unnamed, _)| *unnamed == call);
        let is_there = match unnamed {
            Some((_, sign)) => text.contains(sign),
            None => names_call(&text, call),
        };
        if !is_there {
            wrong.push(format!("{call} is not in {}", row.test));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
