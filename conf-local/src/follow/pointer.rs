//! Watching the pointer in Consul, and deciding what to do about a pointer.

use std::time::Duration;

use conf_core::{
    api::Pointer,
    consul::{Consul, Entry, WatchIndex},
    daemon::chain,
    retry::{Backoff, with_jitter},
};
use libconf::name::{DatacenterName, Sequence};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::random_up_to,
    follow::{candidates::Candidates, finder::Finder},
    snapshot::{HostKeys, SnapshotServers},
    state::Agent,
};

/// 1 s: a server that is back is found again within this.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// 120 s: one question for the pointer waits so long for a change. Two servers are asked at once,
/// so that an idle host sends one request a minute.
const WAIT: Duration = Duration::from_secs(120);
/// The same where one server is asked.
const WAIT_ALONE: Duration = Duration::from_secs(60);
/// 60 s between two attempts where the pointer comes from elsewhere, at most.
const SELDOM: Duration = Duration::from_secs(60);
/// 2 to 4 s: if Consul has not named a change by then that a conf-slave or another server of Consul
/// names, it may hang, and is asked anew.
const LATE: Duration = Duration::from_secs(4);
/// 200 ms, and up to 400 ms more, before Consul is asked again that has named what was known: the
/// hosts of a datacenter take a change at one moment, and that question can wait.
const LULL: Duration = Duration::from_millis(200);
/// 5 s between two attempts while the key holds no pointer.
const DAMAGED: Duration = Duration::from_secs(5);

/// Where pointers and snapshots come from.
pub(crate) struct Sources {
    /// Clients of Consul, each for other servers of it. Each watches the pointer.
    pub(crate) consul: Vec<Consul>,
    /// Whether it is a problem that Consul cannot be reached.
    pub(crate) needs_consul: bool,
    /// Those that find conf-slaves in Consul.
    pub(crate) finders: Vec<Finder>,
    /// The datacenter's authoritative key.
    pub(crate) key: String,
    pub(crate) datacenter: DatacenterName,
    pub(crate) servers: SnapshotServers,
    /// What has signed good snapshots, and other words of conf-master.
    pub(crate) keys: HostKeys,
}

/// Names every pointer that is read from Consul. A missing or damaged one is reported, and never
/// named.
pub(crate) async fn watch(sources: &Sources, candidates: &Candidates, agent: &Agent, stop: &CancellationToken) {
    let lane = |number: usize| {
        let consul = sources.consul.get(number);
        async move {
            let Some(consul) = consul else { return };
            let name = if number == 0 { "consul".to_owned() } else { format!("consul ({})", number + 1) };
            let revived = consul.revive(&sources.key, || show_silent(consul, agent, &name));
            let newest = candidates.newest();
            let lane = Lane { sources, consul, name: name.clone(), candidates, agent, newest, seen: Sequence(0) };
            tokio::join!(lane.watch(), revived);
        }
    };
    stop.run_until_cancelled(async { tokio::join!(lane(0), lane(1)) }).await;
}

/// Shows which servers of Consul gave no answer, while another one did.
fn show_silent(consul: &Consul, agent: &Agent, name: &str) {
    match consul.silent().as_slice() {
        [] => agent.set_back(name),
        silent => {
            let words = format!("{} gives no answer, another server does; does it hang?", silent.join(", "));
            agent.set_away(name, &words);
        }
    }
}

/// The watch of the pointer at one server of Consul, or at those that take turns.
struct Lane<'a> {
    sources: &'a Sources,
    consul: &'a Consul,
    name: String,
    candidates: &'a Candidates,
    agent: &'a Agent,
    newest: watch::Receiver<Sequence>,
    /// The highest sequence about which this server was asked.
    seen: Sequence,
}

impl Lane<'_> {
    async fn watch(mut self) {
        let mut index = WatchIndex::default();
        let is_alone = self.sources.consul.len() == 1;
        let wait = if is_alone { WAIT_ALONE } else { WAIT };
        let mut backoff = Backoff::new(Duration::from_millis(50), SOON);
        let mut unheard = 0_u32;
        loop {
            let mut newest = self.newest.clone();
            let late = late(&mut newest, self.seen);
            let answer = tokio::select! {
                answer = self.consul.watch(&self.sources.key, &mut index, wait) => answer,
                // Dropping the question closes its connection.
                named = late => {
                    self.seen = named;
                    index.forget();
                    continue;
                }
            };
            let pause = match answer {
                Ok(entry) => {
                    show_silent(self.consul, self.agent, &self.name);
                    backoff.reset();
                    match self.take(entry) {
                        Taken::New => {
                            unheard = 0;
                            continue;
                        }
                        Taken::Known => {
                            unheard = 0;
                            self.lull().await;
                            continue;
                        }
                        Taken::Useless(pause) => {
                            index.forget();
                            pause
                        }
                    }
                }
                Err(error) => {
                    if self.sources.needs_consul {
                        self.agent.set_away(&self.name, &chain(&error));
                    }
                    backoff.next_wait()
                }
            };
            self.candidates.lost(&self.name);
            self.rest(pause, unheard).await;
            unheard = unheard.saturating_add(1);
        }
    }

    /// Waits before the next question after one of no use. While the pointer comes from elsewhere,
    /// this server is asked ever more seldom.
    async fn rest(&self, pause: Duration, unheard: u32) {
        let is_needed = self.sources.needs_consul;
        if is_needed && !self.candidates.is_heard_beside(&self.name) {
            sleep(pause).await;
            return;
        }
        tokio::select! {
            () = sleep(seldom(unheard)) => {}
            () = self.candidates.alone(&self.name), if is_needed => sleep(random_up_to(SOON)).await,
        }
    }

    /// Waits before the next question while another source is in touch, which names a change.
    async fn lull(&self) {
        tokio::select! {
            () = sleep(LULL + random_up_to(LULL * 2)) => {}
            () = self.candidates.alone(&self.name) => {}
        }
    }

    /// Names the pointer of an answer.
    fn take(&mut self, entry: Option<Entry>) -> Taken {
        let topic = format!("pointer in {}", self.name);
        let Some(entry) = entry else {
            if self.sources.needs_consul {
                self.agent.set_away(&topic, &format!("Consul has no key {}; waiting for it", self.sources.key));
            }
            // Watching a missing key would wake at every write to Consul, so this asks again after
            // a pause.
            return Taken::Useless(SOON / 2 + random_up_to(SOON / 2));
        };
        let Some(pointer) = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<Pointer>().ok()) else {
            let words = format!(
                "the value of {} is not a pointer; ignored. A conf-slave writes it again; does something else write it?",
                self.sources.key
            );
            self.agent.set_away(&topic, &words);
            return Taken::Useless(DAMAGED / 2 + random_up_to(DAMAGED / 2));
        };
        self.agent.set_back(&topic);
        self.seen = self.seen.max(pointer.sequence);
        let is_known = *self.newest.borrow() >= pointer.sequence;
        self.candidates.name(&self.name, pointer);
        if is_known { Taken::Known } else { Taken::New }
    }
}

