//! The log itself, and the task that writes it.

use std::{
    convert::Infallible,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write as _},
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::TokenId,
    audit::{
        file::RollingFile,
        repeats::{Asked, Fate, Repeats, Rooms},
    },
    daemon::{Metrics, blocking},
};

/// The size in bytes at which a file is full, and how many full ones are kept: together they hold
/// the rooms of two days.
const FILE_BYTES: u64 = 16 << 20;
const KEPT: usize = 3;
/// Lines that wait to be written; more are counted.
const QUEUE: usize = 1024;
/// The room of those who proved nothing: strangers drive out no line about anybody with a name.
const STRANGERS: Rooms = Rooms { each: 32 << 10, all: 2 << 20 };
/// The room of what was refused to people, programs and conf-slaves.
const REFUSED: Rooms = Rooms { each: 128 << 10, all: 4 << 20 };
/// The room of what was refused to hosts: who has a join token makes as many as there is room for,
/// and drives out no line about anybody else.
const HOSTS: Rooms = Rooms { each: 16 << 10, all: 2 << 20 };
/// The room of what landed. The ledger has every change in any case.
const LANDED: Rooms = Rooms { each: 4 << 20, all: 16 << 20 };
/// How often the log says how many lines it lost.
const EVERY: Duration = Duration::from_secs(60);
/// The longest reason and the longest other text, in characters, and the most refs of a line.
const LONGEST_REASON: usize = 1000;
const LONGEST: usize = 300;
const MOST_REFS: usize = 20;

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It changed something.
    Landed,
    /// It was wrong.
    Refused,
    /// Somebody who proved a name may not do it.
    Denied,
    /// The token proved nothing.
    #[default]
    Unproven,
}

/// One line, without its time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditEntry {
    /// What became of it.
    pub verdict: Verdict,
    /// Who, where a name was proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The token that was shown, where it has the form of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The way in and the address: `http 10.0.0.1`, `ssh 10.0.0.1`, `path`.
    pub from: String,
    /// Whose lines are counted together, where no name was proven: one may have many addresses.
    #[serde(skip)]
    pub peer: String,
    /// It is about a host that has proven itself.
    #[serde(skip)]
    pub is_host: bool,
    /// The method and the path, where it ended before any route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The refs of a change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
    /// How many more refs there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
    /// The number of the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The reason why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version of the rights that it was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The id of the request, as the other logs show it.
    pub id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl AuditEntry {
    /// A line about somebody at the door, with an id of its own.
    pub fn at_the_door(verdict: Verdict, from: String, peer: String, reason: &str) -> Self {
        let id = format!("{:016x}", rand::random::<u64>());
        AuditEntry { verdict, from, peer, reason: Some(reason.to_owned()), id, ..AuditEntry::default() }
    }

    /// Cuts what is too long.
    fn shorten(&mut self) {
        let cut = |text: &mut String, most: usize| {
            if let Some((end, _)) = text.char_indices().nth(most) {
                text.truncate(end);
            }
        };
        self.more += self.refs.len().saturating_sub(MOST_REFS);
        self.refs.truncate(MOST_REFS);
        self.refs.iter_mut().chain([&mut self.from]).for_each(|text| cut(text, LONGEST));
        self.by.iter_mut().chain(self.request.iter_mut()).for_each(|text| cut(text, LONGEST));
        self.reason.iter_mut().for_each(|text| cut(text, LONGEST_REASON));
    }

    /// What decides whether it is written.
    fn asked(&self) -> Asked<'_> {
        let mut hasher = DefaultHasher::new();
        (self.verdict, &self.reason, self.sequence).hash(&mut hasher);
        // A stranger may try many paths with many tokens: that is one thing.
        if self.verdict != Verdict::Unproven {
            (&self.request, &self.refs, self.more).hash(&mut hasher);
        }
        let who = self.by.as_ref().map_or_else(|| self.peer.clone(), |by| format!("{by} {}", self.peer));
        Asked { pusher: who, request: &self.id, kind: hasher.finish() }
    }
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    when: String,
    #[serde(flatten)]
    entry: &'a AuditEntry,
    /// The id of the line that it is like.
    #[serde(skip_serializing_if = "Option::is_none")]
    like: Option<String>,
    /// How many are like that one, up to this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<u64>,
}

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// Into a file.
    File(PathBuf),
    /// To standard output.
    Output,
}

