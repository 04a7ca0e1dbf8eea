//! Each watcher is told once per change that concerns it, and of no other change.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use conf_local::{MOST_OF_ONE_USER, RegisterError, WatchEntry, WatchRequest, WatchTarget, WatcherState};
use nix::sys::signal::Signal;

use super::host::{Host, LONG, Script, lines_of, selectors};

const WEB: &str = "services/web/latest";
const OTHER: &str = "services/other/latest";

fn request(script: &Script, components: &[&str]) -> WatchRequest {
    WatchRequest {
        components: selectors(components),
        pid: script.pid(),
        start: None,
        signal: Signal::SIGHUP,
        delay: Duration::ZERO,
    }
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn entry(components: &[&str], target: WatchTarget) -> WatchEntry {
    WatchEntry { components: selectors(components).into_iter().collect(), target, delay: Duration::ZERO }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_watchers_of_what_changed_are_told_and_each_once() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1"), (OTHER, "0")]);
    let (web, other) = (Script::with_handler(), Script::with_handler());
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    host.registry().register(request(&other, &["services/other/latest"]), me()).await.unwrap();
    for round in 2..12 {
        let (settings, other_settings) = (format!("{round}"), format!("{}", round / 2));
        host.switch(round, &[(WEB, &settings), (OTHER, &other_settings)]);
        assert_eq!(web.line(), "told");
        host.until("told of this change", |watchers| watchers.iter().any(|one| one.sequence.0 == round)).await;
        if round % 2 == 0 {
            assert_eq!(other.line(), "told");
        }
    }
    // The line of an extra signal would come before these.
    host.switch(20, &[(WEB, "x"), (OTHER, "x")]);
    assert_eq!((web.line(), other.line()), ("told".into(), "told".into()));
    assert_eq!((web.line_now(), other.line_now()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_handler_is_told_when_it_has_one() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let mut late =
        Script::bash("echo ready; read line; trap 'echo told' HUP; echo trapped; while :; do sleep 1 & wait $!; done");
    assert_eq!(late.line(), "ready");
    host.registry().register(request(&late, &["services/web"]), me()).await.unwrap();
    host.switch(2, &[(WEB, "2")]);
    host.until_state(WatcherState::Waiting, 1).await;
    let problems = host.status().problems;
    assert!(problems.iter().any(|one| one.contains("no handler for SIGHUP")), "{problems:?}");
    host.switch(3, &[(WEB, "3")]);
    assert!(late.is_running());
    late.write("go");
    assert_eq!((late.line(), late.line()), ("trapped".into(), "told".into()));
    // One signal was sent for both changes.
    host.until_state(WatcherState::Told, 3).await;
    assert_eq!(late.line_now(), None);
    assert!(host.status().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_for_the_signal_without_a_handler_is_told() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let mut command = Command::new("env");
    command.args(["--block-signal=HUP", "bash", "-c", "echo ready; grep SigPnd: /proc/self/status; exec sleep 1000"]);
    let mut waiting = Script::spawn(command);
    assert_eq!(waiting.line(), "ready");
    waiting.line();
    host.registry().register(request(&waiting, &["services/web"]), me()).await.unwrap();
    host.switch(2, &[(WEB, "2")]);
    host.until_state(WatcherState::Told, 2).await;
    assert!(waiting.is_running());
    let status = fs::read_to_string(format!("/proc/{}/status", waiting.pid())).unwrap();
    assert!(status.lines().any(|line| line.starts_with("ShdPnd:") && line.ends_with("0000000000000001")), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_and_notices_survive_the_agent() {
    let mut host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    // The agent is killed between the switch and the signal.
    host.switch_and_die(2, &[(WEB, "2")]);
    host.end().await;
    assert_eq!(web.line_now(), None);
    host.begin().await;
    assert_eq!(web.line(), "told");
    host.until_state(WatcherState::Told, 2).await;
    // The registration goes on as before.
    host.switch(3, &[(WEB, "3")]);
    assert_eq!(web.line(), "told");
    // A delivered notice is not delivered again.
    host.until_state(WatcherState::Told, 3).await;
    host.end().await;
    host.begin().await;
    host.switch(4, &[(WEB, "4")]);
    assert_eq!(web.line(), "told");
    host.until_state(WatcherState::Told, 4).await;
    assert_eq!(web.line_now(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_process_is_no_longer_registered() {
    let mut host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let mut web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    web.end();
    host.until("no watcher", <[_]>::is_empty).await;
    host.until("no registration on the disk", |_| {
        !fs::read_to_string(host.state.path().join("watchers.json")).unwrap().contains("services/web")
    })
    .await;
    // Also if it ended while no agent ran and a notice was waiting.
    let mut web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    host.switch_and_die(2, &[(WEB, "2")]);
    host.end().await;
    web.end();
    host.begin().await;
    host.until("no watcher", <[_]>::is_empty).await;
    host.until("no notice", |_| {
        !fs::read_to_string(host.state.path().join("duties.json")).unwrap().contains("services/web")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_that_got_the_number_is_never_signalled() {
    let mut host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    host.switch_and_die(2, &[(WEB, "2")]);
    host.end().await;
    // As if the registered process had ended, and this one had started later with its number.
    let path = host.state.path().join("watchers.json");
    let mut kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let start = kept["watchers"][0]["start"].as_u64().unwrap();
    kept["watchers"][0]["start"] = (start - 1).into();
    fs::write(&path, kept.to_string()).unwrap();
    host.begin().await;
    host.until("no watcher", <[_]>::is_empty).await;
    // As if the machine had been started again since.
    kept["watchers"][0]["start"] = start.into();
    kept["watchers"][0]["boot"] = "another".into();
    host.end().await;
    fs::write(&path, kept.to_string()).unwrap();
    host.begin().await;
    host.until("no watcher", <[_]>::is_empty).await;
    host.switch(3, &[(WEB, "3")]);
    web.signal(Signal::SIGHUP);
    assert_eq!(web.line(), "told");
    assert_eq!(web.line_now(), None);
    // A caller that gives the earlier start is refused too.
    let stale = WatchRequest { start: Some(start - 1), ..request(&web, &["services/web"]) };
    let refusal = host.registry().register(stale, me()).await.unwrap_err().to_string();
    assert!(refusal.contains("started later"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_names_only_own_processes() {
    let host = Host::start(Vec::new()).await;
    let web = Script::with_handler();
    let registry = host.registry();
    for pid in [1, 0, -1, i32::MAX] {
        let refused = registry.register(WatchRequest { pid, ..request(&web, &["services/web"]) }, me()).await;
        assert!(matches!(refused, Err(RegisterError::Process(_))), "{pid}");
    }
    let stranger = me() + 4711;
    let refusal = registry.register(request(&web, &["services/web"]), stranger).await.unwrap_err().to_string();
    assert!(refusal.contains("another user"), "{refusal}");
    let none = WatchRequest { components: BTreeSet::new(), ..request(&web, &["services/web"]) };
    assert!(matches!(registry.register(none, me()).await, Err(RegisterError::Components)));
    host.until("no watcher", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_registrations_are_bounded_and_equal_ones_are_one() {
    let host = Host::start(Vec::new()).await;
    // Root has no bound of its own. If the test runs as root, another user's processes are started.
    let user = if me() == 0 { 65_534 } else { me() };
    let idle = || {
        let mut command = Command::new("sleep");
        command.arg("1000");
        std::os::unix::process::CommandExt::uid(&mut command, user);
        Script::spawn(command)
    };
    let mut own: Vec<Script> = (0..=MOST_OF_ONE_USER).map(|_| idle()).collect();
    let registry = host.registry();
    for script in &own[..MOST_OF_ONE_USER] {
        registry.register(request(script, &["services/web"]), user).await.unwrap();
        registry.register(request(script, &["services/web"]), user).await.unwrap();
    }
    let refused = registry.register(request(&own[MOST_OF_ONE_USER], &["services/web"]), user).await;
    assert!(matches!(refused, Err(RegisterError::TooMany(MOST_OF_ONE_USER, _))), "{refused:?}");
    let more = registry.register(request(&own[0], &["services/other"]), user).await.unwrap();
    assert_eq!(more.components, selectors(&["services/web", "services/other"]));
    assert_eq!(registry.status().len(), MOST_OF_ONE_USER);
    // There is room again once a process has ended.
    own.remove(0);
    host.until("one less", |watchers| watchers.len() == MOST_OF_ONE_USER - 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_component_is_told_once() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1"), (OTHER, "1")]);
    let web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    host.switch(2, &[(OTHER, "1")]);
    assert_eq!(web.line(), "told");
    host.until_state(WatcherState::Told, 2).await;
    host.switch(3, &[(OTHER, "2")]);
    host.switch(4, &[(WEB, "4"), (OTHER, "2")]);
    assert_eq!(web.line(), "told");
    host.until_state(WatcherState::Told, 4).await;
    assert_eq!(web.line_now(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_never_runs_twice_at_once_and_gets_the_newest() {
    let place = tempfile::tempdir().unwrap();
    let (log, gate) = (place.path().join("log"), place.path().join("gate"));
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!(
        "echo start $CONF_SEQUENCE $CONF_COMPONENTS $CONF_EXPORT >>{0}; read line <{1}; echo end >>{0}",
        log.display(),
        gate.display()
    );
    let words = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let host = Host::start(vec![entry(&["services/web"], WatchTarget::Command(words.into()))]).await;
    host.switch(1, &[(WEB, "1"), (OTHER, "1")]);
    // Open for as long as the test: no command meets the end of the pipe between two lines.
    let mut opened_gate = fs::OpenOptions::new().read(true).write(true).open(&gate).unwrap();
    let mut open = || opened_gate.write_all(b"go\n").unwrap();
    host.until("it runs", |_| lines_of(&log).len() == 1).await;
    for sequence in 2..=5 {
        host.switch(sequence, &[(WEB, &sequence.to_string()), (OTHER, "1")]);
    }
    // Scheduling decides how many of the four changes are joined. At least the last one is told,
    // and never two at once.
    let mut opened = 0;
    host.until("the newest is told", |watchers| {
        if lines_of(&log).len() > 2 * opened {
            opened += 1;
            open();
        }
        watchers[0].state == WatcherState::Told && watchers[0].sequence.0 == 5
    })
    .await;
    let lines = lines_of(&log);
    let snapshot = |sequence: u64| host.export().join(format!("snapshots/{sequence}")).display().to_string();
    assert_eq!(lines.first(), Some(&format!("start 1 {WEB} {}", snapshot(1))));
    assert_eq!(lines[lines.len() - 2], format!("start 5 {WEB} {}", snapshot(5)));
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line == "end", at % 2 == 1, "two at once: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_command_is_reported_and_runs_again_until_it_succeeds() {
    let place = tempfile::tempdir().unwrap();
    let (port, log) = (place.path().join("port"), place.path().join("log"));
    let script = format!(
        "echo $CONF_SEQUENCE >>{}; test -e {} || {{ echo no such port >&2; exit 3; }}",
        log.display(),
        port.display()
    );
    let words = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let mut host = Host::start(vec![entry(&["services/web"], WatchTarget::Command(words.into()))]).await;
    host.switch(1, &[(WEB, "1")]);
    let failed =
        |problems: &[String]| problems.iter().any(|one| one.contains("exit status: 3") && one.contains("no such port"));
    host.until("it fails twice", |_| lines_of(&log).len() >= 2).await;
    assert!(failed(&host.status().problems), "{:?}", host.status().problems);
    // Of the next change it is told at once, and the restart of the agent forgets nothing.
    host.switch(2, &[(WEB, "2")]);
    host.until("it is told of the next change", |_| lines_of(&log).contains(&"2".to_owned())).await;
    host.end().await;
    let before = lines_of(&log).len();
    host.begin().await;
    assert!(failed(&host.status().problems), "{:?}", host.status().problems);
    host.until("it runs again", |_| lines_of(&log).len() > before).await;
    assert_eq!(host.registry().status()[0].sequence.0, 2, "the one that was exported when it came");
    fs::write(&port, "").unwrap();
    host.until_state(WatcherState::Told, 2).await;
    assert_eq!(host.status().problems, [""; 0]);
    // It is written after the state is shown.
    host.until("no notice on the disk", |_| {
        !fs::read_to_string(host.state.path().join("duties.json")).unwrap().contains("port")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watcher_is_told_once_if_nobody_knows_who_is_owed() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let words = ["sh", "-c", &format!("echo $CONF_COMPONENTS >>{}", log.display())].map(str::to_owned).to_vec();
    let mut host = Host::start(vec![entry(&["services/web"], WatchTarget::Command(words.into()))]).await;
    host.switch(1, &[(WEB, "1"), (OTHER, "1")]);
    host.until_state(WatcherState::Told, 1).await;
    host.end().await;
    fs::write(host.state.path().join("duties.json"), "{").unwrap();
    host.begin().await;
    host.until("it is told", |_| lines_of(&log).len() == 2).await;
    assert_eq!(lines_of(&log), [WEB, WEB]);
    host.until_state(WatcherState::Told, 1).await;
    host.end().await;
    host.begin().await;
    host.switch(2, &[(WEB, "2"), (OTHER, "1")]);
    host.until_state(WatcherState::Told, 2).await;
    assert_eq!(lines_of(&log).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_in_sigwait_or_reads_a_signalfd_is_told() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    // The second reads as a signalfd does: every thread blocks the signal, and it is taken later.
    let waits = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\nprint('ready')\nwhile True:\n  signal.sigwait([signal.SIGHUP]); print('told')";
    let polls = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\nthreading.Thread(target=time.sleep, args=[1000], daemon=True).start()\nprint('ready')\nwhile True:\n  if signal.sigtimedwait([signal.SIGHUP], 0): print('told')\n  time.sleep(0.01)";
    for (sequence, program) in [(2, waits), (3, polls)] {
        let mut python = Command::new("python3");
        python.args(["-uc", &format!("import signal, threading, time\n{program}")]);
        let mut script = Script::spawn(python);
        assert_eq!(script.line(), "ready");
        host.registry().register(request(&script, &["services/web"]), me()).await.unwrap();
        host.switch(sequence, &[(WEB, &sequence.to_string())]);
        assert_eq!(script.line(), "told", "{program}");
        host.until_state(WatcherState::Told, sequence).await;
        assert!(script.is_running());
        script.end();
        host.until("no watcher", <[_]>::is_empty).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_its_signal_is_said_to() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let mut deaf = Script::bash("trap '' HUP; echo ready; exec sleep 1000");
    assert_eq!(deaf.line(), "ready");
    host.registry().register(request(&deaf, &["services/web"]), me()).await.unwrap();
    host.switch(2, &[(WEB, "2")]);
    host.until_state(WatcherState::Waiting, 1).await;
    let problems = host.status().problems;
    assert!(problems.iter().any(|one| one.contains("ignores SIGHUP") && one.contains("of no use")), "{problems:?}");
    assert!(deaf.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_runs_when_the_agent_ends_runs_again() {
    let place = tempfile::tempdir().unwrap();
    let (log, once) = (place.path().join("log"), place.path().join("once"));
    let script = format!(
        "echo $CONF_SEQUENCE $$ >>{0}; test -e {1} || {{ touch {1}; exec sleep 1000; }}",
        log.display(),
        once.display()
    );
    let words = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let mut host = Host::start(vec![entry(&["services/web"], WatchTarget::Command(words.into()))]).await;
    host.switch(1, &[(WEB, "1")]);
    host.until("it hangs", |_| once.exists()).await;
    host.end().await;
    let pid = lines_of(&log)[0].split(' ').nth(1).unwrap().to_owned();
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "the command outlived the agent");
    host.begin().await;
    host.until_state(WatcherState::Told, 1).await;
    assert_eq!(lines_of(&log).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pidfile_is_read_again_for_every_change() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("job.pid");
    let target = WatchTarget::Pidfile { path: path.clone(), signal: Signal::SIGHUP };
    let host = Host::start(vec![entry(&["services/web"], target)]).await;
    let first = Script::with_handler();
    fs::write(&path, format!("{}\n", first.pid())).unwrap();
    host.switch(1, &[(WEB, "1")]);
    assert_eq!(first.line(), "told");
    host.until_state(WatcherState::Told, 1).await;
    let second = Script::with_handler();
    fs::write(&path, format!("{}\n", second.pid())).unwrap();
    host.switch(2, &[(WEB, "2")]);
    assert_eq!(second.line(), "told");
    host.until_state(WatcherState::Told, 2).await;
    assert_eq!(host.registry().status()[0].pid, Some(second.pid()));
    // A job that is starting writes its file after the change.
    fs::remove_file(&path).unwrap();
    host.switch(3, &[(WEB, "3")]);
    host.until_state(WatcherState::Waiting, 2).await;
    fs::write(&path, format!("{}\n", first.pid())).unwrap();
    assert_eq!(first.line(), "told");
    // The file was left behind by a job that ended before the process with this number started.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(86_400 * 365)).unwrap();
    host.switch(4, &[(WEB, "4")]);
    host.until("the stale file is seen", |watchers| {
        watchers[0].error.as_ref().is_some_and(|error| error.contains("after the file was written"))
    })
    .await;
    assert_eq!((first.line_now(), second.line_now()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_ends_with_a_signal_for_the_newest_change() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    for sequence in 2..=51 {
        host.switch(sequence, &[(WEB, &sequence.to_string())]);
        tokio::task::yield_now().await;
    }
    host.until_state(WatcherState::Told, 51).await;
    assert_eq!(web.line(), "told");
}

#[tokio::test(flavor = "multi_thread")]
async fn telling_is_fast() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let web = Script::with_handler();
    host.registry().register(request(&web, &["services/web"]), me()).await.unwrap();
    let mut times: Vec<Duration> = Vec::new();
    for sequence in 2..102 {
        host.switch(sequence, &[(WEB, &sequence.to_string())]);
        let told = Instant::now();
        assert_eq!(web.line(), "told");
        times.push(told.elapsed());
        host.until_state(WatcherState::Told, sequence).await;
    }
    times.sort();
    // Includes the time in which bash prints its line.
    println!("switch to printed line: p50 {:?}, max {:?}", times[50], times[99]);
    assert!(times[99] < LONG);
}
