//! A conf-slave that lies about snapshots. It has a copy of the honest one's repository, and makes
//! its lies in it with Git's own programs.

use std::{
    fs, io,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

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
    /// The honest conf-slave behind it.
    #[arg(long)]
    honest: SocketAddr,
    /// The datacenter that it claims to serve.
    #[arg(long)]
    datacenter: String,
    /// Where it keeps its repository; made anew.
    #[arg(long)]
    folder: PathBuf,
    /// An honest conf-slave of another datacenter, for the mode `foreign`.
    #[arg(long)]
    other: Option<SocketAddr>,
    /// The key that hosts trust, for the mode `keys`.
    #[arg(long)]
    trusted: Option<PathBuf>,
    /// The kind of lie.
    #[arg(long)]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Mode {
    /// Names a snapshot with other files and a higher number, under the signature of the newest.
    Forge,
    /// Names a snapshot with the files of the first and all else of the newest.
    Mix,
    /// Names the first snapshot under a higher number.
    Replay,
    /// Names the newest snapshot of another datacenter.
    Foreign,
    /// Answers every fetch with another snapshot than the one that was asked for.
    Replace,
    /// Ends in the middle of every answer to a fetch.
    Cut,
    /// Stops in the middle of every answer to a fetch.
    Stall,
    /// Names a new snapshot, which is nowhere, every 20 ms.
    Flood,
    /// Answers every fetch with a small pack that becomes 512 MiB.
    Inflate,
    /// Names for ever the snapshot of its start, and repeats the freshness statements of then.
    Freeze,
    /// Names a snapshot under a key of its own, which it alone has made known.
    Keys,
}

/// The freshness statements that the mode `freeze` repeats.
const REPEATED: usize = 3;

/// The number above all honest ones that it names.
const HIGHER: u64 = 1_000_000;

/// A repository with a lie in it.
pub(crate) struct Slave {
    options: Options,
    repo: PathBuf,
    /// The commit that it names, and the one of which it sends objects.
    lie: String,
    /// What the honest one answered for its status at the start, each with another freshness
    /// statement.
    frozen: Vec<serde_json::Value>,
    /// The number of repeated statements.
    repeated: AtomicUsize,
    /// What it says of keys.
    keys: Option<Value>,
}

impl Slave {
    /// Copies the honest repository, and makes the lie.
    pub(crate) fn new(options: Options) -> io::Result<Self> {
        let repo = options.folder.join("hostile.git");
        fs::create_dir_all(&options.folder)?;
        let (keys, frozen, repeated) = (None, Vec::new(), AtomicUsize::new(0));
        let mut slave = Slave { options, repo, lie: String::new(), frozen, repeated, keys };
        let from = match (slave.options.mode, slave.options.other) {
            (Mode::Foreign, Some(other)) => other,
            _ => slave.options.honest,
        };
        let repo = slave.repo.to_string_lossy().into_owned();
        let url = format!("http://{from}/conf.git");
        succeeded(Command::new("git").args(["clone", "--quiet", "--mirror", &url, &repo]))?;
        slave.lie = slave.make_lie()?;
        while slave.options.mode == Mode::Freeze && slave.frozen.len() < REPEATED {
            let status = slave.honest_status()?;
            let is_new = slave.frozen.last().is_none_or(|last| last["statement"] != status["statement"]);
            if is_new && !status["statement"].is_null() {
                slave.frozen.push(status);
            } else {
                thread::sleep(Duration::from_millis(100));
            }
        }
        if slave.options.mode == Mode::Keys {
            slave.lie = slave.sign_anew()?;
            slave.keys = Some(slave.half_signed()?);
        }
        Ok(slave)
    }

