//! Programs that a test starts: they report when they are ready, and end with the test.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::DEADLINE;

/// Finds a program of this workspace by name.
pub fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own program");
    // A program is beside the others; target/<profile>/deps/<test> is one folder below them.
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    beside.unwrap_or_else(|| {
        panic!("there is no {name} beside {}; build it first: cargo build --workspace --bins", own.display())
    })
}

/// Makes a command in a clean environment, which ends when this process does.
///
/// `setpriv` asks the kernel for that and becomes the program, so the id is the program's own.
pub fn command(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home).env("LC_ALL", "C").env("RUST_BACKTRACE", "1");
    command
}

/// Starts a command from a thread that lives as long as this process: the kernel ties a child to
/// the thread that started it, and a test's own thread may end earlier.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, received) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (answer, child) = sync_channel(1);
    let requests = spawner.lock().expect("the spawner's lock is never poisoned").clone();
    requests.send((command, answer)).expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers every request")
}

/// Runs a command to its end, and returns its output.
pub fn run(command: Command) -> Output {
    run_reading(command, Stdio::null())
}

/// As [`run`], with standard input.
pub fn run_reading(mut command: Command, input: impl Into<Stdio>) -> Output {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = format!("{command:?}");
    let child = spawn(command).unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    child.wait_with_output().unwrap_or_else(|error| panic!("cannot run {name}: {error}"))
}

/// Returns the standard output and the standard error of a command as text.
pub fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// A long-running program, with its arguments for another start.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    home: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    lines: Receiver<(Instant, String)>,
    ready: String,
}

impl Daemon {
    /// Describes a program that prints `ready …` once it can serve. [`Daemon::start`] starts it.
    pub fn new<A: Into<OsString>>(
        name: &str,
        program: PathBuf,
        home: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        let (name, home) = (name.to_owned(), home.to_owned());
        Daemon { name, program, arguments, environment: Vec::new(), home, running: None }
    }

    /// Adds an argument for the next start.
    pub fn argument(&mut self, argument: impl Into<OsString>) {
        self.arguments.push(argument.into());
    }

    /// Returns the arguments of the next start.
    pub fn arguments(&mut self) -> &mut Vec<OsString> {
        &mut self.arguments
    }

    /// Replaces every use of a flag in the arguments of the next start by one for each of these
    /// values.
    pub fn set_flag<A: Into<OsString>>(&mut self, flag: &str, values: impl IntoIterator<Item = A>) {
        while let Some(at) = self.arguments.iter().position(|argument| argument == flag) {
            self.arguments.drain(at..at + 2);
        }
        for value in values {
            self.arguments.extend([flag.into(), value.into()]);
        }
    }

    /// Has another program run at the next start.
    pub fn run_as(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Sets an environment variable for the next start.
    pub fn environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Starts it, and waits until it is ready.
    pub fn start(&mut self) {
        self.start_unready();
        self.await_ready();
    }

    /// Starts it without waiting, if it cannot get ready yet.
    pub fn start_unready(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log can be opened");
        let mut command = command(&self.program, &self.home);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = spawn(command).unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        let output = child.stdout.take().expect("its output is piped");
        self.running = Some(Running { child, lines: lines_of(output), ready: String::new() });
    }

    /// Waits until it is ready.
    pub fn await_ready(&mut self) {
        let running = self.running.as_mut().expect("it was started");
        let start = Instant::now();
        loop {
            match running.lines.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) {
                Ok((_, line)) if line.starts_with("ready ") => {
                    running.ready = line;
                    return;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.child.wait();
                    panic!("{} ended before it was ready ({status:?}):\n{}", self.name, self.log());
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} was not ready within {DEADLINE:?}:\n{}", self.name, self.log())
                }
            }
        }
    }

    /// Returns the line `ready …`.
    pub fn ready_line(&self) -> &str {
        &self.running.as_ref().expect("it runs").ready
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").child.id()
    }

    /// Tells whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// Stops it as systemd would, and expects success within five seconds, or as soon as the kernel
    /// lets it go. Returns the time that it took.
    pub fn stop(&mut self) -> Duration {
        let (start, mark) = (Instant::now(), self.log_mark());
        self.signal(Signal::TERM);
        let status = self.wait_for_end(Duration::from_secs(30));
        let took = start.elapsed();
        assert!(status.success(), "{} ended with {status} after SIGTERM:\n{}", self.name, self.log());
        // A thread that waits for the disk keeps a process that has ended.
        let is_held = self.log_since(mark).contains("a step did not end in time; leaving without it");
        let most = Duration::from_secs(if is_held { 20 } else { 5 });
        assert!(took < most, "{} took {took:?} to end after SIGTERM:\n{}", self.name, self.log());
        took
    }

    /// Kills it, as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.child.kill().expect("it is our child");
            running.child.wait().expect("it is our child");
        }
    }

    /// Kills it and starts it again with the same arguments.
    pub fn kill9_and_restart(&mut self) {
        self.kill9();
        self.start();
    }

    /// Stops it in order and starts it again with the same arguments.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self, deadline: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            let running = self.running.as_mut().expect("it was started");
            if let Some(status) = running.child.try_wait().expect("it is our child") {
                self.running = None;
                return status;
            }
            assert!(start.elapsed() < deadline, "{} did not end within {deadline:?}:\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns its standard error since its first start.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Returns a mark for [`Daemon::log_since`].
    pub fn log_mark(&self) -> usize {
        self.log().len()
    }

    /// Returns the log after a mark.
    pub fn log_since(&self, mark: usize) -> String {
        self.log().split_off(mark)
    }

    fn log_path(&self) -> PathBuf {
        self.home.join(format!("{}.log", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(40)..];
            eprintln!("-- the end of {}'s log:\n  {}\n", self.name, end.join("\n  "));
        }
        self.kill9();
        // What libgit2 writes for programmers reaches nobody, whatever the story is about.
        let raw = self.log().lines().find(|line| line.contains("; class=")).map(str::to_owned);
        if let Some(line) = raw.filter(|_| !thread::panicking()) {
            panic!("{} logs libgit2's own words: {line}", self.name);
        }
    }
}

/// Reads the lines of a program's output in a thread, with the time of each.
pub(crate) fn lines_of(output: ChildStdout) -> Receiver<(Instant, String)> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Reads to the end even without a listener: a full pipe would stop the program.
            let _ = sender.send((Instant::now(), line));
        }
    });
    lines
}

/// Sends a signal to a process.
pub fn signal_pid(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is positive");
    kill_process(pid, signal).expect("the process is there");
}

/// Lists all descendants of a process, with their command lines.
pub fn descendants(of: u32) -> Vec<(u32, String)> {
    let mut all: Vec<(u32, u32, String)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(parent) = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        all.push((pid, parent.parse().unwrap_or(0), words));
    }
    let mut found = vec![of];
    let mut result = Vec::new();
    while let Some(parent) = found.pop() {
        for (pid, _, words) in all.iter().filter(|one| one.1 == parent) {
            found.push(*pid);
            result.push((*pid, words.clone()));
        }
    }
    result
}
