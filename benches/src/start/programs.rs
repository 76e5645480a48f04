//! What is started.

/// A sysroot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// A configured Debian.
    Debian,
    /// A directory for each package.
    Store,
    /// Of what this benchmark compiles.
    Made,
}

impl Tree {
    /// All, in the order of the results.
    pub const ALL: [Self; 3] = [Self::Made, Self::Debian, Self::Store];

    /// Heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Debian => "Debian sysroot",
            Self::Store => "Sysroot with a directory for each package",
            Self::Made => "Programs made for the purpose",
        }
    }
}

/// Whether a program can be started on the host itself, for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHost {
    /// Not: it needs its sysroot.
    No,
    /// The host's own program of that path, where there is one: another version, with other libraries.
    Namesake,
    /// The very file.
    Itself,
}

/// A program and what it is to do.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// In tables.
    pub name: &'static str,
    /// Where it is.
    pub tree: Tree,
    /// The command line, with the program's path inside.
    pub line: &'static [&'static str],
    /// For comparison.
    pub on_host: OnHost,
    /// Whether it starts others, which ways that leak start from the host.
    pub spawns: bool,
    /// Limit for the ratio to chroot()+exec where CPUID traps, and elsewhere.
    pub at_most: Option<(f64, f64)>,
    /// Whether it is in the picture of the README.
    pub pictured: bool,
}

/// Exactly as cheap as natively.
const AS_NATIVE: Option<(f64, f64)> = Some((1.0, 1.0));

const fn debian(name: &'static str, line: &'static [&'static str]) -> Program {
    Program {
        name,
        tree: Tree::Debian,
        line,
        on_host: OnHost::Namesake,
        spawns: false,
        at_most: AS_NATIVE,
        pictured: false,
    }
}

const fn made(name: &'static str, line: &'static [&'static str]) -> Program {
    Program {
        tree: Tree::Made,
        on_host: OnHost::Itself,
        ..debian(name, line)
    }
}

const fn store(name: &'static str, line: &'static [&'static str]) -> Program {
    Program {
        tree: Tree::Store,
        on_host: OnHost::No,
        at_most: Some((0.85, 0.85)),
        pictured: true,
        ..debian(name, line)
    }
}

/// The static program, whose goal is a difference and not a ratio.
pub const STATIC: &str = "empty static";

/// All of them.
pub const ALL: &[Program] = &[
    Program {
        at_most: None,
        ..made(STATIC, &["/bin/static"])
    },
    Program {
        at_most: Some((0.45, 1.05)),
        pictured: true,
        ..made("empty dynamic", &["/bin/empty"])
    },
    Program {
        at_most: Some((0.5, 0.5)),
        on_host: OnHost::No,
        pictured: true,
        ..made("search-heavy", &["/bin/search-heavy"])
    },
    Program {
        at_most: Some((0.55, 1.05)),
        pictured: true,
        ..debian("getent passwd root", &["/usr/bin/getent", "passwd", "root"])
    },
    Program {
        pictured: true,
        ..debian(
            "python3 -c 'import json'",
            &["/usr/bin/python3", "-c", "import json"],
        )
    },
    debian(
        "python3 -c 'import numpy'",
        &["/usr/bin/python3", "-c", "import numpy"],
    ),
    debian(
        "perl -MPOSIX -e 1",
        &["/usr/bin/perl", "-MPOSIX", "-e", "1"],
    ),
    Program {
        at_most: None,
        ..debian("git --version", &["/usr/bin/git", "--version"])
    },
    debian("ffmpeg -version", &["/usr/bin/ffmpeg", "-version"]),
    debian(
        "emacs --batch --eval t",
        &["/usr/bin/emacs", "--batch", "--eval", "t"],
    ),
    debian("ruby -e 1", &["/usr/bin/ruby", "-e", "1"]),
    debian("guile -c 1", &["/usr/bin/guile", "-c", "1"]),
    debian("node -e 0", &["/usr/bin/node", "-e", "0"]),
    Program {
        at_most: Some((0.65, 1.05)),
        spawns: true,
        pictured: true,
        ..debian(
            "bash -c 'ls / | wc -l'",
            &["/usr/bin/bash", "-c", "ls / | wc -l"],
        )
    },
    Program {
        at_most: Some((0.75, 1.05)),
        spawns: true,
        ..debian(
            "bash, 50 x /bin/true",
            &[
                "/usr/bin/bash",
                "-c",
                "for i in {1..50}; do /bin/true; done",
            ],
        )
    },
    store("ffmpeg -version, store", &["/bin/ffmpeg", "-version"]),
    store(
        "emacs --batch --eval t, store",
        &["/bin/emacs", "--batch", "--eval", "t"],
    ),
];
