//! Whether conf-master is heard: its newest freshness statement, kept over a restart. Hosts get it
//! as it came, since this program cannot make one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf_core::api::FreshnessEvent;
use conf_core::daemon::{self, chain};
use conf_core::freshness::{Freshness, FreshnessState, KeptFreshness, Moment, boot_id};
use conf_core::git::{self, Durability};
use conf_core::sign::{KeyError, TrustedKeys, verify_freshness};
use libconf::name::DatacenterName;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::mirror::Mirror;
use crate::problems::Problems;

/// The file in the state folder.
const FILE: &str = "freshness.json";

/// The topic of a conf-master that was not heard for long.
pub(crate) const FRESHNESS: &str = "freshness";

/// 5 s between two looks at most, since a machine may have slept.
const LOOK: Duration = Duration::from_secs(5);

/// What conf-master said last.
#[derive(Debug)]
pub(crate) struct Heard {
    path: PathBuf,
    datacenter: DatacenterName,
    keys: TrustedKeys,
    boot: Option<String>,
    freshness: Mutex<Freshness>,
    newest: watch::Sender<Option<Arc<FreshnessEvent>>>,
}

impl Heard {
    /// Reads what an earlier run has kept. Blocks.
    pub(crate) fn open(state: &Path, datacenter: DatacenterName, keys: TrustedKeys, limit: Duration) -> Self {
        let (path, boot) = (state.join(FILE), boot_id());
        let kept = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<KeptFreshness>(&text).ok());
        let kept = kept.map(|kept| kept.verified(&datacenter, &keys)).transpose().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), path = %path.display(), "a kept freshness statement is ignored");
            None
        });
        let freshness = Freshness::new(limit);
        let freshness = match kept {
            Some(kept) => freshness.recalling(kept, boot.as_deref(), Moment::now()),
            None => freshness,
        };
        let newest = watch::Sender::new(freshness.newest().cloned().map(Arc::new));
        Heard { path, datacenter, keys, boot, freshness: Mutex::new(freshness), newest }
    }

    /// Takes a statement if it is newer than the last one. Refuses one that is not signed for this
    /// datacenter.
    pub(crate) fn take(&self, statement: FreshnessEvent) -> Result<(), KeyError> {
        verify_freshness(&statement, &self.datacenter, &self.keys)?;
        let shown = Arc::new(statement.clone());
        let mut freshness = self.freshness.lock();
        // A key that was revoked since may have named any time.
        if freshness.newest().is_some_and(|newest| verify_freshness(newest, &self.datacenter, &self.keys).is_err()) {
            freshness.forget();
        }
        if freshness.take(statement, Moment::now()) {
            self.newest.send_replace(Some(shown));
        }
        Ok(())
    }

    /// Subscribes to the newest statement.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<FreshnessEvent>>> {
        self.newest.subscribe()
    }

    /// The newest statement, as it came.
    pub(crate) fn newest(&self) -> Option<FreshnessEvent> {
        self.newest.borrow().as_deref().cloned()
    }

    /// Freshness as it is now.
    pub(crate) fn state(&self) -> FreshnessState {
        FreshnessState::of(&self.freshness.lock(), Moment::now())
    }

    /// Counts the newest statement if this slave serves what it names.
    fn count(&self, mirror: &Mirror) {
        let served = mirror.served().map(|served| served.pointer());
        self.freshness
            .lock()
            .count(|newest| served.is_some_and(|served| served == newest || served.sequence > newest.sequence));
    }

    /// Writes what the next run needs. Blocks.
    fn keep(&self) {
        let Some(kept) = self.freshness.lock().kept(self.boot.as_deref(), Moment::now()) else { return };
        let written = serde_json::to_vec(&kept).map_err(std::io::Error::from);
        let written = written.and_then(|text| git::replace_file(&self.path, &text, 0o600, Durability::Content));
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "freshness cannot be kept over a restart");
        }
    }
}

