//! Requests to the agent of this host, over its socket: small ones, each with a deadline.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::name::{CommitId, Sequence};

/// The deadline of the request for the export directory. The agent answers from memory; one that
/// takes longer hangs, and the program starts without it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of an answer. A status lists every watcher of the host; this is far above the bound on
/// their number.
const ANSWER_BYTES: u64 = 16 << 20;

/// The longest time that the agent lets one question wait. A longer read asks again.
pub(crate) const LONGEST_QUESTION: Duration = Duration::from_secs(60);

/// The reason that conf-local's `GET /v1/at/<w>` gives for a datacenter that began later.
const NONE_SO_OLD: &str = "none-so-old";
/// The reason that it gives for a change of a history that another one has replaced.
const REPLACED: &str = "replaced";

/// The time that the agent may take beyond the wait that it was asked for.
const GRACE: Duration = Duration::from_secs(1);

/// Asks for the agent's export directory; `None` if no agent answers on `socket` in time.
pub(crate) fn export_dir(socket: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Status {
        export: PathBuf,
    }
    let (answer, answered) = mpsc::sync_channel(1);
    let socket = socket.to_owned();
    // Connecting to a Unix socket has no time limit: a stopped agent with a full queue would hold
    // this thread. The new thread ends with the connection, and nothing waits for it beyond the
    // limit.
    let asking = thread::Builder::new().name("libconf-locate".to_owned());
    asking.spawn(move || answer.send(ask(&socket, &get("/v1/status"), Instant::now() + ANSWER_WITHIN))).ok()?;
    let status: Status = answered.recv_timeout(ANSWER_WITHIN).ok()?.ok()?.json().ok()?;
    status.export.is_absolute().then_some(status.export)
}

/// The way to ask the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agent {
    /// The agent's socket. Without one, no agent is asked.
    pub(crate) socket: Option<PathBuf>,
    /// The name of this program.
    pub(crate) program: Option<String>,
    /// The runtime in which questions wait. Without one, each waits in a thread of its own.
    #[cfg(feature = "tokio")]
    pub(crate) runtime: Option<tokio::runtime::Handle>,
}

/// The agent's answer: a snapshot that is this datacenter's newest for every change from `from`
/// through `through`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct At {
    pub(crate) sequence: Sequence,
    pub(crate) commit: CommitId,
    pub(crate) from: Sequence,
    pub(crate) through: Sequence,
}

/// The reason why the agent named no snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The datacenter had no configuration that old. Asking again changes nothing.
    NoneSoOld,
    /// Another history has taken the place of the change, in the agent's words. Asking again
    /// changes nothing.
    Replaced(String),
    /// Not now; the reason is the agent's or the system's.
    NotNow(String),
    /// No question can be asked any more.
    Never(String),
}

/// Makes the request for the newest snapshot not above `sequence`. The agent waits for it until
/// shortly before `deadline`, so that its answer about the missing part arrives in time.
pub(crate) fn at(sequence: Sequence, deadline: Instant) -> Vec<u8> {
    let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST_QUESTION);
    let patience = left.saturating_sub((left / 10).min(GRACE));
    get(&format!("/v1/at/{sequence}?timeout={:.3}", patience.as_secs_f64()))
}

/// Returns the time until which an answer is read, for a question that may wait until `deadline`.
pub(crate) fn patience(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + LONGEST_QUESTION) + GRACE
}

/// Reads the answer to [`at`].
pub(crate) fn read_at(sequence: Sequence, answer: io::Result<Answer>) -> Result<At, Refused> {
    let answer = answer.map_err(|error| Refused::NotNow(format!("the agent of this host does not answer: {error}")))?;
    if answer.status == 200 {
        let at: At = answer.json().map_err(|error| Refused::NotNow(error.to_string()))?;
        let fits = at.from == at.sequence && at.from <= sequence && sequence <= at.through;
        return fits.then_some(at).ok_or_else(|| Refused::NotNow("the agent answered for another change".to_owned()));
    }
    let status = answer.status;
    let earlier =
        format!("the agent of this host answers {status}; is it of an earlier version than this program's libconf?");
    Err(match answer.refusal() {
        // This answer is final, so only the agent's own word for it counts.
        Some(Refusal { reason: Some(reason), .. }) if reason == NONE_SO_OLD => Refused::NoneSoOld,
        Some(Refusal { error, reason: Some(reason) }) if reason == REPLACED => Refused::Replaced(error),
        Some(Refusal { error, reason: Some(_) }) => Refused::NotNow(error),
        Some(Refusal { error, reason: None }) => Refused::NotNow(format!("{earlier} It says: {error}")),
        None => Refused::NotNow(earlier),
    })
}

