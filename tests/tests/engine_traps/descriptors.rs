//! Every descriptor is the guest's, those that the engine keeps included; and the paths of sockets.

use super::guest::{same, same_and};

#[test]
fn the_descriptor_that_is_kept_may_be_closed() {
    same_and(&["all closed"], "odd 0\n");
}

#[test]
fn the_descriptor_that_is_kept_may_be_replaced_by_anything() {
    same_and(&["all replaced"], "odd 0\n");
    same_and(&["all above"], "odd 0\n");
}

#[test]
fn calls_that_need_no_descriptor_work_when_none_is_left() {
    same_and(
        &["all used"],
        "EMFILE, stat ok, missing ENOENT, readlink ok, wrong numbers 0\n",
    );
}

#[test]
fn descriptors_are_numbered_from_the_least_on() {
    same_and(&["lowest"], "3 4 5 3\n");
}

#[test]
fn sockets_have_names_of_up_to_108_bytes() {
    let text = same(&["sockets"]);
    assert_eq!(
        text.matches("bind ok, listen ok, connect ok").count(),
        10,
        "{text}"
    );
}

#[test]
fn the_resolve_flags_of_openat2_mean_what_they_mean() {
    let text = same(&["resolve flags"]);
    assert!(
        text.contains("beneath, up: EXDEV\n") && text.contains("both: EINVAL\n"),
        "{text}"
    );
}
