//! The standbys that follow this server: what each has on its disk, and which are in sync. A change
//! is answered, and told to conf-slaves, when every standby in sync has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use conf_core::http::Health;
use libconf::name::{CommitId, HostName, Sequence};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tracing::{info, warn};

/// How long a landing waits for a standby in sync: far longer than a change takes to get there.
/// After that the standby is in sync no more.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a landing waits for other standbys, where nothing is answered without.
const STRICT_PATIENCE: Duration = Duration::from_secs(20);
/// A standby that has not asked for so long is gone: it asks every few seconds.
const GONE: Duration = Duration::from_secs(15);
/// More standbys than anybody has.
const MOST: usize = 16;
/// About what `/readyz` remarks.
const ABOUT: &str = "standby";

/// How many standbys have a change before it is answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SyncRule {
    /// So many; 0 asks none.
    pub(crate) standbys: usize,
    /// With fewer nothing is answered.
    pub(crate) strict: bool,
}

/// The standbys of a server.
#[derive(Debug)]
pub(crate) struct Standbys {
    rule: SyncRule,
    followers: Mutex<Followers>,
    changed: Condvar,
    health: Health,
    /// Where the leader is elected.
    office: OnceLock<Arc<dyn Office>>,
    /// Tells that others are in sync.
    pub(crate) joined: Notify,
}

#[derive(Debug)]
struct Followers {
    all: BTreeMap<HostName, Follower>,
    /// The newest entry of the ledger that is durable here.
    newest: CommitId,
    /// Those that are behind are about to leave.
    parting: bool,
    /// Since the start there have been as many in sync as the rule asks for.
    was_enough: bool,
}

/// A standby.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follower {
    /// The newest change that it has on its disk.
    pub(crate) sequence: Sequence,
    /// Every change that was answered since it got in sync is on its disk.
    pub(crate) in_sync: bool,
    /// It is behind, and about to leave those in sync.
    leaves: bool,
    /// When it asked last.
    pub(crate) heard: Instant,
}

/// Why nothing lands, or is answered, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotNow {
    /// Fewer standbys are in sync than there must be.
    #[error("{in_sync} of the {wanted} standbys that --sync asks for are in sync")]
    TooFew {
        /// So many are.
        in_sync: usize,
        /// So many must be.
        wanted: usize,
    },
    /// Another server may lead.
    #[error("this conf-master does not hold the lock by which the leader is elected")]
    NoOffice,
}

/// By what an elected server knows that it leads, and tells others who may lead after it.
pub(crate) trait Office: fmt::Debug + Send + Sync {
    /// Tells whether it leads for sure.
    fn is_held(&self) -> bool;

    /// Has no others but these lead after it; tells whether that is so. Blocks, within a bound.
    fn keep_only(&self, standbys: BTreeSet<HostName>) -> bool;
}

impl Standbys {
    /// None follows yet.
    pub(crate) fn new(rule: SyncRule, health: Health) -> Self {
        let followers = Followers { all: BTreeMap::new(), newest: CommitId::ZERO, parting: false, was_enough: false };
        Standbys {
            rule,
            followers: Mutex::new(followers),
            changed: Condvar::new(),
            health,
            office: OnceLock::new(),
            joined: Notify::new(),
        }
    }

    /// How many have to have a change.
    pub(crate) fn rule(&self) -> SyncRule {
        self.rule
    }

    /// Notes what a standby has, when it asks. Too many standbys are refused, in words.
    pub(crate) fn hear(&self, name: &HostName, has: CommitId, sequence: Sequence) -> Result<(), String> {
        let mut followers = self.followers.lock();
        followers.all.retain(|one, follower| one == name || follower.in_sync || follower.heard.elapsed() < GONE);
        if followers.all.len() >= MOST && !followers.all.contains_key(name) {
            return Err(format!("{MOST} standbys follow this conf-master, and that is the most"));
        }
        let before = followers.all.get(name);
        let was_in_sync = before.is_some_and(|one| one.in_sync);
        let is_newest = followers.newest == has;
        // One that has less than before was put back to a copy, or two have one name.
        let went_back = before.is_some_and(|one| one.in_sync && sequence < one.sequence);
        let left = before.is_some_and(|one| one.leaves) && (followers.parting || !is_newest);
        let follower =
            Follower { sequence, in_sync: was_in_sync || is_newest, leaves: left || went_back, heard: Instant::now() };
        let is_changed = before.is_none_or(|one| (one.in_sync, one.leaves) != (follower.in_sync, follower.leaves));
        followers.all.insert(name.clone(), follower);
        if went_back {
            warn!(standby = %name, sequence = sequence.0, "a standby lacks what it had");
        }
        if !was_in_sync && is_newest && self.rule.standbys > 0 {
            info!(standby = %name, sequence = sequence.0, "a standby is in sync");
        }
        followers.was_enough |= followers.in_sync() >= self.rule.standbys;
        self.remark(&followers);
        drop(followers);
        self.changed.notify_all();
        if is_changed {
            self.joined.notify_one();
        }
        Ok(())
    }

