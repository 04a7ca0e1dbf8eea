//! Everything that the routes need, and the shapes of answers that they share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use conf_core::daemon::chain;
use conf_core::git_http::{ReceivePack, UploadPack};
use conf_core::http::{Authenticator, Request, Response, Share, Shares, StreamPlaces, Who, error};
use conf_core::manifest::nearest;
use conf_core::snapshot::{Inventories, Snapshot};
use git2::Repository;
use http::{HeaderValue, StatusCode, header};
use libconf::name::{CommitId, DatacenterName, RefName};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use warp::{Filter, filters::BoxedFilter};

use crate::delivery::{AccessStatements, Chains, FreshnessStatements, Hosts, Watermarks};
use crate::fault::{Fault, Refusal, RefusalKind};
use crate::http::leader::LeaderClient;
use crate::inspect::InspectError;
use crate::landing::{Lander, Published, Pusher};
use crate::text::some_of;
use crate::tokens::Joiner;

/// The most datacenters that a refusal names.
const MOST_NAMED: usize = 50;

/// The response of a handler, or its refusal.
pub(crate) type Answered = Result<Response, Response>;

/// Everything that the routes need.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// The repository.
    pub(crate) repo: PathBuf,
    /// Who is let in.
    pub(crate) authenticator: Authenticator,
    /// Lets hosts join.
    pub(crate) joiner: Joiner,
    /// The way to the landing thread.
    pub(crate) lander: Lander,
    /// Places for readers of events.
    pub(crate) streams: StreamPlaces,
    /// Signs watermarks.
    pub(crate) watermarks: Arc<Watermarks>,
    /// Signs who may ask conf-slaves.
    pub(crate) access: Arc<AccessStatements>,
    /// Signs what is newest at a time.
    pub(crate) freshness: Arc<FreshnessStatements>,
    /// The newest report of every host.
    pub(crate) hosts: Arc<Hosts>,
    /// The inventories of datacenters.
    pub(crate) inventories: Arc<Inventories>,
    /// The chains of snapshots.
    pub(crate) chains: Arc<Chains>,
    /// Places for requests that wait for delivery.
    pub(crate) waits: Shares,
    /// Places for renderings.
    pub(crate) renderings: Shares,
    /// Places for those that read the repository.
    pub(crate) reading: Shares,
    /// Places for those that search it.
    pub(crate) searching: Shares,
    /// Places for those that try policies.
    pub(crate) trials: Shares,
    /// Answers fetches.
    pub(crate) upload: Arc<UploadPack>,
    /// Takes pushes.
    pub(crate) receive: Arc<ReceivePack>,
    /// The way to the leader of a standby.
    pub(crate) leader: Arc<LeaderClient>,
    /// Ends this server.
    pub(crate) stop: CancellationToken,
}

/// The datacenter in a path, or the answer to a bad name.
pub(crate) type NamedDatacenter = Result<DatacenterName, Response>;

/// Readings of the repository at once: each may take seconds, and memory. Half are one peer's at
/// most.
pub(crate) const READING_AT_ONCE: u64 = 8;
/// Those that wait for their turn, and how long each of them waits.
pub(crate) const READINGS_WAITING: usize = 1024;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes that are read of a body where there should be none.
const BARE_BYTES: usize = 1024;
/// Why somebody got no place.
pub(crate) const CROWDED: &str = "too much is asked for at once; ask again in a moment";

/// Answers with the response of a handler, or with its refusal.
pub(crate) async fn answer(handler: impl Future<Output = Answered>) -> Response {
    handler.await.unwrap_or_else(|refused| refused)
}

/// Matches `/api/v1/datacenters/<id>/<version>/…`; a bad name is 400.
pub(crate) fn datacenter() -> BoxedFilter<(NamedDatacenter,)> {
    let name = |id: String, version: String| {
        format!("{id}/{version}").parse().map_err(|bad| error(StatusCode::BAD_REQUEST, bad))
    };
    warp::path!("api" / "v1" / "datacenters" / String / String / ..).map(name).boxed()
}

/// Finds a datacenter's newest snapshot; a datacenter that does not exist is 404.
pub(crate) fn newest<'p>(published: &'p Published, name: &DatacenterName) -> Result<&'p Snapshot, Response> {
    published.datacenters.get(name).ok_or_else(|| {
        let known: Vec<String> = published.datacenters.keys().map(ToString::to_string).collect();
        let was = if published.deleted.contains(name) { ": it was deleted" } else { "" };
        let near = nearest(&name.to_string(), known.iter().map(String::as_str));
        let known = some_of(&known, MOST_NAMED).join(", ");
        error(StatusCode::NOT_FOUND, format!("there is no datacenter {name}{was}{near}; there are: {known}"))
    })
}

