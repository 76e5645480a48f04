//! What may differ from the real kernel, case by case and line by line.
//!
//! ```text
//! reason one or more lines
//!   theme: case
//!     line of the real kernel
//!     => line of elfuse
//! ```
//!
//! Several lines of one stand for lines that follow each other; `=> -` for none.

use std::path::Path;

use super::outcome::Outcome;

/// Lines of output that elfuse has otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// "theme: case".
    pub case: String,
    /// What the real kernel says: at least one line.
    pub kernel: Vec<String>,
    /// What elfuse says.
    pub elfuse: Vec<String>,
    /// Why.
    pub reason: String,
}

/// The list.
///
/// # Panics
/// It cannot be read, or makes no sense.
#[must_use]
pub fn read() -> Vec<Exception> {
    read_file("exceptions")
}

/// The list for programs that go on from snapshots: `cases/exceptions.resident` comes before `cases/exceptions` where both have the same lines
/// of the real kernel; where it has them for both, there is no exception any more.
///
/// # Panics
/// As [`read`].
#[must_use]
pub fn read_resident() -> Vec<Exception> {
    let own = read_file("exceptions.resident");
    let is_own = |row: &Exception| {
        let mut own = own.iter();
        own.any(|own| (&own.case, &own.kernel) == (&row.case, &row.kernel))
    };
    let others: Vec<_> = read().into_iter().filter(|row| !is_own(row)).collect();
    own.into_iter().chain(others).collect()
}

fn read_file(name: &str) -> Vec<Exception> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cases")
        .join(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse(&text)
}

fn parse(text: &str) -> Vec<Exception> {
    let (mut reason, mut case) = (String::new(), String::new());
    let mut reason_grows = false;
    let mut all: Vec<Exception> = Vec::new();
    // Whether the last row of the list is still to be told what elfuse says.
    let mut is_open = false;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let text = line.trim();
        if text.is_empty() || line.starts_with('#') {
            continue;
        }
        match (depth, text.strip_prefix("=> ")) {
            (0, None) if reason_grows => reason = format!("{reason} {text}"),
            (0, None) => reason = text.to_owned(),
            (2, None) => case = text.to_owned(),
            (4, None) => {
                if !is_open {
                    all.push(Exception {
                        case: case.clone(),
                        kernel: Vec::new(),
                        elfuse: Vec::new(),
                        reason: reason.clone(),
                    });
                    is_open = true;
                }
                let last = all.last_mut().expect("it was just made");
                last.kernel.push(text.to_owned());
            }
            (4, Some(elfuse)) => {
                let last = all.last_mut().filter(|last| !last.kernel.is_empty());
                let last = last.unwrap_or_else(|| panic!("no line of the kernel before {line:?}"));
                if elfuse != "-" {
                    last.elfuse.push(elfuse.to_owned());
                }
                is_open = false;
            }
            _ => panic!("exceptions: a line indented by {depth}: {line:?}"),
        }
        reason_grows = depth == 0;
    }
    let complete =
        |exception: &Exception| !exception.reason.is_empty() && !exception.case.is_empty();
    assert!(
        all.iter().all(complete),
        "every exception has a reason and a case"
    );
    all
}

/// What elfuse is expected to leave behind, given what the real kernel did. An exception whose lines the real kernel does not say
/// is an error; one that elfuse no longer needs shows as a difference.
///
/// # Errors
/// The lines that the real kernel does not say.
pub fn expected(kernel: &Outcome, case: &str, all: &[Exception]) -> Result<Outcome, String> {
    let mut expected = kernel.clone();
    for exception in all.iter().filter(|exception| exception.case == case) {
        if exception.kernel == [expected.end.as_str()] {
            expected.end = exception.elfuse.concat();
            continue;
        }
        let replaced =
            replace(&mut expected.output, exception) || replace(&mut expected.errors, exception);
        if !replaced {
            return Err(format!(
                "      an exception is listed for what the real kernel does not say: {:#?}\n",
                exception.kernel
            ));
        }
    }
    Ok(expected)
}

fn replace(lines: &mut Vec<String>, exception: &Exception) -> bool {
    let count = exception.kernel.len();
    let same = |window: &[String]| {
        let pairs = window.iter().zip(&exception.kernel);
        pairs
            .into_iter()
            .all(|(line, kernel)| line.trim() == kernel)
    };
    let Some(at) = lines.windows(count).position(same) else {
        return false;
    };
    lines.splice(at..at + count, exception.elfuse.iter().cloned());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(output: &[&str]) -> Outcome {
        Outcome {
            end: "exited with 0".to_owned(),
            output: output.iter().map(|line| (*line).to_owned()).collect(),
            errors: Vec::new(),
            trees: Default::default(),
        }
    }

    #[test]
    fn an_exception_has_its_reason_its_case_and_lines_of_both() {
        let all =
            parse("Two\nlines.\n  open: a case\n    a = 1\n    => a = 2\n    b\n    c\n    => -\n");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].reason, "Two lines.");
        assert_eq!(
            (&all[0].kernel[..], &all[0].elfuse[..]),
            (&["a = 1".to_owned()][..], &["a = 2".to_owned()][..])
        );
        assert_eq!(all[1].kernel, ["b", "c"]);
        assert!(all[1].elfuse.is_empty());
    }

    #[test]
    fn lines_that_follow_each_other_are_replaced_by_those_of_elfuse() {
        let all = parse("Why.\n  t: c\n    b\n    c\n    => x\n");
        let found = expected(&outcome(&["a", "b", "c", "d"]), "t: c", &all).unwrap();
        assert_eq!(found.output, ["a", "x", "d"]);
    }

    #[test]
    fn an_exception_for_what_the_kernel_does_not_say_is_an_error() {
        let all = parse("Why.\n  t: c\n    b\n    => x\n");
        assert!(expected(&outcome(&["a"]), "t: c", &all).is_err());
    }
}
