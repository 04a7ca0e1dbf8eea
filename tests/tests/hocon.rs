//! HOCON as the daemons read it: in a process of its own, which bounds what a text may cost.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Seek as _, Write as _},
    process::{Command, Output, Stdio},
    thread,
};

use conf_core::settings::{self, Format, hocon};
use tests::program::{built, descendants};

/// The settings as canonical JSON, or the fault.
fn read(text: &str) -> String {
    hocon::through(built("conf-master"));
    match settings::parse("config.conf", Format::Hocon, text.as_bytes()) {
        Ok(settings) => String::from_utf8(settings::to_canonical(&settings.into())).expect("JSON is UTF-8"),
        Err(fault) => fault.to_string(),
    }
}

/// The program itself, with an environment and a limit of our choice.
fn reader(program: &str, seconds: &str, variables: &[(&str, &str)], text: &str) -> Output {
    let mut input: File = tempfile::tempfile().expect("a temporary file");
    input.write_all(text.as_bytes()).expect("it is written");
    input.rewind().expect("it is rewound");
    let mut command = Command::new(built(program));
    command.args([hocon::ARGUMENT, seconds]).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::from(input)).output().expect("it starts")
}

const TOO_MUCH: &str = "config.conf: it takes too much memory or time to read, or grows too large; write it flatter, and \
                        with fewer substitutions";

#[test]
fn settings_and_faults_come_from_the_process() {
    assert_eq!(read("b = 1\na { c = [x, 1.50] }\na.d = ${b}"), r#"{"a":{"c":["x",1.5],"d":1},"b":1}"#);
    let fault = read("a = 1\nb = \n@");
    assert!(fault.starts_with("config.conf:3: "), "{fault}");
    assert!(read("a = [1\n").starts_with("config.conf:1: the `[` is never closed"));
    // Many at once wait for one another, and each gets its own answer.
    let many: Vec<_> = (0..8).map(|at| thread::spawn(move || read(&format!("a = {at}")))).collect();
    for (at, one) in many.into_iter().enumerate() {
        assert_eq!(one.join().unwrap(), format!("{{\"a\":{at}}}"));
    }
}

#[test]
fn every_daemon_is_a_reader() {
    for program in ["conf-master", "conf-slave", "conf-local"] {
        let output = reader(program, "5", &[], "a = 1");
        assert_eq!(String::from_utf8_lossy(&output.stdout), r#"{"Ok":{"a":1}}"#, "{program}");
        assert!(output.status.success(), "{program}");
    }
}

#[test]
fn what_explodes_is_refused_and_leaves_nothing_running() {
    let mut bomb = "x0 = [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for at in 1..40 {
        let one = format!("${{x{}}}", at - 1);
        let _ = writeln!(bomb, "x{at} = [{}]", vec![one; 4].join(", "));
    }
    assert_eq!(read(&bomb), TOO_MUCH);
    // Each is small in memory, and its answer too large.
    let mut wide = format!("a = \"{}\"\n", "x".repeat(100_000));
    for at in 0..400 {
        let _ = writeln!(wide, "b{at} = ${{a}}");
    }
    assert_eq!(read(&wide), TOO_MUCH);
    // The library calls itself for each.
    for levels in [65, 300_000] {
        let deep = read(&format!("{} = 1", vec!["a"; levels].join(".")));
        assert_eq!(deep, "config.conf: keys or substitutions lead into one another too many times; write it flatter");
    }
    assert!(read(&format!("a = {}", "[".repeat(10_000))).contains("nested deeper"));
    let left: Vec<_> =
        descendants(std::process::id()).into_iter().filter(|(_, words)| words.contains("hocon")).collect();
    assert!(left.len() <= 2, "only what other tests run now: {left:?}");
}

#[test]
fn a_text_that_takes_too_long_is_given_up() {
    let mut slow = String::new();
    for at in 0..300_000 {
        let _ = writeln!(slow, "a{at} = {at}");
    }
    let output = reader("conf-master", "1", &[], &slow);
    assert!(!output.status.success() && output.stdout.is_empty(), "it took less than a second of processor time");
}

#[test]
fn neither_environment_nor_files_are_read() {
    let found = std::env::var("HOME").is_ok();
    assert!(found, "or this says nothing");
    assert_eq!(read("a = ${?HOME}\nb = 1"), r#"{"b":1}"#);
    assert!(read("a = ${HOME}").contains("the environment is not read"));
    assert!(read("include \"/etc/hostname\"\n").contains("`include` is not read here"));
    let output = reader("conf-master", "5", &[("HOME", "/root")], "a = ${HOME}");
    assert!(!output.status.success() && output.stdout.is_empty(), "it runs without an environment alone");
}
