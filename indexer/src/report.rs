//! What a command prints: text or one JSON document on the standard output, progress and warnings on the standard error.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Serialize, Serializer};

use crate::cli::ColorWhen;
use crate::exit::Exit;
use crate::options::CommonOptions;
use crate::warning::{Warning, Warnings};

/// Version of the JSON documents: grows when a member changes its meaning or goes.
pub const JSON_SCHEMA: u32 = 1;

/// A path or name, which need not be UTF-8. Text shows other bytes as `\xNN`, JSON as `{"bytes": "…hex…"}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes(&self.0, serializer)
    }
}

/// Shows bytes as text: what a terminal could take for a command, and what is not UTF-8, as `\xNN`.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    Bytes(bytes.to_vec()).to_string()
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    write!(f, "\\x{byte:02x}")?;
                }
            } else {
                write!(f, "{character}")?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// For `#[serde(serialize_with = "report::serialize_bytes")]` on a field that derefs to `[u8]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_bytes<S: Serializer>(
    bytes: &impl AsRef<[u8]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let bytes = bytes.as_ref();
    match std::str::from_utf8(bytes) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("bytes", &hex)?;
            map.end()
        }
    }
}

/// Bytes as people read them: `1.4 MB`.
#[must_use]
pub fn human_bytes(count_byte: u64) -> String {
    indicatif::DecimalBytes(count_byte).to_string()
}

/// A number with its noun: `1 file`, `2,048 files`.
#[must_use]
pub fn count(number: u64, singular: &str, plural: &str) -> String {
    format!(
        "{} {}",
        indicatif::HumanCount(number),
        if number == 1 { singular } else { plural }
    )
}

/// What a piece of text is, from which its colour follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A heading.
    Bold,
    /// Less important: reasons, numbers of probes.
    Dim,
    /// Something is wrong.
    Bad,
    /// All is well.
    Good,
    /// Something to look at.
    Caution,
}

impl Style {
    const fn escape(self) -> &'static str {
        match self {
            Style::Bold => "\x1b[1m",
            Style::Dim => "\x1b[2m",
            Style::Bad => "\x1b[31m",
            Style::Good => "\x1b[32m",
            Style::Caution => "\x1b[33m",
        }
    }
}

/// Whether colour is used on a stream: the flag decides, `auto` asks the terminal, `NO_COLOR` and `TERM`.
#[must_use]
pub fn use_color(
    when: ColorWhen,
    is_terminal: bool,
    no_color: Option<&str>,
    term: Option<&str>,
) -> bool {
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        // no-color.org: set and not empty, whatever the value.
        ColorWhen::Auto => {
            is_terminal && no_color.is_none_or(str::is_empty) && term != Some("dumb")
        }
    }
}

/// Where a command's output goes.
pub struct Output {
    text: Box<dyn Write + Send>,
    notes: Box<dyn Write + Send>,
    color: bool,
    notes_color: bool,
    progress: bool,
    json: bool,
    quiet: bool,
    document: Option<serde_json::Value>,
    warnings: Arc<Warnings>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("json", &self.json)
            .field("quiet", &self.quiet)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// The standard streams of this process.
    #[must_use]
    pub fn to_standard_streams(options: &CommonOptions) -> Output {
        let no_color = std::env::var("NO_COLOR").ok();
        let term = std::env::var("TERM").ok();
        let color = |is_terminal| {
            use_color(
                options.color,
                is_terminal,
                no_color.as_deref(),
                term.as_deref(),
            )
        };
        let notes_on_terminal = io::stderr().is_terminal();
        Output {
            color: color(io::stdout().is_terminal()),
            notes_color: color(notes_on_terminal),
            progress: notes_on_terminal && !options.quiet,
            text: Box::new(BufWriter::new(io::stdout())),
            notes: Box::new(io::stderr()),
            json: options.json,
            quiet: options.quiet,
            document: None,
            warnings: Arc::default(),
        }
    }

    /// Into `text` and `notes`, without colour or progress: for tests, and for commands that run others.
    #[must_use]
    pub fn to_writers(
        text: Box<dyn Write + Send>,
        notes: Box<dyn Write + Send>,
        json: bool,
    ) -> Output {
        Output {
            text,
            notes,
            color: false,
            notes_color: false,
            progress: false,
            json,
            quiet: false,
            document: None,
            warnings: Arc::default(),
        }
    }

    /// Whether a JSON document is wanted, and no text.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether summaries are unwanted.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The standard output, buffered, for text. A command that prints JSON writes nothing here.
    pub fn text(&mut self) -> &mut dyn Write {
        &mut self.text
    }

    /// Text in a colour, if there is colour on the standard output.
    #[must_use]
    pub fn paint(&self, style: Style, text: impl fmt::Display) -> String {
        paint(self.color, style, text)
    }

    /// The answer as JSON: an object. "schema", "command" and "warnings" are added to it by [`Output::finish`].
    ///
    /// # Errors
    /// If `answer` does not serialize as an object: a mistake in the program.
    pub fn json(&mut self, command: &str, answer: &impl Serialize) -> anyhow::Result<()> {
        let answer = serde_json::to_value(answer).context("writing the answer as JSON")?;
        let serde_json::Value::Object(answer) = answer else {
            anyhow::bail!("the answer of {command} is no JSON object: {answer}");
        };
        let mut document = serde_json::Map::new();
        document.insert("schema".into(), JSON_SCHEMA.into());
        document.insert("command".into(), command.into());
        document.extend(answer);
        self.document = Some(document.into());
        Ok(())
    }