/// Sends one request and reads the answer, until `deadline`. Only connecting may take longer, see
/// [`export_dir`].
pub(crate) fn ask(socket: &Path, request: &[u8], deadline: Instant) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut part) {
            Ok(0) => return Answer::parse(&answer),
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The system's text, "resource temporarily unavailable", would confuse people.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > ANSWER_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
    }
}

/// As [`ask`], in a runtime of tokio that drives its input, output and time.
#[cfg(feature = "tokio")]
pub(crate) async fn ask_in_runtime(socket: &Path, request: &[u8], deadline: Instant) -> io::Result<Answer> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asking = async {
        let mut stream = tokio::net::UnixStream::connect(socket).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
        Answer::parse(&answer)
    };
    tokio::time::timeout_at(deadline.into(), asking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Makes a GET request. It is HTTP/1.0: the answer ends with the connection and is never chunked.
fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n").into_bytes()
}

/// Makes a POST request with a JSON body.
pub(crate) fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// An answer of the agent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let parsed = || {
            let end_of_head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
            let status = bytes.strip_prefix(b"HTTP/1.").filter(|rest| rest.get(1) == Some(&b' '))?.get(2..5)?;
            let status = std::str::from_utf8(status).ok()?.parse().ok()?;
            Some(Answer { status, body: bytes[end_of_head + 4..].to_vec() })
        };
        parsed().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer of conf-local"))
    }

    fn json<T: DeserializeOwned>(&self) -> io::Result<T> {
        if self.status != 200 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the agent answers {}", self.status)));
        }
        serde_json::from_slice(&self.body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn refusal(&self) -> Option<Refusal> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// The body of a refusal.
#[derive(Debug, Deserialize)]
struct Refusal {
    /// The message for people.
    error: String,
    /// The agent's code for "no snapshot for this change", with its reason. Other refusals have
    /// none.
    reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str, body: &str) -> io::Result<Answer> {
        Answer::parse(format!("{head}\r\nServer: x\r\n\r\n{body}").as_bytes())
    }

    #[test]
    fn an_answer_is_taken_only_when_it_is_one() {
        assert_eq!(answer("HTTP/1.0 200 OK", "{}").unwrap().status, 200);
        assert_eq!(answer("HTTP/1.1 503 Service Unavailable", "{}").unwrap().status, 503);
        assert!(answer("HTTP/1.1 503 Service Unavailable", "{}").unwrap().json::<serde_json::Value>().is_err());
        assert!(answer("SSH-2.0-OpenSSH 200 ", "{}").is_err());
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(Answer::parse(b"HTTP/1.").is_err());
        assert!(Answer::parse(b"").is_err());
    }

    #[test]
    fn an_answer_for_another_change_is_refused() {
        let body = |from: u64, through: u64| {
            format!(
                r#"{{"sequence":{from},"commit":"{}","from":{from},"through":{through},"central":99}}"#,
                "a".repeat(40)
            )
        };
        let read = |body: &str| read_at(Sequence(7), answer("HTTP/1.0 200 OK", body));
        assert_eq!(read(&body(5, 7)).unwrap().sequence, Sequence(5));
        assert!(matches!(read(&body(5, 6)), Err(Refused::NotNow(_))));
        assert!(matches!(read(&body(8, 9)), Err(Refused::NotNow(_))));
        assert!(matches!(read("{}"), Err(Refused::NotNow(_))));
        let refused = |head: &str, body: &str| read_at(Sequence(7), answer(head, body)).unwrap_err();
        let none = r#"{"error":"no configuration as old as change 7","reason":"none-so-old"}"#;
        assert_eq!(refused("HTTP/1.0 404 Not Found", none), Refused::NoneSoOld);
        // An agent without this route says nothing about the datacenter.
        for body in ["nothing here", r#"{"error":"there is nothing at this path"}"#] {
            assert!(matches!(refused("HTTP/1.0 404 Not Found", body), Refused::NotNow(_)), "{body}");
        }
        let away = r#"{"error":"away","reason":"not-in-time"}"#;
        assert_eq!(refused("HTTP/1.0 504 Gateway Timeout", away), Refused::NotNow("away".to_owned()));
    }
}
