//! The worker: the one task that writes repository and export.

use std::time::{Duration, Instant};

use conf_core::{api::Pointer, daemon::chain, retry::Backoff, template};
use libconf::name::{CommitId, Sequence};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::pause,
    follow::{
        fetch::{Failure, fetch},
        pointer::{self, Decision, SOON, Sources, Wanted},
    },
    state::{OlderSnapshot, RequestError, VerifyReport, WriterRequest},
    transaction::{Audience, Host, TransactionError, Unchecked},
};

/// 5 s: a failure that only a person or another tier can repair is tried again within this.
const LATER: Duration = Duration::from_secs(5);
/// 30 s: a component that cannot be placed on this host is tried again within this.
const MUCH_LATER: Duration = Duration::from_secs(30);

/// 100 ms without a change: then the work starts that can wait. By then readers have their files,
/// and other agents on this machine too.
const QUIET: Duration = Duration::from_millis(100);
/// After 16 changes without a pause that work is done in between.
const MOST_UNTIDY: u32 = 16;
/// 60 s: the process that renders waits so long for the next template.
const IDLE: Duration = Duration::from_secs(60);

/// 10 s for a snapshot that only a server has named, since the pointer's own snapshot may be
/// waiting.
const EARLY: Duration = Duration::from_secs(10);

/// Follows the pointer until `stop`. Puts the disk of `host` in order first, without asking a
/// server.
pub(crate) async fn run(
    host: Host,
    sources: Sources,
    audience: Audience,
    requests: mpsc::Receiver<WriterRequest>,
    stop: CancellationToken,
) {
    let (found, wanted) = watch::channel(None);
    let worker = Worker {
        host: Some(host),
        sources: &sources,
        audience: &audience,
        wanted,
        have: None,
        ahead: None,
        chore: None,
        untidy: 0,
    };
    tokio::join!(pointer::watch(&sources, &audience.agent, found, &stop), worker.run(requests, &stop));
}

struct Worker<'a> {
    /// `None` only while a blocking step has it.
    host: Option<Host>,
    sources: &'a Sources,
    audience: &'a Audience,
    wanted: watch::Receiver<Wanted>,
    /// The snapshot that a fetch builds on.
    have: Option<CommitId>,
    /// A snapshot that was taken before the pointer named it: a pointer below it is late, and no
    /// error.
    ahead: Option<Sequence>,
    /// The next chore, and the time for it.
    chore: Option<(Chore, Instant)>,
    /// The number of changes since the last tidying.
    untidy: u32,
}

/// Work to do after a while without changes.
#[derive(Clone, Copy)]
enum Chore {
    /// Soon after a change: history, old snapshots, packs.
    Tidy,
    /// Long after it: ends the process that renders.
    Release,
}

