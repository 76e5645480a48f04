//! What may differ from the real kernel, case by case and line by line.
//!
//! ```text
//! reason one or more lines
//!   theme: case
//!     line of the real kernel
//!     => line of elfuse
//! ```

use std::path::Path;

use super::outcome::Outcome;

/// One line of output that elfuse has otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// "theme: case".
    pub case: String,
    /// What the real kernel says.
    pub kernel: String,
    /// What elfuse says.
    pub elfuse: String,
    /// Why.
    pub reason: String,
}

/// The list.
///
/// # Panics
/// It cannot be read, or makes no sense.
#[must_use]
pub fn read() -> Vec<Exception> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/exceptions");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse(&text)
}

fn parse(text: &str) -> Vec<Exception> {
    let (mut reason, mut case) = (String::new(), String::new());
    let mut kernel: Option<String> = None;
    let mut reason_grows = false;
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let depth = line.len() - line.trim_start().len();
        let text = line.trim();
        match depth {
            0 if reason_grows => reason = format!("{reason} {text}"),
            0 => reason = text.to_owned(),
            2 => case = text.to_owned(),
            4 => match text.strip_prefix("=> ") {
                None => kernel = Some(text.to_owned()),
                Some(elfuse) => all.push(Exception {
                    case: case.clone(),
                    kernel: kernel
                        .take()
                        .unwrap_or_else(|| panic!("no line of the kernel before {line:?}")),
                    elfuse: elfuse.to_owned(),
                    reason: reason.clone(),
                }),
            },
            _ => panic!("exceptions: a line indented by {depth}: {line:?}"),
        }
        reason_grows = depth == 0;
    }
    assert!(
        all.iter().all(|exception| !exception.reason.is_empty()),
        "every exception has a reason"
    );
    all
}

/// What elfuse is expected to leave behind, given what the real kernel did. An exception whose line the real kernel does not say
/// is an error; one that elfuse no longer needs shows as a difference.
///
/// # Errors
/// The line that the real kernel does not say.
pub fn expected(kernel: &Outcome, case: &str, all: &[Exception]) -> Result<Outcome, String> {
    let mut expected = kernel.clone();
    for exception in all.iter().filter(|exception| exception.case == case) {
        let line = expected
            .output
            .iter_mut()
            .chain(&mut expected.errors)
            .chain([&mut expected.end])
            .find(|line| line.trim() == exception.kernel);
        let Some(line) = line else {
            return Err(format!(
                "      an exception is listed for a line that the real kernel does not say: {}\n",
                exception.kernel
            ));
        };
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        *line = format!("{indent}{}", exception.elfuse);
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_has_its_reason_its_case_and_both_lines() {
        let all = parse(
            "Two\nlines.\n  open: a case\n    a = 1\n    => a = 2\n\nOther.\n  x: y\n    b\n    => c\n",
        );
        assert_eq!(all[0].reason, "Two lines.");
        assert_eq!(
            (all[0].kernel.as_str(), all[0].elfuse.as_str()),
            ("a = 1", "a = 2")
        );
        assert_eq!(
            (all[1].case.as_str(), all[1].reason.as_str()),
            ("x: y", "Other.")
        );
    }
}
