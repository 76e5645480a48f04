//! What programs open by themselves besides libraries: the standard library of an interpreter above all.
//!
//! A table, because it cannot be seen from an ELF file, and the program is not run to ask it. Two ways to find a
//! directory cover Debian, Fedora, Alpine, Nix and Guix alike:
//!
//! - beside the program: `PREFIX/lib/python3.11` for `PREFIX/bin/python3.11`;
//! - compiled in: paths in the program or its own library that name an existing directory of the right kind, which is
//!   how perl's `@INC` or git's `git-core` are found wherever a distribution puts them.

use std::collections::BTreeSet;

use super::compiled_in;
use super::gather::{Gather, TreeFiles, file_name};
use super::plan::{Because, Group};
use crate::tree::{Node, Tree, join, split};

/// One kind of program.
struct Runtime {
    name: &'static str,
    /// Names of the program: one of these, then nothing but a version.
    programs: &'static [&'static str],
    /// Its own library: what the name starts with. Looked into as the program is.
    library: &'static str,
    /// Directories below the prefix of the program. `{version}` is that in its name, such as 3.11.
    beside: &'static [&'static str],
    /// A compiled-in directory counts if one of its names starts with one of these.
    compiled_in: &'static [&'static str],
    /// Not copied: names directly below such a directory, `*` at the end standing for anything.
    without: &'static [&'static str],
    /// Where packages are installed: names of directories anywhere in a path. Only with `--site-packages`.
    site: &'static [&'static str],
}

const RUNTIMES: &[Runtime] = &[
    Runtime {
        name: "python",
        programs: &["python"],
        library: "libpython",
        beside: &[
            "lib/python{version}",
            "lib64/python{version}",
            "lib/python3/dist-packages",
            "local/lib/python{version}/dist-packages",
        ],
        compiled_in: &[],
        // The test suite, and what is needed to build another interpreter: as large as all the rest.
        without: &["test", "config-*"],
        site: &["site-packages", "dist-packages"],
    },
    Runtime {
        name: "perl",
        programs: &["perl"],
        library: "libperl.",
        beside: &["lib/perl5"],
        compiled_in: &["perl", "site_perl"],
        without: &[],
        site: &["site_perl", "local"],
    },
    Runtime {
        name: "ruby",
        programs: &["ruby"],
        library: "libruby",
        beside: &["lib/ruby/{version}.0"],
        compiled_in: &["ruby"],
        without: &[],
        site: &["site_ruby", "local", "gems"],
    },
    Runtime {
        name: "guile",
        programs: &["guile", "guile-"],
        library: "libguile-",
        beside: &["share/guile/{version}", "lib/guile/{version}"],
        compiled_in: &["guile"],
        without: &[],
        site: &["site", "site-ccache", "local"],
    },
    Runtime {
        name: "emacs",
        programs: &["emacs", "emacs-gtk", "emacs-nox", "emacs-lucid"],
        library: "",
        // Compiled Lisp is looked for from the program's place, not by a path that is compiled in.
        beside: &["lib/emacs", "libexec/emacs"],
        compiled_in: &["emacs"],
        without: &[],
        site: &["site-lisp", "local"],
    },
    Runtime {
        name: "git",
        programs: &["git"],
        library: "",
        beside: &["share/git-core/templates"],
        compiled_in: &["git-core"],
        without: &[],
        site: &[],
    },
    Runtime {
        name: "node",
        programs: &["node", "nodejs"],
        library: "libnode.",
        beside: &[],
        // Debian takes what others compile into node from files.
        compiled_in: &["nodejs"],
        without: &[],
        site: &[],
    },
];

/// Adds the runtime of the program at `node`, if it has one. `path` is how it is called, `libraries` what it loads.
pub(super) fn add(
    gather: &mut Gather<'_>,
    node: &Node,
    path: &[u8],
    libraries: &[Node],
) -> anyhow::Result<()> {
    let Some((runtime, version)) = recognise(file_name(&node.real)) else {
        return Ok(());
    };
    let because = Because::new(Group::Runtime, runtime.name);
    if runtime.name == "python" {
        // In a virtual environment, this file beside or above the symlink to the interpreter says so.
        let beside = split(path).map(|(directory, _)| directory);
        for directory in [
            beside,
            beside.and_then(split).map(|(directory, _)| directory),
        ]
        .into_iter()
        .flatten()
        {
            gather.want(&join(directory, b"pyvenv.cfg"), &because);
        }
    }
    let with_site = gather.options.site_packages;
    let site = site_names(runtime, &node.real);
    let is_site = |path: &[u8]| names(path).any(|name| site.contains(&name));
    for found in places(gather, runtime, &version, node, libraries) {
        if is_site(&found) && !with_site {
            continue;
        }
        let keep = |inside: &[u8]| {
            let top = names(inside).next().unwrap_or_default();
            !runtime.without.iter().any(|pattern| matches(pattern, top))
                && (with_site || !is_site(inside))
        };
        if gather.source.is_directory(&found) {
            gather.tree(&found, &because, TreeFiles::Modules, &keep)?;
        } else {
            gather.want(&found, &because);
        }
    }
    Ok(())
}

