//! `conf-local exec`: it tells its command, ends all of it, and leaves the terminal to it.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use conf_local::WatcherState;
use nix::sys::signal::Signal;

use super::{
    commands::conf_local,
    host::{Host, LONG, Script, lines_of},
};

const WEB: &str = "services/web/latest";

/// True while the process runs. A process that has ended and is not reaped yet does not run.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn exec(host: &Host, arguments: &[&str]) -> Script {
    let mut all = vec!["exec"];
    all.extend(arguments);
    Script::spawn(conf_local(&host.socket(), &all))
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_waits_for_the_component_and_forwards_changes() {
    let host = Host::start(Vec::new()).await;
    let script = "trap 'echo told' HUP; echo ready $CONF_SEQUENCE $CONF_EXPORT; while :; do sleep 1 & wait $!; done";
    let mut job = exec(&host, &["services/web", "--", "bash", "-c", script]);
    host.until("registered", |watchers| watchers.len() == 1).await;
    host.switch(1, &[("services/other/latest", "1")]);
    assert_eq!(job.line_now(), None, "started before its component was there");
    host.switch(2, &[(WEB, "2")]);
    assert_eq!(job.line(), format!("ready 2 {}", host.export().join("snapshots/2").display()));
    host.switch(3, &[(WEB, "3")]);
    assert_eq!(job.line(), "told");
    host.switch(4, &[(WEB, "4")]);
    assert_eq!(job.line(), "told");
    // If the component is removed, only `exec` is told, and its command goes on.
    host.until_state(WatcherState::Told, 4).await;
    host.switch(5, &[("services/other/latest", "1")]);
    host.until_state(WatcherState::Told, 5).await;
    host.switch(6, &[(WEB, "6")]);
    assert_eq!(job.line(), "told");
    assert_eq!(job.line_now(), None);
    assert!(job.is_running());
    job.signal(Signal::SIGTERM);
    let status = job.child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_restarts_its_command() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    // Takes a while to end after TERM, and leaves a child behind.
    let script = format!(
        "trap 'echo end; exit' TERM; sleep 1000 & echo $! >>{}; echo start $CONF_SEQUENCE; while :; do wait $!; done",
        log.display()
    );
    let mut job = exec(&host, &["services/web", "--on-change", "restart", "--", "bash", "-c", &script]);
    assert_eq!(job.line(), "start 1");
    host.switch(2, &[(WEB, "2")]);
    assert_eq!((job.line(), job.line()), ("end".into(), "start 2".into()));
    host.until("the old one's child has ended", |_| !runs(&lines_of(&log)[0])).await;
    // A change of another component does nothing.
    host.switch(3, &[(WEB, "2"), ("services/other/latest", "1")]);
    host.switch(4, &[(WEB, "4"), ("services/other/latest", "1")]);
    assert_eq!((job.line(), job.line()), ("end".into(), "start 4".into()));
    assert!(job.is_running());
    job.signal(Signal::SIGTERM);
    job.child.wait().unwrap();
    let left: i32 = lines_of(&log)[2].parse().unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), Signal::SIGKILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_never_ends_a_command_without_a_handler() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let script = "echo ready; read line; trap 'echo told' HUP; echo trapped; while :; do sleep 1 & wait $!; done";
    let mut job = exec(&host, &["services/web", "--", "bash", "-c", script]);
    assert_eq!(job.line(), "ready");
    host.switch(2, &[(WEB, "2")]);
    // Only `exec` was told, and its command was not: so it is not said to be.
    host.until_state(WatcherState::Waiting, 1).await;
    let problems = host.status().problems;
    assert!(problems.iter().any(|one| one.contains("no handler for SIGHUP")), "{problems:?}");
    job.write("go");
    assert_eq!((job.line(), job.line()), ("trapped".into(), "told".into()));
    host.until_state(WatcherState::Told, 2).await;
    assert_eq!(host.status().problems, [""; 0]);
    job.signal(Signal::SIGTERM);
    job.child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_returns_its_commands_exit_code_and_survives_the_agent() {
    let mut host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let mut job =
        exec(&host, &["services/web", "--", "bash", "-c", "trap 'echo told' HUP; echo ready; read line; exit 7"]);
    assert_eq!(job.line(), "ready");
    host.end().await;
    host.begin().await;
    host.switch(2, &[(WEB, "2")]);
    assert_eq!(job.line(), "told");
    job.write("go");
    assert_eq!(job.child.wait().unwrap().code(), Some(7));
    let mut absent = exec(&host, &["services/web", "--", "/no/such/program"]);
    assert_eq!(absent.child.wait().unwrap().code(), Some(1));
    // While the agent is away, a named export on disk is enough.
    host.end().await;
    let mut command = conf_local(&host.socket(), &["exec", "services/web", "--", "sh", "-c", "echo $CONF_SEQUENCE"]);
    command.env("CONF_EXPORT_DIR", host.export());
    let started = Instant::now();
    let job = Script::spawn(command);
    assert_eq!(job.line(), "2");
    assert!(started.elapsed() < LONG);
    assert!(fs::exists(host.export()).unwrap());
}

