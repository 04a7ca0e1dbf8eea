//! Which snapshot is wanted, and the way of it to this host: the pointer is watched, its snapshot fetched from a surrogate
//! or else the central repository, looked at, and put in place. Nothing that is away or damaged changes what readers see.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use libconf::{
    name::{CommitId, Sequence},
    tier::{
        api::HostState,
        consul::{Consul, Seen},
        daemon::chain,
        hedge::Hedge,
        pack::{self, Depth, FetchError, Step},
        pointers::Pointer,
        template,
        upstream::{Backoff, Upstream, Upstreams},
    },
};
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    check::Unchecked,
    state::{Older, PointerSeen, Request, Undone, VerifyReport},
    transaction::{Audience, Host, TransactionError},
};

/// How long one question for the pointer waits for a change: one request a minute from an idle host.
const WAIT: Duration = Duration::from_secs(60);
/// Whatever comes back is found again within this.
const SOON: Duration = Duration::from_secs(1);
/// What only a person or another tier can mend is tried again within this.
const LATER: Duration = Duration::from_secs(5);
/// What can hardly be placed on this host, since something stands in the way, within this.
const MUCH_LATER: Duration = Duration::from_secs(30);
/// A step that takes longer is asked of the next server as well; the first answer counts.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a first fetch, which is long by nature.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(60);

/// What can wait is done when nothing has come for so long: other hosts on this machine, and the readers, have their files by then.
const QUIET: Duration = Duration::from_millis(100);
/// But after so many changes it is done in between.
const MOST_UNTIDY: u32 = 16;
/// How long a process waits for the next template.
const IDLE: Duration = Duration::from_secs(60);

/// Whatever was named by a server alone is given no more time, since the pointer's own snapshot may be waiting.
const EARLY: Duration = Duration::from_secs(10);

/// Where pointers and snapshots come from.
#[derive(Debug)]
pub struct Sources {
    /// Holds the pointer.
    pub consul: Consul,
    /// The datacenter's authoritative key.
    pub key: String,
    /// The conf-slaves of this datacenter.
    pub surrogates: Upstreams,
    /// Asked when no surrogate has it.
    pub central: Upstreams,
}

/// A pointer as it was read, and when.
type Wanted = Option<(Pointer, Instant)>;

/// Follows the pointer until `stop`. What `host` has on disk is put in order first, without asking anybody.
pub async fn run(
    host: Host,
    sources: Sources,
    audience: Audience,
    requests: mpsc::Receiver<Request>,
    stop: CancellationToken,
) {
    let (found, wanted) = watch::channel(None);
    let worker = Worker {
        host: Some(host),
        sources: &sources,
        audience: &audience,
        wanted,
        last_have: None,
        ahead: None,
        chore: None,
        untidy: 0,
    };
    tokio::join!(watch_pointer(&sources, &audience, found, &stop), worker.run(requests, &stop));
}

/// Sends every pointer that is read. An absent or damaged one is told, and never sent.
async fn watch_pointer(sources: &Sources, audience: &Audience, found: watch::Sender<Wanted>, stop: &CancellationToken) {
    let mut seen = Seen::default();
    let mut backoff = Backoff::new(Duration::from_millis(50), SOON);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = sources.consul.watch(&sources.key, &mut seen, WAIT) => answer,
        };
        let pause = match answer {
            Ok(Some(entry)) => {
                audience.back("consul");
                backoff.reset();
                match std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<Pointer>().ok()) {
                    Some(pointer) => {
                        audience.back("pointer");
                        let (sequence, commit) = (pointer.sequence, pointer.commit);
                        audience.agent.update(|view| view.status.pointer = Some(PointerSeen { sequence, commit }));
                        let now = Instant::now();
                        found.send_if_modified(|wanted| {
                            let modified = wanted.is_none_or(|(before, _)| before != pointer);
                            *wanted = if modified { Some((pointer, now)) } else { *wanted };
                            modified
                        });
                    }
                    None => audience.away("pointer", format!("the value of {} is not a pointer; ignored", sources.key)),
                }
                continue;
            }
            Ok(None) => {
                audience.back("consul");
                // Watching an absent key wakes at every write of anybody, so it is asked for now and then.
                audience.away("pointer", format!("Consul has no key {}; waiting for it", sources.key));
                SOON / 2 + rand::rng().random_range(Duration::ZERO..SOON / 2)
            }
            Err(error) => {
                audience.away("consul", chain(&error));
                backoff.next_wait()
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// What a pointer asks of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is what is exported.
    Nothing,
    /// It is older than what this host has taken.
    Late(String),
    /// It is another one of the same number as what this host has taken.
    Refuse(String),
    /// It is newer, or taken already and not exported yet.
    Take,
}

