//! How long conf-master was not heard: its freshness statements, from conf-slaves, and the file
//! `freshness.json` in the state folder, which keeps the newest one over a restart.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use conf_core::{
    api::FreshnessEvent,
    daemon::chain,
    freshness::{Freshness, FreshnessState, KeptFreshness, Moment, boot_id},
    git::Durability,
    sign::{TrustedKeys, verify_freshness},
};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    fs::{StateLock, read_state, replace_state},
    state::agent::{Agent, View},
};

/// The name in `away` of a conf-slave whose statements are not conf-master's.
const STATEMENTS: &str = "freshness statements";

/// 5 s between two looks at most: the machine may have slept.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    freshness: Option<KeptFreshness>,
}

impl View {
    /// What was heard. The newest statement counts if this host has the snapshot that it names, or
    /// follows the pointer to it.
    fn counted(&self) -> Freshness {
        let mut freshness = self.freshness.clone();
        let exported = self.exported.as_ref().map(|exported| exported.snapshot());
        freshness.count(|newest| {
            let is_older = exported.is_some_and(|exported| exported.sequence > newest.sequence);
            is_older || exported == Some(newest) || self.status.pointer == Some(newest)
        });
        freshness
    }

    fn show_freshness(&mut self, now: Moment) {
        self.freshness = self.counted();
        self.status.freshness = FreshnessState::of(&self.freshness, now);
    }
}

/// Tells whether two states differ in more than the age, which changes all the time.
fn differ(one: &FreshnessState, other: &FreshnessState) -> bool {
    (one.stale, &one.time, one.central) != (other.stale, &other.time, other.central)
}

impl Agent {
    /// Takes a freshness statement that a conf-slave sent. One that is not newer than the newest
    /// proves nothing.
    pub(crate) fn hear(&self, from: &str, statement: FreshnessEvent, keys: &TrustedKeys) {
        let view = self.view();
        let own = &view.status.datacenter;
        // A key that was revoked since may have named any time.
        let is_revoked = view.freshness.newest().is_some_and(|newest| verify_freshness(newest, own, keys).is_err());
        if !is_revoked && !view.freshness.is_news(&statement) {
            return;
        }
        match verify_freshness(&statement, &view.status.datacenter, keys) {
            Ok(()) => {
                self.set_back(STATEMENTS);
                let now = Moment::now();
                self.update(|view| {
                    if is_revoked {
                        view.freshness.forget();
                    }
                    view.freshness.take(statement, now);
                    view.show_freshness(now);
                });
            }
            Err(error) => {
                let words = format!("{from} sends some that conf-master did not sign; ignored: {}", chain(&error));
                self.set_away(STATEMENTS, &words);
            }
        }
    }
}

fn file(state: &Path) -> PathBuf {
    state.join("freshness.json")
}

/// Gives the agent back what was heard before it was started again, and the limit of silence.
pub(crate) fn recall(agent: &Agent, state: &Path, limit: Duration, keys: &TrustedKeys) {
    let file = file(state);
    let Kept { freshness } = read_state(&file).unwrap_or_else(|error| {
        tracing::warn!(%error, "{} cannot be read; conf-master counts as not heard yet", file.display());
        Kept::default()
    });
    let kept = freshness.map(|kept| kept.verified(&agent.view().status.datacenter, keys)).transpose();
    let kept = kept.unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "{} is ignored", file.display());
        None
    });
    agent.update(|view| {
        let (freshness, now) = (Freshness::new(limit), Moment::now());
        view.freshness = match kept {
            Some(kept) => freshness.recalling(kept, boot_id().as_deref(), now),
            None => freshness,
        };
        view.status.freshness = FreshnessState::of(&view.freshness, now);
    });
}

