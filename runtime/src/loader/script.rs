//! The first line of a script, as `fs/binfmt_script.c` reads it.

/// How many bytes of a file are looked at: BINPRM_BUF_SIZE.
pub const WINDOW: usize = 256;

/// A `#!` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shebang<'a> {
    /// Path of the interpreter as it is written.
    pub interpreter: &'a [u8],
    /// The rest of the line as one argument, without blanks at its ends.
    pub argument: Option<&'a [u8]>,
}

const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes {
        if !is_blank(*first) {
            break;
        }
        bytes = rest;
    }
    while let [rest @ .., last] = bytes {
        if !is_blank(*last) {
            break;
        }
        bytes = rest;
    }
    bytes
}

/// What the first bytes of a file say, [`WINDOW`] of them or all that there are. `None`: it is no script. `Some(None)`: it is one that
/// the kernel refuses with ENOEXEC (no interpreter, or a name that does not fit the window).
#[must_use]
pub fn shebang(start: &[u8]) -> Option<Option<Shebang<'_>>> {
    let whole = start.len() < WINDOW;
    let window = &start[..start.len().min(WINDOW)];
    let mut line = window.strip_prefix(b"#!")?;
    let (line, ended) = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&line[..end], true),
        None => {
            if !whole {
                // The last byte of the window is looked at for an end of line only.
                line = line.split_last().map_or(line, |(_, line)| line);
            }
            (line, whole)
        }
    };
    // A NUL ends what the kernel sees as a string.
    let (line, ended) = match line.iter().position(|byte| *byte == 0) {
        Some(end) => (&line[..end], true),
        None => (line, ended),
    };
    let start = line.iter().position(|byte| !is_blank(*byte));
    let Some(line) = start.map(|start| &line[start..]) else {
        return Some(None);
    };
    let end = line.iter().position(|byte| is_blank(*byte));
    // A line longer than the window may lose its argument's end but not the interpreter's name.
    let Some(end) = end.or(ended.then_some(line.len())) else {
        return Some(None);
    };
    let argument = trim(&line[end..]);
    Some(Some(Shebang {
        interpreter: &line[..end],
        argument: (!argument.is_empty()).then_some(argument),
    }))
}

#[cfg(test)]
mod tests {
    use super::{Shebang, shebang};

    #[test]
    fn the_argument_is_one_word_however_many_blanks_it_has() {
        let found = shebang(b"#! /bin/sh  -e x \t\nrest");
        let interpreter = b"/bin/sh";
        assert_eq!(
            found,
            Some(Some(Shebang {
                interpreter,
                argument: Some(b"-e x")
            }))
        );
    }

    #[test]
    fn a_line_without_interpreter_is_refused() {
        assert_eq!(shebang(b"#!  \t \n/bin/sh"), Some(None));
        assert_eq!(shebang(b"#!"), Some(None));
    }

    #[test]
    fn a_file_that_ends_within_the_line_is_a_script() {
        let interpreter = b"/bin/sh";
        assert_eq!(
            shebang(b"#!/bin/sh"),
            Some(Some(Shebang {
                interpreter,
                argument: None
            }))
        );
    }

    #[test]
    fn an_interpreter_that_does_not_fit_the_window_is_refused() {
        let mut file = [b'a'; 300];
        file[..3].copy_from_slice(b"#!/");
        assert_eq!(shebang(&file), Some(None));
    }

    #[test]
    fn what_does_not_start_with_the_marker_is_no_script() {
        assert_eq!(shebang(b" #!/bin/sh\n"), None);
        assert_eq!(shebang(b""), None);
    }
}
