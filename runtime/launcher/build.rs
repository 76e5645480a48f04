//! How `elfuse` is linked: static, at a fixed address out of every guest's way, without the C library's start files.

/// Upper 32 bits are what the seccomp filter knows the runtime's own calls by (`sys::memory::OWN_HIGH`).
const IMAGE_BASE: &str = "0x6f0000000000";

fn main() {
    let is =
        |variable: &str, value: &str| std::env::var(variable).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        let base = format!("-Wl,--image-base={IMAGE_BASE}");
        let script = format!("-Wl,-T,{}/start.ld", env!("CARGO_MANIFEST_DIR"));
        for argument in [
            "-nostartfiles",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,-z,norelro",
            // Constants in one mapping with the code: one less to make at each start and to copy at each fork.
            "-Wl,--no-rosegment",
            "-Wl,--build-id",
            &base,
            &script,
        ] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=start.ld");
}
