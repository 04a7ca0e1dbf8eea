//! The server's side of the hooks: takes their calls and hands the pushes to the landing.

use std::{collections::BTreeMap, io, net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use conf_core::daemon::chain;
use conf_core::git_http::MOST_REFS;
use conf_core::http::{ShareBounds, Shares, Who};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::hooks::options;
use crate::hooks::protocol::{Answer, Call, MOST_CALL_BYTES, PlaceAnswer, PlaceCall, PlaceMessage, SOCKET, Stage};
use crate::judge::{ProposalOptions, RefUpdate};
use crate::landing::{Lander, Outcome, Push, Pusher};
use crate::text::one_line;

/// The pushers of the pushes for which this server started a Git program itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushers(Arc<Mutex<BTreeMap<String, Pusher>>>);

/// A push for as long as its Git program runs.
#[derive(Debug)]
pub(crate) struct RunningPush {
    /// The value for [`PUSH_VARIABLE`](crate::hooks::protocol::PUSH_VARIABLE), which nobody can
    /// guess.
    pub(crate) id: String,
    pushers: Pushers,
}

impl Pushers {
    /// Remembers a push until what it returns is dropped.
    pub(crate) fn begin(&self, pusher: Pusher) -> RunningPush {
        let id = format!("{:032x}", rand::random::<u128>());
        self.0.lock().insert(id.clone(), pusher);
        RunningPush { id, pushers: self.clone() }
    }

    fn find(&self, id: &str) -> Option<Pusher> {
        self.0.lock().get(id).cloned()
    }
}

impl Drop for RunningPush {
    fn drop(&mut self) {
        self.pushers.0.lock().remove(&self.id);
    }
}

/// Pushes over SSH at once. They wait at the pace of their clients, so they are counted apart from
/// those over HTTP.
const SSH_AT_ONCE: u64 = 16;

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

/// Answers hooks until `stop`, and then finishes those under way. A place is not waited for.
pub(crate) async fn serve(listener: UnixListener, lander: Lander, pushers: Pushers, stop: CancellationToken) {
    let mut hooks = JoinSet::new();
    let places = Shares::halves(AT_ONCE, 0);
    let over_ssh = Shares::new(ShareBounds { places: SSH_AT_ONCE, of_one: SSH_AT_ONCE / 4, waiting: 0 });
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
                    hooks.spawn(async move {
                        let _place = place;
                        answer(socket, user, lander, pushers, ssh).await;
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
    mut socket: tokio::net::UnixStream,
    user: u32,
    lander: Lander,
    pushers: Pushers,
    (over_ssh, stop): (Shares, CancellationToken),
) {
    let done = async {
        let (mut reading, mut writing) = socket.split();
        let mut line = Vec::new();
        let mut said = tokio::io::BufReader::new((&mut reading).take(MOST_CALL_BYTES));
        tokio::time::timeout(PATIENCE, said.read_until(b'\n', &mut line)).await??;
        if let Ok(PlaceMessage { place }) = serde_json::from_slice(&line) {
            let held = hold_place(place, user, (reading, writing), &pushers, &over_ssh);
            return stop.run_until_cancelled(held).await.unwrap_or(Ok(()));
        }
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

/// Gives a push over SSH a place and an id, until its connection is closed.
async fn hold_place(
    place: PlaceCall,
    user: u32,
    (mut reading, mut writing): (ReadHalf<'_>, WriteHalf<'_>),
    pushers: &Pushers,
    places: &Shares,
) -> anyhow::Result<()> {
    let by = place
        .name
        .as_deref()
        .map_or_else(|| user_name(user), |name| format!("{} as {}", user_name(user), one_line(name)));
    let through = format!("ssh {}", one_line(&place.from));
    // One user of this machine has the pushes of all who come by its key; sshd says from where.
    let address = place.from.parse::<IpAddr>().ok().filter(|_| is_own(user)).map(Who::from);
    let who = address.unwrap_or(Who::User(user));
    let held = places.try_take(who, 1);
    let push = pushers.begin(Pusher { by: Some(by), through, who });
    let answer = match &held {
        Some(_) => PlaceAnswer::Push(push.id.clone()),
        None => PlaceAnswer::Refused("too many pushes over SSH at once; push again in a moment".to_owned()),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writing.write_all(&text).await?;
    if held.is_some() {
        // Nothing comes: it ends when the last program of the push has ended.
        let mut nothing = [0];
        let _ = reading.read(&mut nothing).await;
    }
    Ok(())
}

/// Tells whether a user may do what this program may.
fn is_own(user: u32) -> bool {
    let own = rustix::process::getuid();
    own.as_raw() == user || user == 0
}

async fn decide(call: Call, user: u32, lander: &Lander, pushers: &Pushers) -> Answer {
    // Only a push that this server started itself carries an id; the kernel names every other user.
    // An id that is not known proves nobody: its push is over, or another server started it.
    let found = call.push.as_deref().map(|id| pushers.find(id));
    let is_unknown = matches!(found, Some(None));
    let pusher = found.flatten().unwrap_or_else(|| Pusher {
        by: Some(user_name(user)),
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

fn user_name(user: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
    found.map_or_else(|| format!("user {user}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_known_for_as_long_as_it_runs() {
        let pusher = || Pusher { by: Some("ann".to_owned()), through: "http 10.0.0.1".to_owned(), who: Who::User(1) };
        let pushers = Pushers::default();
        let first = pushers.begin(pusher());
        // Others come and go meanwhile, however many.
        (0..10_000).for_each(|_| drop(pushers.begin(pusher())));
        let found = pushers.find(&first.id).map(|found| found.by);
        assert_eq!(found, Some(Some("ann".to_owned())));
        let id = first.id.clone();
        drop(first);
        assert!(pushers.find(&id).is_none());
        assert!(pushers.0.lock().is_empty());
    }
}
