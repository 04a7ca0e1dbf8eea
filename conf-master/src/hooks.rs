//! A push, from Git's hooks to the landing: the hook program on one side of a socket, the server on the other.
//!
//! `git receive-pack` runs the hooks in the repository, whoever started it: this server, a path, or sshd. The hook says what
//! is pushed and prints what it is told; it decides nothing.

use std::{
    collections::VecDeque,
    env, io,
    io::{BufRead as _, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use libconf::name::ObjectId;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    fault::refusal::{Kind, Refusal},
    judge::Wish,
    landing::{Lander, Options, Outcome, Push, one_line},
};

/// The socket's name in the repository; hooks run with the repository as their working directory.
const SOCKET: &str = "conf-master.sock";
/// The environment variable by which the server knows its own pushes again.
pub const PUSH_VARIABLE: &str = "CONF_PUSH";
/// The longest message over the socket: more refs than a repository has.
const MOST_BYTES: u64 = 64 << 20;
/// How many refs one push may move.
const MOST_REFS: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    PreReceive,
    ProcReceive,
}

#[derive(Debug, Serialize, Deserialize)]
struct Call {
    stage: Stage,
    push: Option<String>,
    over_ssh: bool,
    quarantine: Option<PathBuf>,
    atomic: bool,
    options: Vec<String>,
    /// Old id, new id, ref.
    wishes: Vec<(ObjectId, ObjectId, String)>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    refusals: Vec<Option<Refusal>>,
    notes: Vec<String>,
}

// ---- The hook program ----

/// Runs as Git's hook `pre-receive` or `proc-receive`; answers the exit code.
pub fn run_hook(hook: &str) -> anyhow::Result<u8> {
    match hook {
        "pre-receive" => pre_receive(),
        "proc-receive" => proc_receive(),
        other => bail!("there is no hook {other}"),
    }
}

/// Objects are in quarantine: what would be refused whole is refused here, and never kept.
fn pre_receive() -> anyhow::Result<u8> {
    let mut wishes = Vec::new();
    for line in io::stdin().lock().lines().take(MOST_REFS + 1) {
        wishes.push(parse_wish(&line?)?);
    }
    let answer = ask(&call(Stage::PreReceive, wishes.clone(), false, push_options()))?;
    if answer.refusals.iter().any(Option::is_none) {
        return Ok(0);
    }
    print_answer(&wishes, &answer);
    Ok(1)
}

/// The push options as Git gives them to the hooks that have no protocol of their own. Source: githooks(5), "pre-receive".
fn push_options() -> Vec<String> {
    let count = env::var("GIT_PUSH_OPTION_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    (0..count.min(MOST_REFS)).filter_map(|number| env::var(format!("GIT_PUSH_OPTION_{number}")).ok()).collect()
}

/// Speaks Git's proc-receive protocol, version 1. Source: githooks(5), "proc-receive".
fn proc_receive() -> anyhow::Result<u8> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let hello = read_packet(&mut input)?.context("Git did not begin to speak")?;
    let (version, capabilities) = hello.split_once('\0').unwrap_or((&hello, ""));
    if version.trim_end() != "version=1" {
        bail!("Git speaks {version:?} to its hooks; this program knows version=1");
    }
    let has = |name: &str| capabilities.split_whitespace().any(|word| word == name);
    read_packets(&mut input)?;
    let offered = if has("push-options") { "version=1\0push-options atomic" } else { "version=1\0atomic" };
    write_packet(&mut output, offered)?;
    output.write_all(b"0000")?;
    output.flush()?;
    let wishes = read_packets(&mut input)?.iter().map(|line| parse_wish(line)).collect::<anyhow::Result<Vec<_>>>()?;
    let options = if has("push-options") { read_packets(&mut input)? } else { Vec::new() };
    let answer = ask(&call(Stage::ProcReceive, wishes.clone(), has("atomic"), options))?;
    print_answer(&wishes, &answer);
    for ((_, _, name), refusal) in wishes.iter().zip(&answer.refusals) {
        match refusal {
            None => write_packet(&mut output, &format!("ok {name}"))?,
            Some(refusal) => {
                let text = refusal.to_string();
                let mut lines = text.lines();
                let first: String = lines.next().unwrap_or_default().chars().take(1000).collect();
                let more = lines.count();
                let more = if more == 0 { String::new() } else { format!(" (and {more} more, above)") };
                write_packet(&mut output, &format!("ng {name} {first}{more}"))?;
            }
        }
    }
    output.write_all(b"0000")?;
    output.flush()?;
    Ok(0)
}