/// What an answer of Consul named.
enum Taken {
    New,
    /// What another source has named.
    Known,
    /// No pointer: the pause before the next question.
    Useless(Duration),
}

/// The pause after so many questions of no use that nobody needs.
fn seldom(unheard: u32) -> Duration {
    with_jitter(SOON.saturating_mul(2 << unheard.min(20)).min(SELDOM))
}

/// Waits until a sequence above `seen` is named elsewhere, and has been for some time.
async fn late(newest: &mut watch::Receiver<Sequence>, seen: Sequence) -> Sequence {
    let is_named = newest.wait_for(|newest| *newest > seen).await.is_ok();
    if !is_named {
        return std::future::pending().await;
    }
    sleep(with_jitter(LATE)).await;
    *newest.borrow()
}

/// What to do about a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Its snapshot is exported.
    Nothing,
    /// It is older than a snapshot that this host has taken.
    Late(String),
    /// It has the number of a snapshot that this host has taken, but another commit.
    Refuse(String),
    /// It is newer, or was taken and is not exported yet.
    Take,
}

/// Decides what to do about a pointer, given the exported snapshot and the newest one that was ever
/// taken.
pub(crate) fn decide(exported: Option<Pointer>, known: Option<Pointer>, pointer: Pointer) -> Decision {
    let Pointer { sequence, commit } = pointer;
    match known {
        Some(known) if sequence < known.sequence => Decision::Late(format!(
            "the pointer names #{sequence}, older than #{}, which this host has taken already; ignored",
            known.sequence
        )),
        Some(known) if sequence == known.sequence && commit != known.commit && !known.commit.is_zero() => {
            Decision::Refuse(format!(
                "the pointer names {} as #{sequence}, but this host has taken {} as #{sequence}; ignored",
                commit.short(),
                known.commit.short()
            ))
        }
        _ if exported == Some(pointer) => Decision::Nothing,
        _ => Decision::Take,
    }
}

#[cfg(test)]
mod tests {
    use libconf::name::CommitId;

    use super::*;

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    #[test]
    fn a_server_that_nobody_needs_is_asked_twice_a_minute_at_most() {
        let minute = |mut number: u32| {
            let mut left = Duration::from_secs(60);
            while let Some(rest) = left.checked_sub(seldom(number)) {
                (left, number) = (rest, number + 1);
            }
            number
        };
        assert!(minute(0) <= 6, "{}", minute(0));
        assert!(minute(6) <= 6 + 2, "{}", minute(6));
    }

    #[test]
    fn only_a_newer_pointer_is_taken() {
        let pointer = |sequence, digit| Pointer { sequence: Sequence(sequence), commit: commit(digit) };
        let at = |sequence, digit| Some(pointer(sequence, digit));
        let without_commit = Some(Pointer { sequence: Sequence(5), commit: CommitId::ZERO });
        let refused = |decision| matches!(decision, Decision::Refuse(_));
        let late = |decision| matches!(decision, Decision::Late(_));
        assert_eq!(decide(None, None, pointer(1, 'a')), Decision::Take);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'a')), Decision::Nothing);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(6, 'b')), Decision::Take);
        // Taken, but not exported yet, because of a restart or a full disk.
        assert_eq!(decide(at(5, 'a'), at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert_eq!(decide(None, at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert!(late(decide(at(5, 'a'), at(5, 'a'), pointer(4, 'c'))));
        assert!(late(decide(at(5, 'a'), at(6, 'b'), pointer(5, 'a'))));
        assert!(refused(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'c'))));
        // The commit was lost: the number alone still keeps older snapshots out.
        assert!(late(decide(None, without_commit, pointer(4, 'a'))));
        assert_eq!(decide(None, without_commit, pointer(5, 'a')), Decision::Take);
    }
}