    /// Has an election decide who leads.
    pub(crate) fn elected_by(&self, office: Arc<dyn Office>) {
        let _ = self.office.set(office);
    }

    /// Says why another server may lead by now.
    pub(crate) fn expect_office(&self) -> Result<(), NotNow> {
        if self.office.get().is_none_or(|office| office.is_held()) { Ok(()) } else { Err(NotNow::NoOffice) }
    }

    /// Those in sync.
    pub(crate) fn in_sync(&self) -> BTreeSet<HostName> {
        let followers = self.followers.lock();
        followers.all.iter().filter(|(_, one)| one.in_sync && !one.leaves).map(|(name, _)| name.clone()).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeMap<HostName, Follower> {
        self.followers.lock().all.clone()
    }

    /// Notes what is durable here.
    pub(crate) fn is_durable(&self, newest: CommitId) {
        self.followers.lock().newest = newest;
    }

    /// Has this server land without them: somebody has made it lead, who knows that no other one
    /// does.
    pub(crate) fn lead(&self) {
        let mut followers = self.followers.lock();
        followers.all.clear();
        followers.was_enough = true;
    }

    /// Says why nothing may land now. After a start nobody knows whether another server leads
    /// meanwhile, until as many standbys as the rule asks for follow this one.
    pub(crate) fn expect_enough(&self) -> Result<(), NotNow> {
        self.expect_office()?;
        let mut followers = self.followers.lock();
        if self.rule.strict && self.office.get().is_none() {
            for (name, one) in followers.all.iter_mut().filter(|(_, one)| one.in_sync && one.heard.elapsed() > GONE) {
                one.leave(name);
            }
        }
        let is_enough = followers.in_sync() >= self.rule.standbys;
        if is_enough || (followers.was_enough && !self.rule.strict) { Ok(()) } else { Err(self.too_few(&followers)) }
    }

    /// Tells whether every standby in sync has a change.
    pub(crate) fn have(&self, sequence: Sequence) -> bool {
        self.followers.lock().all.values().all(|one| !one.in_sync || one.sequence >= sequence)
    }

    /// Waits until every standby in sync has a change that is durable here. One that has not after
    /// two seconds is in sync no more, before anybody is told that the change landed. Blocks.
    pub(crate) fn wait_for(&self, sequence: Sequence) -> Result<(), NotNow> {
        if self.rule.standbys == 0 {
            return Ok(());
        }
        let began = Instant::now();
        let mut followers = self.followers.lock();
        loop {
            let behind = |one: &Follower| one.in_sync && one.sequence < sequence;
            let late: BTreeSet<HostName> =
                followers.all.iter().filter(|(_, one)| behind(one)).map(|(name, _)| name.clone()).collect();
            let waits = !late.is_empty() && began.elapsed() < PATIENCE;
            if !late.is_empty() && !waits {
                drop(followers);
                self.part_with(&late)?;
                followers = self.followers.lock();
                continue;
            }
            self.remark(&followers);
            let is_enough = followers.in_sync() >= self.rule.standbys;
            if !waits && (is_enough || !self.rule.strict) {
                return Ok(());
            }
            let until = began + if waits { PATIENCE } else { STRICT_PATIENCE };
            if !waits && Instant::now() >= until {
                return Err(self.too_few(&followers));
            }
            self.changed.wait_until(&mut followers, until);
        }
    }

    /// Has standbys that are behind be in sync no more. Others must know it first: one that they
    /// still take for one in sync could lead after this server.
    fn part_with(&self, late: &BTreeSet<HostName>) -> Result<(), NotNow> {
        {
            let mut followers = self.followers.lock();
            followers.parting = true;
            for (_, one) in followers.all.iter_mut().filter(|(name, _)| late.contains(name)) {
                one.leaves = true;
            }
        }
        let is_known = self.office.get().is_none_or(|office| office.keep_only(self.in_sync()));
        let mut followers = self.followers.lock();
        followers.parting = false;
        if !is_known {
            return Err(NotNow::NoOffice);
        }
        for (name, one) in followers.all.iter_mut().filter(|(name, _)| late.contains(name)) {
            one.leave(name);
        }
        Ok(())
    }

    fn too_few(&self, followers: &Followers) -> NotNow {
        NotNow::TooFew { in_sync: followers.in_sync(), wanted: self.rule.standbys }
    }

    /// Has `/readyz` say that a loss of this machine would lose changes.
    fn remark(&self, followers: &Followers) {
        let (in_sync, wanted) = (followers.in_sync(), self.rule.standbys);
        let words = (in_sync < wanted)
            .then(|| format!("{in_sync} of {wanted} standbys in sync: what lands now may be lost with this machine"));
        self.health.remark(ABOUT, words);
    }
}

impl Followers {
    fn in_sync(&self) -> usize {
        self.all.values().filter(|one| one.in_sync).count()
    }
}

impl Follower {
    fn leave(&mut self, name: &HostName) {
        (self.in_sync, self.leaves) = (false, false);
        warn!(standby = %name, sequence = self.sequence.0, "a standby is behind, and in sync no more");
    }
}

#[cfg(test)]
mod tests {
    use conf_core::daemon::Metrics;

