//! Harness for tests on real sysroots.
