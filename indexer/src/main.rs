//! `elfuse-index`: see `elfuse-index --help`.
fn main() {}