/// Decides what to do about a pointer, by what is exported and by the newest snapshot that was ever taken.
pub fn decide(
    exported: Option<(Sequence, CommitId)>,
    known: Option<(Sequence, CommitId)>,
    pointer: Pointer,
) -> Decision {
    let wanted = (pointer.sequence, pointer.commit);
    match known {
        Some((sequence, _)) if wanted.0 < sequence => Decision::Late(format!(
            "the pointer names #{}, older than #{sequence}, which this host has taken already; ignored",
            wanted.0
        )),
        Some((sequence, commit)) if wanted.0 == sequence && wanted.1 != commit && !commit.is_zero() => {
            Decision::Refuse(format!(
                "the pointer names {} as #{sequence}, but this host has taken {} as #{sequence}; ignored",
                wanted.1.short(),
                commit.short()
            ))
        }
        _ if exported == Some(wanted) => Decision::Nothing,
        _ => Decision::Take,
    }
}

/// Why the wanted snapshot is not in place, and when to try again.
enum Failure {
    /// Something is away; it may be back in a moment.
    Soon(String),
    /// Hardly mends itself at once: a full disk, a snapshot that nobody has.
    Later(String),
    /// Will not do, however often it is tried.
    Never(String),
}

/// The one who writes repository and export.
struct Worker<'a> {
    /// Away only while a blocking step has it.
    host: Option<Host>,
    sources: &'a Sources,
    audience: &'a Audience,
    wanted: watch::Receiver<Wanted>,
    last_have: Option<CommitId>,
    /// Taken before the pointer named it: what the pointer says below it is late, and no fault.
    ahead: Option<Sequence>,
    /// And when.
    chore: Option<(Chore, Instant)>,
    /// How many changes were taken since it was tidy.
    untidy: u32,
}

/// What is to be done when nothing has come for a while.
#[derive(Clone, Copy)]
enum Chore {
    /// After a change: history, old snapshots, packs.
    Tidy,
    /// Long after it.
    Release,
}

impl Chore {
    /// The same, and when: after its while from now.
    fn due_after(self) -> (Self, Instant) {
        let after = match self {
            Chore::Tidy => QUIET,
            Chore::Release => IDLE,
        };
        (self, Instant::now() + after)
    }
}

