use std::{fs, path::PathBuf, time::Instant};

use super::*;

async fn sh(script: &str, limit: Duration, stop: &CancellationToken) -> Result<(), CommandError> {
    sh_for(Visibility::Everybody, Children::Stay, script, limit, stop).await
}

async fn sh_for(
    output: Visibility,
    children: Children,
    script: &str,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), CommandError> {
    let words = ["sh", "-c", script].map(str::to_owned).to_vec().into();
    let export = PathBuf::from("/some/export");
    let variables = variables_of_change(Sequence(7), &export, &["services/web/latest".parse().unwrap()]);
    run(Invocation { words: &words, folder: Path::new("/"), variables, limit, children, user: None, output }, stop)
        .await
}

/// True while the process runs. A process that has ended and is not reaped yet does not run.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_command_gets_the_change_and_its_failure_is_reported() {
    let stop = CancellationToken::new();
    let told = r#"test "$CONF_EXPORT $CONF_SEQUENCE $CONF_COMPONENTS" = "/some/export 7 services/web/latest""#;
    sh(told, TIME_LIMIT, &stop).await.unwrap();
    let failed = sh("echo first; echo 'no such port' >&2; exit 3", TIME_LIMIT, &stop).await.unwrap_err().to_string();
    assert_eq!(failed, "the command ended with exit status: 3; its last words: no such port");
    let words = vec!["/no/such/program".to_owned()].into();
    let nothing = Invocation {
        words: &words,
        folder: Path::new("/"),
        variables: Vec::new(),
        limit: TIME_LIMIT,
        children: Children::Stay,
        user: None,
        output: Visibility::Everybody,
    };
    assert!(matches!(run(nothing, &stop).await, Err(CommandError::Start { .. })));
    let all = sh("echo first; echo 'no such port' >&2; exit 3", TIME_LIMIT, &stop).await.unwrap_err();
    let CommandError::Failed { output, .. } = all else { panic!("{all}") };
    assert_eq!(output.text(), "first; no such port");
}

#[tokio::test]
async fn a_flood_of_output_is_read_and_dropped() {
    let flood = sh("yes 0123456789 | head -c 30000000; exit 1", TIME_LIMIT, &CancellationToken::new()).await;
    let flood = flood.unwrap_err();
    assert!(flood.to_string().len() < 400, "{flood}");
    let CommandError::Failed { output, .. } = flood else { panic!("{flood}") };
    assert!(output.out.len() == KEPT_BYTES && output.text().len() == LINES);
}

#[tokio::test]
async fn a_command_that_hangs_is_ended_with_all_that_it_started() {
    let place = tempfile::tempdir().unwrap();
    let pids = place.path().join("pids");
    let script = format!("trap '' TERM; sleep 1000 & echo $$ $! >{}; while :; do wait; done", pids.display());
    let mut limit = Duration::from_millis(300);
    // On a busy machine it may be ended before it has started all.
    let pids = loop {
        let ended = sh(&script, limit, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(CommandError::TooLong { .. })), "{ended:?}");
        let written = fs::read_to_string(&pids).unwrap_or_default();
        if written.split_whitespace().count() == 2 {
            break written;
        }
        assert!(limit < TIME_LIMIT, "it starts nothing within {limit:?}");
        limit *= 2;
    };
    // A killed process takes a moment to end on a busy machine.
    let gone = async {
        while pids.split_whitespace().any(runs) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIME_LIMIT, gone).await.unwrap_or_else(|_| panic!("one of {pids} still runs"));
}

#[tokio::test]
async fn a_child_that_stays_is_not_awaited() {
    let place = tempfile::tempdir().unwrap();
    let pid = place.path().join("pid");
    let started = Instant::now();
    sh(&format!("sleep 1000 & echo $! >{}", pid.display()), TIME_LIMIT, &CancellationToken::new()).await.unwrap();
    assert!(started.elapsed() < TIME_LIMIT / 2);
    let left: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_command_ends_when_the_agent_stops() {
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(sh("sleep 1000", TIME_LIMIT, &stop).await, Err(CommandError::Stopped)));
}

#[tokio::test]
async fn output_that_may_quote_a_secret_is_not_shown() {
    let stop = CancellationToken::new();
    for (script, mut limit) in
        [("echo canary; echo canary >&2; exit 1", TIME_LIMIT), ("echo canary; sleep 1000", Duration::from_millis(200))]
    {
        // On a busy machine it may be ended before it has printed anything.
        let (words, output) = loop {
            let failed = sh_for(Visibility::Nobody, Children::Stay, script, limit, &stop).await.unwrap_err();
            let words = failed.to_string();
            let (CommandError::Failed { output, .. } | CommandError::TooLong { output, .. }) = failed else {
                panic!("{words}")
            };
            if !output.out.is_empty() || limit >= TIME_LIMIT {
                break (words, output);
            }
            limit *= 2;
        };
        assert_eq!(output.out, b"canary\n");
        for shown in [output.text(), words] {
            assert!(shown.contains("is not shown") && !shown.contains("canary"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_guarded_command_starts_with_no_signal_blocked() {
    let stop = CancellationToken::new();
    let guarded = |script| sh_for(Visibility::Everybody, Children::End, script, TIME_LIMIT, &stop);
    // With `exec`, since a shell sets a signal mask of its own for the programs that it starts.
    guarded("exec grep -q '^SigBlk:[[:space:]]0000000000000000$' /proc/self/status").await.unwrap();
    // `wait` and `timeout` wait for signals that would be blocked without the second program.
    guarded("sleep 0.1 & wait").await.unwrap();
    let ended = guarded("timeout 0.1 sleep 1000").await.unwrap_err().to_string();
    assert!(ended.contains("exit status: 124"), "{ended}");
    let missing = guarded("exec /no/such/program").await.unwrap_err().to_string();
    assert!(missing.contains("exit status: 127"), "{missing}");
}
