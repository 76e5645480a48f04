//! The resolver's answers in the form in which the real dynamic linkers give theirs.

use elfuse_indexer::resolve::constants::Family;
use elfuse_indexer::resolve::{
    Found, Linked, ObjectId, Outcome, Question, Role, Source, Start, Tie, errno_name, resolve,
};
use elfuse_indexer::tree::Tree;

use crate::ld_trace::{How, Request, Trace};
use crate::strace::PathCall;

/// The question that a request to a real dynamic linker is.
#[must_use]
pub fn question(request: &Request) -> Question {
    let start = match &request.how {
        How::Executed => Start::Usual,
        How::By(loader) | How::List(loader) => Start::By(loader.clone().into_bytes()),
    };
    Question {
        start,
        library_path: request.library_path.clone().map(String::into_bytes),
        preload: request.preload.clone().map(String::into_bytes),
        ..Question::new(request.file.as_str())
    }
}

/// What the resolver says, or why it says that no dynamic linker has anything to do with the file.
///
/// # Errors
/// The reason, as it is told to people.
///
/// # Panics
/// The file is not there.
pub fn predict(tree: &dyn Tree, question: &Question) -> Result<Linked, String> {
    match resolve(tree, question).expect("the file is there") {
        Outcome::Linked(linked) => Ok(*linked),
        Outcome::NotLinked(why) => Err(why.to_string()),
    }
}

/// What the real dynamic linker would print.
#[must_use]
pub fn as_trace(linked: &Linked) -> Trace {
    if linked.loader.constants.family == Family::Musl {
        return as_musl_list(linked);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut trace = Trace::default();
    if let Some(fatal) = &linked.fatal {
        trace.fatal = Some((text(&fatal.object), fatal.text.clone()));
        return trace;
    }
    // "statically linked", even with preloads.
    if linked.object(ObjectId::MAIN).facts.needed.is_empty() {
        return trace;
    }
    for &id in &linked.order {
        let object = linked.object(id);
        trace.list.push(match object.role {
            Role::Missing => (text(&object.name), None),
            _ => (text(&object.name), Some(text(&object.path))),
        });
    }
    trace
}

/// What musl's `--list` would print: a line for every file when it is loaded, for every name of its own when it is
/// first asked for, and an error for every request that fails.
#[must_use]
pub fn as_musl_list(linked: &Linked) -> Trace {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let loader = text(&linked.loader.path);
    let mut trace = Trace {
        list: vec![(loader.clone(), Some(loader.clone()))],
        ..Trace::default()
    };
    let mut own_names: Vec<String> = Vec::new();
    for edge in &linked.edges {
        let name = text(&edge.name);
        match &edge.found {
            Found::Opened(Source::Itself) => {
                // "libc.so" and "libc.so.6" are the same of its names; its path is none.
                let stem = name
                    .split_inclusive('.')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                if name != loader && !own_names.contains(&stem) {
                    own_names.push(stem);
                    trace.list.push((name, Some(loader.clone())));
                }
            }
            Found::Opened(_) => {
                let path = edge.to.map(|id| text(&linked.object(id).path));
                trace.list.push((name, path));
            }
            Found::Missing if edge.tie == Tie::Needed => trace.list.push((name, None)),
            Found::Missing | Found::Loaded | Found::SameFile(_) => {}
        }
    }
    trace
}

/// What `strace` would see.
#[must_use]
pub fn as_path_calls(linked: &Linked) -> Vec<PathCall> {
    let calls = linked.probes.iter().map(|probe| {
        let path = String::from_utf8_lossy(&probe.path).into_owned();
        let errno = probe.errno.map(|errno| errno_name(errno).into_owned());
        (probe.call.name().to_owned(), path, errno)
    });
    calls.collect()
}

/// How two lists of calls differ first; `None`: not at all.
#[must_use]
pub fn first_difference(real: &[PathCall], ours: &[PathCall]) -> Option<String> {
    let at = (0..real.len().max(ours.len())).find(|&at| real.get(at) != ours.get(at))?;
    let window =
        |calls: &[PathCall]| format!("{:?}", &calls[at.min(calls.len())..calls.len().min(at + 3)]);
    Some(format!(
        "call {at}\n  ld.so: {} of {}\n  ours:  {} of {}",
        window(real),
        real.len(),
        window(ours),
        ours.len()
    ))
}