impl Worker<'_> {
    async fn run(mut self, requests: mpsc::Receiver<Request>, stop: &CancellationToken) {
        self.settle().await;
        self.follow(requests, stop).await;
        // What was broken off may have taken the host along.
        if self.untidy > 0 && self.host.is_some() {
            self.tidy().await;
        }
    }

    async fn follow(&mut self, mut requests: mpsc::Receiver<Request>, stop: &CancellationToken) {
        let mut soon = Backoff::new(Duration::from_millis(50), SOON);
        let mut later = Backoff::new(Duration::from_millis(200), LATER);
        let mut places = Backoff::new(SOON, MUCH_LATER);
        let mut again = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = requests.recv() => self.serve(request, stop).await,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => { soon.reset(); later.reset(); }
                    Err(_) => return,
                },
                () = pause(again) => {}
                () = pause(self.chore.map(|(_, due)| due.saturating_duration_since(Instant::now()))) => {
                    self.do_chore().await;
                    continue;
                }
            }
            // What was broken off may have taken the host along.
            if stop.is_cancelled() {
                return;
            }
            let Some((pointer, since)) = *self.wanted.borrow_and_update() else { continue };
            let taken = self.take(pointer, since, stop).await;
            if stop.is_cancelled() {
                return;
            }
            again = match taken {
                Ok(()) if self.host().is_troubled() => Some(places.next_wait()),
                Ok(()) => {
                    places.reset();
                    None
                }
                Err(Failure::Soon(words)) => {
                    self.audience.failed(words);
                    Some(soon.next_wait())
                }
                Err(Failure::Later(words)) => {
                    self.audience.failed(words);
                    Some(later.next_wait())
                }
                Err(Failure::Never(words)) => {
                    self.audience.failed(words);
                    None
                }
            };
        }
    }

    /// Puts in order what is on disk, then shows it. A failure is told; the pointer leads on from there.
    async fn settle(&mut self) {
        let audience = self.audience.clone();
        let result = self.blocking(move |host| {
            let result = host.settle(&audience);
            host.publish_to(&audience.agent);
            host.tidy(&audience, None);
            host.close_repository();
            result
        });
        match result.await {
            Ok(_) => {}
            Err(TransactionError::Damaged(error)) => {
                tracing::warn!(%error, "the repository cannot be read");
                self.heal().await;
            }
            Err(error) => self.audience.failed(chain(&error)),
        }
        self.audience.watchers.tell();
    }

    async fn do_chore(&mut self) {
        match self.chore.take() {
            Some((Chore::Tidy, _)) => {
                self.tidy().await;
                let _ = spawn_blocking(template::prepare).await;
                self.chore = Some(Chore::Release.due_after());
            }
            Some((Chore::Release, _)) => drop(spawn_blocking(template::release).await),
            None => {}
        }
    }

    async fn tidy(&mut self) {
        self.untidy = 0;
        let audience = self.audience.clone();
        self.blocking(move |host| host.tidy(&audience, None)).await;
    }

    /// Does what somebody asks for. Whoever asked may have gone.
    async fn serve(&mut self, request: Request, stop: &CancellationToken) {
        match request {
            Request::Verify { repair, reply } => drop(reply.send(self.verify(repair).await)),
            Request::Take { pointer, reply } => {
                let taken = self.take_early(pointer, stop).await;
                let is_taken = taken.is_ok();
                let _ = reply.send(taken);
                if !is_taken && self.host.is_some() {
                    self.tidy().await;
                }
            }
            Request::Render { older: Older { snapshot, through, next, fetching }, reply } => {
                let rendered = self.blocking(move |host| host.render_older(snapshot, through, next)).await;
                drop(fetching);
                let _ = reply.send(rendered.map_err(Undone::from));
                self.tidy().await;
            }
            Request::Tidy { alone, reply } => {
                let audience = self.audience.clone();
                self.blocking(move |host| host.tidy(&audience, Some(alone))).await;
                let _ = reply.send(());
            }
            Request::First { snapshot, fetching, reply } => {
                let first = self.blocking(move |host| host.begins_with(snapshot)).await;
                drop(fetching);
                let _ = reply.send(first.map_err(Undone::from));
                self.tidy().await;
            }
        }
    }

    /// Takes a snapshot that the pointer does not name yet. One that will not do is no state of this host.
    async fn take_early(&mut self, pointer: Pointer, stop: &CancellationToken) -> Result<(), Undone> {
        match self.decide(pointer) {
            Decision::Nothing | Decision::Late(_) => return Ok(()),
            Decision::Refuse(words) => return Err(Undone::Wrong(words)),
            Decision::Take => {}
        }
        let since = Instant::now();
        let brought = self.bring(pointer, since, Some(EARLY), stop).await;
        if brought.is_ok() {
            self.ahead = Some(pointer.sequence);
        }
        brought.map_err(|failure| match failure {
            Failure::Soon(words) | Failure::Later(words) => Undone::Failed(words),
            Failure::Never(words) => Undone::Wrong(words),
        })
    }

    fn decide(&self, pointer: Pointer) -> Decision {
        let exported =
            self.audience.agent.view().exported.as_ref().map(|exported| (exported.sequence, exported.commit));
        let known = self.host().known();
        if self.ahead.is_some_and(|ahead| pointer.sequence < ahead) {
            return Decision::Nothing;
        }
        decide(exported, known, pointer)
    }

    /// Brings what the pointer names, and puts it in place.
    async fn take(&mut self, pointer: Pointer, since: Instant, stop: &CancellationToken) -> Result<(), Failure> {
        match self.decide(pointer) {
            Decision::Nothing => {
                if self.host().is_troubled() {
                    let audience = self.audience.clone();
                    let placed = self.blocking(move |host| host.place_again(&audience)).await;
                    placed.map_err(|error| Failure::Later(chain(&error)))?;
                }
                self.audience.current();
                Ok(())
            }
            Decision::Late(words) | Decision::Refuse(words) => Err(Failure::Never(words)),
            Decision::Take => {
                self.ahead = None;
                self.audience.updating();
                self.bring(pointer, since, None, stop).await
            }
        }
    }

    /// Fetches a newer snapshot, within `limit` if at all, looks at it, and puts it in place.
    async fn bring(
        &mut self,
        pointer: Pointer,
        since: Instant,
        limit: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let have = match self.host().have_at_hand() {
            Some(have) => Some(have),
            None => self.blocking(Host::have).await,
        };
        self.last_have = have;
        self.chore.get_or_insert(Chore::Release.due_after());
        let fetching = async { tokio::join!(self.fetch(pointer.commit, limit), spawn_blocking(template::prepare)).0 };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            fetched = fetching => fetched?,
        }
        let audience = self.audience.clone();
        let placed = self.blocking(move |host| {
            let snapshot = host.accept(pointer)?;
            host.put_in_place(&snapshot, false, since, &audience)
        });
        match placed.await {
            Ok(()) => {}
            Err(error @ TransactionError::Damaged(_)) => {
                self.heal().await;
                return Err(Failure::Soon(chain(&error)));
            }
            Err(error @ (TransactionError::Refused(_) | TransactionError::Untrusted(_))) => {
                return Err(Failure::Never(chain(&error)));
            }
            // It is done after the next start.
            Err(TransactionError::Unchecked(Unchecked::Stopped)) => return Ok(()),
            Err(
                error @ (TransactionError::Export(_)
                | TransactionError::Journal(_)
                | TransactionError::Unchecked(Unchecked::System(_))),
            ) => {
                return Err(Failure::Later(chain(&error)));
            }
        }
        self.audience.current();
        if have.is_none() {
            self.host().close_repository();
        }
        self.chore = Some(Chore::Tidy.due_after());
        self.untidy += 1;
        if self.untidy >= MOST_UNTIDY {
            self.tidy().await;
        }
        Ok(())
    }

    /// Asks surrogates in order, then the central repository. One that is slow is not waited for alone. What is only wanted
    /// within a `limit` was named by a server alone, and is no reason to think that this repository is damaged.
    async fn fetch(&mut self, want: CommitId, limit: Option<Duration>) -> Result<(), Failure> {
        let repository = self.host().opened();
        let step = Step { have: self.last_have.filter(|have| *have != want), want, depth: Depth::One };
        let patience = if step.have.is_some() { PATIENCE } else { PATIENCE_AT_FIRST };
        let mut servers = self.sources.surrogates.in_order();
        servers.extend(self.sources.central.in_order());
        // Each has its turn within the limit.
        let turns = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_add(1);
        let patience = limit.map_or(patience, |limit| patience.min(limit / turns));
        let hedge = Hedge::new(servers, patience, move |server| {
            let repository = repository.clone();
            async move { pack::fetch(&server, repository, step).await }
        });
        let mut hedge = hedge.putting_slow_ones_last();
        let until = limit.map(|limit| tokio::time::Instant::now() + limit);
        let mut problems = Problems::default();
        loop {
            // Not the first answer but the first good one; those who are still asked then are dropped.
            let answer = match until {
                None => hedge.next().await,
                Some(until) => timeout_at(until, hedge.next()).await.map_err(|_| {
                    problems.words.push("no good answer in time".to_owned());
                    Failure::Soon(problems.told(want))
                })?,
            };
            let Some((server, result)) = answer else { break };
            if self.heard(&server, result, &mut problems)? {
                return Ok(());
            }
        }
        if problems.corrupt && limit.is_none() {
            // Perhaps what it builds on is damaged here.
            self.heal().await;
        }
        let words = problems.told(want);
        if problems.somebody_away || problems.corrupt { Err(Failure::Soon(words)) } else { Err(Failure::Later(words)) }
    }

    /// Takes note of one server's answer; true when it was good.
    fn heard(
        &self,
        server: &Arc<Upstream>,
        result: Result<pack::Fetched, FetchError>,
        problems: &mut Problems,
    ) -> Result<bool, Failure> {
        let name = server.url().to_string();
        let error = match result {
            Ok(fetched) => {
                tracing::debug!(server = name, wire_bytes = fetched.wire_bytes, requests = fetched.requests, "fetched");
                if fetched.requests > 0 {
                    server.report(true);
                    self.audience.back(&name);
                }
                return Ok(true);
            }
            Err(error) => error,
        };
        let words = chain(&error);
        match error {
            FetchError::Repository { .. } => return Err(Failure::Later(words)),
            FetchError::NotFound { .. } => {
                server.report(true);
                self.audience.back(&name);
            }
            FetchError::Corrupt { .. } => {
                problems.corrupt = true;
                server.report(false);
                self.audience.away(&name, words.clone());
            }
            FetchError::Unreachable(_) | FetchError::Refused(_) => {
                problems.somebody_away = true;
                server.report(false);
                self.audience.away(&name, words.clone());
            }
        }
        problems.words.push(words);
        Ok(false)
    }

    async fn heal(&mut self) {
        if let Err(error) = self.blocking(Host::heal).await {
            tracing::warn!(error = %chain(&error), "the repository could not be begun anew");
        }
    }

    async fn verify(&mut self, repair: bool) -> VerifyReport {
        let audience = self.audience.clone();
        let first = self.blocking(move |host| host.verify(repair, &audience)).await;
        if !repair || first.is_whole() {
            return first;
        }
        // What the repository lacks is fetched; then the export can be mended from it.
        self.heal().await;
        let exported = self.audience.agent.view().status.commit;
        self.last_have = self.blocking(Host::have).await;
        if let Some(commit) = exported
            && let Err(Failure::Soon(words) | Failure::Later(words) | Failure::Never(words)) =
                self.fetch(commit, None).await
        {
            tracing::warn!(error = words, "what is damaged could not be fetched");
            return first;
        }
        let audience = self.audience.clone();
        let second = self.blocking(move |host| host.verify(true, &audience)).await;
        let repaired = if second.is_whole() { first.problems.clone() } else { first.repaired };
        VerifyReport { problems: first.problems, repaired, ..second }
    }

    fn host(&self) -> &Host {
        self.host.as_ref().expect("only a blocking step takes it, and puts it back")
    }

    /// Runs a step that blocks. A panic in it ends the process, and its supervisor starts it fresh.
    async fn blocking<T: Send + 'static>(&mut self, step: impl FnOnce(&mut Host) -> T + Send + 'static) -> T {
        let mut host = self.host.take().expect("it is put back before this returns, and nothing else takes it");
        let done = spawn_blocking(move || {
            let result = step(&mut host);
            (host, result)
        });
        let (host, result) = done.await.expect("it is neither cancelled nor does it panic");
        self.host = Some(host);
        result
    }
}