/// Looks at each statement and at each snapshot that is served, and says when this slave is stale.
pub(crate) async fn run(heard: Arc<Heard>, mirror: Arc<Mirror>, problems: Arc<Problems>) {
    let (mut newest, mut served) = (heard.subscribe(), mirror.subscribe());
    let mut kept = None;
    loop {
        newest.mark_unchanged();
        served.mark_unchanged();
        heard.count(&mirror);
        let state = heard.state();
        let problem = state.problem().map(str::to_owned);
        problems.report(FRESHNESS, problem, "conf-master is heard again, and its clock is right");
        let now = (state.stale, state.time, heard.newest().map(|newest| newest.time));
        if kept.as_ref() != Some(&now) {
            let keeping = heard.clone();
            daemon::blocking(move || keeping.keep()).await;
            kept = Some(now);
        }
        let left = heard.freshness.lock().stale_in(Moment::now());
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            changed = served.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(left.unwrap_or(LOOK).min(LOOK)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use conf_core::api::Pointer;
    use conf_core::sign::{SigningKey, public_path, sign_freshness, sign_statement};
    use libconf::name::Sequence;

    use super::*;

    #[test]
    fn the_newest_statement_outlives_a_restart_as_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| SigningKey::generate(&folder.path().join(name), name).unwrap();
        let (own, other) = (key("own"), key("other"));
        let keys = TrustedKeys::load(&public_path(&folder.path().join("own"))).unwrap();
        let lab: DatacenterName = "lab/v1".parse().unwrap();
        let open = || Heard::open(folder.path(), lab.clone(), keys.clone(), Duration::from_secs(900));
        let now = jiff::Timestamp::now().as_second();
        let sign = |key: &SigningKey, time: i64| {
            let newest = Pointer { sequence: Sequence(5), commit: [5; 20].into() };
            sign_freshness(Sequence(9), &lab, newest, time, key).unwrap()
        };
        let heard = open();
        heard.keep();
        assert_eq!((heard.newest(), heard.path.exists()), (None, false), "nothing was heard");
        heard.take(sign(&other, now)).unwrap_err();
        heard.take(FreshnessEvent { time: now + 1, ..sign(&own, now) }).unwrap_err();
        assert_eq!(heard.newest(), None);
        let good = sign(&own, now);
        heard.take(good.clone()).unwrap();
        heard.take(sign(&own, now - 60)).unwrap();
        assert_eq!(heard.newest(), Some(good.clone()));
        heard.keep();
        let again = open();
        assert_eq!(again.newest(), Some(good.clone()));
        assert_eq!(again.state().time, heard.state().time);
        // Of another datacenter, or damaged, it is nothing.
        let elsewhere = Heard::open(folder.path(), "lab/v2".parse().unwrap(), keys.clone(), Duration::from_secs(900));
        assert_eq!(elsewhere.newest(), None);
        std::fs::write(&heard.path, "damaged").unwrap();
        assert_eq!(open().newest(), None);
    }

    #[test]
    fn what_a_revoked_key_has_said_counts_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| SigningKey::generate(&folder.path().join(name), name).unwrap();
        let (old, new) = (key("old"), key("new"));
        let keys = TrustedKeys::of(&old);
        let lab: DatacenterName = "lab/v1".parse().unwrap();
        let heard = Heard::open(folder.path(), lab.clone(), keys.clone(), Duration::from_secs(900));
        let now = jiff::Timestamp::now().as_second();
        let sign = |key: &SigningKey, time: i64| {
            let newest = Pointer { sequence: Sequence(5), commit: [5; 20].into() };
            sign_freshness(Sequence(9), &lab, newest, time, key).unwrap()
        };
        // The time of many years ahead, which would keep all later statements out.
        heard.take(sign(&old, now + 1_000_000_000)).unwrap();
        let statement = sign_statement(&[], (Sequence(10), now), vec![old.fingerprint()], (&old, &new)).unwrap();
        keys.follow(&[statement]).unwrap();
        heard.take(sign(&old, now + 2_000_000_000)).unwrap_err();
        let good = sign(&new, now);
        heard.take(good.clone()).unwrap();
        assert_eq!(heard.newest(), Some(good));
    }
}
