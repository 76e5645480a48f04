//! Where an ELF file makes system calls, and what its patched copy does about each.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use elfuse_format::text::{Class, TextVerdict, class};
use serde::Serialize;

use super::heading;
use crate::patch::{self, Analysis, Kind, MAX_FILE, Outcome, Site, names};
use crate::report::{Bytes, Output, Style};

#[derive(Debug, Serialize)]
struct Shown {
    file: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_copy: Option<&'static str>,
    sites: Vec<SiteShown>,
}

#[derive(Debug, Serialize)]
struct SiteShown {
    vaddr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    class: &'static str,
    patched: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// For people and JSON.
pub(in crate::commands) const fn verdict_name(verdict: TextVerdict) -> &'static str {
    match verdict {
        TextVerdict::Clean => "clean",
        TextVerdict::Complete => "complete",
        TextVerdict::Partial => "partial",
        TextVerdict::Unpatched => "unpatched",
        TextVerdict::Data => "data",
    }
}

fn class_name(site: &Site) -> &'static str {
    match site.kind {
        Kind::Syscall(None) => "any",
        Kind::Syscall(Some(number)) => match class(number) {
            Class::Plain => "plain",
            Class::Served => "served",
            Class::Guarded => "guarded",
            Class::Ending => "ending",
            Class::Reading => "reading",
            Class::Control => "control",
            Class::Descriptors => "descriptors",
            Class::Growing => "growing",
        },
        Kind::Cpuid => "table",
        Kind::Int80 | Kind::Sysenter | Kind::Unclear => "any",
    }
}

fn shown(analysis: &Analysis<'_>, site: &Site) -> SiteShown {
    let (kind, number) = match site.kind {
        Kind::Syscall(number) => ("syscall", number),
        Kind::Cpuid => ("cpuid", None),
        Kind::Int80 => ("int 0x80", None),
        Kind::Sysenter => ("sysenter", None),
        Kind::Unclear => ("unclear", None),
    };
    let (shape, window, why_not) = match &site.outcome {
        Outcome::Left => (None, None, Some("of no concern".to_owned())),
        Outcome::Patched { shape, window } => {
            let range = format!("{:#x}..{:#x}", window.start, window.end);
            (Some(format!("{shape:?}")), Some(range), None)
        }
        Outcome::Refused(why) => (None, None, Some(why.to_string())),
    };
    let function = analysis.function(site.vaddr);
    SiteShown {
        vaddr: format!("{:#x}", site.vaddr),
        offset: function.as_ref().map(|(_, offset)| *offset),
        function: function.map(|(name, _)| Bytes(name)),
        kind,
        number,
        name: number.and_then(names::name),
        class: class_name(site),
        patched: shape.is_some(),
        shape,
        window,
        why_not,
    }
}

pub(super) fn show(path: &Path, out: &mut Output) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    anyhow::ensure!(file.metadata()?.is_file(), "not a regular file");
    // One more than is copied, so that what is too large can be told.
    file.take(2 * MAX_FILE).read_to_end(&mut bytes)?;
    let Some(analysis) = patch::analyse(&bytes) else {
        anyhow::bail!("not an ELF file with executable code for x86-64");
    };
    let shown = Shown {
        file: path.display().to_string(),
        verdict: verdict_name(analysis.verdict()),
        no_copy: analysis.refusal,
        sites: analysis
            .sites
            .iter()
            .map(|site| shown(&analysis, site))
            .collect(),
    };
    if out.is_json() {
        return out.json("show", &shown);
    }
    Ok(print(&shown, out)?)
}

fn print(shown: &Shown, out: &mut Output) -> io::Result<()> {
    let patched = shown.sites.iter().filter(|site| site.patched).count();
    heading(
        out,
        &format!(
            "{}: {}, {patched} of {} sites patched",
            shown.file,
            shown.verdict,
            shown.sites.len()
        ),
    )?;
    if let Some(why) = shown.no_copy {
        let line = out.paint(Style::Caution, format_args!("no copy is made: {why}"));
        writeln!(out.text(), "{line}")?;
    }
    for site in &shown.sites {
        let call = match (site.name, site.number) {
            (Some(name), _) => name.to_owned(),
            (None, Some(number)) => format!("number {number}"),
            (None, None) if site.kind == "syscall" => "number not known".to_owned(),
            (None, None) => site.kind.to_owned(),
        };
        let place = match (&site.function, site.offset) {
            (Some(name), Some(offset)) => format!("{name}+{offset:#x}"),
            _ => String::new(),
        };
        let state = match (&site.shape, &site.window, &site.why_not) {
            (Some(shape), Some(window), _) => format!("{shape}  {window}"),
            (_, _, Some(why)) => format!("-  {why}"),
            _ => String::new(),
        };
        let line = format!(
            "  {:>10}  {call:<18} {:<11} {state}  {place}",
            site.vaddr, site.class
        );
        writeln!(out.text(), "{}", line.trim_end())?;
    }
    Ok(())
}
