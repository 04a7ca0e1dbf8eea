use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::killpg, unistd::Pid as NixPid};

use super::*;

/// A real process that has said `ready`; it ends with this.
struct Running(Child);

impl Running {
    fn new(words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        let mut child =
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Running(child)
    }

    fn pid(&self) -> i32 {
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
fn what_a_signal_would_do() {
    assert_eq!(readiness(&["bash", "-c", "trap : HUP; echo ready; read line"]), Readiness::Handled);
    assert_eq!(readiness(&["bash", "-c", "echo ready; exec sleep 1000"]), Readiness::Deadly);
    assert_eq!(readiness(&["bash", "-c", "trap '' HUP; echo ready; exec sleep 1000"]), Readiness::Ignored);
    let held_back = ["env", "--block-signal=HUP", "bash", "-c", "echo ready; exec sleep 1000"];
    assert_eq!(readiness(&held_back), Readiness::HeldBack);
    // A handler does not outlive exec: what was safe a moment ago is not any more.
    let running = Running::new(&["bash", "-c", "trap : HUP; echo ready; exec sleep 1000"]);
    let process = Process::open(running.pid(), None, None).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while process.readiness(Signal::SIGHUP).unwrap() != Readiness::Deadly {
        assert!(std::time::Instant::now() < deadline, "{}", process.name());
        std::thread::yield_now();
    }
}

#[test]
fn only_the_one_that_was_meant() {
    let mut running = Running::new(&["bash", "-c", "trap : HUP; echo ready; read line"]);
    let me = rustix::process::geteuid().as_raw();
    let held = Process::open(running.pid(), None, Some(me)).unwrap();
    let start = held.identity.start;
    assert!(Process::open(running.pid(), Some(start), None).is_ok());
    assert!(matches!(Process::open(running.pid(), Some(start - 1), None), Err(ProcessError::Another(_))));
    assert!(matches!(Process::open(running.pid(), None, Some(me + 1)), Err(ProcessError::Foreign { .. })));
    assert!(Process::reopen(&held.identity, Some(me)).is_ok());
    let other_boot = Identity { boot: "another".to_owned(), ..held.identity.clone() };
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
fn a_pidfile_names_only_whom_its_owner_may() {
    let running = Running::new(&["bash", "-c", "trap : HUP; echo ready; read line"]);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("job.pid");
    assert!(of_pidfile(&path).unwrap_err().is_absence());
    fs::write(&path, format!("{}\n", running.pid())).unwrap();
    assert_eq!(of_pidfile(&path).unwrap().identity.pid, running.pid());

    let link = place.path().join("link.pid");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(of_pidfile(&link), Err(PidfileError::Read { .. })));
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(86_400 * 365)).unwrap();
    assert!(matches!(of_pidfile(&path), Err(PidfileError::Stale { .. })));
    file.set_modified(SystemTime::now()).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(matches!(of_pidfile(&path), Err(PidfileError::Unsafe { .. })));
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Another user's file names root's process.
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let refused = of_pidfile(&path);
        assert!(
            matches!(refused, Err(PidfileError::Process { source: ProcessError::Foreign { .. }, .. })),
            "{refused:?}"
        );
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    for (text, absent) in [("", true), ("nobody\n", true), ("1\n", false), ("999999999\n", true)] {
        fs::write(&path, text).unwrap();
        assert_eq!(of_pidfile(&path).unwrap_err().is_absence(), absent, "{text:?}");
    }
    assert!(matches!(of_pidfile(place.path()), Err(PidfileError::Unsafe { .. })));
}

#[test]
fn a_status_is_read() {
    let text = "Name:\tx y\nUid:\t1\t2\t3\t4\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180004a03\n";
    let expected = Status { users: [1, 2, 3, 4], blocked: 1, ignored: 0x1000, caught: 0x1_8000_4a03 };
    assert_eq!(Status::parse(text), Some(expected));
    assert_eq!(Status::parse("Uid:\t1\t2\n"), None);
    assert_eq!(Status::parse(""), None);
}
