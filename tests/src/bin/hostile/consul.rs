//! A Consul that lies about one key.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};

use crate::{
    lied,
    peer::{CLOSE, Request},
};

/// How it lies.
#[derive(Args)]
pub(crate) struct Options {
    /// Where it listens.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The honest Consul behind it.
    #[arg(long)]
    honest: SocketAddr,
    /// The key that it lies about.
    #[arg(long)]
    key: String,
    /// The value that it says in place of the right one, in the modes `value` and `flood`.
    #[arg(long, default_value = "")]
    value: String,
    /// The kind of lie.
    #[arg(long)]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Mode {
    /// Says another value, for ever.
    Value,
    /// Says that the key is gone.
    Gone,
    /// Answers every question at once, with a higher number before the value each time.
    Flood,
    /// Ends in the middle of each answer.
    Cut,
    /// Never answers.
    Stall,
    /// Answers without an end.
    Inflate,
}

/// It answers each question about its key in its own way.
pub(crate) struct Consul {
    options: Options,
    answers: AtomicU64,
}

impl Consul {
    pub(crate) fn new(options: Options) -> Self {
        Consul { options, answers: AtomicU64::new(0) }
    }

    pub(crate) fn answer(&self, mut client: TcpStream) -> io::Result<()> {
        let request = Request::read(&mut client)?;
        if !request.line.contains(&format!("/v1/kv/{}", self.options.key)) {
            return request.pass_on(self.options.honest, &mut client);
        }
        lied("a pointer");
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1_000_000;
        match self.options.mode {
            Mode::Value => {
                // A blocking question for what is known already waits, as it does at an honest one.
                if request.line.contains("index=1000") {
                    thread::sleep(Duration::from_secs(2));
                }
                self.say(&mut client, 1000, &self.options.value)
            }
            Mode::Gone => {
                if request.line.contains("index=1000") {
                    thread::sleep(Duration::from_secs(2));
                }
                write!(client, "HTTP/1.1 404 Not Found\r\nX-Consul-Index: 1000\r\nContent-Length: 0\r\n{CLOSE}")
            }
            Mode::Flood => self.say(&mut client, number, &format!("{number}/{}", self.options.value)),
            Mode::Cut => {
                let answer = request.whole_answer(self.options.honest)?;
                client.write_all(&answer[..answer.len() - answer.len().min(40)])
            }
            Mode::Stall => {
                thread::sleep(Duration::from_secs(3600));
                Ok(())
            }
            Mode::Inflate => {
                write!(
                    client,
                    "HTTP/1.1 200 OK\r\nX-Consul-Index: {number}\r\nContent-Type: application/json\r\n{CLOSE}"
                )?;
                client.write_all(b"[{\"Value\":\"")?;
                loop {
                    client.write_all(&[b'A'; 4096])?;
                }
            }
        }
    }

    /// Says a value in Consul's words.
    fn say(&self, client: &mut TcpStream, index: u64, value: &str) -> io::Result<()> {
        let entry = serde_json::json!([{"LockIndex": 0, "Key": self.options.key, "Flags": 0,
            "Value": STANDARD.encode(value), "CreateIndex": 1, "ModifyIndex": index}]);
        let body = entry.to_string();
        write!(
            client,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: {index}\r\n\
             X-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\nContent-Length: {}\r\n{CLOSE}{body}",
            body.len()
        )
    }
}
