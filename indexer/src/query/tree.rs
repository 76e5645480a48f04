//! `tree`: which libraries a program loads, who asks for each, and why it is found where it is.

use std::fmt::Write as _;

use serde::Serialize;

use crate::exit::Exit;
use crate::options::TreeOptions;
use crate::query::{LoaderAnswer, Reason, StageAnswer, ask, name_of};
use crate::report::{Bytes, Output, Style};
use crate::resolve::{Found, Linked, ObjectId, Outcome, Role, Tie};

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeAnswer {
    /// The program.
    pub program: Bytes,
    /// Its dynamic linker; none where it is not linked dynamically.
    pub loader: Option<LoaderAnswer>,
    /// Why it is not linked dynamically.
    pub not_linked: Option<String>,
    /// What is loaded, in the order in which symbols are looked up, as `LD_TRACE_LOADED_OBJECTS` prints it.
    pub objects: Vec<LoadedAnswer>,
    /// Every request, in the order they are made.
    pub edges: Vec<EdgeAnswer>,
    /// The error the dynamic linker gives up with.
    pub fatal: Option<String>,
}

/// One loaded file or missing name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadedAnswer {
    /// The name it is first asked for by.
    pub name: Bytes,
    /// The path it is opened by; none where it is not found.
    pub path: Option<Bytes>,
    /// That path without symlinks.
    pub real: Option<Bytes>,
    /// Who asks first.
    pub needed_by: Option<Bytes>,
    /// Why it is found there; none for the dynamic linker, which is not looked for.
    pub reason: Option<Reason>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EdgeAnswer {
    /// Who asks.
    pub from: Bytes,
    /// `needed`, `auxiliary`, `filter`, `preload` or `preload-file`.
    pub tie: &'static str,
    /// For what.
    pub name: Bytes,
    /// The answer's path; none where nothing is found.
    pub path: Option<Bytes>,
    /// Why.
    pub reason: Reason,
    /// Where it was looked for without success; only of what is not found.
    pub stages: Vec<StageAnswer>,
}

/// Answers `tree`.
///
/// # Errors
/// The program cannot be read, or the answer cannot be written.
pub fn run(options: &TreeOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let (_, outcome) = ask(&options.sysroot, &options.elf, &options.lookup)?;
    let answer = answer(options.elf.as_bytes(), &outcome);
    if out.is_json() {
        out.json("tree", &answer)?;
    } else {
        let text = text(&answer, &outcome, |style, text| out.paint(style, text));
        out.text().write_all(text.as_bytes())?;
    }
    let complete =
        answer.fatal.is_none() && answer.objects.iter().all(|object| object.path.is_some());
    Ok(if complete { Exit::Success } else { Exit::No })
}

/// What there is to say about `outcome`.
#[must_use]
pub fn answer(program: &[u8], outcome: &Outcome) -> TreeAnswer {
    let program = Bytes(program.to_vec());
    let linked = match outcome {
        Outcome::Linked(linked) => linked,
        Outcome::NotLinked(why) => {
            return TreeAnswer {
                program,
                loader: None,
                not_linked: Some(why.to_string()),
                objects: Vec::new(),
                edges: Vec::new(),
                fatal: None,
            };
        }
    };
    let objects = linked.order.iter().map(|&id| {
        let object = linked.object(id);
        let found = object.role != Role::Missing;
        let edge = linked.first_edge_to(id);
        let reason = edge.filter(|_| object.role != Role::Interpreter);
        LoadedAnswer {
            name: Bytes(object.name.clone()),
            path: found.then(|| Bytes(object.path.clone())),
            real: object.node.as_ref().map(|node| Bytes(node.real.to_vec())),
            needed_by: edge.map(|edge| name_of(linked, edge.from)),
            reason: reason.map(|edge| Reason::of(linked, edge)),
        }
    });
    let edges = linked.edges.iter().map(|edge| {
        let target = edge.to.map(|id| linked.object(id));
        let missing = edge.found == Found::Missing;
        EdgeAnswer {
            from: name_of(linked, edge.from),
            tie: tie(edge.tie),
            name: Bytes(edge.name.clone()),
            path: target
                .filter(|object| object.role != Role::Missing)
                .map(|object| Bytes(object.path.clone())),
            reason: Reason::of(linked, edge),
            stages: edge
                .stages
                .iter()
                .filter(|_| missing)
                .map(|stage| StageAnswer::of(linked, stage))
                .collect(),
        }
    });
    TreeAnswer {
        program,
        loader: Some(LoaderAnswer::of(linked)),
        not_linked: None,
        objects: objects.collect(),
        edges: edges.collect(),
        fatal: linked
            .fatal
            .as_ref()
            .map(|fatal| format!("{}: {}", Bytes(fatal.object.clone()), fatal.text)),
    }
}

