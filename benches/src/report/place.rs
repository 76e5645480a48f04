//! Places for what benchmarks write in files that are for people: between two marks, all else is kept.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::write_file;

const HEAD: &str = "# Results

Each section below is written by the benchmark that it is named after; what stands outside the marks is kept.
";

fn marks(bench: &str) -> (String, String) {
    (
        format!("<!-- {bench}: generated from here -->"),
        format!("<!-- {bench}: to here -->"),
    )
}

/// Writes a section of `RESULTS.md`.
///
/// # Errors
/// If it cannot be written.
pub fn write_section(benches: &Path, name: &str, markdown: &str) -> anyhow::Result<()> {
    let path = benches.join("RESULTS.md");
    let before = fs::read_to_string(&path).unwrap_or_else(|_| HEAD.to_owned());
    let after = replace_section(&before, name, markdown);
    write_file(&path, after.as_bytes())
}

/// Replaces what stands between the marks of `name` in a file that is no benchmark's own. Without marks it is left as it is.
///
/// # Errors
/// If it cannot be read or written.
pub fn fill_in(path: &Path, name: &str, markdown: &str) -> anyhow::Result<()> {
    let before = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (from, to) = marks(name);
    if !before.contains(&from) || !before.contains(&to) {
        eprintln!("{} has no place for {name}", path.display());
        return Ok(());
    }
    let after = replace_section(&before, name, markdown);
    write_file(path, after.as_bytes())
}

/// `text` with the benchmark's section replaced, or added at the end.
fn replace_section(text: &str, bench: &str, section: &str) -> String {
    let (from, to) = marks(bench);
    let section = format!("{from}\n{}\n{to}", section.trim_end());
    let found = text.find(&from).zip(text.find(&to));
    match found {
        Some((start, end)) if start < end => {
            format!("{}{section}{}", &text[..start], &text[end + to.len()..])
        }
        _ => format!("{}\n\n{section}\n", text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::{HEAD, replace_section};

    #[test]
    fn a_section_is_added_once_and_then_replaced() {
        let first = replace_section(HEAD, "a", "one");
        let both = replace_section(&first, "b", "two");
        let again = replace_section(&both, "a", "three");
        assert!(both.contains("one") && both.contains("two"));
        assert!(!again.contains("one") && again.contains("two") && again.contains("three"));
        assert_eq!(replace_section(&again, "a", "three"), again);
    }
}