    fn honest_status(&self) -> io::Result<serde_json::Value> {
        let answer = Request::get("/api/v1/status", self.options.honest).whole_answer(self.options.honest)?;
        let answer = String::from_utf8_lossy(&answer);
        let (_, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        serde_json::from_str(body).map_err(io::Error::from)
    }

    /// What the honest one said once, with the next of its statements.
    fn frozen(&self) -> &serde_json::Value {
        lied("a statement");
        &self.frozen[self.repeated.fetch_add(1, Ordering::Relaxed) % self.frozen.len()]
    }

    fn make_lie(&self) -> io::Result<String> {
        let newest = self.git(&["for-each-ref", "--format=%(objectname)", "refs/snapshots"], b"")?;
        let history = self.git(&["rev-list", "--first-parent", &newest], b"")?;
        let first = history.lines().last().unwrap_or(&newest).to_owned();
        let commit = self.git(&["cat-file", "commit", &newest], b"")?;
        let tree = self.git(&["rev-parse", &format!("{newest}^{{tree}}")], b"")?;
        // A child of the newest, as the next good one is, under the signature of the newest.
        let child = |other: &str| {
            let number = commit.lines().find(|line| line.starts_with("Conf-Sequence: ")).unwrap_or_default();
            let parent = commit.lines().find(|line| line.starts_with("parent ")).unwrap_or_default();
            let forged = commit.replacen(&tree, other, 1).replacen(parent, &format!("parent {newest}"), 1);
            let forged = forged.replacen(number, &format!("Conf-Sequence: {HIGHER}"), 1) + "\n";
            self.git(&["hash-object", "-t", "commit", "-w", "--stdin"], forged.as_bytes())
        };
        match self.options.mode {
            Mode::Forge | Mode::Replace | Mode::Keys => {
                let evil = self.git(&["hash-object", "-w", "--stdin"], b"evil\n")?;
                let files = self.git(&["ls-tree", "-r", "-t", &newest], b"")?;
                child(&self.tree_with(&tree, &files, &evil)?)
            }
            Mode::Mix => child(&self.git(&["rev-parse", &format!("{first}^{{tree}}")], b"")?),
            Mode::Replay => Ok(first),
            Mode::Inflate => {
                fs::write(self.options.folder.join("zeros"), vec![0; 256 << 20])?;
                let zeros = self.options.folder.join("zeros").to_string_lossy().into_owned();
                let one = self.git(&["hash-object", "-w", "--", &zeros], b"")?;
                fs::write(&zeros, vec![1; 256 << 20])?;
                let other = self.git(&["hash-object", "-w", "--", &zeros], b"")?;
                fs::remove_file(&zeros)?;
                self.git(&["mktree"], format!("100644 blob {one}\tone\n100644 blob {other}\tother\n").as_bytes())
            }
            _ => Ok(newest),
        }
    }

    /// Puts a signature by its own key in the place of the one on the lie.
    fn sign_anew(&self) -> io::Result<String> {
        self.ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &self.own_key()], "")?;
        let commit = self.git(&["cat-file", "commit", &self.lie], b"")?;
        let (headers, message) = commit.split_once("\n\n").unwrap_or_default();
        let kept: Vec<&str> = headers.lines().take_while(|line| !line.starts_with("gpgsig ")).collect();
        let kept = kept.join("\n");
        let signature = self.sign("git", &format!("{kept}\n\n{message}\n"))?.replace('\n', "\n ");
        let signed = format!("{kept}\ngpgsig {signature}\n\n{message}\n");
        self.git(&["hash-object", "-t", "commit", "-w", "--stdin"], signed.as_bytes())
    }

    /// Makes a statement that its own key takes the place of the one that hosts trust. It can sign
    /// that with its own key alone.
    fn half_signed(&self) -> io::Result<Value> {
        let trusted = self.options.trusted.clone().unwrap_or_default();
        let fingerprint = self.ssh_keygen(&["-l", "-f", &trusted.to_string_lossy()], "")?;
        let old = fingerprint.split(' ').nth(1).unwrap_or_default();
        let new = fs::read_to_string(self.own_key() + ".pub")?.trim().to_owned();
        let text = format!("conf-keys 1\nnumber 1\nfrom {HIGHER}\ntime 0\nprevious -\nold {old}\nnew {new}\n");
        let (by_old, by_new) = (self.sign("conf-key-old", &text)?, self.sign("conf-key-new", &text)?);
        Ok(json!({"statements": [{"number": 1, "from": HIGHER, "time": 0, "previous": "-", "old": old, "new": new,
            "by_old": by_old, "by_new": by_new}]}))
    }

    fn own_key(&self) -> String {
        self.options.folder.join("own").to_string_lossy().into_owned()
    }

    fn sign(&self, namespace: &str, text: &str) -> io::Result<String> {
        self.ssh_keygen(&["-q", "-Y", "sign", "-n", namespace, "-f", &self.own_key()], text)
    }

    fn ssh_keygen(&self, arguments: &[&str], input: &str) -> io::Result<String> {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(arguments).current_dir(&self.repo).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = keygen.spawn()?;
        child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("ssh-keygen {arguments:?} failed")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Makes the tree of a snapshot in which every file named `round` says something else.
    fn tree_with(&self, tree: &str, files: &str, evil: &str) -> io::Result<String> {
        let index = self.options.folder.join("index");
        let git = |arguments: &[&str], input: &[u8]| self.git_with(arguments, input, &[("GIT_INDEX_FILE", &index)]);
        git(&["read-tree", tree], b"")?;
        let rounds =
            files.lines().filter_map(|line| line.split_once('\t')).filter(|(_, path)| path.ends_with("/round"));
        let lines: Vec<String> = rounds.map(|(_, path)| format!("100644 {evil}\t{path}\n")).collect();
        git(&["update-index", "--index-info"], lines.concat().as_bytes())?;
        git(&["write-tree"], b"")
    }

    pub(crate) fn answer(&self, mut client: TcpStream) -> io::Result<()> {
        let request = Request::read(&mut client)?;
        if request.line.starts_with("POST /conf.git/git-upload-pack") {
            return self.upload(&request, &mut client);
        }
        if self.options.mode == Mode::Freeze && request.line.starts_with("POST /api/v1/reports") {
            // The report goes on its way.
            request.whole_answer(self.options.honest)?;
            let answer =
                serde_json::json!({"watermark": null, "freshness": self.frozen()["statement"], "deleted": false});
            return say(&mut client, &answer);
        }
        if self.options.mode == Mode::Freeze && request.line.starts_with("GET /api/v1/status") {
            return say(&mut client, self.frozen());
        }
        if request.line.starts_with("GET /api/v1/events") {
            return self.events(&mut client);
        }
        if let Some(keys) = self.keys.as_ref().filter(|_| request.line.starts_with("GET /api/v1/keys")) {
            lied("keys");
            let keys = keys.to_string();
            let head = format!("Content-Type: application/json\r\nContent-Length: {}", keys.len());
            return write!(client, "HTTP/1.1 200 OK\r\n{head}\r\n{CLOSE}{keys}");
        }
        request.pass_on(self.options.honest, &mut client)
    }

    /// Names the lie again and again, each time under a higher number.
    fn events(&self, client: &mut TcpStream) -> io::Result<()> {
        write!(client, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{CLOSE}")?;
        let is_flood = self.options.mode == Mode::Flood;
        if let Some(keys) = &self.keys {
            write!(client, "event: keys\ndata: {keys}\n\n")?;
        }
        for number in HIGHER.. {
            lied("an event");
            let commit = if is_flood { format!("{number:040}") } else { self.lie.clone() };
            if self.options.mode == Mode::Freeze {
                let frozen = self.frozen();
                let event = serde_json::json!({"central": frozen["sequence"], "datacenter": self.options.datacenter,
                    "sequence": frozen["sequence"], "commit": frozen["commit"], "previous": null});
                write!(
                    client,
                    "event: snapshot\ndata: {event}\n\nevent: freshness\ndata: {}\n\n",
                    frozen["statement"]
                )?;
                write!(client, "event: heartbeat\ndata: {{\"period\":2}}\n\n")?;
                thread::sleep(Duration::from_millis(500));
                continue;
            }
            let event = serde_json::json!({"central": number, "datacenter": self.options.datacenter, "sequence": number,
                "commit": commit, "previous": null});
            write!(client, "event: snapshot\ndata: {event}\n\nevent: heartbeat\ndata: {{\"period\":2}}\n\n")?;
            thread::sleep(Duration::from_millis(if is_flood { 20 } else { 500 }));
        }
        Ok(())
    }

    fn upload(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        let is_wanted = String::from_utf8_lossy(&request.body).contains(&format!("want {}", self.lie));
        if is_wanted || matches!(self.options.mode, Mode::Replace | Mode::Inflate | Mode::Cut | Mode::Stall) {
            lied("a fetch");
        }
        match self.options.mode {
            Mode::Replace | Mode::Inflate => {
                let listed = self.git(&["rev-list", "--objects", "--no-walk", &self.lie], b"");
                let objects = match listed {
                    Ok(listed) if self.options.mode == Mode::Replace => listed,
                    _ => self.git(&["ls-tree", "--format=%(objectname)", &self.lie], b"")?,
                };
                let names: Vec<&str> = objects.lines().filter_map(|line| line.split(' ').next()).collect();
                let pack =
                    self.run(&["pack-objects", "--quiet", "--stdout"], (names.join("\n") + "\n").as_bytes(), &[])?;
                client.write_all(&result(&framed(&pack)))
            }
            Mode::Cut | Mode::Stall => {
                let answer = request.whole_answer(self.options.honest)?;
                client.write_all(&answer[..answer.len() * 3 / 4])?;
                if self.options.mode == Mode::Stall {
                    thread::sleep(Duration::from_secs(3600));
                }
                Ok(())
            }
            _ => {
                if !is_wanted {
                    return request.pass_on(self.options.honest, client);
                }
                let git = ["upload-pack", "--stateless-rpc", "."];
                let answer = self.run(&git, &request.body, &[("GIT_PROTOCOL", &PathBuf::from("version=2"))])?;
                client.write_all(&result(&answer))
            }
        }
    }

    fn git(&self, arguments: &[&str], input: &[u8]) -> io::Result<String> {
        self.git_with(arguments, input, &[])
    }

    fn git_with(&self, arguments: &[&str], input: &[u8], environment: &[(&str, &PathBuf)]) -> io::Result<String> {
        let output = self.run(arguments, input, environment)?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    fn run(&self, arguments: &[&str], input: &[u8], environment: &[(&str, &PathBuf)]) -> io::Result<Vec<u8>> {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(&self.repo).stdin(Stdio::piped()).stdout(Stdio::piped());
        git.envs(environment.iter().copied());
        let mut child = git.spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let input = input.to_owned();
        // A program that has read enough closes its end.
        let feeding = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output()?;
        let _ = feeding.join();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(io::Error::other(format!("git {arguments:?} failed")))
        }
    }
}

/// Answers with JSON.
fn say(client: &mut TcpStream, answer: &serde_json::Value) -> io::Result<()> {
    let body = answer.to_string();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{CLOSE}", body.len());
    client.write_all((head + &body).as_bytes())
}

fn succeeded(git: &mut Command) -> io::Result<()> {
    if git.status()?.success() { Ok(()) } else { Err(io::Error::other(format!("{git:?} failed"))) }
}

/// An answer to a fetch.
fn result(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nContent-Length: {}\r\n{CLOSE}",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A pack as the answer to a fetch says it.
fn framed(pack: &[u8]) -> Vec<u8> {
    let mut answer = b"000dpackfile\n".to_vec();
    for part in pack.chunks(65_000) {
        answer.extend_from_slice(format!("{:04x}\u{1}", part.len() + 5).as_bytes());
        answer.extend_from_slice(part);
    }
    answer.extend_from_slice(b"0000");
    answer
}
