//! Runs each example of `examples/` as its text says, on an export that changes meanwhile.

#![expect(clippy::unwrap_used, reason = "what a test cannot set up fails it")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A deadline far above the time of any step on a busy machine, so that only a defect reaches it.
const LONG: Duration = Duration::from_secs(60);

/// An export of one component, as the agent lays it out.
struct Export {
    dir: TempDir,
    component: &'static str,
}

impl Export {
    fn new(component: &'static str, settings: &str) -> Self {
        let export = Export { dir: tempfile::tempdir().unwrap(), component };
        export.switch(1, 0, settings);
        export
    }

    fn switch(&self, sequence: u64, parent: u64, settings: &str) {
        let dir = self.dir.path();
        let files = dir.join(format!("store/{sequence}/files"));
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("motd"), format!("message {sequence}\n")).unwrap();
        fs::write(files.with_file_name("settings.json"), settings).unwrap();
        let snapshot = dir.join(format!("snapshots/{sequence}"));
        fs::create_dir_all(snapshot.join(self.component)).unwrap();
        symlink(&files, snapshot.join(self.component).join("latest")).unwrap();
        symlink(files.with_file_name("settings.json"), snapshot.join(self.component).join("latest.json")).unwrap();
        let header = format!(r#"{{"commit":"{sequence:040x}","parent":"{parent:040x}"}}"#);
        fs::write(snapshot.join("snapshot.json"), header).unwrap();
        symlink(format!("snapshots/{sequence}"), dir.join("next")).unwrap();
        fs::rename(dir.join("next"), dir.join("current")).unwrap();
    }
}

/// A running example, which ends with the test.
struct Example {
    child: Child,
    /// The lines of its output, until it closes that.
    lines: Receiver<String>,
}

impl Example {
    fn start(name: &str, arguments: &[&str], export: &Export) -> Self {
        // Tests are in target/debug/deps, examples in target/debug/examples. Cargo builds them
        // before it runs all tests.
        let program: PathBuf = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join(name);
        let mut command = Command::new(program);
        command.args(arguments).env("CONF_EXPORT_DIR", export.dir.path()).env("CONF_LOCAL_SOCKET", "/nowhere.sock");
        let first = "build them first: cargo build -p libconf --examples --features http";
        let mut child = command.stdout(Stdio::piped()).spawn().expect(first);
        let (tell, lines) = mpsc::channel();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        // Ends with the example, or with the receiver.
        thread::spawn(move || said.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Example { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LONG).expect("the example says something more")
    }

    /// Waits until it closes its output.
    fn end(&mut self) -> ExitStatus {
        assert_eq!(self.lines.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected), "it does not end");
        self.child.wait().unwrap()
    }

    /// Reads the address from its line `ready http=…`.
    fn address(&self) -> String {
        self.line().strip_prefix("ready http=").expect("it is ready").to_owned()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests `GET /`, and returns status and body.
fn get(address: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn a_typed_web_service() {
    let export = Export::new("services/web", r#"{"greeting":"hello"}"#);
    let web = Example::start("typed_web", &["127.0.0.1:0"], &export);
    let address = web.address();
    assert_eq!(get(&address, ""), (200, "hello (change 1)\n".to_owned()));
    export.switch(2, 1, r#"{"greeting":"welcome"}"#);
    assert_eq!(web.line(), "changed greeting=welcome sequence=2");
    assert_eq!(get(&address, ""), (200, "welcome (change 2)\n".to_owned()));
    // Settings that do not fit change nothing; the next ones that fit do.
    export.switch(3, 2, r#"{"greeting":7}"#);
    export.switch(4, 3, r#"{"greeting":"again"}"#);
    assert_eq!(web.line(), "changed greeting=again sequence=4");
}

#[test]
fn a_plain_synchronous_program() {
    let export = Export::new("services/web", r#"{"port":1}"#);
    let mut plain = Example::start("plain", &[], &export);
    assert_eq!(plain.line(), r#"sequence=1 settings={"port":1} motd=message 1"#);
    assert_eq!(plain.line(), "ready");
    export.switch(2, 1, r#"{"port":2}"#);
    assert_eq!(plain.line(), r#"sequence=2 settings={"port":2} motd=message 2"#);
    kill_process(Pid::from_child(&plain.child), Signal::TERM).unwrap();
    assert!(plain.end().success());
}

#[test]
fn an_operation_across_two_services() {
    // There are two hosts; the second is ahead.
    let (here, there) =
        (Export::new("services/shop", r#"{"price":100}"#), Export::new("services/shop", r#"{"price":100}"#));
    there.switch(5, 1, r#"{"price":105}"#);
    let back = Example::start("operation", &["back", "127.0.0.1:0"], &there);
    let back = (back.address(), back);
    let front = Example::start("operation", &["front", "127.0.0.1:0", &back.0], &here);
    let address = front.address();
    assert_eq!(get(&back.0, "").1, "price=105 pin=5", "without a pin it is on its newest");
    assert_eq!(get(&address, ""), (200, "front price=100 pin=1, back price=100 pin=1".to_owned()));
    // Now both have the change, and a caller pins an older one.
    here.switch(5, 1, r#"{"price":105}"#);
    assert_eq!(get(&address, "Baggage: a=1,conf-version=3\r\n").1, "front price=100 pin=3, back price=100 pin=3");
    assert_eq!(get(&address, "Baggage: conf-version=5\r\n").1, "front price=105 pin=5, back price=105 pin=5");
    let (status, words) = get(&address, "Baggage: conf-version=x\r\n");
    assert_eq!((status, words.contains("not a sequence")), (400, true), "{words}");
}
