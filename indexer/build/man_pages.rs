//! Man pages from the definitions that parse the command line. Build scripts include this file.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Writes `man/*.1` and `man_pages.rs`, a list of (file name, text) that the command `man` writes out.
pub fn write(mut command: clap::Command) {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let dir = out_dir.join("man");
    fs::create_dir_all(&dir).expect("making the directory of man pages");
    // Without a date in it the page is the same however often it is built.
    command.build();
    let mut table = String::from("&[\n");
    let mut write_page = |command: clap::Command| {
        let name = command
            .get_display_name()
            .unwrap_or(command.get_name())
            .to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .manual("elfuse")
            .render(&mut page)
            .expect("a page is written to memory");
        let file = dir.join(format!("{name}.1"));
        fs::write(&file, page).expect("writing a man page");
        writeln!(
            table,
            "    ({:?}, include_str!({:?})),",
            format!("{name}.1"),
            file
        )
        .expect("a string grows");
    };
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        write_page(sub.clone());
    }
    write_page(command);
    table.push(']');
    fs::write(out_dir.join("man_pages.rs"), table).expect("writing the list of man pages");
}
