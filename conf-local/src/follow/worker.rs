//! The worker: the one task that writes repository and export.

use std::time::{Duration, Instant};

use conf_core::{
    api::Pointer,
    daemon::{self, chain},
    git::Depth,
    retry::{Backoff, with_jitter},
};
use libconf::name::{CommitId, Sequence};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{
        candidates::{Candidates, Reason, Wanted},
        fetch::{Failure, fetch},
        pointer::{self, Decision, SOON, Sources},
    },
    state::{OlderSnapshot, RequestError, WriterRequest},
    transaction::{Audience, Host, TransactionError},
};

/// 5 s: a failure that only a person or another tier can repair is tried again within this.
pub(crate) const LATER: Duration = Duration::from_secs(5);
/// 30 s: a component that cannot be placed on this host is tried again within this.
pub(crate) const MUCH_LATER: Duration = Duration::from_secs(30);

/// 60 s between two attempts to mend damage, or to find what only one source names, at most.
const SELDOM: Duration = Duration::from_secs(60);
/// The end of what is said of a snapshot that can never be used.
const NOT_AGAIN: &str = "; not tried again before the pointer changes";

/// 10 s after a change: then the agent holds no process that the next one starts again.
pub(crate) const IDLE: Duration = Duration::from_secs(10);

/// 10 s for a snapshot that only a server has named: the pointer's own may be waiting.
const EARLY: Duration = Duration::from_secs(10);

/// The task that writes repository and export.
pub(crate) struct Worker<'a> {
    /// `None` only while a blocking step has it.
    pub(crate) host: Option<Host>,
    pub(crate) sources: &'a Sources,
    pub(crate) audience: &'a Audience,
    candidates: &'a Candidates,
    pub(crate) wanted: watch::Receiver<Wanted>,
    /// The snapshot that a fetch builds on.
    pub(crate) have: Option<CommitId>,
    /// A snapshot that was taken before the pointer named it: a pointer below it is late, and no
    /// error.
    ahead: Option<Sequence>,
    /// The next chore, and the time for it.
    pub(crate) chore: Option<(Chore, Instant)>,
    /// The number of changes since the last tidying.
    pub(crate) untidy: u32,
    /// The number of failures in a row that the repository caused though no damage was found.
    pub(crate) in_vain: u32,
    /// The disk could not be put in order at the start.
    pub(crate) unsettled: bool,
    /// The time for the next look for damage.
    pub(crate) next_look: Instant,
    /// The waits between attempts to mend.
    pub(crate) mending: Backoff,
}

/// Work to do after a while without changes.
#[derive(Clone, Copy)]
pub(crate) enum Chore {
    /// Soon after a change: old snapshots, packs.
    Tidy,
    /// Long after it: ends the process that renders, writes the history.
    Release,
}

impl<'a> Worker<'a> {
    /// A worker that has not looked at the disk of `host` yet.
    pub(crate) fn new(host: Host, sources: &'a Sources, audience: &'a Audience, candidates: &'a Candidates) -> Self {
        Worker {
            host: Some(host),
            sources,
            audience,
            candidates,
            wanted: candidates.wanted(),
            have: None,
            ahead: None,
            chore: None,
            untidy: 0,
            in_vain: 0,
            unsettled: false,
            next_look: Instant::now() + with_jitter(LATER),
            mending: Backoff::new(SOON, SELDOM),
        }
    }

    /// Follows the pointer until `stop`. Puts the disk in order first, without asking a server.
    pub(crate) async fn run(mut self, requests: mpsc::Receiver<WriterRequest>, stop: &CancellationToken) {
        self.settle().await;
        self.follow(requests, stop).await;
        // A step that was cut off may have kept the host.
        if self.host.is_some() {
            let is_untidy = self.untidy > 0;
            self.blocking(move |host, audience| host.end(is_untidy, audience)).await;
        }
    }

