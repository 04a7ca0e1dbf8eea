//! `conf-master receive`: the command that sshd runs for a key, in place of what its owner asks
//! for.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use conf_core::git_http::{become_receive_pack, become_upload_pack};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::hooks::protocol::{MOST_BYTES, PUSH_VARIABLE, PlaceAnswer, PlaceCall, PlaceMessage, SOCKET};

/// Flags of `receive`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ReceiveFlags {
    /// The repository that `conf-master serve` serves
    #[arg(long, value_name = "DIR")]
    repo: PathBuf,
    /// The name of the key's owner, for the records
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Longest time for one push, however slow its sender is
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    longest: u32,
}

const EXAMPLE: &str = "\
In ~/.ssh/authorized_keys of the user whom people push to, one line for each key:
  command=\"conf-master receive --repo /srv/conf.git --as ann\",restrict ssh-ed25519 AAAA… ann
Then: git clone git@central:conf.git (the path is not looked at)";

/// Becomes the program of Git that the owner of the key asked for, if it is one of two.
pub(crate) fn run(flags: &ReceiveFlags) -> anyhow::Result<()> {
    let asked = env::var("SSH_ORIGINAL_COMMAND").unwrap_or_default();
    // The path is whatever the client was given: there is one repository. It may hold blanks.
    let program = asked.split_once(char::is_whitespace).map_or(&*asked, |(program, _)| program);
    let program = program.strip_prefix("git-").unwrap_or(program);
    let repo = flags.repo.canonicalize().with_context(|| format!("cannot find {}", flags.repo.display()))?;
    let failed = match program {
        "receive-pack" => {
            let (socket, push) = place(&repo, flags.name.clone())?;
            // Git and its hooks keep it open, and with it the place, until the last of them has
            // ended.
            fcntl_setfd(&socket, FdFlags::empty())?;
            become_receive_pack(&repo, flags.longest, &[(PUSH_VARIABLE, &push)])
        }
        "upload-pack" => become_upload_pack(&repo),
        "" => bail!("this key is for git: `git clone`, `git fetch` and `git push`"),
        other => bail!("{other:?} cannot be run with this key, only `git clone`, `git fetch` and `git push`"),
    };
    Err(failed).context("git cannot be started")
}

/// Asks the server for a place among the pushes, and for the push's id.
fn place(repo: &std::path::Path, name: Option<String>) -> anyhow::Result<(UnixStream, String)> {
    env::set_current_dir(repo).with_context(|| format!("cannot enter {}", repo.display()))?;
    let mut socket = UnixStream::connect(SOCKET).context(
        "conf-master does not run, and only it lands a push; start `conf-master serve --repo …`, then push again",
    )?;
    let connection = env::var("SSH_CONNECTION").unwrap_or_default();
    let from = connection.split_whitespace().next().unwrap_or("an unknown address").to_owned();
    let mut text = serde_json::to_vec(&PlaceMessage { place: PlaceCall { name, from } })?;
    text.push(b'\n');
    socket.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(std::io::Read::take(&socket, MOST_BYTES)).read_line(&mut line)?;
    match serde_json::from_str(&line).context("conf-master gave no answer; push again")? {
        PlaceAnswer::Push(push) => Ok((socket, push)),
        PlaceAnswer::Refused(words) => bail!("{words}"),
    }
}
