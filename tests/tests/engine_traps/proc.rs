//! What procfs shows of a guest, to itself and to other guests.

use super::guest::{Guest, same, same_and};

#[test]
fn words_and_names_are_those_of_a_native_start() {
    let text = same(&["given words", "first", "second"]);
    assert!(
        text.starts_with("cmdline: /bin/traps|given words|first|second|\n"),
        "{text}"
    );
}

#[test]
fn numbers_of_stat_are_those_of_a_native_start() {
    let text = same(&["numbers"]);
    assert!(text.contains("stack starts with 2\n"), "{text}");
}

#[test]
fn numbers_of_stat_are_those_of_a_native_start_for_a_dynamic_program_too() {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("traps-dynamic", "bin/dynamic");
    let line = ["/bin/dynamic", "numbers"];
    assert_eq!(guest.native(&line), guest.run(&line));
}

#[test]
fn a_guest_sees_its_own_mappings_by_its_own_names() {
    let text = same(&["mappings"]);
    assert!(
        text.contains("\n/bin/traps\n") && text.contains("\n/w/f\n"),
        "{text}"
    );
    assert!(text.contains("\n/w/gone (deleted)\n"), "{text}");
    assert_eq!(text.matches("own 0, unsorted 0\n").count(), 5, "{text}");
}

#[test]
fn mappings_of_the_index_and_of_what_is_counted_are_not_shown_either() {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("traps-dynamic", "bin/dynamic");
    let mut index = std::process::Command::new(&guest.programs.index);
    index.args(["build", "--quiet"]).arg(guest.scratch.root());
    assert_eq!(super::guest::said(&mut index).status, 0);
    let line = ["/bin/dynamic", "mappings"];
    let native = guest.native(&line).well();
    assert!(
        native.contains("/lib/x86_64-linux-gnu/libc.so.6\n"),
        "{native}"
    );
    let mut counted = guest.elfuse(&["--stats"], &line);
    assert_eq!(super::guest::said(&mut counted).text, native);
    let mut traced = guest.elfuse(&[], &line);
    traced.env("ELFUSE_STARTUP_TRACE", "all");
    assert_eq!(super::guest::said(&mut traced).text, native);
}

#[test]
fn another_guests_program_and_mappings_are_told_by_its_own_names() {
    let guest = Guest::new();
    guest.add("traps", "bin/other");
    let text = guest.both(&["others", "/bin/other"]).well();
    assert!(
        text.starts_with("mine: /traps, the other's: /other, led to: ok 1"),
        "{text}"
    );
    assert!(text.contains("its maps: own 0, named 1\n"), "{text}");
}

#[test]
fn a_program_that_was_renamed_or_removed_is_told_so() {
    let guest = Guest::new();
    for run in [Guest::native, Guest::run] {
        guest.add("traps", "w/copy");
        let said = run(&guest, &["/w/copy", "removed", "/w/copy"]);
        assert_eq!(
            said.well(),
            "/copy, renamed: /copy-moved ok, removed: /copy (deleted)\n"
        );
    }
}

#[test]
fn a_directory_that_is_gone_is_told_so() {
    same_and(
        &["removed directory"],
        "getcwd ENOENT, link /gone (deleted), open ENOENT, make ENOENT, here ok, up ok\n",
    );
}
