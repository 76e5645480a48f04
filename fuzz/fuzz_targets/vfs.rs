#![no_main]

#[path = "../../runtime/tests/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::resolve(data));
