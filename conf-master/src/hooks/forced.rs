//! `conf-master receive`: the command that sshd runs for a key, in place of what its owner asks
//! for.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, bail};
use libconf::name::PrincipalName;
use nix::unistd::alarm;

use crate::hooks::protocol::{SOCKET, SshAnswer, SshCall, SshMessage, SshService};

/// 64 KiB: the longest answer of the server before Git's protocol begins.
const MOST_ANSWER: usize = 64 << 10;

/// Flags of `receive`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ReceiveFlags {
    /// The repository that `conf-master serve` serves
    #[arg(long, value_name = "DIR")]
    repo: PathBuf,
    /// The name of the key's owner: his rights count, and he is recorded
    #[arg(long = "as", value_name = "NAME")]
    name: Option<PrincipalName>,
    /// Longest time for one push or fetch, however slow the client is
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    longest: u32,
}

const EXAMPLE: &str = "\
In ~/.ssh/authorized_keys of the user whom people push to, one line for each key:
  command=\"conf-master receive --repo /srv/conf.git --as ann\",restrict ssh-ed25519 AAAA… ann
Then: git clone git@central:conf.git (the path is not looked at)";

/// Has the server answer the owner of the key, if what he asks for is one of two.
pub(crate) fn run(flags: &ReceiveFlags) -> anyhow::Result<()> {
    let asked = env::var("SSH_ORIGINAL_COMMAND").unwrap_or_default();
    // The path is whatever the client was given: there is one repository. It may hold blanks.
    let program = asked.split_once(char::is_whitespace).map_or(&*asked, |(program, _)| program);
    let service = match program.strip_prefix("git-").unwrap_or(program) {
        "receive-pack" => SshService::ReceivePack,
        "upload-pack" => SshService::UploadPack,
        "" => bail!("this key is for git: `git clone`, `git fetch` and `git push`"),
        other => bail!("{other:?} cannot be run with this key, only `git clone`, `git fetch` and `git push`"),
    };
    // It ends this program. The server ends when it hears or says the next word.
    alarm::set(flags.longest);
    let mut server = connect(&flags.repo)?;
    let connection = env::var("SSH_CONNECTION").unwrap_or_default();
    let from = connection.split_whitespace().next().unwrap_or("an unknown address").to_owned();
    let protocol = env::var("GIT_PROTOCOL").unwrap_or_default();
    begin(&mut server, SshCall { name: flags.name.clone(), from, service, protocol })?;
    pass_on(server)
}

pub(crate) fn connect(repo: &Path) -> anyhow::Result<UnixStream> {
    // From there its path is short: it may have 107 bytes.
    env::set_current_dir(repo).with_context(|| format!("cannot enter {}", repo.display()))?;
    UnixStream::connect(SOCKET).context(
        "conf-master does not run, and only it answers git here; start `conf-master serve --repo …`, then try again",
    )
}

fn begin(server: &mut UnixStream, ssh: SshCall) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(&SshMessage { ssh })?;
    text.push(b'\n');
    server.write_all(&text)?;
    // Git's protocol follows the line: no byte of it may be taken here.
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") && line.len() < MOST_ANSWER && server.read(&mut byte)? == 1 {
        line.push(byte[0]);
    }
    match serde_json::from_slice(&line)
        .context("conf-master gave no answer; restart `conf-master serve` if it is older than this program")?
    {
        SshAnswer::Begin => Ok(()),
        SshAnswer::Refused(words) => bail!("{words}"),
    }
}

/// Passes all bytes on, both ways, until the server has nothing more to say.
fn pass_on(server: UnixStream) -> anyhow::Result<()> {
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    // It waits for the client when the server has ended, and is gone with this program.
    thread::spawn(move || {
        // When the server takes nothing more, its last words say why.
        let _ = copy(&mut io::stdin().lock(), &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    // Without a buffer of its own: the client waits for the last byte of each answer.
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(copy(&mut from_server, &mut output)?)
}

/// Passes on what comes as soon as it comes. The function of the standard library splices where it
/// can, and a splice from a pipe to a socket waits for more than has come.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut part = vec![0; 64 << 10];
    loop {
        match from.read(&mut part) {
            Ok(0) => return Ok(()),
            // The other side ended before it had read everything, and had said why.
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Ok(count) => to.write_all(&part[..count])?,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}
