//! What `--help` says, as snapshots, and that it is the help of what the launcher accepts.

use std::collections::BTreeSet;

use clap::{Arg, CommandFactory};
use elfuse_runtime::options::{self, Coherence, OPTIONS, Stats, Takes};
use elfuse_tools::cli::Cli;

fn long_help(name: Option<&str>) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let command = match name {
        None => &mut command,
        Some(name) => command
            .find_subcommand_mut(name)
            .expect("a command of that name"),
    };
    command.render_long_help().to_string()
}

fn run() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
        .find_subcommand("run")
        .expect("there is a run")
        .clone()
}

/// Names of an option's flags, with dashes.
fn flags(arg: &Arg) -> impl Iterator<Item = String> {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    long.into_iter().chain(short)
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_help_text_is_as_reviewed() {
    insta::assert_snapshot!("elfuse", long_help(None));
    for sub in Cli::command().get_subcommands() {
        let name = sub.get_name();
        insta::assert_snapshot!(name.to_owned(), long_help(Some(name)));
    }
}

#[test]
fn every_command_has_an_example() {
    for sub in Cli::command().get_subcommands() {
        let help = sub.get_after_long_help().map(ToString::to_string);
        assert!(
            help.unwrap_or_default().contains("Examples:"),
            "{} has no example",
            sub.get_name()
        );
    }
}

#[test]
fn the_help_of_run_has_the_options_that_the_launcher_accepts_and_no_others() {
    let documented: BTreeSet<String> = run().get_arguments().flat_map(flags).collect();
    let accepted: BTreeSet<String> = OPTIONS.iter().map(|spec| spec.name.to_owned()).collect();
    assert_eq!(documented, accepted);
}

#[test]
fn the_help_of_run_shows_values_where_the_launcher_takes_them() {
    let run = run();
    for spec in OPTIONS
        .iter()
        .filter(|spec| !matches!(spec.name, "-h" | "--help"))
    {
        let arg = run
            .get_arguments()
            .find(|arg| flags(arg).any(|flag| flag == spec.name))
            .expect("documented");
        let names = arg.get_value_names().unwrap_or_default();
        match spec.takes {
            Takes::Nothing => assert!(!arg.get_action().takes_values(), "{}", spec.name),
            Takes::Value(name) => {
                assert!(!arg.is_require_equals_set(), "{}", spec.name);
                assert_eq!(names, [name], "{}", spec.name);
            }
            Takes::ValueBehindEquals => assert!(arg.is_require_equals_set(), "{}", spec.name),
        }
    }
}

#[test]
fn the_help_of_run_lists_the_values_that_the_launcher_accepts() {
    let run = run();
    for (option, accepted) in [("coherence", Coherence::NAMES), ("stats", Stats::NAMES)] {
        let arg = run
            .get_opts()
            .find(|arg| arg.get_long() == Some(option))
            .expect("documented");
        let documented: Vec<String> = arg
            .get_possible_values()
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect();
        assert_eq!(documented, accepted, "{option}");
    }
}

#[test]
fn the_help_of_run_names_every_environment_variable() {
    let help = long_help(Some("run"));
    for variable in [
        options::SYSROOT_VARIABLE,
        options::INDEX_VARIABLE,
        options::TRACE_VARIABLE,
    ] {
        assert!(help.contains(variable), "{variable}");
    }
}

/// The examples of the help, read by the launcher's own parser.
#[test]
fn the_examples_of_run_are_command_lines_that_the_launcher_accepts() {
    let help = long_help(Some("run"));
    let examples: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim().strip_prefix("elfuse "))
        .filter(|line| line.starts_with("run --"))
        .collect();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let words: Vec<&[u8]> = example.split(' ').map(str::as_bytes).collect();
        let parsed = options::parse(words.into_iter(), std::iter::empty());
        assert!(
            matches!(parsed, Ok(options::Command::Run(_))),
            "{example}: {parsed:?}"
        );
    }
}
