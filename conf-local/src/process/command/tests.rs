use std::{fs, path::PathBuf, time::Instant};

use super::*;

async fn sh(script: &str, limit: Duration, stop: &CancellationToken) -> Result<(), CommandError> {
    sh_for(WordsFor::Everybody, Leaves::Running, script, limit, stop).await
}

async fn sh_for(
    words_for: WordsFor,
    leaves: Leaves,
    script: &str,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), CommandError> {
    let words = ["sh", "-c", script].map(str::to_owned);
    let export = PathBuf::from("/some/export");
    let occasion =
        Occasion { sequence: Sequence(7), export: &export, components: &["services/web/latest".parse().unwrap()] };
    run(
        Order { words: &words, folder: Path::new("/"), variables: occasion.variables(), limit, leaves, words_for },
        stop,
    )
    .await
}

/// True while the process runs; one that ended and is not reaped by whoever inherited it does not.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn it_is_told_of_the_change_and_its_failure_is_told() {
    let stop = CancellationToken::new();
    let told = r#"test "$CONF_EXPORT $CONF_SEQUENCE $CONF_COMPONENTS" = "/some/export 7 services/web/latest""#;
    sh(told, TIME_LIMIT, &stop).await.unwrap();
    let failed = sh("echo first; echo 'no such port' >&2; exit 3", TIME_LIMIT, &stop).await.unwrap_err().to_string();
    assert_eq!(failed, "the command ended with exit status: 3; its last words: no such port");
    let words = ["/no/such/program".to_owned()];
    let nothing = Order {
        words: &words,
        folder: Path::new("/"),
        variables: Vec::new(),
        limit: TIME_LIMIT,
        leaves: Leaves::Running,
        words_for: WordsFor::Everybody,
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
async fn one_that_hangs_is_ended_with_all_that_it_started() {
    let place = tempfile::tempdir().unwrap();
    let pids = place.path().join("pids");
    let script = format!("trap '' TERM; sleep 1000 & echo $$ $! >{}; while :; do wait; done", pids.display());
    let ended = sh(&script, Duration::from_millis(300), &CancellationToken::new()).await;
    assert!(matches!(ended, Err(CommandError::TooLong { .. })), "{ended:?}");
    // Killed is not yet gone: on a busy machine that takes a moment.
    let pids = fs::read_to_string(&pids).unwrap();
    let gone = async {
        while pids.split_whitespace().any(runs) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIME_LIMIT, gone).await.unwrap_or_else(|_| panic!("one of {pids} still runs"));
}

#[tokio::test]
async fn what_it_leaves_running_is_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let pid = place.path().join("pid");
    let started = Instant::now();
    sh(&format!("sleep 1000 & echo $! >{}", pid.display()), TIME_LIMIT, &CancellationToken::new()).await.unwrap();
    assert!(started.elapsed() < TIME_LIMIT / 2);
    let left: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn the_agents_stop_ends_it() {
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(sh("sleep 1000", TIME_LIMIT, &stop).await, Err(CommandError::Stopped)));
}

#[tokio::test]
async fn what_may_quote_a_secret_is_shown_to_nobody() {
    let stop = CancellationToken::new();
    for (script, limit) in
        [("echo canary; echo canary >&2; exit 1", TIME_LIMIT), ("echo canary; sleep 9", Duration::from_millis(200))]
    {
        let failed = sh_for(WordsFor::Nobody, Leaves::Running, script, limit, &stop).await.unwrap_err();
        let (CommandError::Failed { output, .. } | CommandError::TooLong { output, .. }) = &failed else {
            panic!("{failed}")
        };
        assert_eq!(output.out, b"canary\n");
        for shown in [output.text(), failed.to_string()] {
            assert!(shown.contains("is not shown") && !shown.contains("canary"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_guarded_command_starts_with_no_signal_blocked() {
    let stop = CancellationToken::new();
    let guarded = |script| sh_for(WordsFor::Everybody, Leaves::Nothing, script, TIME_LIMIT, &stop);
    // Not through the shell, which has a mask of its own for what it starts.
    guarded("exec grep -q '^SigBlk:[[:space:]]0000000000000000$' /proc/self/status").await.unwrap();
    // Both wait for signals that came blocked before.
    guarded("sleep 0.1 & wait").await.unwrap();
    let ended = guarded("timeout 0.1 sleep 1000").await.unwrap_err().to_string();
    assert!(ended.contains("exit status: 124"), "{ended}");
    let missing = guarded("exec /no/such/program").await.unwrap_err().to_string();
    assert!(missing.contains("exit status: 127"), "{missing}");
}