impl FromStr for AuditTarget {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" { AuditTarget::Output } else { AuditTarget::File(text.into()) })
    }
}

/// The audit log. Copies are the same log; the default one writes nothing.
#[derive(Clone, Default)]
pub struct AuditLog(Option<Arc<Inner>>);

struct Inner {
    lines: Sender<Vec<u8>>,
    strangers: Mutex<Repeats>,
    refused: Mutex<Repeats>,
    hosts: Mutex<Repeats>,
    landed: Mutex<Repeats>,
    lost: Lost,
}

/// Lines that were not written.
#[derive(Clone, Debug)]
struct Lost {
    /// Since the log said so last.
    unsaid: Arc<AtomicU64>,
    counter: Counter,
}

impl Lost {
    fn add(&self, lines: u64) {
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
        self.counter.inc_by(lines);
    }
}

impl AuditLog {
    /// Opens the log, and returns what must run to write it.
    pub fn open(target: AuditTarget, metrics: &Metrics) -> io::Result<(Self, AuditWriter)> {
        let sink = match target {
            AuditTarget::File(path) => Sink::File(RollingFile::open(&path, FILE_BYTES, KEPT).map_err(|cause| {
                let words =
                    format!("cannot write the audit log {}: {cause}; --audit-log names another file", path.display());
                io::Error::new(cause.kind(), words)
            })?),
            AuditTarget::Output => Sink::Output,
        };
        let (lines, queue) = mpsc::channel(QUEUE);
        let counter = metrics.counter("conf_audit_lost", "Lines that the audit log had no room or no disk for");
        let lost = Lost { unsaid: Arc::default(), counter };
        let repeats = |rooms| Mutex::new(Repeats::new(rooms, Instant::now()));
        let (strangers, refused, landed) = (repeats(STRANGERS), repeats(REFUSED), repeats(LANDED));
        let inner = Inner { lines, strangers, refused, hosts: repeats(HOSTS), landed, lost: lost.clone() };
        Ok((AuditLog(Some(Arc::new(inner))), AuditWriter { sink: Some(sink), queue, lost, is_failing: false }))
    }

    /// Tells whether anybody reads it: without one, nothing has to be put together.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Queues a line; never waits. What is like an earlier line is counted, and a line says so when
    /// the count has doubled.
    pub fn note(&self, mut entry: AuditEntry) {
        let Some(inner) = &self.0 else { return };
        entry.shorten();
        let mut line = Line { when: Timestamp::now().to_string(), entry: &entry, like: None, again: None };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        let repeats = match entry.verdict {
            Verdict::Unproven => &inner.strangers,
            Verdict::Refused | Verdict::Denied if entry.is_host => &inner.hosts,
            Verdict::Refused | Verdict::Denied => &inner.refused,
            Verdict::Landed => &inner.landed,
        };
        let fate = repeats.lock().decide(entry.asked(), text.len() as u64 + 1, Instant::now());
        match fate {
            Fate::Write => {}
            Fate::Count { like, again } if again.is_power_of_two() => {
                (line.like, line.again) = (Some(like), Some(again));
                let Ok(counted) = serde_json::to_vec(&line) else { return };
                text = counted;
            }
            Fate::Count { .. } => return,
            Fate::Drop => {
                inner.lost.add(1);
                return;
            }
        }
        text.push(b'\n');
        if inner.lines.try_send(text).is_err() {
            inner.lost.add(1);
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditLog").field(&self.is_kept()).finish()
    }
}

/// Writes the lines of a log. No line is synced: of a change that landed the ledger is the record,
/// and a line less after a power cut harms nobody.
#[derive(Debug)]
pub struct AuditWriter {
    /// `None` while something is written.
    sink: Option<Sink>,
    queue: Receiver<Vec<u8>>,
    lost: Lost,
    is_failing: bool,
}

#[derive(Debug)]
enum Sink {
    File(RollingFile),
    Output,
}

impl Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Sink::File(file) => file.append(lines),
            Sink::Output => {
                let mut output = io::stdout().lock();
                output.write_all(lines)?;
                output.flush()
            }
        }
    }
}

