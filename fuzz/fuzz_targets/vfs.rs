#![no_main]

#[path = "../../runtime/tests/hostile_paths/mod.rs"]
mod hostile_paths;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile_paths::resolve(data));
