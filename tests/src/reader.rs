//! Processes that get signals, and readers that never stop.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Receiver,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    time::{ClockId, clock_gettime},
};

use crate::{
    program::{built, command, lines_of, spawn},
    wait::{DEADLINE, eventually},
};

/// A process that handles SIGHUP and reports it.
#[derive(Debug)]
pub struct Reader {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<(Instant, String)>,
}

/// A signal that a reader received.
#[derive(Clone, Debug)]
pub struct Told {
    /// The time, by the clock of the reader itself.
    pub when: Instant,
    /// The sequence of the snapshot that `current` named then.
    pub sequence: u64,
}

impl Reader {
    /// Starts one that handles SIGHUP from the beginning.
    pub fn start(export: &Path) -> Self {
        Self::start_with(export, &[])
    }

    /// Starts one that has no handler until [`Reader::handle`].
    pub fn start_late(export: &Path) -> Self {
        Self::start_with(export, &["--late"])
    }

    fn start_with(export: &Path, arguments: &[&str]) -> Self {
        let mut command = command(built("reader"), Path::new("/"));
        command.arg(export).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command).expect("the reader can be started");
        let (output, input) = (child.stdout.take().expect("its output is piped"), child.stdin.take());
        let reader = Reader { child, input, lines: lines_of(output) };
        reader.await_ready();
        reader
    }

    fn await_ready(&self) {
        let (_, line) = self.lines.recv_timeout(DEADLINE).expect("the reader gets ready");
        assert_eq!(line, "ready");
    }

    /// Makes a late one handle the signal from now on.
    pub fn handle(&mut self) {
        let input = self.input.as_mut().expect("its input is piped");
        writeln!(input, "now").expect("the reader listens");
        self.await_ready();
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next signal, which must come.
    #[track_caller]
    pub fn told(&self) -> Told {
        self.told_within(DEADLINE).expect("the reader was not told in time")
    }

    /// Waits for the next signal for some time.
    pub fn told_within(&self, wait: Duration) -> Option<Told> {
        let (_, line) = self.lines.recv_timeout(wait).ok()?;
        let told = line.strip_prefix("hup ").and_then(|rest| rest.split_once(' '));
        let (when, sequence) = told.unwrap_or_else(|| panic!("not a signal: {line}"));
        Some(Told { when: instant(when), sequence: sequence.parse().unwrap_or_default() })
    }

    /// Returns every signal that has come until now.
    pub fn all_told(&self) -> Vec<Told> {
        std::iter::from_fn(|| self.told_within(Duration::ZERO)).collect()
    }

    /// Waits for a signal with at least this sequence in place, and returns the number of signals
    /// until then.
    #[track_caller]
    pub fn told_of(&self, sequence: u64) -> usize {
        let mut times = 0;
        loop {
            times += 1;
            if self.told().sequence >= sequence {
                return times;
            }
        }
    }

    /// Tells whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reader that never stops: in every round it opens `current` once, and reads the same files
/// through that.
#[derive(Debug)]
pub struct Poller {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Seen>>,
}

/// The findings of a poller.
#[derive(Debug, Default)]
pub struct Seen {
    /// The number of rounds.
    pub rounds: u64,
    /// The number of times that each combination of contents was read.
    pub contents: BTreeMap<Vec<String>, u64>,
    /// The number of times that `current` named an older sequence than in the round before.
    pub backwards: u64,
    /// Errors of the rounds in which a file could not be read.
    pub failures: Vec<String>,
}

impl Poller {
    /// Reads `files`, relative to `current`, in an endless loop.
    pub fn start(export: &Path, files: &[&str]) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (export, asked, ended) = (export.to_owned(), Arc::clone(&stop), Arc::clone(&rounds));
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let thread = thread::spawn(move || {
            let (mut seen, mut last) = (Seen::default(), 0);
            loop {
                seen.rounds += 1;
                let sequence = current(&export).unwrap_or(last);
                seen.backwards += u64::from(sequence < last);
                last = sequence;
                match read_once(&export, &files) {
                    Ok(contents) => *seen.contents.entry(contents).or_default() += 1,
                    Err(error) => seen.failures.push(error),
                }
                ended.store(seen.rounds, Ordering::Relaxed);
                if asked.load(Ordering::Relaxed) {
                    return seen;
                }
            }
        });
        Poller { stop, rounds, thread: Some(thread) }
    }

    /// Waits until so many more rounds have ended: of two, one began after this call.
    #[track_caller]
    pub fn wait_rounds(&self, more: u64) {
        let wanted = self.rounds.load(Ordering::Relaxed) + more;
        eventually("the poller to read again", || {
            let rounds = self.rounds.load(Ordering::Relaxed);
            if rounds >= wanted { Ok(()) } else { Err(format!("{rounds} rounds")) }
        });
    }

    /// Ends it. Expects that no read failed, that the sequence never went back, and that no round
    /// read files of two changes: in these stories every file has the same content.
    #[track_caller]
    pub fn stop_unharmed(self) -> Seen {
        let seen = self.stop();
        let first = seen.failures.first();
        assert!(first.is_none(), "{} of {} rounds failed: {first:?}", seen.failures.len(), seen.rounds);
        assert_eq!(seen.backwards, 0, "in {} rounds the sequence went back", seen.rounds);
        let mixed: Vec<_> = seen.contents.keys().filter(|one| one.iter().any(|file| *file != one[0])).collect();
        assert!(mixed.is_empty(), "in {} rounds, mixed: {mixed:?}", seen.rounds);
        seen
    }

    /// Ends it, and returns its findings.
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is stopped once").join().expect("the poller does not fail")
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Converts a time of the monotonic clock, which all processes share.
fn instant(nanoseconds: &str) -> Instant {
    let then = Duration::from_nanos(nanoseconds.parse().expect("the reader writes a number"));
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::try_from(now).expect("the clock began at zero");
    Instant::now().checked_sub(now.saturating_sub(then)).expect("it was after the start of this machine")
}

/// Returns the sequence that `current` names.
pub fn current(export: &Path) -> Option<u64> {
    std::fs::read_link(export.join("current")).ok()?.file_name()?.to_str()?.parse().ok()
}

fn read_once(export: &Path, files: &[PathBuf]) -> Result<Vec<String>, String> {
    let open = |error: std::io::Error, path: &Path| format!("{}: {error}", path.display());
    let current = File::open(export.join("current")).map_err(|error| open(error, Path::new("current")))?;
    let mut contents = Vec::new();
    for file in files {
        let opened = openat(&current, file, OFlags::RDONLY, Mode::empty()).map_err(|error| open(error.into(), file))?;
        let mut content = String::new();
        File::from(opened).read_to_string(&mut content).map_err(|error| open(error, file))?;
        contents.push(content);
    }
    Ok(contents)
}
