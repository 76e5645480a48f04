//! The facts without which a number cannot be judged.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What the numbers were measured on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Name, release and architecture, as uname(1) has them.
    pub kernel: String,
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Whether a hypervisor is below.
    pub is_virtual: bool,
    /// Whether the kernel pages out what was not touched for a while although memory is free (DAMON). Page cache then cools
    /// down by itself between the runs.
    pub reclaims_idle_memory: bool,
}

impl Machine {
    /// This machine. What the system does not tell is left empty.
    #[must_use]
    pub fn this() -> Self {
        let name = rustix::system::uname();
        let parts = [name.sysname(), name.release(), name.machine()];
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        Self {
            kernel: parts.map(|part| part.to_string_lossy()).join(" "),
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or(0_u64) * 1024,
            is_virtual: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            reclaims_idle_memory: reclaims_idle_memory(),
        }
    }
}

/// The value of the first `key : value` line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(found, _)| found.trim() == key);
    Some(values.next()?.1.trim())
}

fn reclaims_idle_memory() -> bool {
    let is = |path: &Path, expected: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.trim() == expected)
    };
    let module = Path::new("/sys/module/damon_reclaim/parameters/enabled");
    let by_hand = fs::read_dir("/sys/kernel/mm/damon/admin/kdamonds");
    let by_hand = by_hand.into_iter().flatten().filter_map(Result::ok);
    is(module, "Y")
        || by_hand
            .map(|kdamond| kdamond.path())
            .any(|kdamond| is(&kdamond.join("state"), "on"))
}

/// Load averages over 1, 5 and 15 minutes; empty where the system does not tell.
#[must_use]
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The first line that a command prints; `None` if it fails.
#[must_use]
pub fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    output.status.success().then_some(line)
}

/// Date and time in UTC, to the minute.
#[must_use]
pub fn date() -> String {
    first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default()
}

/// Type of the file system that `path` lies on.
#[must_use]
pub fn file_system(path: &Path) -> String {
    let path = path.to_string_lossy();
    // stat(1) calls ext2, ext3 and ext4 by one name.
    first_line("findmnt", &["-n", "-o", "FSTYPE", "-T", &path]).unwrap_or_default()
}

/// Whether a program is on `PATH`.
#[must_use]
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_key_and_trimmed() {
        let text = "processor\t: 0\nmodel name\t: One: Two\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), Some("One: Two"));
        assert_eq!(field(text, "flags"), None);
    }

    #[test]
    fn the_machine_has_a_kernel_and_a_processor() {
        let machine = Machine::this();
        assert!(!machine.kernel.is_empty());
        assert!(machine.cpus > 0);
    }
}
