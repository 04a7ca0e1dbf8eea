use std::{
    io::{BufRead, BufReader, Write as _},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::killpg, unistd::Pid as NixPid};

use super::*;

/// A real process that has printed `ready`. Dropping this ends it.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        let mut child =
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Running(child)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn end(&mut self) {
        let _ = killpg(NixPid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn readiness(words: &[&str]) -> Readiness {
    let running = Running::new(words);
    Process::open(running.pid(), None, None).unwrap().readiness(Signal::SIGHUP).unwrap()
}

#[test]
fn readiness_says_what_a_signal_would_do() {
    assert_eq!(readiness(&["bash", "-c", "trap : HUP; echo ready; read line"]), Readiness::Handled);
    assert_eq!(readiness(&["bash", "-c", "echo ready; exec sleep 1000"]), Readiness::Deadly);
    assert_eq!(readiness(&["bash", "-c", "trap '' HUP; echo ready; exec sleep 1000"]), Readiness::Ignored);
    let blocked = ["env", "--block-signal=HUP", "bash", "-c", "echo ready; exec sleep 1000"];
    assert_eq!(readiness(&blocked), Readiness::Blocked);
    // A handler does not survive exec: a signal that was safe a moment ago is not any more.
    let running = Running::new(&["bash", "-c", "trap : HUP; echo ready; exec sleep 1000"]);
    let process = Process::open(running.pid(), None, None).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while process.readiness(Signal::SIGHUP).unwrap() != Readiness::Deadly {
        assert!(std::time::Instant::now() < deadline, "{}", process.name());
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_that_waits_for_a_signal_takes_it() {
    // Without a handler: one thread waits in sigwait, or one reads a signalfd, which needs it blocked.
    let python =
        |program: &str| ["python3", "-uc", &format!("import signal, threading, time\n{program}")].map(str::to_owned);
    let block = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n";
    let wait = "signal.sigwait([signal.SIGTERM, signal.SIGHUP])";
    for (program, expected) in [
        (format!("{block}print('ready')\n{wait}"), Readiness::Blocked),
        (format!("{block}print('ready')\ntime.sleep(1000)"), Readiness::Blocked),
        (format!("{block}print('ready')\nsignal.sigwait([signal.SIGTERM])"), Readiness::Blocked),
        ("print('ready')\nsignal.sigwait([signal.SIGTERM])".to_owned(), Readiness::Deadly),
        // A thread that does not block the signal would end all of them.
        (
            format!("threading.Thread(target=time.sleep, args=[1000]).start()\nprint('ready')\n{wait}"),
            Readiness::Deadly,
        ),
        (
            format!("{block}threading.Thread(target=time.sleep, args=[1000]).start()\nprint('ready')\n{wait}"),
            Readiness::Blocked,
        ),
    ] {
        let words = python(&program);
        let running = Running::new(&words.each_ref().map(String::as_str));
        let process = Process::open(running.pid(), None, None).unwrap();
        // It has said that it is ready a moment before it waits, and blocks the signal until then.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let call = PathBuf::from(format!("/proc/{}/syscall", running.pid()));
        let waits = format!("{} ", nix::libc::SYS_rt_sigtimedwait);
        while program.contains("sigwait") && !fs::read_to_string(&call).unwrap().starts_with(&waits) {
            assert!(std::time::Instant::now() < deadline, "{program}");
            std::thread::yield_now();
        }
        assert_eq!(process.readiness(Signal::SIGHUP).unwrap(), expected, "{program}");
    }
}

#[test]
fn only_the_named_process_is_held() {
    let mut running = Running::new(&["bash", "-c", "trap : HUP; echo ready; read line"]);
    let me = rustix::process::geteuid().as_raw();
    let held = Process::open(running.pid(), None, Some(me)).unwrap();
    let start = held.identity.start;
    assert!(Process::open(running.pid(), Some(start), None).is_ok());
    assert!(matches!(Process::open(running.pid(), Some(start - 1), None), Err(ProcessError::Another(_))));
    assert!(matches!(Process::open(running.pid(), None, Some(me + 1)), Err(ProcessError::Foreign { .. })));
    assert!(Process::reopen(&held.identity, Some(me)).is_ok());
    let other_boot = ProcessIdentity { boot: "another".to_owned(), ..held.identity.clone() };
    assert!(matches!(Process::reopen(&other_boot, None), Err(ProcessError::Gone(_))));

    running.end();
    assert!(held.has_ended());
    assert!(matches!(held.signal(Signal::SIGHUP), Err(ProcessError::Gone(_))));
    assert!(matches!(held.readiness(Signal::SIGHUP), Err(ProcessError::Gone(_))));
    assert!(matches!(Process::reopen(&held.identity, None), Err(ProcessError::Gone(_))));
    assert!(matches!(Process::open(1, None, None), Err(ProcessError::Init)));
    for bad in [0, -1, i32::MIN] {
        assert!(matches!(Process::open(bad, None, None), Err(ProcessError::BadNumber(_))), "{bad}");
    }
}

#[test]
fn a_status_is_read() {
    let text = "Name:\tx y\nUid:\t1\t2\t3\t4\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180004a03\n";
    let expected = Status { users: [1, 2, 3, 4], blocked: 1, ignored: 0x1000, caught: 0x1_8000_4a03 };
    assert_eq!(Status::parse(text), Some(expected));
    assert_eq!(Status::parse("Uid:\t1\t2\n"), None);
    assert_eq!(Status::parse(""), None);
}

#[tokio::test]
async fn a_process_that_blocks_a_signal_for_a_moment_is_not_ready() {
    // It blocks the signal as a program does that is starting another one, and then not any more.
    let python = "import signal, time\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n\
        print('ready')\ninput()\n\
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])\ntime.sleep(1000)";
    let mut running = Running::new(&["python3", "-uc", python]);
    let process = Process::open(running.pid(), None, None).unwrap();
    let (looking, mut looks) = (process.clone(), Vec::new());
    let (done, mut seen) = tokio::sync::oneshot::channel();
    let mut done = Some(done);
    let waiting = |reason: String, _| {
        looks.push(reason);
        if looks.len() == 5 {
            running.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
            while looking.readiness(Signal::SIGHUP).unwrap() == Readiness::Blocked {
                std::thread::yield_now();
            }
        }
        if looks.len() == 6 {
            done.take().unwrap().send(()).unwrap();
        }
    };
    tokio::select! {
        ready = process.until_ready(Signal::SIGHUP, None, waiting) => panic!("{ready:?} after {looks:?}"),
        _ = &mut seen => {}
    }
    assert!(looks[..5].iter().all(|one| one.contains("blocks SIGHUP")), "{looks:?}");
    assert!(looks[5].contains("no handler"), "{looks:?}");
}

#[tokio::test]
async fn a_process_that_goes_on_blocking_a_signal_is_ready() {
    let running = Running::new(&["env", "--block-signal=HUP", "bash", "-c", "echo ready; exec sleep 1000"]);
    let process = Process::open(running.pid(), None, None).unwrap();
    let mut looks = 0;
    process.until_ready(Signal::SIGHUP, None, |_, _| looks += 1).await.unwrap();
    assert_eq!(looks, BLOCKED_LOOKS);
}

#[test]
fn only_a_thread_that_has_ended_takes_no_signal() {
    let failed = |errno: rustix::io::Errno| Err(io::Error::from(errno));
    assert!(blocks(failed(rustix::io::Errno::NOENT), 1) && blocks(failed(rustix::io::Errno::SRCH), 1));
    for errno in [rustix::io::Errno::ACCESS, rustix::io::Errno::MFILE, rustix::io::Errno::NOMEM] {
        assert!(!blocks(failed(errno), 1), "{errno}");
    }
    assert!(blocks(Ok(Status { blocked: 1, ..Status::default() }), 1) && !blocks(Ok(Status::default()), 1));
}