async fn pause(length: Option<Duration>) {
    match length {
        Some(length) => sleep(length).await,
        None => std::future::pending().await,
    }
}

/// What one round of asking has met.
#[derive(Default)]
struct Problems {
    words: Vec<String>,
    somebody_away: bool,
    corrupt: bool,
}

impl Problems {
    fn told(&self, want: CommitId) -> String {
        format!("snapshot {} cannot be fetched: {}", want.short(), self.words.join("; "))
    }
}

impl Audience {
    /// Something cannot be reached, or is damaged: said once, shown until it is back.
    pub(crate) fn away(&self, what: &str, words: impl Into<String>) {
        let words: String = words.into();
        let mut new = false;
        self.agent.update(|view| {
            new = !view.status.away.contains_key(what);
            view.status.away.insert(what.to_owned(), words.clone());
            if view.exported.is_none() && view.status.state == HostState::Updating {
                view.status.error = Some(words.clone());
            }
        });
        if new {
            tracing::warn!(what, reason = words, "away; what is exported stays in use");
        }
    }

    /// It is back.
    pub(crate) fn back(&self, what: &str) {
        if !self.agent.view().status.away.contains_key(what) {
            return;
        }
        self.agent.update(|view| drop(view.status.away.remove(what)));
        tracing::info!(what, "back");
    }

