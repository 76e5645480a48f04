#![no_main]

#[path = "../../format/tests/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::snapshot(data));
