//! The freshness statements that conf-master signs: which snapshot is a datacenter's newest at a
//! time. Whoever hears none for long knows that changes may be withheld.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use conf_core::api::{FreshnessEvent, Pointer};
use conf_core::daemon::chain;
use conf_core::sign::{KeyError, SigningKey, sign_freshness};
use jiff::Timestamp;
use libconf::name::DatacenterName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::delivery::heard::Heard;
use crate::landing::Published;

type Signed = (Arc<FreshnessEvent>, Instant, Arc<SigningKey>);

/// The pause before a standby that does not hear its leader looks again.
const UNHEARD: Duration = Duration::from_secs(1);

/// Signs each statement once for all readers, every so often.
#[derive(Debug)]
pub(crate) struct FreshnessStatements {
    every: Duration,
    /// When the leader of this standby was heard.
    heard: Arc<Heard>,
    /// The last time that was stated, in milliseconds since 1970, and when.
    last: Mutex<(i64, Instant)>,
    /// The last statement about each datacenter, when it was signed, and by which key.
    signed: Mutex<BTreeMap<DatacenterName, Signed>>,
}

impl FreshnessStatements {
    /// Signs so often.
    pub(crate) fn new(every: Duration, heard: Arc<Heard>) -> Self {
        FreshnessStatements { every, heard, last: Mutex::new((0, Instant::now())), signed: Mutex::default() }
    }

    /// Returns the statement about a datacenter, and when the next one is due; without a statement
    /// where it has no snapshot, and on a standby that does not hear its leader: it cannot know.
    pub(crate) fn of(
        &self,
        published: &Published,
        datacenter: &DatacenterName,
        now: Instant,
    ) -> Result<(Option<Arc<FreshnessEvent>>, Instant), KeyError> {
        let (Some(snapshot), Some(key)) = (published.datacenters.get(datacenter), &published.signer) else {
            self.signed.lock().remove(datacenter);
            return Ok((None, now + self.every));
        };
        if self.is_silent(published) {
            return Ok((None, now + UNHEARD.min(self.every)));
        }
        let newest = Pointer { sequence: snapshot.sequence, commit: snapshot.commit };
        let last = self.signed.lock().get(datacenter).cloned();
        let holds = |(_, signed, by): &Signed| now.duration_since(*signed) < self.every && Arc::ptr_eq(by, key);
        if let Some((last, signed, _)) = last.filter(holds) {
            return Ok((Some(last), signed + self.every));
        }
        // Signs without the lock, so that others sign theirs meanwhile.
        let time = self.time(Timestamp::now().as_millisecond(), now) / 1000;
        let signed = Arc::new(sign_freshness(published.sequence, datacenter, newest, time, key)?);
        self.signed.lock().insert(datacenter.clone(), (signed.clone(), now, key.clone()));
        Ok((Some(signed), now + self.every))
    }

    /// Tells whether this is a standby that does not hear its leader, so that what it has may be
    /// old.
    pub(crate) fn is_silent(&self, published: &Published) -> bool {
        published.leader.is_some() && !self.heard.is_recent()
    }

    /// The time to state. Where the clock was set back, goes on from what was stated before: nobody
    /// believes a time below that.
    fn time(&self, clock: i64, now: Instant) -> i64 {
        let mut last = self.last.lock();
        let passed = i64::try_from(now.duration_since(last.1).as_millis()).unwrap_or_default();
        let time = clock.max(last.0.saturating_add(passed));
        *last = (time, now);
        time
    }
}

/// The statements about one datacenter, for one reader.
#[derive(Debug)]
pub(crate) struct FreshnessFeed {
    statements: Arc<FreshnessStatements>,
    told: Option<Arc<FreshnessEvent>>,
    /// When the next one is due.
    pub(crate) due: Instant,
}

impl FreshnessFeed {
    /// Has told nothing yet.
    pub(crate) fn new(statements: Arc<FreshnessStatements>) -> Self {
        FreshnessFeed { statements, told: None, due: Instant::now() }
    }

    /// Tells whether what is told may be old.
    pub(crate) fn is_silent(&self, published: &Published) -> bool {
        self.statements.is_silent(published)
    }

    /// Has a datacenter that got its first snapshot not wait for its first statement.
    pub(crate) fn hurry(&mut self) {
        if self.told.is_none() {
            self.due = Instant::now();
        }
    }

    /// Returns the statement that is due, unless it was told.
    pub(crate) fn next(
        &mut self,
        published: &Published,
        datacenter: &DatacenterName,
        now: Instant,
    ) -> Option<Arc<FreshnessEvent>> {
        match self.statements.of(published, datacenter, now) {
            Ok((statement, due)) => {
                self.due = due;
                let next = statement.filter(|one| self.told.as_ref() != Some(one))?;
                self.told = Some(next.clone());
                Some(next)
            }
            Err(error) => {
                self.due = now + self.statements.every;
                tracing::error!(error = %chain(&error), %datacenter, "a freshness statement cannot be signed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use conf_core::{sign::TrustedKeys, sign::verify_freshness, snapshot::Snapshot};
    use libconf::name::{CommitId, ObjectId, Sequence};

    use super::*;

    fn published((name, key): (&DatacenterName, &Arc<SigningKey>), central: u64) -> Published {
        let snapshot = Snapshot {
            commit: CommitId::ZERO,
            tree: ObjectId::ZERO,
            parent: None,
            datacenter: name.clone(),
            sequence: Sequence(1),
            epoch: 1,
            time: 0,
            by: String::new(),
            summary: String::new(),
            datacenter_commit: None,
            class: None,
        };
        let datacenters = [(name.clone(), snapshot)].into();
        let signer = Some(key.clone());
        Published { sequence: Sequence(central), datacenters, signer, ..Published::default() }
    }

    fn key() -> Arc<SigningKey> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(SigningKey::generate(&folder.path().join("key"), "test").unwrap())
    }

    #[test]
    fn each_datacenter_has_one_statement_for_all_readers_until_the_next_is_due() {
        let every = Duration::from_secs(60);
        let (statements, key) = (Arc::new(FreshnessStatements::new(every, Arc::default())), key());
        let (keys, name, start) = (TrustedKeys::of(&key), "dc/v1".parse().unwrap(), Instant::now());
        let by = (&name, &key);
        let mut feed = FreshnessFeed::new(statements.clone());
        let first = feed.next(&published(by, 1), &name, start).unwrap();
        verify_freshness(&first, &name, &keys).unwrap();
        assert_eq!((first.central, first.snapshot), (Sequence(1), Sequence(1)));
        assert_eq!(feed.next(&published(by, 2), &name, start + every / 2), None, "it was told");
        assert_eq!(feed.due, start + every);
        let mut other = FreshnessFeed::new(statements.clone());
        let same = other.next(&published(by, 2), &name, start + every / 2).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        let second = feed.next(&published(by, 2), &name, feed.due).unwrap();
        assert_eq!((second.central, second.time - first.time), (Sequence(2), 60));
        let gone = Published { sequence: Sequence(3), ..Published::default() };
        assert_eq!(feed.next(&gone, &name, feed.due), None, "there is nothing to state");
        assert!(statements.signed.lock().is_empty());
    }

    #[test]
    fn the_stated_time_never_goes_back() {
        let statements = FreshnessStatements::new(Duration::from_secs(60), Arc::default());
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(statements.time(5_000_000, after(0)), 5_000_000);
        let back = statements.time(1_000_000, after(60));
        assert!((5_060_000..5_065_000).contains(&back), "the clock was set back: {back}");
        assert_eq!(statements.time(9_000_000, after(120)), 9_000_000, "it was set forward");
    }
}