    async fn follow(&mut self, mut requests: mpsc::Receiver<WriterRequest>, stop: &CancellationToken) {
        let mut soon = Backoff::new(Duration::from_millis(50), SOON);
        let mut later = Backoff::new(Duration::from_millis(200), LATER);
        let mut places = Backoff::new(SOON, MUCH_LATER);
        let mut nowhere = Backoff::new(SOON, SELDOM);
        let mut again: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = requests.recv() => self.serve(request, stop).await,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => [&mut soon, &mut later, &mut nowhere].into_iter().for_each(Backoff::reset),
                    Err(_) => return,
                },
                () = until(again) => {
                    again = None;
                    self.candidates.again();
                }
                () = until(Some(self.next_look)) => {
                    self.look(stop).await;
                    // What it could not put in place is tried again, though the look finds no more.
                    if again.is_none() && self.host.is_some() && self.is_unfinished() {
                        again = Some(Instant::now() + places.next_wait());
                    }
                    continue;
                }
                () = until(self.chore.map(|(_, due)| due)) => {
                    self.do_chore().await;
                    continue;
                }
            }
            // A step that was cut off may have kept the host.
            if stop.is_cancelled() {
                return;
            }
            // Without a pointer, what is exported is what is wanted.
            self.wanted.mark_unchanged();
            let wanted = self.candidates.begin();
            let exported = || self.exported().filter(|_| !self.unsettled).map(|exported| (exported, Instant::now()));
            let Some((wanted, since)) = wanted.or_else(exported) else { continue };
            let taken = self.take(wanted, since, stop).await;
            if stop.is_cancelled() {
                return;
            }
            let is_covered = self.candidates.is_export_named();
            let wait = match &taken {
                Ok(()) if self.host().is_troubled() => Some(places.next_wait()),
                Ok(()) => {
                    places.reset();
                    again = None;
                    None
                }
                Err(Failure::Soon(_) | Failure::Corrupt(_)) => Some(soon.next_wait()),
                Err(Failure::Nowhere(_)) if is_covered => Some(nowhere.next_wait()),
                Err(Failure::Never(_) | Failure::Untrusted(_) | Failure::Overtaken) => None,
                Err(_) => Some(later.next_wait()),
            };
            let is_over = matches!(taken, Err(Failure::Never(_) | Failure::Untrusted(_) | Failure::Overtaken));
            match taken {
                Ok(()) => self.candidates.took(wanted),
                Err(Failure::Overtaken) => self.candidates.overtaken(wanted),
                Err(failure) => self.note(wanted, failure),
            }
            // A pointer that is refused does not end the wait of another one.
            let wait = wait.or_else(|| (is_over && self.candidates.is_any_left()).then(|| soon.next_wait()));
            again = again.into_iter().chain(wait.map(|wait| Instant::now() + wait)).min();
        }
    }

    /// Shows why a pointer could not be taken.
    fn note(&mut self, wanted: Pointer, failure: Failure) {
        if matches!(failure, Failure::Later(_) | Failure::Repository(_)) {
            // Perhaps something on this disk was removed or changed.
            self.next_look = self.next_look.min(Instant::now() + SOON);
        }
        let reason = failure.reason();
        let words = failure.words() + if reason == Reason::Never { NOT_AGAIN } else { "" };
        self.audience.agent.set_failed(&words);
        self.candidates.failed(wanted, reason, &words);
    }

    /// Puts the disk in order, then shows the export. A failure is reported. The pointer leads on
    /// from there; while there is none, each look for damage tries again.
    pub(crate) async fn settle(&mut self) {
        let settled = self.blocking(|host, audience| {
            let result = host.settle(audience);
            host.publish_to(&audience.agent);
            host.tidy(audience, None);
            host.repository.pool.forget();
            result
        });
        let settled = settled.await;
        self.unsettled = settled.is_err();
        match settled {
            Ok(()) => {}
            Err(TransactionError::Damaged(error)) => {
                tracing::warn!(error = chain(&error), "the repository cannot be read");
                self.heal().await;
            }
            Err(error) => self.audience.agent.set_failed(&chain(&error)),
        }
        self.audience.watchers.tell();
    }

    async fn do_chore(&mut self) {
        match self.chore.take() {
            Some((Chore::Tidy, _)) => {
                let is_tidy = self.tidy().await;
                let next = if is_tidy { (Chore::Release, IDLE) } else { (Chore::Tidy, MUCH_LATER) };
                self.chore = Some((next.0, Instant::now() + next.1));
            }
            Some((Chore::Release, _)) => self.blocking(|host, audience| host.rest(&audience.agent)).await,
            None => {}
        }
    }

    /// True if all was done. Where it is not, a chore or the next change tries again.
    pub(crate) async fn tidy(&mut self) -> bool {
        self.untidy = 0;
        self.blocking(|host, audience| host.tidy(audience, None)).await
    }

    /// Serves one request. The caller may have gone.
    async fn serve(&mut self, request: WriterRequest, stop: &CancellationToken) {
        match request {
            WriterRequest::Verify { repair, reply } => {
                drop(reply.send(self.verify(repair, stop).await));
            }
            WriterRequest::Take { snapshot, reply } => {
                let taken = self.take_early(snapshot, stop).await;
                let is_taken = taken.is_ok();
                let _ = reply.send(taken);
                if !is_taken && self.host.is_some() {
                    self.tidy().await;
                }
            }
            WriterRequest::Render { older: OlderSnapshot { snapshot, through, next, guard }, reply } => {
                let rendered = self.blocking(move |host, _| host.render_older(snapshot, through, next)).await;
                drop(guard);
                let _ = reply.send(rendered.map_err(RequestError::from));
                self.tidy().await;
            }
            WriterRequest::Secrets { reply } => {
                let rendered = self.blocking(Host::render_secrets).await;
                let _ = reply.send(rendered.map_err(RequestError::from));
                self.tidy().await;
            }
            WriterRequest::Tidy { guard, reply } => {
                self.blocking(|host, audience| host.tidy(audience, Some(guard))).await;
                let _ = reply.send(());
            }
            WriterRequest::First { snapshot, guard, reply } => {
                let first = self.blocking(move |host, _| host.begins_with(snapshot)).await;
                drop(guard);
                let _ = reply.send(first.map_err(RequestError::from));
                self.tidy().await;
            }
        }
    }

    /// Takes a snapshot that the pointer does not name yet. If it cannot be used, the status does
    /// not show that.
    pub(crate) async fn take_early(&mut self, snapshot: Pointer, stop: &CancellationToken) -> Result<(), RequestError> {
        match self.decide(snapshot) {
            Decision::Nothing | Decision::Late(_) => return Ok(()),
            Decision::Refuse(words) => return Err(RequestError::Wrong(words)),
            Decision::Take => {}
        }
        let brought = self.bring(snapshot, Instant::now(), Some(EARLY), stop).await;
        // It is also exported if some of its content is damaged here and was held back.
        if self.exported() == Some(snapshot) {
            self.ahead = Some(snapshot.sequence);
        }
        match brought {
            Ok(()) => Ok(()),
            Err(Failure::Never(words) | Failure::Untrusted(words)) => Err(RequestError::Wrong(words)),
            Err(failure) => Err(RequestError::Failed(failure.words())),
        }
    }

    fn decide(&self, wanted: Pointer) -> Decision {
        if self.ahead.is_some_and(|ahead| wanted.sequence < ahead) {
            return Decision::Nothing;
        }
        pointer::decide(self.exported(), self.host().known(), wanted)
    }

    pub(crate) fn exported(&self) -> Option<Pointer> {
        self.audience.agent.view().exported.as_ref().map(|exported| exported.snapshot())
    }

    /// Brings the snapshot that the pointer names, and puts it in place.
    pub(crate) async fn take(
        &mut self,
        wanted: Pointer,
        since: Instant,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        match self.decide(wanted) {
            Decision::Nothing => {
                if self.host().lacks_content() {
                    // The fetch brings what the exported snapshot lacks. It may be ahead of the
                    // pointer.
                    return self.bring(self.exported().unwrap_or(wanted), since, None, stop).await;
                }
                if self.host().is_troubled() {
                    let placed = self.blocking(Host::place_again).await;
                    placed.map_err(|error| Failure::Later(chain(&error)))?;
                }
                self.audience.agent.update(|view| view.status.settle());
                Ok(())
            }
            Decision::Late(words) | Decision::Refuse(words) => Err(Failure::Never(words)),
            Decision::Take => {
                self.ahead = None;
                self.audience.agent.set_updating();
                self.bring(wanted, since, None, stop).await
            }
        }
    }

    /// Fetches a snapshot. If that fails with a `limit`, only a server has named the snapshot,
    /// which does not suggest a damaged repository here.
    pub(crate) async fn fetch(&mut self, want: CommitId, limit: Option<Duration>) -> Result<(), Failure> {
        let mut fetched = self.fetch_once(want, Depth::One, limit).await;
        if matches!(fetched, Err(Failure::NoRoom(_))) {
            // A step also brings what the snapshots between the two had, and what was too much.
            self.blocking(|host, _| host.make_room()).await;
            fetched = self.fetch_once(want, Depth::Alone, limit).await;
        }
        if matches!(fetched, Err(Failure::NoRoom(_)))
            && self.blocking(|host, _| host.drop_skipped()).await.unwrap_or(false)
        {
            self.have = None;
            fetched = self.fetch_once(want, Depth::Alone, limit).await;
        }
        match &fetched {
            Err(Failure::Corrupt(_)) if limit.is_none() => self.heal().await,
            // The next look finds what is wrong, unless this goes on.
            Err(Failure::Repository(_)) => self.renew_after_many().await,
            _ => {}
        }
        fetched
    }

    async fn fetch_once(&self, want: CommitId, depth: Depth, limit: Option<Duration>) -> Result<(), Failure> {
        let (repository, servers) = (self.host().repository.pool.clone(), &self.sources.servers);
        let rivals = limit.is_none().then(|| self.candidates.rivals());
        fetch(&self.audience.agent, servers, repository, self.have, (want, depth), limit, rivals).await
    }

    pub(crate) fn host(&self) -> &Host {
        self.host.as_ref().expect("only a blocking step takes the host, and puts it back")
    }

    /// Runs a step that blocks. A panic in it ends the process, which its supervisor starts again.
    pub(crate) async fn blocking<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Host, &Audience) -> T + Send + 'static,
    ) -> T {
        let mut host = self.host.take().expect("this puts the host back before it returns, and nothing else takes it");
        let audience = self.audience.clone();
        let done = daemon::blocking(move || {
            let result = step(&mut host, &audience);
            (host, result)
        });
        let (host, result) = done.await;
        self.host = Some(host);
        result
    }
}

/// Ends at that time, or never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
