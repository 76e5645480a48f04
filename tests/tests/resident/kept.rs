//! A guest with a store beside it, and what is kept there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

use elfuse_format::names;
use elfuse_format::snapshot::counts::{self, Refusal, STARTS};
use elfuse_tests::scratch::copy_program;
use elfuse_tests::{elfuse_index, need};

use super::guest::{Guest, Said, said};

/// A guest with `/bin/resident`, glibc and libm, and a directory for its index.
pub(crate) struct Kept {
    pub(crate) guest: Guest,
    pub(crate) store: PathBuf,
}

pub(crate) const PROGRAM: &str = "/bin/resident";

impl Kept {
    /// Of the program with all that it needs, kept.
    pub(crate) fn new() -> Self {
        let kept = Self::without_snapshot();
        kept.add(&[PROGRAM]);
        kept
    }

    /// The same, and nothing is kept so far.
    pub(crate) fn without_snapshot() -> Self {
        let guest = Guest::new();
        static TOOLS: Once = Once::new();
        TOOLS.call_once(|| {
            let flags = ["-pie", "-fPIE", "-ldl", "-lpthread"];
            guest.programs.build_tools();
            guest
                .programs
                .compile("start/resident.c", "resident", &flags);
        });
        guest.add_glibc();
        guest.add_of_host("/lib/x86_64-linux-gnu/libm.so.6");
        guest.add("resident", "bin/resident");
        let store = guest.scratch.beside("store");
        fs::create_dir_all(&store).expect("a directory beside the root");
        Self { guest, store }
    }

    /// A command of `elfuse resident` on this store.
    pub(crate) fn resident(&self, command: &str, words: &[&str]) -> Said {
        let mut line = Command::new(&self.guest.programs.elfuse);
        line.args(["resident", command, "--sysroot"])
            .arg(self.guest.scratch.root())
            .arg("--index-dir")
            .arg(&self.store)
            .args(words);
        said(&mut line)
    }

    /// Keeps programs, which has to go well.
    pub(crate) fn add(&self, words: &[&str]) {
        self.resident("add", words).well();
    }

    /// `elfuse run` with this store.
    pub(crate) fn command(&self, options: &[&str], line: &[&str]) -> Command {
        let store = self.store.to_str().expect("UTF-8");
        let options = [&["--index-dir", store], options].concat();
        self.guest.elfuse(&options, line)
    }

    /// Makes an index of the guest in the store.
    pub(crate) fn index(&self) {
        let store = self.store.to_str().expect("UTF-8");
        let root = self.guest.scratch.root().to_str().expect("UTF-8");
        let line = ["build", "--quiet", "--index-dir", store, root];
        elfuse_index!().run(line).ended_with(0);
    }

    /// Runs the program under strace(1), which tells these calls and what the program says on standard error.
    pub(crate) fn trace(&self, calls: &str, options: &[&str]) -> String {
        let command = self.command(options, &[PROGRAM, "last"]);
        let mut traced = Command::new(need::tool("strace", "strace"));
        traced
            .args(["-f", "-e", &format!("trace={calls}")])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .env("GREETING", "hello");
        said(&mut traced).errors
    }

    /// Runs the program.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        said(&mut self.command(&[], &[&[PROGRAM], words].concat()))
    }

    /// Runs it as if nothing were kept.
    pub(crate) fn run_anew(&self, words: &[&str]) -> Said {
        said(&mut self.command(&["--no-resident"], &[&[PROGRAM], words].concat()))
    }

    pub(crate) fn file(&self, exe: &str, suffix: &str) -> PathBuf {
        let name = format!("{:016x}{suffix}", names::hash(exe.as_bytes()));
        self.store.join(names::RESIDENT).join(name)
    }

    /// The snapshot's file.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.file(PROGRAM, names::SNAPSHOT_SUFFIX)
    }

    pub(crate) fn counts(&self) -> [u64; counts::WORDS] {
        self.counts_of(PROGRAM)
    }

    pub(crate) fn counts_of(&self, exe: &str) -> [u64; counts::WORDS] {
        let bytes = fs::read(self.file(exe, names::COUNTS_SUFFIX)).expect("its counters");
        counts::words(&bytes).expect("its counters")
    }

    /// How often the program went on from its snapshot.
    pub(crate) fn starts(&self) -> u64 {
        self.counts()[STARTS]
    }

    /// Runs the program twice; it goes on from its snapshot each time, and says what it does without.
    pub(crate) fn is_used(&self) {
        let before = self.starts();
        let anew = self.run_anew(&["last"]);
        for _ in 0..2 {
            assert_eq!(self.run(&["last"]), anew);
        }
        assert_eq!(self.starts(), before + 2, "{:?}", self.counts());
    }

    /// Runs the program, by `change` to the command; it does not go on from its snapshot, for this reason, and says the same.
    pub(crate) fn is_refused(&self, reason: Refusal, change: impl Fn(&mut Command)) {
        let (before, line) = (self.counts(), [PROGRAM, "last"]);
        let mut commands =
            [&["--no-resident"][..], &[]].map(|options| self.command(options, &line));
        commands.iter_mut().for_each(&change);
        let [anew, refused] = commands.each_mut().map(said);
        assert_eq!(anew, refused);
        assert_eq!(refused.status, 7, "{refused:#?}");
        let mut expected = before;
        expected[reason as usize] += 1;
        expected[counts::LAST] = reason as u64;
        assert_eq!(self.counts(), expected, "{reason:?}");
    }

    /// Puts a copy of a file of the guest's in its place: the same bytes, another file.
    pub(crate) fn replace(&self, at: &str) {
        let path = self.guest.scratch.path(at);
        let copy = path.with_extension("copy");
        copy_program(&path, &copy);
        fs::rename(&copy, &path).expect("replacing a file");
    }
}
