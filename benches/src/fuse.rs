//! The sysroot on a FUSE mount, where each lookup that reaches the file system is a round trip to another process: how many requests
//! the server gets, and how long a start takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::chart::{Bar, Chart, Group, Role};
use crate::cli::Within;
use crate::ground::{Ground, Root};
use crate::namespace;
use crate::report::{Goal, Report, Section, Table, number};
use crate::turns::{self, Expected, Rounds, Side, Taken};
use crate::workspace::Workspace;

/// Name of the section and of the files of results.
pub const NAME: &str = "fuse";

/// The server: Debian's package of that name, which passes everything through to another directory.
const SERVER: &str = "bindfs";

const NATIVE: &str = "chroot()+exec";
/// Modes that are timed. The index of such a file system is believed only where the tree is said not to change.
const MODES: [&str; 2] = ["frozen", "off"];
/// Limit for the ratio of a start on a frozen tree to one by chroot()+exec on the same mount.
const AT_MOST: f64 = 0.7;

/// What the kernel keeps of names and attributes, it keeps for a second here.
const KEPT: Duration = Duration::from_millis(1300);

const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("made", "search-heavy", &["/bin/search-heavy"]),
    (
        "store",
        "ffmpeg -version, store",
        &["/bin/ffmpeg", "-version"],
    ),
    (
        "store",
        "emacs --batch --eval t, store",
        &["/bin/emacs", "--batch", "--eval", "t"],
    ),
];

/// Requests of one start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Requests {
    /// By kind.
    by_kind: BTreeMap<String, u64>,
    /// Lookups that were answered with an error.
    failing: u64,
    /// What is looked up or asked for its attributes, and neither opened nor above what is; as often as it is.
    idle: Vec<PathBuf>,
}

/// One program.
struct Measured {
    name: &'static str,
    native: Requests,
    frozen: Requests,
    taken: Vec<Taken>,
}

/// Measures, and writes what was found.
///
/// # Errors
/// If there is no server or nothing can be mounted, a program does not start natively, or results cannot be written.
pub fn run(options: &Within, workspace: &Workspace) -> anyhow::Result<Report> {
    let ground = Ground::new(workspace, options.cache.as_deref())?;
    let command = "cargo run --release -p elfuse-benches -- fuse";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let server = ground.peers.get(SERVER);
    let server = server.with_context(|| format!("{SERVER} is not there"))?;
    let made = ground.made_root(workspace)?;
    let trees = [("made", made.tree), ("store", workspace.sysroot("store")?)];
    let mut all = Vec::new();
    for (tree, source) in &trees {
        let of_tree = || PROGRAMS.iter().filter(|(of, ..)| of == tree);
        let mut requests = Vec::new();
        {
            let log = ground.cache.join("fuse.log");
            let mount = Mount::new(&ground, server, source, tree, Some(&log))?;
            for &(_, name, line) in of_tree() {
                eprintln!("{name}, requests");
                let native = mount.requests(&log, ground.chroot_exec(&mount.root, line))?;
                let frozen =
                    mount.requests(&log, ground.elfuse_run(&mount.root, "frozen", line))?;
                for path in frozen.idle.iter().collect::<BTreeSet<_>>() {
                    eprintln!("  asked for and not opened: {}", path.display());
                }
                requests.push((native, frozen));
            }
        }
        let mount = Mount::new(&ground, server, source, tree, None)?;
        for (&(_, name, line), (native, frozen)) in of_tree().zip(requests) {
            eprintln!("{name}");
            let side = |name: &str, command| Side {
                name: name.to_owned(),
                command,
                expected: Expected::SameOutput,
            };
            let mut sides = vec![side(NATIVE, ground.chroot_exec(&mount.root, line))];
            for mode in MODES {
                sides.push(side(
                    &format!("elfuse {mode}"),
                    ground.elfuse_run(&mount.root, mode, line),
                ));
            }
            let rounds = Rounds {
                count: options.rounds(20),
                by_length: false,
                before: None,
            };
            let taken = turns::take(&mut sides, rounds)?;
            all.push(Measured {
                name,
                native,
                frozen,
                taken,
            });
        }
    }
    report.sections.extend(all.iter().map(Measured::section));
    report.end();
    if options.quick {
        eprint!("{}", report.markdown());
        return Ok(report);
    }
    report.draw(&workspace.benches(), &chart(&all))?;
    report.write(&workspace.benches())?;
    Ok(report)
}

/// A mounted tree. It goes with the server, at the latest with this process's mount namespace.
struct Mount {
    server: Child,
    root: Root,
}

