//! Asks the agent where it exports to.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// An agent on the same machine answers from memory; one that takes longer hangs, and the program starts without it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A status lists every watcher of the host; this is far above the bound on their number.
const ANSWER_BYTES: u64 = 16 << 20;

/// The agent's export directory; none when no agent answers on `socket` in time.
pub(super) fn export_dir(socket: &Path) -> Option<PathBuf> {
    let (answer, answered) = mpsc::sync_channel(1);
    let socket = socket.to_owned();
    // Connecting to a Unix socket has no time limit of its own: a stopped agent whose queue is full would hold us. The
    // thread ends with the connection; nobody waits for it beyond the limit.
    let asking = thread::Builder::new().name("libconf-locate".to_owned());
    asking.spawn(move || answer.send(ask(&socket))).ok()?;
    let dir = answered.recv_timeout(ANSWER_WITHIN).ok()?.ok()?;
    dir.is_absolute().then_some(dir)
}

/// `GET /v1/status`, member `export`.
fn ask(socket: &Path) -> io::Result<PathBuf> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    // HTTP/1.0: the answer ends with the connection and never comes in chunks.
    stream.write_all(b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    export_of(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a status of conf-local"))
}

fn export_of(answer: &[u8]) -> Option<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Status {
        export: PathBuf,
    }
    let end_of_head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let ok = answer.starts_with(b"HTTP/1.") && answer.get(8..13) == Some(b" 200 ");
    let status: Status = serde_json::from_slice(&answer[end_of_head + 4..]).ok().filter(|_| ok)?;
    Some(status.export)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_only_when_it_is_a_status() {
        let body = r#"{"export":"/var/lib/x/export","sequence":3}"#;
        let found = |head: &str, body: &str| export_of(format!("{head}\r\nServer: x\r\n\r\n{body}").as_bytes());
        assert_eq!(found("HTTP/1.0 200 OK", body), Some(PathBuf::from("/var/lib/x/export")));
        assert_eq!(found("HTTP/1.1 200 OK", body), Some(PathBuf::from("/var/lib/x/export")));
        assert_eq!(found("HTTP/1.1 503 Service Unavailable", body), None);
        assert_eq!(found("SSH-2.0-OpenSSH 200 ", body), None);
        assert_eq!(found("HTTP/1.1 200 OK", "{}"), None);
        assert_eq!(export_of(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