impl Worker<'_> {
    async fn run(mut self, requests: mpsc::Receiver<WriterRequest>, stop: &CancellationToken) {
        self.settle().await;
        self.follow(requests, stop).await;
        // A step that was cut off may have kept the host.
        if self.untidy > 0 && self.host.is_some() {
            self.tidy().await;
        }
    }

    async fn follow(&mut self, mut requests: mpsc::Receiver<WriterRequest>, stop: &CancellationToken) {
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
            // A step that was cut off may have kept the host.
            if stop.is_cancelled() {
                return;
            }
            let Some((wanted, since)) = *self.wanted.borrow_and_update() else { continue };
            let taken = self.take(wanted, since, stop).await;
            if stop.is_cancelled() {
                return;
            }
            again = match &taken {
                Ok(()) if self.host().is_troubled() => Some(places.next_wait()),
                Ok(()) => {
                    places.reset();
                    None
                }
                Err(Failure::Soon(_) | Failure::Corrupt(_)) => Some(soon.next_wait()),
                Err(Failure::Later(_)) => Some(later.next_wait()),
                Err(Failure::Never(_)) => None,
            };
            if let Err(failure) = taken {
                self.audience.agent.set_failed(&failure.words());
            }
        }
    }

    /// Puts the disk in order, then shows the export. A failure is reported, and the pointer leads
    /// on from there.
    async fn settle(&mut self) {
        let settled = self.blocking(|host, audience| {
            let result = host.settle(audience);
            host.publish_to(&audience.agent);
            host.tidy(audience, None);
            host.repository.pool.forget();
            result
        });
        match settled.await {
            Ok(()) => {}
            Err(TransactionError::Damaged(error)) => {
                tracing::warn!(%error, "the repository cannot be read");
                self.heal().await;
            }
            Err(error) => self.audience.agent.set_failed(&chain(&error)),
        }
        self.audience.watchers.tell();
    }

    async fn do_chore(&mut self) {
        match self.chore.take() {
            Some((Chore::Tidy, _)) => {
                self.tidy().await;
                let _ = spawn_blocking(template::prepare).await;
                self.chore = Some((Chore::Release, Instant::now() + IDLE));
            }
            Some((Chore::Release, _)) => drop(spawn_blocking(template::release).await),
            None => {}
        }
    }

    async fn tidy(&mut self) {
        self.untidy = 0;
        self.blocking(|host, audience| host.tidy(audience, None)).await;
    }

    /// Serves one request. The caller may have gone.
    async fn serve(&mut self, request: WriterRequest, stop: &CancellationToken) {
        match request {
            WriterRequest::Verify { repair, reply } => drop(reply.send(self.verify(repair).await)),
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
    async fn take_early(&mut self, snapshot: Pointer, stop: &CancellationToken) -> Result<(), RequestError> {
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
            Err(Failure::Never(words)) => Err(RequestError::Wrong(words)),
            Err(failure) => Err(RequestError::Failed(failure.words())),
        }
    }

    fn decide(&self, wanted: Pointer) -> Decision {
        if self.ahead.is_some_and(|ahead| wanted.sequence < ahead) {
            return Decision::Nothing;
        }
        pointer::decide(self.exported(), self.host().known(), wanted)
    }

    fn exported(&self) -> Option<Pointer> {
        self.audience.agent.view().exported.as_ref().map(|exported| exported.snapshot())
    }

    /// Brings the snapshot that the pointer names, and puts it in place.
    async fn take(&mut self, wanted: Pointer, since: Instant, stop: &CancellationToken) -> Result<(), Failure> {
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

    /// Fetches a newer snapshot, within `limit` if there is one, verifies it, and puts it in place.
    async fn bring(
        &mut self,
        wanted: Pointer,
        since: Instant,
        limit: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let have = match self.host().have_at_hand() {
            Some(have) => Some(have),
            None => self.blocking(|host, _| host.have()).await,
        };
        self.have = have;
        self.chore.get_or_insert((Chore::Release, Instant::now() + IDLE));
        let fetching = async { tokio::join!(self.fetch(wanted.commit, limit), spawn_blocking(template::prepare)).0 };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            fetched = fetching => fetched?,
        }
        let placed = self.blocking(move |host, audience| {
            let snapshot = host.accept(wanted)?;
            host.put_in_place(&snapshot, false, since, audience)
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
            // The next start does it.
            Err(TransactionError::Unchecked(Unchecked::Stopped)) => return Ok(()),
            Err(error) => return Err(Failure::Later(chain(&error))),
        }
        self.audience.agent.update(|view| view.status.settle());
        if have.is_none() {
            self.host().repository.pool.forget();
        }
        self.chore = Some((Chore::Tidy, Instant::now() + QUIET));
        self.untidy += 1;
        if self.untidy >= MOST_UNTIDY {
            self.tidy().await;
        }
        Ok(())
    }

    /// Fetches a snapshot. If that fails with a `limit`, only a server has named the snapshot,
    /// which does not suggest a damaged repository here.
    async fn fetch(&mut self, want: CommitId, limit: Option<Duration>) -> Result<(), Failure> {
        let repository = self.host().repository.pool.clone();
        let servers = &self.sources.servers;
        let fetched = fetch(&self.audience.agent, servers, repository, self.have, want, limit).await;
        if matches!(fetched, Err(Failure::Corrupt(_))) && limit.is_none() {
            self.heal().await;
        }
        fetched
    }

    async fn heal(&mut self) {
        if let Err(error) = self.blocking(|host, _| host.heal()).await {
            tracing::warn!(error = format!("{error:#}"), "no new repository could be created");
        }
    }

    async fn verify(&mut self, repair: bool) -> VerifyReport {
        let first = self.blocking(move |host, audience| host.verify(repair, audience)).await;
        if !repair || first.is_whole() {
            return first;
        }
        // Missing objects are fetched. Then the export can be mended from the repository.
        self.heal().await;
        let exported = self.audience.agent.view().status.commit;
        self.have = self.blocking(|host, _| host.have()).await;
        if let Some(commit) = exported
            && let Err(failure) = self.fetch(commit, None).await
        {
            tracing::warn!(error = failure.words(), "the damaged objects could not be fetched");
            return first;
        }
        let second = self.blocking(|host, audience| host.verify(true, audience)).await;
        let repaired = if second.is_whole() { first.problems.clone() } else { first.repaired };
        VerifyReport { problems: first.problems, repaired, ..second }
    }

    fn host(&self) -> &Host {
        self.host.as_ref().expect("only a blocking step takes the host, and puts it back")
    }

    /// Runs a step that blocks. A panic in it ends the process, which its supervisor starts again.
    async fn blocking<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Host, &Audience) -> T + Send + 'static,
    ) -> T {
        let mut host = self.host.take().expect("this puts the host back before it returns, and nothing else takes it");
        let audience = self.audience.clone();
        let done = spawn_blocking(move || {
            let result = step(&mut host, &audience);
            (host, result)
        });
        let (host, result) = done.await.expect("the step is not cancelled and does not panic");
        self.host = Some(host);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use conf_core::{
        consul::{Consul, ConsulCredentials},
        upstream::{Credentials, Upstreams},
    };

    use super::*;
    use crate::{
        snapshot::SnapshotServers,
        transaction::tests::{Site, take},
    };

    #[tokio::test]
    async fn content_that_is_damaged_here_is_mended_while_the_host_is_ahead_of_the_pointer() {
        let mut site = Site::new();
        site.set("services/a/latest", &[("one", "1")]);
        let first = site.land();
        let (mut host, audience) = site.open();
        take(&mut host, first, &audience).unwrap();
        site.set("services/a/latest", &[("one", "2")]);
        let second = site.land();
        let id = git2::Oid::hash_object(git2::ObjectType::Blob, b"2").unwrap().to_string();
        let object = site.state().join("repo.git/objects").join(&id[..2]).join(&id[2..]);
        let whole = fs::read(&object).unwrap();
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&object, "damaged").unwrap();

        // Nobody answers; objects that are here need no answer.
        let nowhere = |urls: &[&str]| {
            Upstreams::new(urls.iter().map(|url| url.parse().unwrap()).collect(), &Credentials::none()).unwrap()
        };
        let sources = Sources {
            consul: Consul::new(&["http://127.0.0.1:1".to_owned()], ConsulCredentials::default()).unwrap(),
            key: "pointer".to_owned(),
            servers: SnapshotServers::new(nowhere(&[]), nowhere(&["http://127.0.0.1:1"])),
        };
        let mut worker = Worker {
            host: Some(host),
            sources: &sources,
            audience: &audience,
            wanted: watch::channel(None).1,
            have: None,
            ahead: None,
            chore: None,
            untidy: 0,
        };
        let stop = CancellationToken::new();
        assert!(worker.take_early(second, &stop).await.is_err(), "the damage is told");
        assert!(worker.exported() == Some(second) && worker.host().lacks_content());
        // As if the objects were fetched anew.
        let repository = site.state().join("repo.git");
        fs::remove_dir_all(&repository).unwrap();
        fs::rename(site.state().join("repo.git.damaged"), &repository).unwrap();
        fs::write(&object, whole).unwrap();
        worker.host().repository.pool.forget();

        let mended = worker.take(first, Instant::now(), &stop).await.map_err(Failure::words);
        assert_eq!(mended, Ok(()));
        assert!(!worker.host().lacks_content());
        assert_eq!(site.read("services/a/latest/one").as_deref(), Some("2"));
        assert!(worker.take(first, Instant::now(), &stop).await.is_ok(), "a late pointer is no error");
        assert_eq!(worker.exported(), Some(second));
    }
}
