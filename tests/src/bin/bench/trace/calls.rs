//! What strace wrote about a process and its children.

use std::collections::BTreeMap;

/// What starts a program.
const STARTS: [&str; 2] = ["execve", "execveat"];

/// The work of one tier for one change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// System calls by name, until the signal and after it.
    pub(super) by_name: BTreeMap<String, [u64; 2]>,
    /// Programs that were started, until the signal and after it.
    pub(super) programs: [u64; 2],
    /// Bytes that were written to files.
    pub(super) written: u64,
    /// Bytes that were sent to sockets.
    pub(super) sent: u64,
    /// Bytes that came from sockets.
    pub(super) received: u64,
}

impl Calls {
    /// Reads lines as `strace -f -ttt -y -yy` writes them: process, seconds, call. The times are those
    /// of the wall clock. Lines before `began` are of the time before the change.
    pub(super) fn read(text: &str, began: f64, signal: f64) -> Self {
        let mut calls = Calls::default();
        for line in text.lines() {
            let Some((at, call)) = parse(line) else { continue };
            if at < began {
                continue;
            }
            calls.note(call, usize::from(at > signal));
        }
        calls
    }

    fn note(&mut self, call: Call<'_>, later: usize) {
        let (Call::Began(name, rest) | Call::Resumed(name, rest)) = call;
        // A search on PATH fails some times before it starts a program.
        if STARTS.contains(&name) && result(rest) == Some(0) {
            self.programs[later] += 1;
        }
        match call {
            Call::Began(name, rest) => {
                self.by_name.entry(name.to_owned()).or_default()[later] += 1;
                self.count(name, rest);
            }
            // The first descriptor stands in the line where the call began, and is lost here: only the
            // calls of one line are counted in bytes, and a call of more than one line waited for a peer.
            Call::Resumed(name, rest) => self.count_resumed(name, rest),
        }
    }

    fn count(&mut self, name: &str, rest: &str) {
        let Some(bytes) = result(rest) else { return };
        let is_socket = ["<TCP:", "<TCPv6:", "<UNIX", "<socket:"].iter().any(|kind| {
            let first = rest.split(',').next().unwrap_or_default();
            first.contains(kind)
        });
        match name {
            "write" | "writev" | "pwrite64" if is_socket => self.sent += bytes,
            "write" | "writev" | "pwrite64" if rest.split(',').next().is_some_and(|first| first.contains("</")) => {
                self.written += bytes;
            }
            "sendto" | "sendmsg" => self.sent += bytes,
            "read" | "readv" if is_socket => self.received += bytes,
            "recvfrom" | "recvmsg" => self.received += bytes,
            _ => {}
        }
    }

    fn count_resumed(&mut self, name: &str, rest: &str) {
        let Some(bytes) = result(rest) else { return };
        match name {
            "sendto" | "sendmsg" => self.sent += bytes,
            "recvfrom" | "recvmsg" => self.received += bytes,
            _ => {}
        }
    }

    /// Returns the number of these calls, until the signal and after it.
    pub(super) fn of(&self, names: &[&str]) -> [u64; 2] {
        let mut sum = [0; 2];
        for (name, [first, later]) in &self.by_name {
            if names.is_empty() || names.contains(&name.as_str()) {
                sum[0] += first;
                sum[1] += later;
            }
        }
        sum
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call<'a> {
    Began(&'a str, &'a str),
    Resumed(&'a str, &'a str),
}

fn parse(line: &str) -> Option<(f64, Call<'_>)> {
    let (_, rest) = line.split_once(' ')?;
    let (at, call) = rest.trim_start().split_once(' ')?;
    let at = at.parse().ok()?;
    if let Some(resumed) = call.strip_prefix("<... ") {
        let (name, rest) = resumed.split_once(" resumed>")?;
        return Some((at, Call::Resumed(name, rest)));
    }
    let (name, rest) = call.split_once('(')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((at, Call::Began(name, rest)))
}

/// The number behind the last equals sign: what the call returned, if it succeeded.
fn result(rest: &str) -> Option<u64> {
    let (_, result) = rest.rsplit_once(" = ")?;
    result.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_until_the_signal_and_after_it() {
        let text = "7 10.0 fsync(3</a>) = 0\n\
                    7 11.0 fsync(3</a>) = 0\n\
                    8 11.1 write(4</a/b>, \"\"..., 10) = 10\n\
                    8 11.2 write(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\"..., 10) = 9\n\
                    8 11.3 recvfrom(5<TCP:[127.0.0.1:1->127.0.0.1:2]>,  <unfinished ...>\n\
                    7 11.4 execve(\"/usr/git\", [\"git\"], 0x0 /* 3 vars */) = -1 ENOENT (No such file or directory)\n\
                    7 11.4 execve(\"/bin/git\", [\"git\"], 0x0 /* 3 vars */) = 0\n\
                    8 12.0 <... recvfrom resumed>\"\"..., 100, 0, NULL, NULL) = 100\n\
                    8 12.1 read(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, 0x0, 10) = -1 EAGAIN (Resource temporarily unavailable)\n\
                    8 12.2 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
                    8 12.3 +++ exited with 0 +++\n\
                    7 12.4 fdatasync(3</a>) = 0\n";
        let calls = Calls::read(text, 10.5, 11.9);
        assert_eq!((calls.written, calls.sent, calls.received), (10, 9, 100));
        assert_eq!(calls.of(&["fsync", "fdatasync"]), [1, 1]);
        assert_eq!((calls.of(&["execve"]), calls.programs), ([2, 0], [1, 0]));
        assert_eq!(calls.of(&[]), [6, 2]);
    }
}
