//! The command line of `run`.

use std::iter;

use elfuse_runtime::options::{
    Bind, Coherence, Command, MAX_BINDS, MAX_ENV_EDITS, RunOptions, Stats, UsageError, binds, parse,
};
use elfuse_runtime::trace::TraceBits;

fn bytes<'a>(words: &'a [&'a str]) -> impl Iterator<Item = &'a [u8]> + Clone {
    words.iter().map(|word| word.as_bytes())
}

/// What stands behind the program's own name.
fn behind_name<'a>(args: &'a [&'a str]) -> impl Iterator<Item = &'a [u8]> + Clone {
    iter::once(b"run".as_slice()).chain(bytes(args))
}

#[track_caller]
fn run_in<'a>(args: &'a [&'a str], env: &'a [&'a str]) -> RunOptions<'a> {
    match parse(behind_name(args), bytes(env)) {
        Ok(Command::Run(options)) => options,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn run<'a>(args: &'a [&'a str]) -> RunOptions<'a> {
    run_in(args, &[])
}

#[track_caller]
fn refused<'a>(args: &'a [&'a str]) -> UsageError<'a> {
    refused_in(args, &[])
}

#[track_caller]
fn refused_in<'a>(args: &'a [&'a str], env: &'a [&'a str]) -> UsageError<'a> {
    parse(behind_name(args), bytes(env)).expect_err("the command line makes no sense")
}

#[test]
fn a_sysroot_and_a_program_are_enough() {
    let options = run(&["--sysroot", "/srv/root", "/bin/ls", "-l", "--bind"]);
    assert_eq!(options.sysroot, b"/srv/root");
    assert_eq!(options.program, b"/bin/ls");
    assert_eq!(options.program_at, 3);
    assert_eq!(options.index_dir, None);
    assert_eq!(options.coherence, Coherence::Lease);
    assert!(!options.shadow && !options.host_fallback && !options.clear_env);
    assert!(options.default_binds && options.cpuid_table && options.resident && options.populate);
    assert_eq!((options.bind_count, options.edit_count), (0, 0));
    assert_eq!(options.workdir, None);
    assert_eq!(options.stats, Stats::Off);
    assert_eq!(options.trace, TraceBits::NONE);
}

#[test]
fn every_option_is_understood_in_both_spellings() {
    let apart = run(&[
        "--sysroot",
        "root",
        "--index-dir",
        "store",
        "--coherence",
        "strict",
        "--bind",
        "/a:/b",
        "--no-default-binds",
        "--host-fallback",
        "--no-cpuid-table",
        "--no-resident",
        "--no-populate",
        "--workdir",
        "/w",
        "--env",
        "K=V",
        "--clear-env",
        "--stats",
        "prog",
    ]);
    let joined = run(&[
        "--sysroot=root",
        "--index-dir=store",
        "--coherence=strict",
        "--bind=/a:/b",
        "--no-default-binds",
        "--host-fallback",
        "--no-cpuid-table",
        "--no-resident",
        "--no-populate",
        "--workdir=/w",
        "--env=K=V",
        "--clear-env",
        "--stats=text",
        "prog",
    ]);
    assert_eq!(apart.program_at, 20);
    assert_eq!(joined.program_at, 14);
    assert_eq!(
        RunOptions {
            program_at: 20,
            ..joined
        },
        apart
    );
    assert_eq!(apart.index_dir, Some(b"store".as_slice()));
    assert_eq!(apart.coherence, Coherence::Strict);
    assert_eq!(apart.workdir, Some(b"/w".as_slice()));
    assert_eq!((apart.bind_count, apart.edit_count), (1, 1));
    assert_eq!(apart.stats, Stats::Text);
    assert!(
        !apart.default_binds
            && !apart.cpuid_table
            && !apart.resident
            && !apart.populate
            && apart.host_fallback
            && apart.clear_env
    );
    assert_eq!(
        run(&["--stats=json", "--sysroot=/", "p"]).stats,
        Stats::Json
    );
}

#[test]
fn what_may_be_repeated_is_read_in_order_and_not_from_the_programs_own_arguments() {
    let args = [
        "--bind=/a",
        "--sysroot",
        "--bind",
        "--bind",
        "/b:/c",
        "p",
        "--bind=/d",
    ];
    assert!(matches!(
        refused(&args),
        UsageError::MissingValue {
            option: "--sysroot",
            ..
        }
    ));
    let args = [
        "--bind=/a",
        "--sysroot=/r",
        "--bind",
        "/b:/c",
        "--",
        "--bind=/d",
        "--bind=/e",
    ];
    assert_eq!(run(&args).bind_count, 2);
    let found: Vec<_> = binds(behind_name(&args)).map(|bind| bind.host).collect();
    assert_eq!(found, [b"/a", b"/b"]);
}

#[test]
fn options_end_at_the_program_or_behind_two_dashes() {
    assert_eq!(run(&["--sysroot=/r", "p", "--frobnicate"]).program, b"p");
    let dashed = run(&["--sysroot=/r", "--", "--odd-name", "x"]);
    assert_eq!(dashed.program, b"--odd-name");
    assert_eq!(dashed.program_at, 3);
    // The second one is the program's.
    assert_eq!(run(&["--sysroot=/r", "--", "--", "x"]).program, b"--");
    assert_eq!(run(&["--sysroot=/r", "-"]).program, b"-");
}

#[test]
fn the_last_of_an_option_that_is_not_a_list_counts() {
    let options = run(&[
        "--sysroot=/a",
        "--sysroot=/b",
        "--stats=json",
        "--stats",
        "p",
    ]);
    assert_eq!(options.sysroot, b"/b");
    assert_eq!(options.stats, Stats::Text);
}

#[test]
fn whatever_is_not_run_or_asks_for_help_is_for_the_sibling() {
    for args in [
        &[][..],
        &["--help"],
        &["--version"],
        &["doctor", "--json"],
        &["help", "run"],
        &["run", "--help"],
        &["run", "-h", "--frobnicate"],
        &["run", "--sysroot", "/r", "--help"],
        &["rum"],
    ] {
        assert_eq!(
            parse(bytes(args), iter::empty()),
            Ok(Command::Other),
            "{args:?}"
        );
    }
    assert_eq!(run(&["--sysroot=/r", "p", "--help"]).program, b"p");
}

#[test]
fn a_bind_is_split_where_an_absolute_guest_path_begins() {
    for (value, host, guest) in [
        ("/a", "/a", None),
        ("rel/a", "rel/a", None),
        ("/a:/b", "/a", Some("/b")),
        ("rel:/b", "rel", Some("/b")),
        ("/a:b:/c", "/a:b", Some("/c")),
        ("/a:/b:/c", "/a:/b", Some("/c")),
        ("/dev/disk/pci-0000:00", "/dev/disk/pci-0000:00", None),
        ("/a:/", "/a", Some("/")),
    ] {
        let args = ["--sysroot=/r", "--bind", value, "p"];
        let expected = Bind {
            host: host.as_bytes(),
            guest: guest.map(str::as_bytes),
        };
        assert_eq!(run(&args).bind_count, 1);
        let found: Vec<_> = binds(behind_name(&args)).collect();
        assert_eq!(found, [expected], "{value}");
    }
    assert!(matches!(
        refused(&["--sysroot=/r", "--bind", ":/b", "p"]),
        UsageError::EmptyValue {
            option: "--bind",
            ..
        }
    ));
}

#[test]
fn the_environment_gives_defaults_and_switches() {
    let env = [
        "ELFUSE_SYSROOTS=/wrong",
        "ELFUSE_SYSROOT=/env",
        "ELFUSE_STARTUP_TRACE=steps",
    ];
    let options = run_in(&["p"], &env);
    assert_eq!(options.sysroot, b"/env");
    assert_eq!(options.trace, TraceBits::STEPS);
    assert_eq!(run_in(&["--sysroot", "/cli", "p"], &env).sysroot, b"/cli");
    assert_eq!(
        refused_in(&["p"], &["ELFUSE_SYSROOT="]),
        UsageError::NoSysroot { behind: None }
    );

    let index = |value, coherence: &'static str| {
        let args = ["--sysroot=/r", coherence, "p"];
        let env = [value];
        let options = run_in(&args, &env);
        (options.coherence, options.shadow)
    };
    assert_eq!(
        index("ELFUSE_INDEX=off", "--coherence=strict"),
        (Coherence::Off, false)
    );
    assert_eq!(
        index("ELFUSE_INDEX=shadow", "--coherence=frozen"),
        (Coherence::Frozen, true)
    );
    assert_eq!(
        index("ELFUSE_INDEX=shadow", "--coherence=off"),
        (Coherence::Off, false)
    );
    assert_eq!(
        index("ELFUSE_INDEX=on", "--coherence=lease"),
        (Coherence::Lease, false)
    );
    assert_eq!(
        index("ELFUSE_INDEX=", "--coherence=lease"),
        (Coherence::Lease, false)
    );
    assert_eq!(
        refused_in(&["--sysroot=/r", "p"], &["ELFUSE_INDEX=shadwo"]).to_string(),
        "ELFUSE_INDEX cannot be \"shadwo\"; it is one of on, off, shadow; did you mean shadow?"
    );
}

#[test]
fn patched_copies_are_switched_off_by_a_variable() {
    let patched = |value| run_in(&["--sysroot=/r", "p"], &[value]).patched;
    assert!(patched("ELFUSE_PATCHED=on") && patched("ELFUSE_PATCHED=") && patched("OTHER=off"));
    assert!(!patched("ELFUSE_PATCHED=off"));
    let refused = refused_in(&["--sysroot=/r", "p"], &["ELFUSE_PATCHED=offf"]).to_string();
    assert!(refused.ends_with("did you mean off?"), "{refused}");
}

#[test]
fn words_of_the_trace_variable_add_up_and_unknown_ones_are_told() {
    for (words, bits, unknown) in [
        ("1", TraceBits::STEPS, None),
        ("0", TraceBits::NONE, None),
        ("steps,syscalls", TraceBits::ALL, None),
        ("all", TraceBits::ALL, None),
        (" syscalls , ", TraceBits::SYSCALLS, None),
        ("steps,sycalls,foo", TraceBits::STEPS, Some("sycalls")),
    ] {
        let variable = format!("ELFUSE_STARTUP_TRACE={words}");
        let env = [variable.as_str()];
        let options = run_in(&["--sysroot=/r", "p"], &env);
        assert_eq!(options.trace, bits, "{words}");
        assert_eq!(
            options.unknown_trace_word,
            unknown.map(str::as_bytes),
            "{words}"
        );
    }
}

#[test]
fn errors_say_what_was_given_and_what_to_write_instead() {
    for (args, expected) in [
        (
            &["--sysrot=/r", "p"][..],
            "run has no option --sysrot; did you mean --sysroot?",
        ),
        (
            &["--coh", "lease"],
            "run has no option --coh; did you mean --coherence?",
        ),
        (
            &["--unrelated\x1b[2J"],
            "run has no option --unrelated\\x1b[2J; `elfuse run --help` lists them",
        ),
        (&["--sysroot"], "--sysroot needs a value: --sysroot DIR"),
        (
            &["--sysroot", "--stats", "p"],
            "--sysroot needs a value: --sysroot DIR (write --sysroot=--stats if --stats is one)",
        ),
        (
            &["--sysroot=", "p"],
            "the value of --sysroot is empty; it should be DIR",
        ),
        (
            &["--clear-env=yes", "p"],
            "--clear-env takes no value; leave out the = and what follows",
        ),
        (
            &["--coherence", "leese", "p"],
            "--coherence cannot be \"leese\"; it is one of lease, frozen, strict, off; did you mean lease?",
        ),
        (
            &["--stats=yaml", "p"],
            "--stats cannot be \"yaml\"; it is one of text, json",
        ),
        (
            &["--workdir", "home", "p"],
            "--workdir \"home\": a path inside the guest begins with /",
        ),
        (
            &["--env", "HOME", "p"],
            "--env \"HOME\": write --env NAME=VALUE, with a name before the =",
        ),
        (
            &["--env", "=x", "p"],
            "--env \"=x\": write --env NAME=VALUE, with a name before the =",
        ),
        (
            &["--sysroot", "/r"],
            "no program to run: write elfuse run --sysroot DIR PROG [ARG…]",
        ),
        (
            &["--sysroot", "/r", "--"],
            "no program to run: write elfuse run --sysroot DIR PROG [ARG…]",
        ),
        (
            &["p"],
            "no sysroot to run in: give --sysroot DIR before the program, or set ELFUSE_SYSROOT",
        ),
        (
            &["p", "--sysroot=/r"],
            "no sysroot to run in: the --sysroot behind p is an argument of p; put it in front, or set ELFUSE_SYSROOT",
        ),
    ] {
        assert_eq!(refused(args).to_string(), expected, "{args:?}");
    }
}

#[test]
fn a_value_that_looks_like_an_option_is_taken_behind_an_equals_sign() {
    assert_eq!(run(&["--sysroot=--odd", "p"]).sysroot, b"--odd");
    assert_eq!(run(&["--sysroot", "-odd", "p"]).sysroot, b"-odd");
}

#[test]
fn as_many_binds_and_edits_as_there_is_room_for_are_kept_and_one_more_is_refused() {
    for (option, value, most) in [("--bind", "/a", MAX_BINDS), ("--env", "A=1", MAX_ENV_EDITS)] {
        let mut args = vec!["--sysroot=/r"];
        args.extend(iter::repeat_n([option, value], most).flatten());
        let mut fits = args.clone();
        fits.push("p");
        let options = run(&fits);
        assert_eq!(options.bind_count.max(options.edit_count), most);
        args.extend([option, value, "p"]);
        let error = refused(&args);
        assert_eq!(error, UsageError::TooMany { option, most });
        assert!(error.to_string().contains(&most.to_string()));
    }
}

#[test]
fn edits_replace_variables_of_the_caller_and_the_last_edit_of_a_name_counts() {
    let env = ["A=1", "B=2", "AB=3", "=odd=4", "noequals"];
    let args = ["--sysroot=/r", "--env=A=x", "--env=C=y", "--env=A=z=", "p"];
    let options = run(&args);
    let guest: Vec<_> = options
        .guest_environment(behind_name(&args), bytes(&env))
        .collect();
    let expected: Vec<_> = bytes(&["B=2", "AB=3", "=odd=4", "noequals", "C=y", "A=z="]).collect();
    assert_eq!(guest, expected);

    let args = ["--sysroot=/r", "--clear-env", "--env=C=y", "p"];
    let cleared = run(&args);
    let guest: Vec<_> = cleared
        .guest_environment(behind_name(&args), bytes(&env))
        .collect();
    assert_eq!(guest, [b"C=y"]);
}

#[test]
fn bytes_that_are_not_utf_8_are_kept_and_shown_escaped() {
    let args: [&[u8]; 4] = [b"run", b"--sysroot", b"/\xff", b"p\xfe"];
    let Ok(Command::Run(options)) = parse(args.into_iter(), iter::empty()) else {
        panic!("it is a fine command line");
    };
    assert_eq!(options.sysroot, b"/\xff");
    assert_eq!(options.program, b"p\xfe");
    let args: [&[u8]; 2] = [b"run", b"--\xff\xfe\xfd\n"];
    let error = parse(args.into_iter(), iter::empty()).expect_err("there is no such option");
    assert_eq!(
        error.to_string(),
        "run has no option --\\xff\\xfe\\xfd\\x0a; `elfuse run --help` lists them"
    );
}
