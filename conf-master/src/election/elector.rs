//! Takes the lock where this server may lead, holds it, and follows whoever else holds it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use conf_core::access::Principal;
use conf_core::address::BaseUrl;
use conf_core::consul::{Consul, Entry, Service, SessionId, Standing, WatchIndex};
use conf_core::daemon::chain;
use conf_core::http::{Health, Who};
use conf_core::upstream::{Credentials, Upstreams};
use libconf::name::{HostName, Sequence};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::delivery::Heard;
use crate::election::office::{KeepOnly, LockOffice, since_boot};
use crate::election::seat::{Claim, LeaderKey, Seat};
use crate::landing::{KeyRequest, Lander, Leader, Push, Pusher};
use crate::standby::{self, Following};
use crate::store;

/// How long a question waits for a change of the key.
const WAIT: Duration = Duration::from_secs(10);
/// For so long nobody gets the lock of a leader that is gone.
const LOCK_DELAY: Duration = Duration::from_secs(1);
/// The pause after something failed.
const AGAIN: Duration = Duration::from_millis(200);
/// How long leaving may take at the stop.
const LEAVING: Duration = Duration::from_secs(2);
/// About what `/readyz` remarks.
const ABOUT: &str = "election";
/// The same, of its entry in the catalog.
const CATALOG: &str = "election's catalog";

/// This server, as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// Its name.
    pub(crate) name: HostName,
    /// The URL at which others reach it.
    pub(crate) url: BaseUrl,
    /// Its repository.
    pub(crate) repo: PathBuf,
    /// What it shows to its leader.
    pub(crate) credentials: Credentials,
}

/// Elects.
pub(crate) struct Elector {
    /// Where.
    pub(crate) consul: Arc<Consul>,
    /// By which key.
    pub(crate) key: LeaderKey,
    /// The entry in the catalog, on whose word the session hangs.
    pub(crate) service: Service,
    /// This server.
    pub(crate) own: Own,
    /// What the landing thread knows of it.
    pub(crate) office: Arc<LockOffice>,
    /// What the landing thread asks for.
    pub(crate) requests: mpsc::Receiver<KeepOnly>,
    /// When the leader was heard.
    pub(crate) heard: Arc<Heard>,
    /// Where it says how it goes.
    pub(crate) health: Health,
}