impl Mount {
    fn new(
        ground: &Ground,
        server: &Path,
        source: &Path,
        name: &str,
        log: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let at = ground.cache.join("mnt").join(format!("fuse-{name}"));
        let root = Root {
            tree: at.join("tree"),
            native: at.join("native"),
            index: ground.cache.join(format!("index-fuse-{name}")),
        };
        for directory in [&root.tree, &root.native] {
            fs::create_dir_all(directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        let outside = fs::metadata(&root.tree)?.dev();
        // It would outlive this process if that were killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(server);
        command.args(["-f", "-o", "ro"]).stdin(Stdio::null());
        match log {
            // In one thread, so that what belongs to a request stands behind it.
            Some(log) => command.args(["-d", "-s"]).stderr(File::create(log)?),
            None => command.stderr(Stdio::null()),
        };
        let child = command.arg(source).arg(&root.tree).spawn();
        let mut mount = Self {
            server: child.with_context(|| format!("starting {SERVER}"))?,
            root,
        };
        let mut left = 100;
        while fs::metadata(&mount.root.tree)?.dev() == outside {
            left -= 1;
            let ended = mount.server.try_wait()?;
            anyhow::ensure!(
                left > 0 && ended.is_none(),
                "{SERVER} mounted nothing: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        namespace::show(&mount.root.tree, &mount.root.native)?;
        namespace::furnish(&mount.root.native)?;
        // A frozen tree is one of which the index may also say what stat returns.
        ground.index(&mount.root.tree, &mount.root.index, &["--attributes"])?;
        Ok(mount)
    }

    /// Starts a program and reads what the server wrote of it meanwhile. One start goes before, so that content is in the cache.
    fn requests(&self, log: &Path, mut command: Command) -> anyhow::Result<Requests> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status()?;
        std::thread::sleep(KEPT);
        let from = fs::metadata(log)?.len();
        let status = command.status()?;
        anyhow::ensure!(status.success(), "{command:?}: {status}");
        // Files are released when the process is gone already.
        std::thread::sleep(KEPT / 10);
        let text = fs::read(log)?;
        let text = text.get(usize::try_from(from)?..).unwrap_or_default();
        Ok(Requests::of(&String::from_utf8_lossy(text)))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for path in [&self.root.native, &self.root.tree] {
            // What is left of it goes with the namespace.
            let _ = Command::new("umount")
                .args(["--recursive", "--lazy"])
                .arg(path)
                .status();
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Requests {
    /// Of the lines that libfuse writes for debugging, for each request
    ///
    /// ```text
    /// unique: 594, opcode: LOOKUP (1), nodeid: 1, insize: 44, pid: 29869
    /// LOOKUP /bin
    ///    unique: 594, success, outsize: 144
    /// ```
    fn of(log: &str) -> Self {
        let mut requests = Self::default();
        let mut opened = BTreeSet::new();
        let mut asked = Vec::new();
        let mut kind = String::new();
        // Only the first path behind a request is its own; a name is looked up, for one, by asking for attributes.
        let mut is_named = true;
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("opcode: ") {
                kind = rest.split(' ').next().unwrap_or_default().to_owned();
                *requests.by_kind.entry(kind.clone()).or_default() += 1;
                is_named = false;
            } else if line.contains("error: -") {
                requests.failing += u64::from(kind == "LOOKUP");
            } else if let Some(at) = line.find(" /").filter(|_| !is_named) {
                let path = PathBuf::from(&line[at + 1..]);
                is_named = true;
                match &*kind {
                    "OPEN" | "OPENDIR" | "READLINK" => {
                        opened.extend(path.ancestors().map(Path::to_owned));
                    }
                    "LOOKUP" | "GETATTR" => asked.push(path),
                    _ => {}
                }
            }
        }
        asked.retain(|path| !opened.contains(path));
        requests.idle = asked;
        requests
    }

    fn all(&self) -> u64 {
        self.by_kind.values().sum()
    }

    fn count(&self, kind: &str) -> u64 {
        self.by_kind.get(kind).copied().unwrap_or(0)
    }

    fn row(&self, name: &str) -> Vec<String> {
        const SHOWN: [&str; 5] = ["LOOKUP", "GETATTR", "OPEN", "READ", "READLINK"];
        let others = self
            .by_kind
            .iter()
            .filter(|(kind, _)| !SHOWN.contains(&kind.as_str()));
        let others: Vec<_> = others
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let mut row = vec![name.to_owned(), self.all().to_string()];
        row.extend(SHOWN.map(|kind| self.count(kind).to_string()));
        row.extend([
            self.failing.to_string(),
            self.idle.len().to_string(),
            others.join(", "),
        ]);
        row
    }
}

impl Measured {
    fn section(&self) -> Section {
        let native = &self.taken[0];
        let frozen = &self.taken[1];
        let goal = |what: &str, at_most: f64, found: f64, unit: &str| Goal {
            what: what.to_owned(),
            at_most,
            found,
            unit: unit.to_owned(),
        };
        let is_right = frozen.fault.is_none();
        let found = if is_right {
            frozen.ratio_to(native).p50
        } else {
            f64::NAN
        };
        let heads = [
            "",
            "requests",
            "LOOKUP",
            "GETATTR",
            "OPEN",
            "READ",
            "READLINK",
            "LOOKUPs that fail",
            "LOOKUPs and GETATTRs of what is not opened",
            "of which",
        ];
        Section {
            title: format!("{}, on {SERVER}", self.name),
            about: vec![format!(
                "Requests are counted by what the server writes for debugging, of one start with its files in the page cache and after the second for which \
                 the kernel keeps names and attributes; not opened is what is neither opened itself, nor read as a symlink, nor a directory on the way to \
                 such. The index has attributes (`build --attributes`), and the starts before were elfuse's first ones there: what they have compared, this \
                 one does not. Times are with another server that writes nothing, starts one after the other, and so with what the kernel still keeps."
            )],
            peer: NATIVE.to_owned(),
            rows: self
                .taken
                .iter()
                .map(|taken| {
                    let fault = taken.fault.iter().map(|fault| format!(": {fault}"));
                    taken.row(
                        taken.name.clone() + &fault.collect::<String>(),
                        native,
                        None,
                    )
                })
                .collect(),
            tables: vec![Table {
                title: "Requests that reach the server:".to_owned(),
                columns: heads.map(str::to_owned).to_vec(),
                rows: vec![self.native.row(NATIVE), self.frozen.row("elfuse frozen")],
            }],
            goals: vec![
                goal(
                    "LOOKUP requests that fail, frozen",
                    0.0,
                    self.frozen.failing as f64,
                    "requests",
                ),
                goal(
                    "LOOKUP and GETATTR requests of what is not opened, frozen",
                    0.0,
                    self.frozen.idle.len() as f64,
                    "requests",
                ),
                goal("time, frozen", AT_MOST, found, "x chroot()+exec"),
            ],
        }
    }
}

fn chart(all: &[Measured]) -> Chart {
    let groups = all.iter().map(|measured| {
        let bars = measured.taken.iter().map(|taken| {
            let ratio = taken.ratio_to(&measured.taken[0]);
            Bar {
                label: taken.name.clone(),
                text: format!(
                    "{} ms, {:.2}x",
                    number(taken.seconds().p50 * 1e3),
                    ratio.p50
                ),
                value: ratio.p50,
                spread: (ratio.p25, ratio.p75),
                limit: (taken.name == "elfuse frozen").then_some(AT_MOST),
                role: if taken.name == NATIVE {
                    Role::Peer
                } else {
                    Role::Ours
                },
            }
        });
        Group {
            title: measured.name.to_owned(),
            bars: bars.collect(),
        }
    });
    Chart {
        title: format!("Start-up from a sysroot on {SERVER}, as a multiple of chroot()+exec"),
        unit: "bar: median of the rounds' ratios; whisker: p25 to p75; tick: at most".to_owned(),
        groups: groups.collect(),
        axis: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_what_they_are_for() {
        let log = "\
unique: 2, opcode: LOOKUP (1), nodeid: 1, insize: 45, pid: 1
LOOKUP /root
getattr /root
   unique: 2, error: -2 (No such file or directory), outsize: 16
unique: 4, opcode: LOOKUP (1), nodeid: 1, insize: 44, pid: 1
LOOKUP /bin
getattr /bin
   NODEID: 2
   unique: 4, success, outsize: 144
unique: 6, opcode: OPEN (14), nodeid: 6, insize: 48, pid: 1
open flags: 0x8020 /bin/program
   open[5] flags: 0x8020 /bin/program
   unique: 6, success, outsize: 32
unique: 8, opcode: GETATTR (3), nodeid: 9, insize: 56, pid: 1
getattr[NULL] /opt/d01
   unique: 8, success, outsize: 120
unique: 10, opcode: FLUSH (25), nodeid: 6, insize: 64, pid: 1
   unique: 10, error: -38 (Function not implemented), outsize: 16
";
        let found = Requests::of(log);
        assert_eq!((found.all(), found.count("LOOKUP")), (5, 2));
        // `/root` fails and is not opened, `/opt/d01` is not opened.
        assert_eq!(found.failing, 1);
        assert_eq!(found.idle, [Path::new("/root"), Path::new("/opt/d01")]);
    }
}
