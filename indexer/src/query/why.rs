//! `why`: where a program finds one library, and every place looked at before.

use std::fmt::Write as _;

use serde::Serialize;

use crate::exit::Exit;
use crate::options::WhyOptions;
use crate::query::{Reason, StageAnswer, ask, name_of};
use crate::report::{Bytes, Output, Style};
use crate::resolve::{Edge, Found, Linked, ObjectId, Outcome, Role};

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyAnswer {
    /// The program.
    pub from: Bytes,
    /// The name asked about.
    pub soname: Bytes,
    /// Why the program is not linked dynamically.
    pub not_linked: Option<String>,
    /// Every request for it, the one that brought it in first. None: the program does not load it.
    pub requests: Vec<RequestAnswer>,
}

/// One request for the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestAnswer {
    /// Who asks, who loaded that one, and so on up to the program.
    pub chain: Vec<Bytes>,
    /// The name it is asked for by.
    pub name: Bytes,
    /// The file that satisfies it; none: not found.
    pub path: Option<Bytes>,
    /// Its path without symlinks.
    pub real: Option<Bytes>,
    /// Why that file.
    pub reason: Reason,
    /// Every rule that was tried, the last one with success if there is a path.
    pub stages: Vec<StageAnswer>,
}

/// Answers `why`.
///
/// # Errors
/// The program cannot be read, or the answer cannot be written.
pub fn run(options: &WhyOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let (_, outcome) = ask(&options.sysroot, &options.from, &options.lookup)?;
    let answer = answer(options.from.as_bytes(), &options.soname, &outcome);
    if out.is_json() {
        out.json("why", &answer)?;
    } else {
        let text = text(&answer, |style, text| out.paint(style, text));
        out.text().write_all(text.as_bytes())?;
    }
    let found = answer.requests.iter().any(|request| request.path.is_some());
    Ok(if found { Exit::Success } else { Exit::No })
}

/// What there is to say about `soname` in `outcome`.
#[must_use]
pub fn answer(from: &[u8], soname: &[u8], outcome: &Outcome) -> WhyAnswer {
    let (not_linked, requests) = match outcome {
        Outcome::NotLinked(why) => (Some(why.to_string()), Vec::new()),
        Outcome::Linked(linked) => {
            let about = linked
                .edges
                .iter()
                .filter(|edge| is_about(linked, edge, soname));
            let mut edges: Vec<&Edge> = about.collect();
            // The request that was answered by opening a file tells the most.
            edges.sort_by_key(|edge| edge.found == Found::Loaded);
            (
                None,
                edges
                    .into_iter()
                    .map(|edge| request(linked, edge))
                    .collect(),
            )
        }
    };
    WhyAnswer {
        from: Bytes(from.to_vec()),
        soname: Bytes(soname.to_vec()),
        not_linked,
        requests,
    }
}

fn is_about(linked: &Linked, edge: &Edge, soname: &[u8]) -> bool {
    let target = edge.to.map(|id| linked.object(id));
    edge.name == soname
        || target.is_some_and(|object| {
            object.facts.soname.as_deref() == Some(soname)
                || object.path == soname
                || object.name == soname
        })
}

fn request(linked: &Linked, edge: &Edge) -> RequestAnswer {
    let mut chain = vec![name_of(linked, edge.from)];
    let mut at = edge.from;
    while let Some(loader) = linked.object(at).loader {
        chain.push(name_of(linked, loader));
        at = loader;
    }
    if at != ObjectId::MAIN {
        chain.push(name_of(linked, ObjectId::MAIN));
    }
    let target = edge
        .to
        .map(|id| linked.object(id))
        .filter(|object| object.role != Role::Missing);
    RequestAnswer {
        chain,
        name: Bytes(edge.name.clone()),
        path: target.map(|object| Bytes(object.path.clone())),
        real: target
            .and_then(|object| object.node.as_ref())
            .map(|node| Bytes(node.real.to_vec())),
        reason: Reason::of(linked, edge),
        stages: edge
            .stages
            .iter()
            .map(|stage| StageAnswer::of(linked, stage))
            .collect(),
    }
}

/// The answer as text.
#[must_use]
pub fn text(answer: &WhyAnswer, paint: impl Fn(Style, &str) -> String) -> String {
    let mut text = String::new();
    if let Some(why) = &answer.not_linked {
        let _ = writeln!(text, "{}: {why}", answer.from);
        return text;
    }
    let Some((first, others)) = answer.requests.split_first() else {
        let _ = writeln!(text, "{} does not load {}", answer.from, answer.soname);
        return text;
    };
    let name = paint(Style::Bold, &first.name.to_string());
    match (&first.path, &first.real) {
        (Some(path), Some(real)) if path != real => {
            let _ = writeln!(text, "{name} => {path} (which is {real})");
        }
        (Some(path), _) => {
            let _ = writeln!(text, "{name} => {path}");
        }
        (None, _) => {
            let _ = writeln!(text, "{name} {}", paint(Style::Bad, "not found"));
        }
    }
    let chain: Vec<String> = first.chain.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "  needed by {}", chain.join(", loaded for "));
    let _ = writeln!(text, "  {}", first.reason);
    for stage in &first.stages {
        for line in stage.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    for request in others {
        let _ = writeln!(
            text,
            "  also needed by {}, as {}: {}",
            request.chain[0], request.name, request.reason
        );
    }
    text
}
