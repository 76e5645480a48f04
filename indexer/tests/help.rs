//! What `--help` says, as snapshots: a change of the command line shows in review.

use clap::CommandFactory;
use elfuse_indexer::cli::Cli;

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

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_help_text_is_as_reviewed() {
    insta::assert_snapshot!("elfuse-index", long_help(None));
    let names: Vec<String> = Cli::command()
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        insta::assert_snapshot!(name.clone(), long_help(Some(&name)));
    }
}

#[test]
fn every_command_with_a_question_has_an_example() {
    for sub in Cli::command().get_subcommands() {
        let help = sub
            .get_after_long_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            help.contains("Examples:"),
            "{} has no example",
            sub.get_name()
        );
    }
}
