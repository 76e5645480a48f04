//! Scripts of system calls, each run by the real kernel and by `elfuse run` in every way: see `elfuse_tests::oracle`.

use elfuse_tests::oracle::{calls, suite};
use elfuse_tests::oracle_programs;

fn check(theme: &str) {
    suite::check(theme, &calls::theme(theme), &oracle_programs!());
}

#[test]
fn files_open_as_under_the_real_kernel() {
    check("open");
}
