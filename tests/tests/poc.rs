//! The demonstration, as a newcomer runs it, with the programs that are built for tests.

use std::process::Output;

use tests::consul::Consul;
use tests::program::{built, command, run, text};

/// Plays the short story; it ends well only if every job has read every change.
fn play(flags: &[&str]) -> Output {
    let home = tempfile::Builder::new().prefix("poc-").tempdir().expect("a folder");
    let mut poc = command(built("poc"), home.path());
    poc.arg("--once").args(flags).env("TMPDIR", home.path());
    run(poc)
}

#[track_caller]
fn expect_whole(output: &Output) {
    let said = text(output);
    assert!(output.status.success(), "{said}");
    for words in ["5 changes landed, 1 refused", "push-to-signal", "libconf", "the restarted job had read"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn the_demonstration_plays_alone() {
    expect_whole(&play(&[]));
}

#[test]
fn the_demonstration_plays_over_tls() {
    let output = play(&["--tls"]);
    expect_whole(&output);
    assert!(text(&output).contains("https://127.0.0.1"), "{}", text(&output));
}

#[test]
fn the_demonstration_plays_with_a_real_consul() {
    let folder = tempfile::tempdir().expect("a folder");
    let consul = Consul::start(folder.path());
    expect_whole(&play(&["--consul", &consul.url()]));
}