/// The kind of program that `name`, that of the file itself and not of a symlink, is; and the version in it.
fn recognise(name: &[u8]) -> Option<(&'static Runtime, String)> {
    let name = std::str::from_utf8(name).ok()?;
    let is_version = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    RUNTIMES.iter().find_map(|runtime| {
        let mut versions = runtime
            .programs
            .iter()
            .filter_map(|program| name.strip_prefix(program));
        versions
            .find(|version| is_version(version))
            .map(|version| (runtime, version.to_owned()))
    })
}

/// Existing directories and files that belong to the runtime.
fn places(
    gather: &Gather<'_>,
    runtime: &Runtime,
    version: &str,
    node: &Node,
    libraries: &[Node],
) -> BTreeSet<Vec<u8>> {
    let mut places = BTreeSet::new();
    let prefix = split(&node.real)
        .and_then(|(bin, _)| split(bin))
        .map_or(&b"/"[..], |(prefix, _)| prefix);
    // Where /bin is no symlink, a program in it has its data below /usr all the same.
    for prefix in [prefix, &b"/usr"[..]]
        .into_iter()
        .take(if prefix == b"/" { 2 } else { 1 })
    {
        for template in runtime
            .beside
            .iter()
            .filter(|text| !version.is_empty() || !text.contains("{version}"))
        {
            let directory = join(prefix, template.replace("{version}", version).as_bytes());
            if gather.source.is_directory(&directory) {
                places.insert(directory);
            }
        }
    }
    if runtime.compiled_in.is_empty() {
        return places;
    }
    let is_own = |library: &&Node| {
        !runtime.library.is_empty()
            && file_name(&library.real).starts_with(runtime.library.as_bytes())
    };
    for file in std::iter::once(node).chain(libraries.iter().filter(is_own)) {
        let Ok(bytes) = gather.source.tree().read(file) else {
            continue;
        };
        for path in compiled_in::paths(&bytes) {
            let is_right = names(path).any(|name| {
                runtime
                    .compiled_in
                    .iter()
                    .any(|kind| name.starts_with(kind.as_bytes()))
            });
            if is_right
                && path != &*node.real
                && !places.contains(path)
                && gather.source.exists(path)
            {
                places.insert(path.to_vec());
            }
        }
    }
    places
}

/// The names that mark installed packages; not those above the program itself, which may be all in /usr/local.
fn site_names(runtime: &Runtime, program: &[u8]) -> Vec<&'static [u8]> {
    let site = runtime.site.iter().map(|name| name.as_bytes());
    site.filter(|site| !names(program).any(|name| name == *site))
        .collect()
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
}

fn matches(pattern: &str, name: &[u8]) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start.as_bytes()),
        None => name == pattern.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_recognised_by_its_name_without_the_version() {
        let recognised = |name: &str| {
            recognise(name.as_bytes()).map(|(runtime, version)| (runtime.name, version))
        };
        assert_eq!(
            recognised("python3.11"),
            Some(("python", "3.11".to_owned()))
        );
        assert_eq!(recognised("perl"), Some(("perl", String::new())));
        assert_eq!(recognised("guile-3.0"), Some(("guile", "3.0".to_owned())));
        assert_eq!(recognised("python3-config"), None);
        assert_eq!(recognised("pythonic"), None);
        assert_eq!(recognised("git-shell"), None);
    }

    #[test]
    fn a_program_in_usr_local_has_its_own_modules_there() {
        let perl = RUNTIMES
            .iter()
            .find(|runtime| runtime.name == "perl")
            .unwrap();
        assert!(site_names(perl, b"/usr/bin/perl").contains(&&b"local"[..]));
        assert!(!site_names(perl, b"/usr/local/bin/perl").contains(&&b"local"[..]));
    }
}
