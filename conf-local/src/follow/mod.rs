//! Which snapshot is wanted, and the way of it to this host: the pointer is watched, its snapshot fetched from a surrogate
//! or else the central repository, looked at, and put in place. Nothing that is away or damaged changes what readers see.

mod fetch;
mod pointer;
mod told;

use std::time::{Duration, Instant};

use conf_core::{api::Pointer, consul::Consul, daemon::chain, retry::Backoff, template, upstream::Upstreams};
use libconf::name::{CommitId, Sequence};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::follow::pointer::{Decision, Wanted};
use crate::{
    state::{Older, Request, Undone, VerifyReport},
    transaction::{Audience, Host, TransactionError, check::Unchecked},
};

/// Whatever comes back is found again within this.
const SOON: Duration = Duration::from_secs(1);
/// What only a person or another tier can mend is tried again within this.
const LATER: Duration = Duration::from_secs(5);
/// What can hardly be placed on this host, since something stands in the way, within this.
const MUCH_LATER: Duration = Duration::from_secs(30);

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
    tokio::join!(pointer::watch(&sources, &audience, found, &stop), worker.run(requests, &stop));
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
        pointer::decide(exported, known, pointer)
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