/// Notices when this host becomes stale, and keeps what was heard over a restart, until `stop`,
/// unless another agent has the state.
pub(crate) async fn run(agent: Agent, lock: StateLock, stop: CancellationToken) {
    let (mut views, file, boot) = (agent.follow(), file(lock.folder()), boot_id());
    let (mut kept, mut was_stale, mut is_told) = (None, false, false);
    loop {
        views.mark_unchanged();
        let now = Moment::now();
        let view = agent.view();
        let freshness = view.counted();
        let state = FreshnessState::of(&freshness, now);
        if differ(&view.status.freshness, &state) {
            agent.update(|view| view.show_freshness(now));
        }
        let stale = state.stale;
        if stale != std::mem::replace(&mut was_stale, stale) {
            tell(&state);
        }
        let next = freshness.newest().map(|newest| (newest.time, freshness.counted(), stale));
        if next.is_some() && kept != next {
            let content = Kept { freshness: freshness.kept(boot.as_deref(), now) };
            let (path, lock) = (file.clone(), lock.clone());
            let write = move || {
                lock.expect_held()?;
                replace_state(&path, &content, Durability::Content)
            };
            match spawn_blocking(write).await.map_err(Into::into).flatten() {
                Ok(()) => (kept, is_told) = (next, false),
                Err(error) if !std::mem::replace(&mut is_told, true) => {
                    tracing::warn!(%error, "{} cannot be written", file.display());
                }
                Err(_) => {}
            }
        }
        let wait = freshness.stale_in(now).unwrap_or(LOOK).min(LOOK);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
            () = sleep(wait) => {}
        }
    }
}

fn tell(state: &FreshnessState) {
    match state.problem() {
        Some(words) if state.stale => tracing::warn!("{words}"),
        _ => tracing::info!("conf-master is heard again"),
    }
}

#[cfg(test)]
mod tests {
    use conf_core::api::{HostState, Pointer};
    use conf_core::sign::{SigningKey, sign_freshness};
    use libconf::name::Sequence;

    use super::*;
    use crate::state::Status;

    fn agent() -> Agent {
        let status = Status::new("lab/v1".parse().unwrap(), "web-1".parse().unwrap(), Path::new("/export"));
        Agent::new(View::new(status), Vec::new()).0
    }

    #[tokio::test]
    async fn what_is_heard_is_verified_shown_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| SigningKey::generate(&folder.path().join(name), name).unwrap();
        let (own, other) = (key("own"), key("other"));
        let (keys, now) = (TrustedKeys::of(&own), jiff::Timestamp::now().as_second());
        let newest = Pointer { sequence: Sequence(5), commit: [5; 20].into() };
        let sign = |key: &SigningKey, time| {
            sign_freshness(Sequence(9), &"lab/v1".parse().unwrap(), newest, time, key).unwrap()
        };
        let heard = |agent: &Agent| agent.view().status.freshness.time.clone();
        let agent = agent();
        agent.hear("a liar", sign(&other, now), &keys);
        assert_eq!(heard(&agent), None);
        assert!(agent.view().status.away[STATEMENTS].contains("a liar"));
        agent.hear("a conf-slave", sign(&own, now - 60), &keys);
        assert!(heard(&agent).is_some() && agent.view().status.away.is_empty());
        // The first one counts, and each other one once its snapshot is known.
        let first = heard(&agent);
        agent.hear("a conf-slave", sign(&own, now), &keys);
        assert_eq!(heard(&agent), first);
        agent.update(|view| view.status.pointer = Some(newest));
        let (lock, stop) = (StateLock::take(folder.path()).unwrap(), CancellationToken::new());
        let mut views = agent.follow();
        let running = tokio::spawn(run(agent.clone(), lock, stop.clone()));
        views.wait_for(|view| view.status.freshness.time != first).await.unwrap();
        let file = file(folder.path());
        let is_kept = || std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&(now * 1000).to_string()));
        while !is_kept() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        running.await.unwrap();
        // Another run goes on with it, and says so to nobody twice.
        let again = self::agent();
        recall(&again, folder.path(), Duration::from_secs(900), &keys);
        assert_eq!(heard(&again), heard(&agent));
        assert!(!again.view().status.freshness.stale && again.view().status.state == HostState::Updating);
        again.hear("a conf-slave", sign(&own, now), &keys);
        assert_eq!(heard(&again), heard(&agent));
        // With other keys it is nothing.
        let stranger = self::agent();
        recall(&stranger, folder.path(), Duration::from_secs(900), &TrustedKeys::of(&other));
        assert_eq!(heard(&stranger), None);
    }
}