    /// The wanted snapshot is known and on its way.
    fn updating(&self) {
        self.agent.update(|view| {
            // A retry is no new state: why it failed stays visible.
            if view.status.state == HostState::Current {
                view.status.state = HostState::Updating;
            }
        });
    }

    /// What the pointer names is exported.
    fn current(&self) {
        self.agent.update(|view| view.status.settle());
    }

    /// The wanted snapshot could not be taken; said once.
    fn failed(&self, words: impl Into<String>) {
        let words: String = words.into();
        let mut new = false;
        self.agent.update(|view| {
            new = view.status.error.as_ref() != Some(&words) || view.status.state != HostState::Failed;
            view.status.state = HostState::Failed;
            view.status.error = Some(words.clone());
        });
        if new {
            tracing::warn!(reason = words, "the wanted snapshot is not in place; what is exported stays in use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    #[test]
    fn what_a_pointer_asks() {
        let at = |sequence, digit| Some((Sequence(sequence), commit(digit)));
        let pointer = |sequence, digit| Pointer { sequence: Sequence(sequence), commit: commit(digit) };
        let refused = |decision| matches!(decision, Decision::Refuse(_));
        let late = |decision| matches!(decision, Decision::Late(_));
        assert_eq!(decide(None, None, pointer(1, 'a')), Decision::Take);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'a')), Decision::Nothing);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(6, 'b')), Decision::Take);
        // Taken, but not exported yet: a restart in between, or a disk that was full.
        assert_eq!(decide(at(5, 'a'), at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert_eq!(decide(None, at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert!(late(decide(at(5, 'a'), at(5, 'a'), pointer(4, 'c'))));
        assert!(late(decide(at(5, 'a'), at(6, 'b'), pointer(5, 'a'))));
        assert!(refused(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'c'))));
        // Its own commit was lost: the number alone must not bring another one back below it.
        assert!(late(decide(None, Some((Sequence(5), CommitId::ZERO)), pointer(4, 'a'))));
        assert_eq!(decide(None, Some((Sequence(5), CommitId::ZERO)), pointer(5, 'a')), Decision::Take);
    }
}
