//! The server's side of the hooks: takes their calls and hands the pushes to the landing.

use std::{collections::VecDeque, io, path::Path, sync::Arc};

use anyhow::Context as _;
use conf_core::daemon::chain;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::hooks::options;
use crate::hooks::protocol::{Answer, Call, MOST_BYTES, SOCKET, Stage};
use crate::judge::{ProposalOptions, RefUpdate};
use crate::landing::{Lander, Outcome, Push, Pusher};

/// The pushers of the pushes for which this server started a Git program itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushers(Arc<Mutex<VecDeque<(String, Pusher)>>>);

/// How many pushes are remembered: many times the number that Git works on at once.
const REMEMBERED: usize = 4096;

impl Pushers {
    /// Remembers a push; returns the value for
    /// [`PUSH_VARIABLE`](crate::hooks::protocol::PUSH_VARIABLE), which nobody can guess.
    pub(crate) fn begin(&self, pusher: Pusher) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        let mut known = self.0.lock();
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back((id.clone(), pusher));
        id
    }

    fn find(&self, id: &str) -> Option<Pusher> {
        let known = self.0.lock();
        known.iter().rev().find(|(known, _)| known == id).map(|(_, pusher)| pusher.clone())
    }
}

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

/// Answers hooks until `stop`, and then finishes those under way.
pub(crate) async fn serve(listener: UnixListener, lander: Lander, pushers: Pushers, stop: CancellationToken) {
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
        debug!(error = chain(&*error), "a hook went away");
    }
}

async fn decide(call: Call, user: u32, lander: &Lander, pushers: &Pushers) -> Answer {
    // Only a push that this server started itself carries an id that it knows; the kernel names
    // every other user.
    let pusher = call.push.as_deref().and_then(|id| pushers.find(id)).unwrap_or_else(|| Pusher {
        by: Some(user_name(user)),
        through: if call.over_ssh { "ssh".to_owned() } else { "path".to_owned() },
    });
    let updates = call.updates.into_iter().map(|(old, new, name)| RefUpdate { name, old, new });
    let updates: Vec<RefUpdate> = updates.collect();
    let options = match options::read(&call.options, &updates) {
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

fn user_name(user: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
    found.map_or_else(|| format!("user {user}"), |user| user.name)
}
