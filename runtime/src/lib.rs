//! The index as a run sees it.
#![no_std]