fn print_answer(wishes: &[(ObjectId, ObjectId, String)], answer: &Answer) {
    for ((_, _, name), refusal) in wishes.iter().zip(&answer.refusals) {
        let Some(refusal) = refusal.as_ref().filter(|refusal| refusal.kind != Kind::DryRun) else { continue };
        for line in refusal.to_string().lines() {
            eprintln!("refused {name}: {line}");
        }
    }
    for note in &answer.notes {
        eprintln!("{note}");
    }
    if let Some(dry) = answer.refusals.iter().flatten().find(|refusal| refusal.kind == Kind::DryRun) {
        eprintln!("{}", dry.reason);
    }
}

fn call(stage: Stage, wishes: Vec<(ObjectId, ObjectId, String)>, atomic: bool, options: Vec<String>) -> Call {
    Call {
        stage,
        push: env::var(PUSH_VARIABLE).ok(),
        over_ssh: env::var_os("SSH_CONNECTION").is_some(),
        quarantine: env::var_os("GIT_QUARANTINE_PATH").map(PathBuf::from),
        atomic,
        options,
        wishes,
    }
}

fn ask(call: &Call) -> anyhow::Result<Answer> {
    let mut socket = UnixStream::connect(SOCKET).context(
        "conf-master does not run, and only it lands a push; start `conf-master serve --repo …`, then push again",
    )?;
    let mut text = serde_json::to_vec(call)?;
    text.push(b'\n');
    socket.write_all(&text)?;
    let mut answer = String::new();
    BufReader::new(socket.take(MOST_BYTES)).read_line(&mut answer)?;
    let lost = "conf-master ended before it answered; push again to learn whether it landed";
    let answer: Answer = serde_json::from_str(&answer).context(lost)?;
    if answer.refusals.len() != call.wishes.len() {
        bail!("conf-master answered for another number of refs; are both programs of one version?");
    }
    Ok(answer)
}

fn parse_wish(line: &str) -> anyhow::Result<(ObjectId, ObjectId, String)> {
    let [old, new, name] = line
        .trim_end_matches('\n')
        .splitn(3, ' ')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("Git said {line:?}, which is no ref"))?;
    Ok((old.parse()?, new.parse()?, name.to_owned()))
}

/// Reads one packet; `None` for a flush. Source: gitprotocol-common(5), "pkt-line".
fn read_packet(input: &mut impl Read) -> anyhow::Result<Option<String>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::from_str_radix(std::str::from_utf8(&length)?, 16)?;
    match length {
        0 => Ok(None),
        4.. => {
            let mut packet = vec![0; length - 4];
            input.read_exact(&mut packet)?;
            Ok(Some(String::from_utf8_lossy(&packet).into_owned()))
        }
        _ => bail!("bad packet from Git"),
    }
}

fn read_packets(input: &mut impl Read) -> anyhow::Result<Vec<String>> {
    let mut packets = Vec::new();
    while let Some(packet) = read_packet(input)? {
        if packets.len() >= MOST_REFS {
            bail!("more than {MOST_REFS} refs in one push");
        }
        packets.push(packet);
    }
    Ok(packets)
}

fn write_packet(output: &mut impl Write, text: &str) -> io::Result<()> {
    write!(output, "{:04x}{text}", text.len() + 4)
}

// ---- The server's side ----

/// Who pushes, for the pushes that this server itself started a Git program for.
#[derive(Clone, Debug, Default)]
pub struct Pushers(Arc<Mutex<VecDeque<(String, Pusher)>>>);

/// Who pushes, and through what.
#[derive(Clone, Debug)]
pub struct Pusher {
    /// Who, where a name was proven.
    pub by: Option<String>,
    /// Through what.
    pub through: String,
}