/// The answer as text.
#[must_use]
pub fn text(
    answer: &TreeAnswer,
    outcome: &Outcome,
    paint: impl Fn(Style, &str) -> String,
) -> String {
    let mut text = format!("{}\n", paint(Style::Bold, &answer.program.to_string()));
    if let Some(why) = &answer.not_linked {
        let _ = writeln!(text, "  {why}");
        return text;
    }
    if let Some(loader) = answer.loader.as_ref().filter(|loader| !loader.exists) {
        let what = format!(
            "its dynamic linker {} is not in the sysroot; shown is what the usual one would do",
            loader.path
        );
        let _ = writeln!(text, "  {}", paint(Style::Bad, &what));
    }
    if let Outcome::Linked(linked) = outcome {
        let mut drawing = Drawing {
            linked,
            edges: (0..linked.objects.len()).map(|_| Vec::new()).collect(),
            paint: &paint,
            text,
        };
        for (number, edge) in linked.edges.iter().enumerate() {
            drawing.edges[edge.from.0].push(number);
        }
        drawing.children(ObjectId::MAIN);
        text = drawing.text;
    }
    if let Some(fatal) = &answer.fatal {
        let _ = writeln!(
            text,
            "{}: {fatal}",
            paint(Style::Bad, "the dynamic linker gives up")
        );
    }
    text
}

/// The tree being drawn: an object's own requests are shown where it is loaded, and nowhere else.
struct Drawing<'a, P> {
    linked: &'a Linked,
    /// Numbers of the edges of every object.
    edges: Vec<Vec<usize>>,
    paint: &'a P,
    text: String,
}

impl<P: Fn(Style, &str) -> String> Drawing<'_, P> {
    /// Not by recursion: a chain of libraries can be as long as whoever made them likes.
    fn children(&mut self, root: ObjectId) {
        // (edge, depth), the next one last.
        let mut left: Vec<(usize, usize)> = self.edges[root.0]
            .iter()
            .rev()
            .map(|&edge| (edge, 1))
            .collect();
        while let Some((number, depth)) = left.pop() {
            self.line(number, depth);
            let edge = &self.linked.edges[number];
            if let (Found::Opened(_), Some(to)) = (&edge.found, edge.to)
                && self.linked.object(to).role == Role::Library
            {
                left.extend(self.edges[to.0].iter().rev().map(|&edge| (edge, depth + 1)));
            }
        }
    }

    fn line(&mut self, number: usize, depth: usize) {
        // Deeper than any tree that means something.
        let indent = "  ".repeat(depth.min(40));
        let edge = &self.linked.edges[number];
        let name = Bytes(edge.name.clone()).to_string();
        let tie = match edge.tie {
            Tie::Needed => String::new(),
            other => format!("{} ", tie(other)),
        };
        if edge.found == Found::Missing {
            let head = format!("{indent}{tie}{name} not found");
            let _ = writeln!(self.text, "{}", (self.paint)(Style::Bad, &head));
            for stage in &edge.stages {
                for line in StageAnswer::of(self.linked, stage).lines() {
                    let _ = writeln!(self.text, "{indent}    {line}");
                }
            }
            return;
        }
        let reason = Reason::of(self.linked, edge);
        let path = match edge.to.map(|id| self.linked.object(id)) {
            Some(object) if !matches!(edge.found, Found::Loaded) && object.path != edge.name => {
                format!(" => {}", Bytes(object.path.clone()))
            }
            _ => String::new(),
        };
        let reason = (self.paint)(Style::Dim, &format!("[{reason}]"));
        let _ = writeln!(self.text, "{indent}{tie}{name}{path} {reason}");
    }
}

fn tie(tie: Tie) -> &'static str {
    match tie {
        Tie::Needed => "needed",
        Tie::Auxiliary => "auxiliary",
        Tie::Filter => "filter",
        Tie::Preload => "preload",
        Tie::PreloadFile => "preload-file",
    }
}