/// Returns ` (did you mean …?)` when a branch with a similar name exists.
pub(crate) fn near_ref(repo: &Repository, wanted: &RefName) -> String {
    let names = repo.references_glob("refs/heads/*").and_then(|mut all| {
        all.names().map(|name| name.map(str::to_owned)).collect::<Result<Vec<String>, git2::Error>>()
    });
    let names = names.unwrap_or_default();
    nearest(&wanted.short(), names.iter().filter_map(|name| name.strip_prefix("refs/heads/")))
}

impl Server {
    /// Returns a datacenter's newest snapshot; a datacenter that does not exist is 404.
    pub(crate) fn snapshot(&self, name: &DatacenterName) -> Result<Snapshot, Response> {
        newest(&self.lander.published.borrow(), name).cloned()
    }

    /// Reads the repository off the runtime's threads, for a peer.
    pub(crate) async fn read(
        &self,
        who: Who,
        work: impl FnOnce(&Repository) -> Result<Response, InspectError> + Send + 'static,
    ) -> Answered {
        let Ok(reading) = self.reading.take(who, 1, PATIENCE).await else { return Err(unavailable(CROWDED)) };
        self.read_in(reading, work).await
    }

    /// Like [`Server::read`], for a peer that holds a place of another kind: it is not kept while
    /// the peer waits, so there must be a place to read in now.
    pub(crate) async fn read_now(
        &self,
        who: Who,
        work: impl FnOnce(&Repository) -> Result<Response, InspectError> + Send + 'static,
    ) -> Answered {
        let Some(reading) = self.reading.try_take(who, 1) else { return Err(unavailable(CROWDED)) };
        self.read_in(reading, work).await
    }

    async fn read_in(
        &self,
        reading: Share,
        work: impl FnOnce(&Repository) -> Result<Response, InspectError> + Send + 'static,
    ) -> Answered {
        let path = self.repo.clone();
        let read = move || {
            // The place is held to the end, even when the reader has gone.
            let _reading = reading;
            work(&Repository::open_bare(path)?)
        };
        let answer = tokio::task::spawn_blocking(read).await.map_err(InspectError::from).flatten();
        answer.map_err(|why| match why {
            InspectError::NotThere(words) => error(StatusCode::NOT_FOUND, words),
            InspectError::Failed(cause) => {
                tracing::error!(error = chain(&*cause), "cannot read the repository");
                error(StatusCode::INTERNAL_SERVER_ERROR, "conf-master cannot read its repository; its log says why")
            }
        })
    }
}

/// Who pushes, and from which address.
pub(crate) fn pusher(request: &Request) -> Pusher {
    Pusher { principal: request.principal.clone(), through: request.peer.through(), who: request.who() }
}

/// Returns the pusher of a request that has neither query nor body: either may hold a word that
/// somebody relies on, such as a dry run.
pub(crate) async fn bare(request: Request, known: &[&str]) -> Result<Pusher, Response> {
    request.check_query(known)?;
    let pusher = pusher(&request);
    let body = request.body.bytes(BARE_BYTES).await?;
    if matches!(body.trim_ascii(), b"" | b"{}") {
        return Ok(pusher);
    }
    Err(error(StatusCode::BAD_REQUEST, "this path takes no body, and nothing was done; send the request without one"))
}

/// The form in which a configuration is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConfigForm {
    /// An object.
    #[default]
    Object,
    /// Text.
    Text,
}

/// Makes the `ETag` of a section: its branch's commit.
pub(crate) fn etag_of(commit: CommitId) -> Result<HeaderValue, header::InvalidHeaderValue> {
    format!("\"{commit}\"").parse()
}

/// Answers a change that did not land.
pub(crate) fn refused(refusals: Vec<Option<Refusal>>) -> Response {
    let refusals: Vec<Refusal> = refusals.into_iter().flatten().collect();
    if let Some(one) = refusals.iter().find(|one| one.kind == RefusalKind::Busy) {
        return unavailable(&one.reason);
    }
    if let Some(one) = refusals.iter().find(|one| one.kind == RefusalKind::Failed) {
        return error(StatusCode::INTERNAL_SERVER_ERROR, &one.reason);
    }
    if let Some(one) = refusals.iter().find(|one| one.kind == RefusalKind::Denied) {
        return error(StatusCode::FORBIDDEN, &one.reason);
    }
    let faults = refusals.into_iter().filter(|one| one.kind == RefusalKind::Invalid);
    let faults = faults.flat_map(|one| if one.faults.is_empty() { vec![Fault::new(one.reason)] } else { one.faults });
    let faults = Refusal::of(faults.collect());
    let body = json!({"error": faults.reason, "faults": faults.faults});
    conf_core::http::json(StatusCode::UNPROCESSABLE_ENTITY, &body)
}

/// Asks to try again in a second.
pub(crate) fn unavailable(words: &str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, words);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