/// How many pushes are remembered: many times what Git works on at once.
const REMEMBERED: usize = 4096;

impl Pushers {
    /// Remembers a push; answers the value for [`PUSH_VARIABLE`], which nobody can guess.
    pub fn begin(&self, pusher: Pusher) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back((id.clone(), pusher));
        id
    }

    fn find(&self, id: &str) -> Option<Pusher> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().rev().find(|(known, _)| known == id).map(|(_, pusher)| pusher.clone())
    }
}

/// Opens the hooks' socket in the repository. The caller holds the repository's lock, so what stands there is stale.
pub fn bind(repo: &Path) -> anyhow::Result<UnixListener> {
    // Through a short name: a socket's path may be at most 107 bytes long.
    let folder = std::fs::File::open(repo)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&folder));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("cannot replace the hooks' socket");
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).context("cannot open the hooks' socket")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
    std::fs::set_permissions(&path, mode).context("cannot set who may use the hooks' socket")?;
    Ok(listener)
}

/// Answers hooks until `stop`; then those under way get their answer first.
pub async fn serve(listener: UnixListener, lander: Lander, pushers: Pushers, stop: CancellationToken) {
    let mut hooks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = hooks.join_next(), if !hooks.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(hooks.spawn(answer(socket, lander.clone(), pushers.clone()))),
                Err(error) => {
                    warn!(%error, "cannot take a hook's connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
    while hooks.join_next().await.is_some() {}
}

async fn answer(mut socket: tokio::net::UnixStream, lander: Lander, pushers: Pushers) {
    let done = async {
        let user = socket.peer_cred()?.uid();
        let (reading, mut writing) = socket.split();
        let mut line = Vec::new();
        tokio::io::BufReader::new(reading.take(MOST_BYTES)).read_until(b'\n', &mut line).await?;
        let call: Call = serde_json::from_slice(&line)?;
        let answer = decide(call, user, &lander, &pushers).await;
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writing.write_all(&text).await?;
        anyhow::Ok(())
    };
    if let Err(error) = done.await {
        debug!(error = format!("{error:#}"), "a hook went away");
    }
}

async fn decide(call: Call, user: u32, lander: &Lander, pushers: &Pushers) -> Answer {
    // Only what this server itself started carries an id that it knows; anyone else is who the kernel says.
    let pusher = call.push.as_deref().and_then(|id| pushers.find(id)).unwrap_or_else(|| Pusher {
        by: Some(user_name(user)),
        through: if call.over_ssh { "ssh".to_owned() } else { "path".to_owned() },
    });
    let (options, unknown) = read_options(call.options);
    let wishes = call.wishes.into_iter().map(|(old, new, name)| Wish { name, old, new }).collect();
    let push = Push {
        wishes,
        atomic: call.atomic,
        by: pusher.by.as_deref().map(one_line),
        through: one_line(&pusher.through),
        request: format!("{:016x}", rand::random::<u64>()),
        update: None,
        order: None,
        options,
    };
    let Outcome { refusals, mut notes, plan, .. } = match call.stage {
        Stage::PreReceive => lander.check(push, call.quarantine).await,
        Stage::ProcReceive => lander.land(push).await,
    };
    if refusals.iter().flatten().any(|refusal| refusal.kind == Kind::DryRun) {
        notes.extend(plan.iter().flat_map(|plan| plan.to_string().lines().map(str::to_owned).collect::<Vec<_>>()));
    }
    for option in unknown {
        notes.push(format!("the push option {} is not known, and was passed over", one_line(&option)));
    }
    Answer { refusals, notes }
}

/// What `git push -o …` asks for, and the options that nobody knows.
fn read_options(given: Vec<String>) -> (Options, Vec<String>) {
    let mut options = Options::default();
    let unknown = given.into_iter().filter(|option| {
        match option.as_str() {
            "dry-run" => options.dry_run = true,
            "allow-shrink" => options.allow_shrink = true,
            _ => return true,
        }
        false
    });
    let unknown = unknown.collect();
    (options, unknown)
}

fn user_name(user: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
    found.map_or_else(|| format!("user {user}"), |user| user.name)
}
