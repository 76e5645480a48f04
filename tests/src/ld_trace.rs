//! What the real dynamic linkers say: `LD_TRACE_LOADED_OBJECTS=1` for glibc, `--list` for musl.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// How a file is handed to its dynamic linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Executed, with `LD_TRACE_LOADED_OBJECTS=1` in its environment.
    Executed,
    /// As the argument of this glibc interpreter, with `LD_TRACE_LOADED_OBJECTS=1` in its environment.
    By(String),
    /// As the argument of this musl interpreter, after `--list`.
    List(String),
}

/// One file to ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its path inside the sysroot.
    pub file: String,
    /// How its dynamic linker gets it.
    pub how: How,
    /// `LD_LIBRARY_PATH`.
    pub library_path: Option<String>,
    /// `LD_PRELOAD`.
    pub preload: Option<String>,
}

impl Request {
    /// With nothing in the environment.
    #[must_use]
    pub fn new(file: impl Into<String>, how: How) -> Self {
        Self {
            file: file.into(),
            how,
            library_path: None,
            preload: None,
        }
    }
}

/// What a dynamic linker printed about one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// Its exit status.
    pub status: i32,
    /// (name, path it was found at) in order, without the vDSO. The interpreter has the same name as path.
    pub list: Vec<(String, Option<String>)>,
    /// The error it ended with: (file, text).
    pub fatal: Option<(String, String)>,
    /// Lines of its standard output and error that are neither.
    pub other: Vec<String>,
}

/// Asks for many files in one go: a shell inside the sysroot works through the list, so that thousands take seconds.
/// The answers are in the order of the requests.
///
/// # Panics
/// The sysroot cannot be entered, or a path has a newline in it.
#[must_use]
pub fn ask(sysroot: &Path, shell: &str, requests: &[Request]) -> Vec<Trace> {
    // The environment is set for the last program alone: the shell of a broken sysroot has to work.
    const SCRIPT: &str = r#"
        while read -r how && read -r loader && IFS= read -r path && IFS= read -r preload && IFS= read -r file; do
            (
                # ld.so loops for ever on some filters.
                ulimit -t 5
                exec <&- 2>&1
                [ "$path" = - ] || export LD_LIBRARY_PATH="$path"
                [ "$preload" = - ] || export LD_PRELOAD="$preload"
                export LD_TRACE_LOADED_OBJECTS=1
                case $how in
                    executed) exec "$file" ;;
                    by) exec "$loader" "$file" ;;
                    list) exec "$loader" --list "$file" ;;
                esac
            )
            echo "@status $?"
        done
    "#;
    let mut child = crate::enter::command(sysroot, shell)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("entering {}: {error}", sysroot.display()));
    let mut input = child.stdin.take().expect("the pipe asked for");
    let mut list = String::new();
    for request in requests {
        let (how, loader) = match &request.how {
            How::Executed => ("executed", "-"),
            How::By(loader) => ("by", loader.as_str()),
            How::List(loader) => ("list", loader.as_str()),
        };
        let path = request.library_path.as_deref().unwrap_or("-");
        let preload = request.preload.as_deref().unwrap_or("-");
        for line in [how, loader, path, preload, &request.file] {
            assert!(!line.contains('\n'), "a newline in {line:?}");
            list.push_str(line);
            list.push('\n');
        }
    }
    // The shell reads while it writes: two pipes filled from one thread would end in a standstill.
    let writer = std::thread::spawn(move || input.write_all(list.as_bytes()));
    let output = child.wait_with_output().expect("waiting for a child");
    writer
        .join()
        .expect("no panic")
        .unwrap_or_else(|error| panic!("the shell of {} ended early: {error}", sysroot.display()));
    assert!(
        output.status.success(),
        "entering {} ended with {}",
        sysroot.display(),
        output.status
    );
    let traces = parse(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(
        traces.len(),
        requests.len(),
        "the shell did not answer for all"
    );
    traces
}

fn parse(text: &str) -> Vec<Trace> {
    let mut traces = Vec::new();
    let mut trace = Trace::default();
    for line in text.lines() {
        if let Some(status) = line.strip_prefix("@status ") {
            trace.status = status.parse().expect("a shell prints a number");
            traces.push(std::mem::take(&mut trace));
        } else {
            parse_line(line, &mut trace);
        }
    }
    traces
}

fn parse_line(line: &str, trace: &mut Trace) {
    // "	name => path (0x…)", "	name => not found", "	path (0x…)"
    if let Some(row) = line.strip_prefix('\t') {
        let row = row.split(" (0x").next().unwrap_or(row);
        match row.split_once(" => ") {
            Some((name, "not found")) => trace.list.push((name.to_owned(), None)),
            Some((name, path)) => trace.list.push((name.to_owned(), Some(path.to_owned()))),
            None if row == "statically linked" => trace.other.push(row.to_owned()),
            None if row.starts_with("linux-vdso.so") || row.starts_with("linux-gate.so") => {}
            None => trace.list.push((row.to_owned(), Some(row.to_owned()))),
        }
        return;
    }
    // "prog: error while loading shared libraries: file: text"
    if let Some((_, message)) = line.split_once("error while loading shared libraries: ") {
        let (file, text) = message.split_once(": ").unwrap_or(("", message));
        trace.fatal = Some((file.to_owned(), text.to_owned()));
        return;
    }
    // "Error loading shared library name: text (needed by path)"
    if let Some(message) = line.strip_prefix("Error loading shared library ") {
        let name = message.split(": ").next().unwrap_or(message);
        trace.list.push((name.to_owned(), None));
        return;
    }
    trace.other.push(line.to_owned());
}
