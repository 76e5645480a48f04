#![no_main]

#[path = "../../indexer/tests/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::patch(data));
