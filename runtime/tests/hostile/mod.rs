//! What is done with bytes of others. The fuzz targets include this file; the tests beside it run it too.
#![allow(dead_code, reason = "each target and test uses a part of it")]

use elfuse_runtime::options::Inherited;

/// What decodes has one spelling only.
pub(crate) fn inherited(bytes: &[u8]) {
    if let Ok(inherited) = Inherited::decode(bytes) {
        let mut again = vec![0; bytes.len()];
        assert_eq!(inherited.encode(&mut again), Ok(bytes.len()));
        assert_eq!(again, bytes);
    }
}
