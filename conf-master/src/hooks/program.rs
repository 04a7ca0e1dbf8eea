//! The hook program: reports a push to the server, and prints the answer.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use conf_core::git_http::MOST_REFS;
use conf_core::terminal::{note, visible};

use crate::fault::RefusalKind;
use crate::hooks::protocol::{Answer, Call, HookUpdate, MOST_BYTES, PUSH_VARIABLE, SOCKET, Stage};

/// The most options that are passed on; the server refuses fewer.
const MOST_OPTIONS: usize = 100_000;

/// Runs as Git's hook `pre-receive` or `proc-receive`; returns the exit code.
pub(crate) fn run_hook(hook: &str) -> anyhow::Result<u8> {
    match hook {
        "pre-receive" => pre_receive(),
        "proc-receive" => proc_receive(),
        other => bail!("there is no hook {other}"),
    }
}

/// Judges a push whose objects are in quarantine: a push that is refused whole ends here, and its
/// objects are dropped.
fn pre_receive() -> anyhow::Result<u8> {
    let mut updates = Vec::new();
    for line in io::stdin().lock().lines().take(MOST_REFS + 1) {
        updates.push(parse_update(&line?)?);
    }
    let answer = ask(&call(Stage::PreReceive, updates.clone(), false, push_options()?))?;
    // They are refused together, and for one reason.
    let told = if updates.len() > MOST_REFS { 1 } else { updates.len() };
    if answer.refusals.iter().any(Option::is_none) {
        return Ok(0);
    }
    print_answer(&updates[..told], &answer);
    Ok(1)
}

/// Reads the push options that Git gives to hooks without a protocol of their own. Source:
/// githooks(5), "pre-receive". None is left out: the server refuses what it cannot read.
fn push_options() -> anyhow::Result<Vec<String>> {
    let Some(count) = env::var_os("GIT_PUSH_OPTION_COUNT") else { return Ok(Vec::new()) };
    let count = count.to_string_lossy().parse::<usize>().ok().filter(|count| *count <= MOST_OPTIONS);
    let count = count.context("Git names no number of push options; push without `-o`")?;
    let option = |number| env::var_os(format!("GIT_PUSH_OPTION_{number}")).unwrap_or_default();
    Ok((0..count).map(|number| option(number).to_string_lossy().into_owned()).collect())
}

/// Speaks Git's proc-receive protocol, version 1. Source: githooks(5), "proc-receive".
fn proc_receive() -> anyhow::Result<u8> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let hello = read_packet(&mut input)?.context("Git sent no greeting")?;
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
    let updates =
        read_packets(&mut input)?.iter().map(|line| parse_update(line)).collect::<anyhow::Result<Vec<_>>>()?;
    let options = if has("push-options") { read_packets(&mut input)? } else { Vec::new() };
    let answer = ask(&call(Stage::ProcReceive, updates.clone(), has("atomic"), options))?;
    print_answer(&updates, &answer);
    for ((_, _, name), refusal) in updates.iter().zip(&answer.refusals) {
        match refusal {
            None => write_packet(&mut output, &format!("ok {name}"))?,
            Some(refusal) => {
                let text = refusal.to_string();
                let mut lines = text.lines();
                let first: String = lines.next().unwrap_or_default().chars().take(1000).collect();
                let more = lines.count();
                let more = if more == 0 { String::new() } else { format!(" (and {more} more, above)") };
                write_packet(&mut output, &format!("ng {name} {}{more}", visible(&first)))?;
            }
        }
    }
    output.write_all(b"0000")?;
    output.flush()?;
    Ok(0)
}

fn print_answer(updates: &[HookUpdate], answer: &Answer) {
    let refused =
        updates.iter().zip(&answer.refusals).filter_map(|((_, _, name), refusal)| Some((name, refusal.as_ref()?)));
    let refused = refused.filter(|(_, refusal)| refusal.kind != RefusalKind::DryRun);
    // The causes come first, then what is refused because of them.
    let (following, causes): (Vec<_>, Vec<_>) = refused.partition(|(_, refusal)| refusal.kind == RefusalKind::Together);
    let mut lines = Vec::new();
    for (name, refusal) in causes.into_iter().chain(following) {
        lines.extend(refusal.to_string().lines().map(|line| format!("refused {name}: {line}")));
    }
    lines.extend_from_slice(&answer.notes);
    let dry = answer.refusals.iter().flatten().find(|refusal| refusal.kind == RefusalKind::DryRun);
    lines.extend(dry.map(|dry| dry.reason.clone()));
    if !lines.is_empty() {
        // Together: Git and the server pass each piece on by itself, and a push may have 1,000
        // refs.
        note(lines.join("\n"));
    }
}

fn call(stage: Stage, updates: Vec<HookUpdate>, atomic: bool, options: Vec<String>) -> Call {
    Call {
        stage,
        push: env::var(PUSH_VARIABLE).ok(),
        over_ssh: env::var_os("SSH_CONNECTION").is_some(),
        quarantine: env::var_os("GIT_QUARANTINE_PATH").map(PathBuf::from),
        atomic,
        options,
        updates,
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
    if answer.refusals.len() != call.updates.len() {
        bail!("conf-master answered for another number of refs; are both programs of one version?");
    }
    Ok(answer)
}

fn parse_update(line: &str) -> anyhow::Result<HookUpdate> {
    let [old, new, name] = line
        .trim_end_matches('\n')
        .splitn(3, ' ')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("Git sent {line:?}, which names no ref"))?;
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
        if packets.len() >= MOST_OPTIONS {
            bail!("more than {MOST_OPTIONS} lines from Git");
        }
        packets.push(packet);
    }
    Ok(packets)
}

fn write_packet(output: &mut impl Write, text: &str) -> io::Result<()> {
    write!(output, "{:04x}{text}", text.len() + 4)
}