/// Starts processes that `exec` must end: in the command's group, in a session of their own, without
/// a parent, and one that ignores SIGTERM. Each writes its number.
fn crowd(log: &Path) -> String {
    let log = log.display();
    format!(
        "bash -c 'echo $$ >>{log}; sleep 1000' & setsid bash -c 'echo $$ >>{log}; sleep 1000; true' & \
         (bash -c 'echo $$ >>{log}; sleep 1000; true' &) ; \
         bash -c 'trap \"\" TERM; echo $$ >>{log}; while :; do sleep 0.1; done' & \
         while test $(wc -l <{log}) -lt 4; do sleep 0.01; done; echo ready"
    )
}

async fn nothing_left(host: &Host, log: &Path) {
    let left = || lines_of(log).into_iter().filter(|pid| runs(pid)).collect::<Vec<_>>();
    // What is killed needs a moment until it has ended; `exec` has waited for it.
    host.until("", |_| true).await;
    assert_eq!(left(), [""; 0], "of {:?}", lines_of(log));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_leaves_nothing_behind() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    for (end, expected) in [(Some(Signal::SIGTERM), 143), (Some(Signal::SIGINT), 130), (None, 7)] {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        fs::write(&log, "").unwrap();
        // With INT and without a signal the command ends, and others go on. bash forgets an INT that
        // comes while it starts a program, so that program says when it runs.
        let rest = if end.is_some() { "trap - INT; bash -c 'echo runs; exec sleep 1000'; more" } else { "exit 7" };
        let script = format!("{}; {rest}", crowd(&log));
        let mut job = exec(&host, &["services/web", "--grace", "1", "--", "bash", "-c", &script]);
        assert_eq!(job.line(), "ready");
        assert_eq!(lines_of(&log).len(), 4);
        let started = Instant::now();
        if let Some(signal) = end {
            assert_eq!(job.line(), "runs");
            job.signal(signal);
        }
        assert_eq!(job.child.wait().unwrap().code(), Some(expected), "{end:?}");
        nothing_left(&host, &log).await;
        assert!(started.elapsed() < LONG);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_waits_for_what_ends_in_time() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    // The command ends at once, and its child needs a while after TERM.
    let script = "(trap 'sleep 0.3; echo saved; exit' TERM; echo ready; while :; do sleep 0.05; done) & wait $!";
    let mut job = exec(&host, &["services/web", "--", "bash", "-c", script]);
    assert_eq!(job.line(), "ready");
    job.signal(Signal::SIGTERM);
    assert_eq!(job.line(), "saved");
    assert_eq!(job.child.wait().unwrap().code(), Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_ends_nothing_that_was_there_before_it() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let program = env!("CARGO_BIN_EXE_conf-local");
    // A shell starts a helper and becomes `exec`.
    let script = format!(
        "sleep 1000 & echo $! >{}; exec '{program}' exec services/web -- sh -c 'echo ready; exit 3'",
        log.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env("CONF_LOCAL_SOCKET", host.socket());
    let mut job = Script::spawn(command);
    assert_eq!(job.line(), "ready");
    assert_eq!(job.child.wait().unwrap().code(), Some(3));
    assert!(runs(&lines_of(&log)[0]), "the helper is not the command's");
    job.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_ends_nothing_that_another_has_left_to_it_and_all_of_its_command() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let place = tempfile::tempdir().unwrap();
    let [log, daemon, go] = ["log", "daemon", "go"].map(|name| place.path().join(name));
    fs::write(&log, "").unwrap();
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let program = env!("CARGO_BIN_EXE_conf-local");
    // A shell starts a helper and becomes `exec`. Later the helper leaves a daemon behind.
    let helper = format!("read line <{}; setsid sleep 1000 & echo $! >{}", go.display(), daemon.display());
    fs::write(place.path().join("helper"), helper).unwrap();
    fs::write(place.path().join("command"), format!("{}; read line; exit 3", crowd(&log))).unwrap();
    let script = "bash helper >/dev/null & exec \"$0\" exec services/web --grace 1 -- bash command";
    let mut command = Command::new("bash");
    command.args(["-c", script, program]).current_dir(place.path()).env("CONF_LOCAL_SOCKET", host.socket());
    let mut job = Script::spawn(command);
    assert_eq!(job.line(), "ready");
    fs::write(&go, "go\n").unwrap();
    let parent = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok())
    };
    host.until("`exec` has adopted it", |_| {
        lines_of(&daemon).first().is_some_and(|pid| parent(pid) == Some(job.pid()))
    })
    .await;
    job.write("go");
    assert_eq!(job.child.wait().unwrap().code(), Some(3));
    nothing_left(&host, &log).await;
    let daemon: i32 = lines_of(&daemon)[0].parse().unwrap();
    let runs = runs(&daemon.to_string());
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), Signal::SIGKILL);
    assert!(runs, "the helper's daemon is not the command's");
}

