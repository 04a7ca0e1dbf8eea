//! The server's side of the hooks: takes their calls and hands the pushes to the landing.

use std::{io, path::Path, time::Duration};

use anyhow::Context as _;
use conf_core::access::Principal;
use conf_core::daemon::chain;
use conf_core::git_http::MOST_REFS;
use conf_core::http::{Authenticator, Shares, Who};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::fault::Refusal;
use crate::hooks::options;
use crate::hooks::protocol::{
    Answer, Call, KeyMessage, KeyReply, MOST_CALL_BYTES, SOCKET, SshMessage, Stage, TokenMessage, TokenReply,
};
use crate::hooks::pushers::{self, Pushers};
use crate::hooks::ssh::OverSsh;
use crate::judge::{ProposalOptions, RefUpdate};
use crate::keys::KeyCall;
use crate::landing::{Lander, Outcome, Push, Pusher};
use crate::tokens::TokenCall;

/// Why a push is refused that nobody can be named for.
const UNKNOWN: &str = "conf-master did not start this push, or has started again since; push again";

/// Opens the hooks' socket in the repository. The caller holds the repository's lock, so an
/// existing socket is stale.
pub(crate) fn bind(repo: &Path) -> anyhow::Result<UnixListener> {
    // A short path to the folder, because a socket's path has at most 107 bytes.
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

/// Hooks that are answered at once, half of them of one user. Those of pushes over HTTP are this
/// program's own user's.
const AT_ONCE: u64 = 256;
/// How long a hook may take to say what is pushed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client over SSH may go on after `stop`, as one over HTTP.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers hooks until `stop`, and then finishes those under way. A place is not waited for.
pub(crate) async fn serve(
    listener: UnixListener,
    lander: Lander,
    pushers: Pushers,
    over_ssh: OverSsh,
    authenticator: Authenticator,
    stop: CancellationToken,
) {
    let mut hooks = JoinSet::new();
    let places = Shares::halves(AT_ONCE, 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = hooks.join_next(), if !hooks.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let user = socket.peer_cred().map(|peer| peer.uid());
                    let Some((user, place)) = user.ok().and_then(|user| Some((user, places.try_take(Who::User(user), 1)?)))
                    else {
                        warn!("too many hooks of one user are at work; one more is not answered");
                        continue;
                    };
                    let (lander, pushers, ssh) = (lander.clone(), pushers.clone(), (over_ssh.clone(), stop.clone()));
                    let authenticator = authenticator.clone();
                    hooks.spawn(async move {
                        let _place = place;
                        answer(socket, user, (lander, authenticator), pushers, ssh).await;
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot take a hook's connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
    while hooks.join_next().await.is_some() {}
}

async fn answer(
    mut socket: UnixStream,
    user: u32,
    (lander, authenticator): (Lander, Authenticator),
    pushers: Pushers,
    (over_ssh, stop): (OverSsh, CancellationToken),
) {
    let done = async {
        let mut line = Vec::new();
        // Nothing follows the line before it is answered.
        let mut said = tokio::io::BufReader::new((&mut socket).take(MOST_CALL_BYTES));
        tokio::time::timeout(PATIENCE, said.read_until(b'\n', &mut line)).await??;
        if let Ok(SshMessage { ssh }) = serde_json::from_slice(&line) {
            let stopped = async {
                stop.cancelled().await;
                tokio::time::sleep(STOP_TIMEOUT).await;
            };
            return tokio::select! {
                done = over_ssh.converse(ssh, user, socket, &pushers) => done,
                () = stopped => Ok(()),
            };
        }
        let mut text = if let Ok(TokenMessage { tokens }) = serde_json::from_slice(&line) {
            serde_json::to_vec(&about_tokens(tokens, user, &lander, &authenticator).await)?
        } else if let Ok(KeyMessage { keys }) = serde_json::from_slice(&line) {
            serde_json::to_vec(&about_keys(keys, user, &lander).await)?
        } else {
            serde_json::to_vec(&decide(serde_json::from_slice(&line)?, user, &lander, &pushers).await)?
        };
        text.push(b'\n');
        socket.write_all(&text).await?;
        anyhow::Ok(())
    };
    if let Err(error) = done.await {
        debug!(error = chain(&*error), "a hook went away");
    }
}

/// Answers a user of this machine about tokens. Only those who could write to the repository's
/// files in any case get an answer: a lost token of the last administrator locks nobody out.
async fn about_tokens(call: TokenCall, user: u32, lander: &Lander, authenticator: &Authenticator) -> TokenReply {
    let Some(pusher) = owner(user) else {
        let words = "at this machine only root and the user of conf-master answer for tokens; ask with --server and --token-file";
        return TokenReply::Refused(words.to_owned());
    };
    match lander.tokens(call, &pusher, &authenticator.uses()).await {
        Ok(answer) => TokenReply::Done(answer),
        Err(refusals) => TokenReply::Refused(words_of(refusals)),
    }
}

/// Answers a user of this machine about the keys that sign.
async fn about_keys(call: KeyCall, user: u32, lander: &Lander) -> KeyReply {
    let Some(pusher) = owner(user) else {
        let words = "only root and the user of conf-master answer for the keys that sign";
        return KeyReply::Refused(words.to_owned());
    };
    match lander.keys(call, &pusher).await {
        Ok(answer) => KeyReply::Done(answer),
        Err(refusals) => KeyReply::Refused(words_of(refusals)),
    }
}

/// A user of this machine who may write to the repository's files in any case.
fn owner(user: u32) -> Option<Pusher> {
    let principal = pushers::user(user, nix::unistd::getuid().as_raw());
    let is_owner = matches!(principal, Principal::Owner(_));
    is_owner.then(|| Pusher { principal, through: "path".to_owned(), who: Who::User(user) })
}

fn words_of(refusals: Vec<Option<Refusal>>) -> String {
    let words = refusals.into_iter().flatten().map(|one| one.to_string());
    words.collect::<Vec<_>>().join("; ")
}

async fn decide(call: Call, user: u32, lander: &Lander, pushers: &Pushers) -> Answer {
    // Only a push that this server started itself carries an id; the kernel names every other user.
    // An id that is not known proves nobody: its push is over, or another server started it.
    let found = call.push.as_deref().map(|id| pushers.find(id));
    let is_unknown = matches!(found, Some(None));
    let pusher = found.flatten().unwrap_or_else(|| Pusher {
        principal: pushers::user(user, nix::unistd::getuid().as_raw()),
        through: if call.over_ssh { "ssh".to_owned() } else { "path".to_owned() },
        who: Who::User(user),
    });
    let updates = call.updates.into_iter().map(|(old, new, name)| RefUpdate { name, old, new });
    let updates: Vec<RefUpdate> = updates.collect();
    let options = match options::read(&call.options, &updates) {
        _ if is_unknown => Err(UNKNOWN.to_owned()),
        // Over HTTP Git did not even start.
        _ if updates.len() > MOST_REFS => Err(format!("more than {MOST_REFS} refs in one push; push fewer at once")),
        read => read,
    };
    let options = match options {
        Ok(options) => options,
        Err(why) => {
            let push = Push::commits(updates, call.atomic, &pusher, ProposalOptions::default());
            let Outcome { refusals, notes, .. } = lander.refuse(push, why.into()).await;
            return Answer { refusals, notes };
        }
    };
    let push = Push::commits(updates, call.atomic, &pusher, options);
    let Outcome { refusals, mut notes, plan, .. } = match call.stage {
        Stage::PreReceive => lander.check(push, call.quarantine).await,
        Stage::ProcReceive => lander.land(push).await,
    };
    notes.extend(plan.map(|plan| plan.to_string()).unwrap_or_default().lines().map(str::to_owned));
    Answer { refusals, notes }
}
