//! What a run inherits over exec: anybody may pass it. What decodes has one spelling only.
#![no_main]

use elfuse_runtime::options::Inherited;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(inherited) = Inherited::decode(bytes) else {
        return;
    };
    let mut again = vec![0; bytes.len()];
    let len = inherited
        .encode(&mut again)
        .expect("what was read can be written");
    assert_eq!(&again[..len], bytes);
});