impl AuditWriter {
    /// Writes until `stop`, and then what is queued.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            let is_over = tokio::select! {
                line = self.queue.recv() => {
                    let is_over = line.is_none();
                    batch.extend(line);
                    is_over
                }
                _ = ticks.tick() => {
                    batch.extend(self.loss());
                    false
                }
                () = stop.cancelled() => true,
            };
            if is_over {
                self.queue.close();
            }
            while let Ok(line) = self.queue.try_recv() {
                batch.push(line);
            }
            if is_over {
                batch.extend(self.loss());
            }
            self.write(batch).await;
            if is_over {
                return;
            }
        }
    }

    /// A line that says how many were lost.
    fn loss(&self) -> Option<Vec<u8>> {
        let lost = Some(self.lost.unsaid.swap(0, Ordering::Relaxed)).filter(|lost| *lost > 0)?;
        tracing::warn!("{lost} lines of the audit log had no room");
        let line = serde_json::json!({"when": Timestamp::now().to_string(), "verdict": "lost", "again": lost});
        Some(format!("{line}\n").into_bytes())
    }

    async fn write(&mut self, batch: Vec<Vec<u8>>) {
        if batch.is_empty() {
            return;
        }
        let Some(mut sink) = self.sink.take() else { return };
        let (lines, text) = (batch.len() as u64, batch.concat());
        let (sink, written) = blocking(move || {
            let written = sink.write(&text);
            (sink, written)
        })
        .await;
        self.sink = Some(sink);
        match written {
            Ok(()) if std::mem::replace(&mut self.is_failing, false) => {
                tracing::info!("the audit log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.lost.add(lines);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "the audit log cannot be written; what it misses is counted");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A log in a folder of its own.
    struct Case {
        folder: tempfile::TempDir,
        log: AuditLog,
        writer: AuditWriter,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let target = AuditTarget::File(folder.path().join("audit.jsonl"));
            let (log, writer) = AuditLog::open(target, &Metrics::new("test", "0")).unwrap();
            Case { folder, log, writer }
        }

        /// Stops the log, and reads what it wrote.
        async fn lines(self) -> Vec<Value> {
            let stop = CancellationToken::new();
            stop.cancel();
            self.writer.run(stop).await;
            let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    fn stranger(peer: &str, reason: &str) -> AuditEntry {
        let from = format!("http {peer}");
        let entry = AuditEntry::at_the_door(Verdict::Unproven, from, peer.to_owned(), reason);
        AuditEntry { request: Some(format!("GET /{}", entry.id)), ..entry }
    }

    #[tokio::test]
    async fn a_flood_of_one_is_a_few_lines_and_drives_out_nobody() {
        let case = Case::new();
        case.log.note(stranger("10.0.0.2", "the token was revoked"));
        (0..20_000).for_each(|_| case.log.note(stranger("10.0.0.1", "the token is not known here")));
        case.log.note(stranger("10.0.0.3", "the token was revoked"));
        let lines = case.lines().await;
        let of = |peer: &str| lines.iter().filter(|line| line["from"] == format!("http {peer}")).collect::<Vec<_>>();
        assert_eq!((of("10.0.0.2").len(), of("10.0.0.3").len()), (1, 1));
        let flood = of("10.0.0.1");
        // The first one, and each time that their number has doubled.
        assert_eq!(flood.len(), 1 + 15, "{flood:?}");
        let last = flood.last().unwrap();
        assert_eq!((&last["again"], &last["like"]), (&Value::from(16_384), &flood[0]["id"]));
        assert_eq!(last["verdict"], "unproven");
    }

    #[tokio::test]
    async fn many_strangers_take_no_room_from_those_with_a_name() {
        let case = Case::new();
        let writing = CancellationToken::new();
        let running = tokio::spawn(case.writer.run(writing.clone()));
        for number in 0..12_000 {
            let peer = format!("10.0.{}.{}", number / 256, number % 256);
            case.log.note(stranger(&peer, &"x".repeat(900)));
        }
        // What is looked at is the room, not the queue.
        while case.log.0.as_ref().unwrap().lines.capacity() < QUEUE {
            tokio::task::yield_now().await;
        }
        let entry = stranger("10.0.0.1", "ann lacks the right `push`");
        case.log.note(AuditEntry { verdict: Verdict::Denied, by: Some("ann".to_owned()), ..entry });
        writing.cancel();
        running.await.unwrap();
        let text = std::fs::read_to_string(case.folder.path().join("audit.jsonl")).unwrap();
        assert!(text.len() < 3 << 20, "{}", text.len());
        assert!(text.contains("\"by\":\"ann\""));
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lost: u64 =
            lines.filter(|line| line["verdict"] == "lost").map(|line| line["again"].as_u64().unwrap()).sum();
        assert!(lost > 9000, "{lost}");
    }

    #[tokio::test]
    async fn many_hosts_take_no_room_from_people_and_caches() {
        let case = Case::new();
        let denied = |by: &str, is_host: bool| {
            let reason = format!("{by} lacks the right `push` {}", "x".repeat(900));
            let entry =
                AuditEntry::at_the_door(Verdict::Denied, "http 10.0.0.1".to_owned(), "10.0.0.1".to_owned(), &reason);
            case.log.note(AuditEntry { by: Some(by.to_owned()), is_host, ..entry });
        };
        (0..12_000).for_each(|number| denied(&format!("host lab/v1/web-{number}"), true));
        let asked = || Asked { pusher: "x".to_owned(), request: "1", kind: 1 };
        let room = |of: &Mutex<Repeats>| of.lock().decide(asked(), 4000, Instant::now()) == Fate::Write;
        assert!(!room(&case.log.0.as_ref().unwrap().hosts), "the hosts' room is full");
        assert!(room(&case.log.0.as_ref().unwrap().refused), "that of all others is not");
    }

    #[tokio::test]
    async fn what_landed_is_never_taken_for_the_same() {
        let case = Case::new();
        for sequence in 1..=40 {
            let from = "path".to_owned();
            let entry =
                AuditEntry { verdict: Verdict::Landed, from, sequence: Some(sequence), ..AuditEntry::default() };
            case.log.note(AuditEntry { refs: vec!["x".repeat(1000); 30], ..entry });
        }
        let lines = case.lines().await;
        assert_eq!(lines.len(), 40);
        let refs = lines[39]["refs"].as_array().unwrap();
        assert_eq!((refs.len(), refs[0].as_str().unwrap().len(), &lines[39]["more"]), (MOST_REFS, LONGEST, &10.into()));
    }

    #[tokio::test]
    async fn a_disk_that_fails_is_told_of_and_the_log_goes_on() {
        let mut case = Case::new();
        case.writer.sink = Some(Sink::File(RollingFile::open(&case.folder.path().join("b"), 1, 1).unwrap()));
        // A folder with something in it is in the way of the file that is put aside.
        std::fs::create_dir_all(case.folder.path().join("b.1/x")).unwrap();
        case.writer.write(vec![b"1\n".to_vec()]).await;
        case.writer.write(vec![b"2\n".to_vec(), b"3\n".to_vec()]).await;
        assert!(case.writer.is_failing);
        std::fs::remove_dir_all(case.folder.path().join("b.1")).unwrap();
        case.writer.write(vec![b"4\n".to_vec()]).await;
        assert!(!case.writer.is_failing);
        assert_eq!(std::fs::read_to_string(case.folder.path().join("b")).unwrap(), "4\n");
        let loss = String::from_utf8(case.writer.loss().unwrap()).unwrap();
        assert!(loss.contains("\"again\":2"), "{loss}");
    }
}