    use super::*;

    fn standbys(strict: bool) -> Standbys {
        Standbys::new(SyncRule { standbys: 1, strict }, Health::new(Metrics::new("test", "0")))
    }

    fn entry(number: u8) -> CommitId {
        [number; 20].into()
    }

    #[test]
    fn nothing_lands_after_a_start_before_a_standby_is_in_sync() {
        let (standbys, name) = (standbys(false), "b".parse().unwrap());
        standbys.is_durable(entry(5));
        standbys.expect_enough().unwrap_err();
        standbys.hear(&name, entry(4), Sequence(4)).unwrap();
        standbys.expect_enough().unwrap_err();
        standbys.hear(&name, entry(5), Sequence(5)).unwrap();
        standbys.expect_enough().unwrap();
        assert!(standbys.all()[&name].in_sync);
    }

    #[test]
    fn a_standby_in_sync_that_falls_behind_leaves_before_a_change_is_answered() {
        let (standbys, name) = (standbys(false), "b".parse().unwrap());
        standbys.is_durable(entry(5));
        standbys.hear(&name, entry(5), Sequence(5)).unwrap();
        let began = Instant::now();
        standbys.wait_for(Sequence(5)).unwrap();
        assert!(began.elapsed() < PATIENCE);
        standbys.is_durable(entry(6));
        standbys.wait_for(Sequence(6)).unwrap();
        assert!(began.elapsed() >= PATIENCE && !standbys.all()[&name].in_sync);
        // It lands alone from then on, and says so.
        standbys.expect_enough().unwrap();
        standbys.hear(&name, entry(5), Sequence(5)).unwrap();
        assert!(!standbys.all()[&name].in_sync, "it lacks what was answered");
        standbys.hear(&name, entry(6), Sequence(6)).unwrap();
        assert!(standbys.all()[&name].in_sync);
    }

    #[test]
    fn a_standby_that_was_put_back_is_none_that_may_lead_until_it_has_all() {
        let (standbys, name) = (standbys(false), "b".parse().unwrap());
        standbys.is_durable(entry(5));
        standbys.hear(&name, entry(5), Sequence(5)).unwrap();
        assert!(standbys.in_sync().contains(&name));
        standbys.hear(&name, entry(3), Sequence(3)).unwrap();
        assert!(!standbys.in_sync().contains(&name));
        // A landing waits for it as before, until others know.
        let began = Instant::now();
        standbys.is_durable(entry(6));
        standbys.wait_for(Sequence(6)).unwrap();
        assert!(began.elapsed() >= PATIENCE);
        standbys.hear(&name, entry(6), Sequence(6)).unwrap();
        assert!(standbys.in_sync().contains(&name));
        // Where nothing lands meanwhile it comes back by itself.
        standbys.hear(&name, entry(3), Sequence(3)).unwrap();
        standbys.hear(&name, entry(6), Sequence(6)).unwrap();
        assert!(standbys.in_sync().contains(&name));
    }

    #[test]
    fn a_strict_server_answers_nothing_without_standbys() {
        let (standbys, name) = (standbys(true), "b".parse().unwrap());
        standbys.is_durable(entry(5));
        standbys.hear(&name, entry(5), Sequence(5)).unwrap();
        standbys.expect_enough().unwrap();
        standbys.is_durable(entry(6));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| standbys.wait_for(Sequence(6)));
            while standbys.all()[&name].in_sync {
                std::thread::yield_now();
            }
            standbys.expect_enough().unwrap_err();
            assert!(!waiting.is_finished());
            standbys.hear(&name, entry(6), Sequence(6)).unwrap();
            waiting.join().unwrap().unwrap();
        });
    }
}
