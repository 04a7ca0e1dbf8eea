//! Helpers of the tests: exports as the agent lays them out, and an agent with given answers.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Write},
    os::unix::{fs::symlink, net::UnixListener},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;
use tempfile::TempDir;

use super::Client;

/// A deadline far above the time of any step on a busy machine, so that only a defect reaches it.
pub(crate) const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Web {
    pub(crate) port: u16,
}

/// The settings of a [`Web`].
pub(crate) fn web(port: u64) -> String {
    format!(r#"{{"port":{port}}}"#)
}

/// An export directory; each snapshot is a list of components with their settings.
pub(crate) struct Export {
    _dir: TempDir,
    pub(crate) path: PathBuf,
    last: Mutex<Option<u64>>,
}

impl Export {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        fs::create_dir_all(path.join("store")).unwrap();
        fs::create_dir_all(path.join("snapshots")).unwrap();
        Export { _dir: dir, path, last: Mutex::default() }
    }

    pub(crate) fn with(sequence: u64, components: &[(&str, &str)]) -> Self {
        let export = Self::new();
        export.switch(sequence, components);
        export
    }

    /// Returns the commit of the snapshot of a change.
    pub(crate) fn commit(sequence: u64) -> String {
        format!("{sequence:040x}")
    }

    /// Writes a snapshot as the child of the current one, and lets `current` name it.
    pub(crate) fn switch(&self, sequence: u64, components: &[(&str, &str)]) {
        let parent = self.last.lock().unwrap().replace(sequence);
        self.lay_out(sequence, parent, components, &BTreeMap::new());
        self.let_current_name(sequence);
    }

    pub(crate) fn let_current_name(&self, sequence: u64) {
        symlink(format!("snapshots/{sequence}"), self.path.join("next")).unwrap();
        fs::rename(self.path.join("next"), self.path.join("current")).unwrap();
    }

    /// Writes a whole folder of a snapshot, and gives it its name in one step.
    pub(crate) fn lay_out(
        &self,
        sequence: u64,
        parent: Option<u64>,
        components: &[(&str, &str)],
        faults: &BTreeMap<&str, &str>,
    ) {
        let snapshot = self.path.join(format!("snapshots/.new-{sequence}"));
        fs::create_dir_all(&snapshot).unwrap();
        for (component, settings) in components {
            let mut hasher = DefaultHasher::new();
            (component, settings).hash(&mut hasher);
            let stored = self.path.join(format!("store/{:016x}", hasher.finish()));
            fs::create_dir_all(stored.join("files/sub")).unwrap();
            fs::write(stored.join("settings.json"), settings).unwrap();
            fs::write(stored.join("files/motd"), format!("{component} {settings}")).unwrap();
            fs::write(stored.join("files/sub/deep"), settings).unwrap();
            fs::create_dir_all(snapshot.join(component).parent().unwrap()).unwrap();
            symlink(stored.join("files"), snapshot.join(component)).unwrap();
            symlink(stored.join("settings.json"), snapshot.join(format!("{component}.json"))).unwrap();
        }
        let header = serde_json::json!({
            "sequence": sequence,
            "commit": Self::commit(sequence),
            "parent": parent.map(Self::commit),
            "faults": faults,
        });
        fs::write(snapshot.join("snapshot.json"), header.to_string()).unwrap();
        let name = self.path.join(format!("snapshots/{sequence}"));
        if name.exists() {
            // The snapshot is made again: the former folder stays beside it for its readers.
            renameat_with(CWD, &snapshot, CWD, &name, RenameFlags::EXCHANGE).unwrap();
            fs::rename(&snapshot, self.path.join(format!("snapshots/{sequence}.1"))).unwrap();
        } else {
            fs::rename(&snapshot, name).unwrap();
        }
    }

    /// Writes `central` as the agent does, when a higher change is covered.
    pub(crate) fn central(&self, sequence: u64, central: u64) {
        fs::write(self.path.join(".central"), format!(r#"{{"sequence":{sequence},"central":{central}}}"#)).unwrap();
        fs::rename(self.path.join(".central"), self.path.join("central")).unwrap();
    }

    /// Removes a snapshot's folder as the agent does: only if no reader holds it.
    pub(crate) fn retire(&self, sequence: u64) -> bool {
        let path = self.path.join(format!("snapshots/{sequence}"));
        let folder = fs::File::open(&path).unwrap();
        let free = folder.try_lock().is_ok();
        if free {
            fs::remove_dir_all(path).unwrap();
        }
        free
    }

    pub(crate) fn client(&self) -> Client {
        Client::at(&self.path).unwrap()
    }
}

/// Waits for a state without an event, against a generous deadline.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never came: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// An agent's socket, which passes the target and body of each request to the test and sends its
/// answer.
pub(crate) struct FakeAgent {
    dir: TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    pub(crate) asked: mpsc::Receiver<(String, String)>,
}

impl FakeAgent {
    /// Starts it. `answer` makes status and body from a request's target and body. It may block:
    /// each request has its own thread.
    pub(crate) fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("agent.sock")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, asked) = mpsc::channel();
        let thread = thread::spawn({
            let (stop, answer) = (Arc::clone(&stop), Arc::new(answer));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let (mut stream, answer, tell) = (stream.unwrap(), Arc::clone(&answer), tell.clone());
                    thread::spawn(move || {
                        let Some((target, body)) = request(&mut stream) else { return };
                        let _ = tell.send((target.clone(), body.clone()));
                        let (status, answer) = answer(&target, &body);
                        let _ = stream.write_all(format!("HTTP/1.0 {status} X\r\n\r\n{answer}").as_bytes());
                    });
                }
            }
        });
        FakeAgent { dir, stop, thread: Some(thread), asked }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Makes the answer that the snapshot of `from` is the newest through `through`.
    pub(crate) fn at(from: u64, through: u64) -> (u16, String) {
        let answer = serde_json::json!({
            "sequence": from, "commit": Export::commit(from), "directory": format!("/elsewhere/snapshots/{from}"),
            "from": from, "through": through, "central": through,
        });
        (200, answer.to_string())
    }
}

/// Reads the target and body of one request.
fn request(stream: &mut impl Read) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    let head = loop {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
        if bytes.ends_with(b"\r\n\r\n") {
            break String::from_utf8(bytes).unwrap();
        }
    };
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head.split(' ').nth(1).unwrap().to_owned(), String::from_utf8(body).unwrap()))
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = std::os::unix::net::UnixStream::connect(self.socket());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Wakes the thread that waits in [`block_on`].
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on the smallest possible runtime, which shows that any will do.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park_timeout(LONG);
    }
}
