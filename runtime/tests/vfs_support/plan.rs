//! Plans of trees, and paths to resolve in them, made up at random.

use proptest::prelude::*;

/// What stands at a path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File,
    Symlink(String),
}

/// A tree, by guest path (`a/b`), parents before children; and the places where mounts begin.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<(String, Node)>,
    pub(crate) mounts: Vec<String>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
        3 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
    ]
}

/// A path of a few components, absolute or not, possibly with slashes at its end.
pub(crate) fn path() -> impl Strategy<Value = String> {
    let parts = prop::collection::vec(component(), 1..7);
    let ends = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("//")];
    (any::<bool>(), parts, ends).prop_map(|(absolute, parts, end)| {
        let start = if absolute { "/" } else { "" };
        let path = format!("{start}{}{end}", parts.join("/"));
        if path.is_empty() {
            ".".to_owned()
        } else {
            path
        }
    })
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        3 => Just(Node::Directory),
        2 => Just(Node::File),
        3 => path().prop_map(Node::Symlink),
    ]
}

/// A place in a tree.
pub(crate) fn place() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..5).prop_map(|names| names.join("/"))
}

pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let place = prop::collection::vec(prop::sample::select(&NAMES[..]), 1..5);
    let places = prop::collection::vec((place, node()), 0..24);
    let mounts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (places, mounts).prop_map(|(places, mounts)| {
        let mut nodes: Vec<(String, Node)> = Vec::new();
        for (place, node) in places {
            // A directory is made of each parent that is not there, and nothing below what is none.
            for depth in 1..=place.len() {
                let path = place[..depth].join("/");
                let known = nodes.iter().find(|(known, _)| *known == path);
                match known {
                    Some((_, Node::Directory)) => {}
                    Some(_) => break,
                    None if depth == place.len() => nodes.push((path, node.clone())),
                    None => nodes.push((path, Node::Directory)),
                }
            }
        }
        let can_be_mounted = |(_, node): &&(String, Node)| !matches!(node, Node::Symlink(_));
        let places: Vec<&String> = (nodes.iter().filter(can_be_mounted))
            .map(|(path, _)| path)
            .collect();
        let mut chosen: Vec<String> = Vec::new();
        for index in mounts.iter().filter(|_| !places.is_empty()) {
            chosen.push((*index.get(&places)).clone());
        }
        chosen.sort();
        chosen.dedup();
        Plan {
            nodes,
            mounts: chosen,
        }
    })
}

/// Paths to resolve, and whether to follow a symlink at their end.
pub(crate) fn paths() -> impl Strategy<Value = Vec<(String, bool)>> {
    prop::collection::vec((path(), any::<bool>()), 1..40)
}
