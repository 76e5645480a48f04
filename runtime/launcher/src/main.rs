//! `elfuse`: starts programs of a sysroot. A libc-free static program starts in a tenth of the time that a static glibc one takes, which
//! runs CPUID dozens of times before `main`. Everything but `run` is done by `elfuse-tools`, which this executes.
#![cfg_attr(all(target_os = "linux", target_arch = "x86_64"), no_std, no_main)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod entry;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod memory;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    eprintln!("elfuse: programs are run on Linux x86-64 only so far");
    std::process::exit(125);
}