/// An interactive shell on a terminal of its own.
struct Terminal {
    script: std::process::Child,
    seen: String,
    output: std::sync::mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    fn new(host: &Host) -> Self {
        let mut script = Command::new("script");
        script.args(["-qfc", "bash --norc --noprofile -i", "/dev/null"]).env("TERM", "dumb");
        script.env("CONF_LOCAL_SOCKET", host.socket()).env("HISTFILE", "/dev/null");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = script.stdout.take().unwrap();
        let (send, output) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut buffer) {
                let _ = send.send(buffer[..count].to_vec());
            }
        });
        let mut terminal = Terminal { script, seen: String::new(), output };
        // The prompt: before it, the shell is not ready for what is typed.
        terminal.expect("bash-");
        terminal
    }

    fn write(&mut self, text: &str) {
        self.script.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        self.script.stdin.as_mut().unwrap().flush().unwrap();
    }

    /// Waits until these words are shown, after what was awaited before.
    fn expect(&mut self, words: &str) {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(at) = self.seen.find(words) {
                self.seen.drain(..at + words.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error}, never seen: {words}; seen: {:?}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_leaves_the_terminal_to_its_command() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    fs::write(&log, "").unwrap();
    let program = env!("CARGO_BIN_EXE_conf-local");
    let mut terminal = Terminal::new(&host);
    // The command reads from the terminal, is stopped by Ctrl-Z with all of its group, goes on by `fg`.
    // bash forgets an INT that comes while it starts a program, so that program says when it runs.
    terminal.write(&format!(
        "'{program}' exec services/web -- bash -c 'sleep 1000 & echo $! >>{0}; echo rea\"\"dy; read line; echo got $line; read line; echo got $line; bash -c \"echo ru\\\"\\\"ns; exec sleep 1000\"'\n",
        log.display()
    ));
    terminal.expect("ready");
    terminal.write("first\n");
    terminal.expect("got first");
    terminal.write("\x1a");
    terminal.expect("Stopped");
    // What is typed before the shell has the terminal as it wants it may be lost.
    terminal.expect("bash-");
    terminal.write("echo sh\"\"ell\n");
    terminal.expect("shell");
    terminal.write("fg\n");
    terminal.expect("exec services/web");
    terminal.write("second\n");
    terminal.expect("got second");
    terminal.expect("runs");
    // Ctrl-C ends all of it, also the process in the background of the command, which ignores it.
    terminal.write("\x03");
    terminal.expect("bash-");
    terminal.write("echo ended $?\n");
    terminal.expect("ended 130");
    let left = &lines_of(&log)[0];
    assert!(!runs(left), "{left} runs still");
    terminal.write("exit\n");
    let deadline = Instant::now() + Duration::from_secs(30);
    while terminal.script.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the shell does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}