    /// One line on the standard error, unless `--quiet`: what is being done, a summary beside JSON.
    pub fn note(&mut self, text: impl fmt::Display) {
        if !self.quiet {
            // Nobody reads it if this fails; the command goes on.
            let _ = writeln!(self.notes, "{text}");
        }
    }

    /// Where warnings are counted. Clone it into threads.
    #[must_use]
    pub fn warnings(&self) -> Arc<Warnings> {
        Arc::clone(&self.warnings)
    }

    /// Counts a warning.
    pub fn warn(&self, kind: Warning, path: &[u8], detail: impl ToString) {
        self.warnings.add(kind, path, detail);
    }

    /// A bar on the standard error, if that is a terminal; with `total` it says how far. Gone when dropped.
    #[must_use]
    pub fn progress(&self, doing: &'static str, total: Option<u64>) -> Progress {
        let bar = ProgressBar::with_draw_target(
            total,
            if self.progress {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        let template = if total.is_some() {
            "{msg:12} [{bar:30}] {human_pos}/{human_len} {elapsed} {eta} left"
        } else {
            "{spinner} {msg:12} {human_pos} {elapsed} {per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing);
        if self.progress {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress { bar }
    }

    /// Prints what is left: the JSON document, then warnings. Turns success into [`Exit::Gaps`] where something was left
    /// out.
    ///
    /// # Errors
    /// If the standard output cannot be written.
    pub fn finish(&mut self, exit: Exit) -> anyhow::Result<Exit> {
        let warnings = self.warnings.reported();
        if let Some(mut document) = self.document.take() {
            document["warnings"] =
                serde_json::to_value(&warnings).context("writing the warnings as JSON")?;
            serde_json::to_writer_pretty(&mut self.text, &document).map_err(io::Error::from)?;
            self.text.write_all(b"\n")?;
        }
        self.text.flush()?;
        if !self.quiet && !self.json {
            for warning in &warnings {
                let kind = paint(self.notes_color, Style::Caution, "warning:");
                let number = indicatif::HumanCount(warning.count);
                let example = if warning.detail.is_empty() {
                    warning.example.to_string()
                } else {
                    format!("{}: {}", warning.example, warning.detail)
                };
                let _ = writeln!(
                    self.notes,
                    "{kind} {} ({number}), such as {example}",
                    warning.kind.what()
                );
                let _ = writeln!(self.notes, "         try: {}", warning.hint);
            }
        }
        Ok(if exit == Exit::Success && self.warnings.has_gaps() {
            Exit::Gaps
        } else {
            exit
        })
    }

    /// Prints an error with its causes, and returns the exit status it means.
    pub fn error(&mut self, error: &anyhow::Error) -> Exit {
        let _ = self.text.flush();
        // `elfuse-index show … | head` ends like any other filter: quietly.
        let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
            cause
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        if error.chain().any(broken_pipe) {
            return Exit::Success;
        }
        let _ = writeln!(
            self.notes,
            "{} {error:#}",
            paint(self.notes_color, Style::Bad, "elfuse-index:")
        );
        if error.is::<crate::error::UsageError>() {
            Exit::Usage
        } else {
            Exit::Failure
        }
    }
}

fn paint(color: bool, style: Style, text: impl fmt::Display) -> String {
    if color {
        format!("{}{text}\x1b[0m", style.escape())
    } else {
        text.to_string()
    }
}

/// A progress bar, or nothing at all where there is no terminal. Cheap to clone into threads.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// So many more are done.
    pub fn add(&self, number: u64) {
        self.bar.inc(number);
    }

    /// Shows what is being done now.
    pub fn say(&self, doing: &'static str) {
        self.bar.set_message(doing);
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_follows_the_flag_then_the_terminal_then_the_environment() {
        assert!(use_color(ColorWhen::Always, false, Some("1"), Some("dumb")));
        assert!(!use_color(ColorWhen::Never, true, None, None));
        assert!(use_color(ColorWhen::Auto, true, None, Some("xterm")));
        assert!(use_color(ColorWhen::Auto, true, Some(""), Some("xterm")));
        assert!(!use_color(ColorWhen::Auto, true, Some("1"), Some("xterm")));
        assert!(!use_color(ColorWhen::Auto, true, None, Some("dumb")));
        assert!(!use_color(ColorWhen::Auto, false, None, Some("xterm")));
    }

    #[test]
    fn names_that_are_not_utf8_and_control_characters_are_shown_escaped() {
        assert_eq!(escaped(b"/a\xff\x1b[31m\n"), "/a\\xff\\x1b[31m\\x0a");
        assert_eq!(escaped("/größe".as_bytes()), "/größe");
        assert_eq!(
            serde_json::to_string(&Bytes(b"a\xff".to_vec())).unwrap(),
            r#"{"bytes":"61ff"}"#
        );
        assert_eq!(
            serde_json::to_string(&Bytes(b"a\n".to_vec())).unwrap(),
            r#""a\n""#
        );
    }
}
