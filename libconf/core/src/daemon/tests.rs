//! Stops and errors, in real processes.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::daemon::{process::LAST_MOMENT, *};

/// Runs the named test again as a daemon of its own, with its output read here.
fn daemon(test: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([&format!("daemon::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"])
        .env("IN_CHILD", "yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the ready line, sends SIGTERM, and answers the exit code and the log.
fn terminate(mut child: Child) -> (Option<i32>, String) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready http=127.0.0.1:7") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "ended without being ready");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (child.wait().unwrap().code(), log)
}

fn is_child() -> bool {
    env::var_os("IN_CHILD").is_some()
}

/// Ends this process as a daemon's main function would.
fn leave(code: ExitCode) {
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

#[test]
fn sigterm_ends_a_daemon_with_0_after_its_step() {
    if !is_child() {
        let (code, log) = terminate(daemon("sigterm_ends_a_daemon_with_0_after_its_step"));
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("\"message\":\"stopping\"") && log.contains("\"message\":\"step done\""), "{log}");
        return;
    }
    start_logging(LogFormat::Json, "info").unwrap();
    leave(run(Threads::PerProcessor, Reload::nothing(), async |stop: CancellationToken| {
        ready("http", ([127, 0, 0, 1], 7).into());
        stop.cancelled().await;
        tracing::info!("step done");
        Ok::<_, io::Error>(())
    }));
}

#[test]
fn a_step_that_does_not_end_is_left_within_5_s() {
    if !is_child() {
        let started = Instant::now();
        let (code, log) = terminate(daemon("a_step_that_does_not_end_is_left_within_5_s"));
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("a step did not end in time"), "{log}");
        assert!(started.elapsed() > LAST_MOMENT, "left early: {log}");
        return;
    }
    start_logging(LogFormat::Text, "info").unwrap();
    leave(run(Threads::PerProcessor, Reload::nothing(), async |_| {
        ready("http", ([127, 0, 0, 1], 7).into());
        std::future::pending::<io::Result<()>>().await
    }));
}

#[test]
fn an_error_is_logged_with_its_causes_and_ends_with_1() {
    if !is_child() {
        let child = daemon("an_error_is_logged_with_its_causes_and_ends_with_1").wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.code(), Some(1), "{log}");
        assert!(log.contains("cannot start: the disk is full"), "{log}");
        return;
    }
    start_logging(LogFormat::Text, "info").unwrap();
    leave(run(Threads::PerProcessor, Reload::nothing(), async |_| Err(Outer(io::Error::other("the disk is full")))));
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start")]
struct Outer(#[source] io::Error);

#[test]
fn listening_for_others_wants_to_be_asked_for() {
    for (address, is_protected, allowed) in [
        ("127.0.0.1:1", false, true),
        ("127.3.2.1:1", false, true),
        ("[::1]:1", false, true),
        ("0.0.0.0:1", false, false),
        ("[::]:1", false, false),
        ("10.0.0.1:1", false, false),
        ("10.0.0.1:1", true, true),
    ] {
        let guarded = listen_guard(address.parse().unwrap(), is_protected);
        assert_eq!(guarded.is_ok(), allowed, "{address} {is_protected}");
    }
    let words = listen_guard("0.0.0.0:1".parse().unwrap(), false).unwrap_err().to_string();
    assert!(words.contains("--insecure") && words.contains("--tls-cert"), "{words}");
}

#[test]
fn a_bad_level_lists_the_good_ones() {
    let words = start_logging(LogFormat::Text, "conf=loud").unwrap_err().to_string();
    assert!(words.contains("'conf=loud' is not a log level") && words.contains("use error, warn"), "{words}");
}

/// Waits until the log has a line with these words.
fn read_until(log: &mut impl BufRead, words: &str) -> String {
    let mut read = String::new();
    while !read.contains(words) {
        assert_ne!(log.read_line(&mut read).unwrap(), 0, "{words} never came: {read}");
    }
    read
}

#[test]
fn no_signal_but_the_two_of_an_end_ends_a_daemon() {
    if !is_child() {
        let mut child = daemon("no_signal_but_the_two_of_an_end_ends_a_daemon");
        let mut out = BufReader::new(child.stdout.take().unwrap());
        read_until(&mut out, "ready http=127.0.0.1:7");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        for (signal, words) in [
            (Signal::HUP, "nothing is different"),
            (Signal::USR1, "SIGUSR1 means nothing"),
            (Signal::USR2, "SIGUSR2 means nothing"),
            (Signal::HUP, "nothing is different"),
        ] {
            kill_process(Pid::from_child(&child), signal).unwrap();
            read_until(&mut log, words);
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        return;
    }
    start_logging(LogFormat::Text, "info").unwrap();
    leave(run(Threads::PerProcessor, Reload::nothing(), async |stop: CancellationToken| {
        ready("http", ([127, 0, 0, 1], 7).into());
        stop.cancelled().await;
        Ok::<_, io::Error>(())
    }));
}

#[test]
fn a_log_without_a_reader_ends_no_daemon() {
    if !is_child() {
        let mut child = daemon("a_log_without_a_reader_ends_no_daemon");
        let mut out = BufReader::new(child.stdout.take().unwrap());
        drop(child.stderr.take());
        read_until(&mut out, "ready http=127.0.0.1:7");
        for signal in [Signal::USR1, Signal::USR2, Signal::HUP, Signal::TERM] {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "it is killed by its own log");
        return;
    }
    start_logging(LogFormat::Text, "info").unwrap();
    leave(run(Threads::PerProcessor, Reload::nothing(), async |stop: CancellationToken| {
        tracing::info!("nobody reads this");
        ready("http", ([127, 0, 0, 1], 7).into());
        stop.cancelled().await;
        tracing::info!("nor this");
        Ok::<_, io::Error>(())
    }));
}

#[test]
fn errors_are_for_people() {
    let error = git2::Repository::open("/nonexistent").err().unwrap();
    assert!(error.to_string().contains("class="), "libgit2 writes for programmers");
    let chain = chain(&Unusable(error));
    assert!(chain.starts_with("cannot start: ") && !chain.contains("class=") && !chain.contains("code="), "{chain}");
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start")]
struct Unusable(#[source] git2::Error);