/// Whom this server follows now, and the task that does so.
struct Followed {
    url: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Followed {
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Elects until `stop`, and then gives the lock away.
pub(crate) async fn run(mut elector: Elector, lander: Lander, stop: CancellationToken) {
    lander.standbys.elected_by(elector.office.clone());
    let (told, word) = watch::channel(None);
    let (consul, service) = (elector.consul.clone(), elector.service.clone());
    let health = elector.health.clone();
    let passing = keep_passing(&consul, &service, &told, &health);
    let mut followed = None;
    tokio::select! {
        () = stop.cancelled() => {}
        () = passing => {}
        () = elector.elect(&lander, word, &mut followed) => {}
    }
    elector.office.end();
    if let Some(followed) = followed {
        followed.end().await;
    }
    // With the entry its check goes, and with that the session: another one leads at once.
    let _ = timeout(LEAVING, consul.deregister(&service.id)).await;
}

/// Says again and again that this server works; sends when it began to say so the last time that it
/// was heard.
async fn keep_passing(consul: &Consul, service: &Service, told: &watch::Sender<Option<Duration>>, health: &Health) {
    let mut is_known = false;
    loop {
        let sent = since_boot();
        let said = async {
            if is_known {
                consul.tell(&service.id, &Standing::Passing).await
            } else {
                consul.register(service, &Standing::Passing).await
            }
        };
        let was_known = is_known;
        let heard = timeout(service.ttl, said).await;
        is_known = matches!(heard, Ok(Ok(())));
        if is_known {
            remark(health, CATALOG, None);
            told.send_replace(Some(sent));
            sleep(service.ttl / 3).await;
        } else if !was_known {
            // An agent that was started again knows it no longer: that is no problem yet.
            let words = heard.map_or_else(
                |_| "Consul is silent".to_owned(),
                |said| said.map_or_else(|error| chain(&error), |()| String::new()),
            );
            remark(health, CATALOG, Some(format!("this conf-master cannot enter Consul's catalog: {words}")));
            sleep(AGAIN).await;
        }
    }
}

impl Elector {
    async fn elect(
        &mut self,
        lander: &Lander,
        mut word: watch::Receiver<Option<Duration>>,
        followed: &mut Option<Followed>,
    ) {
        let mut seen = WatchIndex::default();
        let _ = word.wait_for(Option::is_some).await;
        loop {
            let entry = match self.consul.watch(self.key.key(), &mut seen, WAIT).await {
                Ok(entry) => entry,
                Err(error) => {
                    self.remark(Some(format!("nobody is elected: {}", chain(&error))));
                    sleep(AGAIN).await;
                    continue;
                }
            };
            match self.stand(entry.as_ref(), lander, &mut word, followed).await {
                Ok(()) if entry.is_some() => {}
                // An absent key wakes nobody.
                Ok(()) => sleep(AGAIN).await,
                Err(cause) => {
                    self.remark(Some(format!("this conf-master cannot stand for the election: {}", chain(&*cause))));
                    seen = WatchIndex::default();
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Does what the key asks for: leads, until that is over; or follows.
    async fn stand(
        &mut self,
        entry: Option<&Entry>,
        lander: &Lander,
        word: &mut watch::Receiver<Option<Duration>>,
        followed: &mut Option<Followed>,
    ) -> anyhow::Result<()> {
        let seat: Option<Seat> =
            entry.map(|entry| serde_json::from_slice(&entry.value)).transpose().with_context(|| {
                format!("the key {} holds something else than who leads; remove it, or name another key", self.key)
            })?;
        let held_by = entry.and_then(|entry| entry.session.as_deref());
        if let (Some(seat), Some(session)) = (&seat, held_by) {
            if seat.leader != self.own.name {
                return self.follow(&seat.url, lander, followed).await;
            }
            ensure!(
                seat.url == self.own.url.to_string(),
                "another conf-master, at {}, leads under this one's name; give this one another --standby-name",
                seat.url
            );
            // It is of this server's last run, which is over: the repository is locked.
            self.consul.destroy_session(&SessionId::of(session)).await?;
            anyhow::bail!("the lock of this conf-master's last run is given away first");
        }
        let epoch = lander.published.borrow().epoch();
        let claim = Seat::claim(seat.as_ref(), &self.own.name, epoch, store::is_standby(&self.own.repo));
        if claim == Claim::None {
            self.remark(Some(match seat {
                Some(seat) => format!(
                    "nobody leads, and this conf-master may not: {} led last, in epoch {}, and this one is in epoch {epoch} and \
                     was not in sync",
                    seat.leader, seat.epoch
                ),
                None => format!("nobody has led by {} yet, and a standby is not the first", self.key),
            }));
            return Ok(());
        }
        // From here on it acknowledges nothing to a leader that may still believe in itself.
        if let Some(followed) = followed.take() {
            followed.end().await;
        }
        let session = self.consul.create_session(&self.service.id, LOCK_DELAY).await?;
        let epoch = if claim == Claim::Succeeds { epoch + 1 } else { epoch };
        let seat =
            Seat { leader: self.own.name.clone(), url: self.own.url.to_string(), epoch, in_sync: BTreeSet::new() };
        // Somebody may have led since the key was read, while this program was stopped.
        let (value, index) = (serde_json::to_vec(&seat)?, entry.map(|entry| entry.index));
        let taken = self.consul.acquire(self.key.key(), &value, &session, index).await;
        let led = match taken {
            Ok(true) => {
                let led = self.lead(claim, &session, seat, lander, word).await;
                self.office.end();
                // Whatever ended it, it says no more what is newest.
                lander.stand(Some(Leader::Unknown)).await;
                led
            }
            Ok(false) => Err(anyhow::anyhow!("another one has the lock, or had it a moment ago")),
            Err(error) => Err(error.into()),
        };
        let _ = timeout(LEAVING, self.consul.destroy_session(&session)).await;
        led
    }

    fn remark(&self, words: Option<String>) {
        remark(&self.health, ABOUT, words);
    }

    /// Follows whoever holds the lock.
    async fn follow(&mut self, url: &str, lander: &Lander, followed: &mut Option<Followed>) -> anyhow::Result<()> {
        self.remark(None);
        if followed.as_ref().is_some_and(|one| one.url == url && !one.task.is_finished()) {
            return Ok(());
        }
        if let Some(before) = followed.take() {
            before.end().await;
        }
        let leader: BaseUrl = url.parse().with_context(|| format!("the key {} names no URL", self.key))?;
        // Whoever writes to the key is shown no token without TLS, where servers speak it.
        ensure!(
            leader.url().scheme() == self.own.url.url().scheme(),
            "the key {} names {leader}, and this conf-master is at {}: have both speak TLS, or neither",
            self.key,
            self.own.url
        );
        if !store::is_standby(&self.own.repo) {
            store::begin_standby(&self.own.repo)?;
        }
        lander.stand(Some(Leader::At(leader.clone()))).await;
        info!(%leader, "this conf-master follows");
        let following = Following {
            repo: self.own.repo.clone(),
            servers: Upstreams::new(vec![leader], &self.own.credentials)?,
            is_elected: true,
            name: self.own.name.clone(),
            heard: self.heard.clone(),
            health: self.health.clone(),
        };
        let (stop, lander) = (CancellationToken::new(), lander.clone());
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let _ = until.run_until_cancelled(standby::follow(&following, &lander)).await;
            following.health.remark(standby::ABOUT, None);
        });
        *followed = Some(Followed { url: url.to_owned(), stop, task });
        Ok(())
    }

    /// Leads while the lock is held.
    async fn lead(
        &mut self,
        claim: Claim,
        session: &SessionId,
        mut seat: Seat,
        lander: &Lander,
        word: &mut watch::Receiver<Option<Duration>>,
    ) -> anyhow::Result<()> {
        let ttl = self.service.ttl;
        let said = word.borrow().context("Consul has not heard this server")?;
        self.office.hold_until(said + ttl);
        if claim == Claim::Succeeds {
            succeed(lander).await?;
        }
        lander.stand(None).await;
        info!(epoch = %seat.epoch, "this conf-master is elected, and leads");
        self.remark(None);
        let mut index = None;
        let why = loop {
            tokio::select! {
                biased;
                () = sleep(self.office.left()) => break "Consul was not reached in time".to_owned(),
                Some(KeepOnly { standbys, reply }) = self.requests.recv() => {
                    let _ = reply.send(self.write(&mut seat, standbys, session, &mut index).await);
                }
                () = lander.standbys.joined.notified() => {
                    let joined = lander.standbys.in_sync();
                    if joined != seat.in_sync {
                        self.write(&mut seat, joined, session, &mut index).await;
                    }
                }
                changed = word.changed() => {
                    let Some(sent) = changed.ok().and_then(|()| *word.borrow_and_update()) else { continue };
                    match timeout(self.office.left(), self.consul.get(self.key.key())).await {
                        Ok(Ok(Some(entry))) if session.holds(entry.session.as_deref()) => {
                            self.office.hold_until(sent + ttl);
                            index = Some(entry.index);
                            seat = serde_json::from_slice(&entry.value).context("the key holds something else")?;
                            let joined = lander.standbys.in_sync();
                            if joined != seat.in_sync {
                                self.write(&mut seat, joined, session, &mut index).await;
                            }
                        }
                        Ok(Ok(_)) => break "the lock was lost".to_owned(),
                        // The time that is left decides.
                        Ok(Err(_)) | Err(_) => {}
                    }
                }
            }
        };
        error!("this conf-master leads no more: {why}");
        Ok(())
    }

    /// Writes the list of those in sync; false where that is not certain.
    async fn write(
        &self,
        seat: &mut Seat,
        in_sync: BTreeSet<HostName>,
        session: &SessionId,
        index: &mut Option<u64>,
    ) -> bool {
        if index.is_some() && in_sync == seat.in_sync {
            return true;
        }
        let next = Seat { in_sync, ..seat.clone() };
        // After a failure nobody knows what it holds: it is read anew.
        let known = index.take();
        let written = async {
            let at = match known {
                Some(at) => at,
                None => self.consul.get(self.key.key()).await?.context("the key is gone")?.index,
            };
            let value = serde_json::to_vec(&next)?;
            let swapped = self.consul.swap_held(self.key.key(), &value, session, at).await?;
            swapped.context("the lock was lost")
        };
        match timeout(self.office.left(), written).await.map_err(anyhow::Error::from).flatten() {
            Ok(at) => {
                info!(standbys = %names(&next.in_sync), "these standbys may lead next");
                (*index, *seat) = (Some(at), next);
                true
            }
            Err(cause) => {
                warn!(error = chain(&*cause), "the list of those in sync cannot be written");
                false
            }
        }
    }
}

/// Remarks something, and logs it once.
fn remark(health: &Health, about: &'static str, words: Option<String>) {
    if let Some(words) = &words
        && health.remarked(about).as_ref() != Some(words)
    {
        warn!("{words}");
    }
    health.remark(about, words);
}

fn names(standbys: &BTreeSet<HostName>) -> String {
    let names: Vec<String> = standbys.iter().map(ToString::to_string).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// Begins the next epoch.
async fn succeed(lander: &Lander) -> anyhow::Result<()> {
    let who = Who::User(nix::unistd::getuid().as_raw());
    let pusher = Pusher { principal: Principal::Server, through: "election".to_owned(), who };
    let outcome = lander.land(Push::keys(KeyRequest::Succeed { above: Sequence(0) }, &pusher)).await;
    let words: Vec<String> = outcome.refusals.iter().flatten().map(ToString::to_string).collect();
    ensure!(outcome.sequence.is_some(), "the next epoch cannot begin: {}", words.join("; "));
    outcome.notes.iter().for_each(|line| info!("{line}"));
    Ok(())
}
