//! The stream of events: every datacenter's newest snapshot, watermarks, freshness statements, and
//! deletions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_stream::stream;
use conf_core::access::{Place, Principal, Scope, Verb};
use conf_core::api::{AbsentEvent, DeletedEvent, KeysEvent, SnapshotEvent};
use conf_core::daemon::chain;
use conf_core::http::{Event, Request, Response, Routes, StreamPlace, error, events, json, request};
use conf_core::snapshot::Snapshot;
use http::StatusCode;
use libconf::name::{DatacenterName, Sequence};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use warp::Filter as _;

use crate::delivery::{AccessFeed, FreshnessFeed, Watermarks};
use crate::http::server::{Answered, NamedDatacenter, Server, answer, datacenter, newest, unavailable};
use crate::judge::Rights;
use crate::landing::Published;

/// The pause between two watermarks. Each is signed, and the last of several says everything that
/// the others did; twenty a second of every datacenter cost some milliseconds.
const BETWEEN_WATERMARKS: Duration = Duration::from_millis(50);

/// The most datacenters that are named to somebody who asks for another one.
const MOST_NAMED: usize = 20;

#[derive(Deserialize)]
struct Query {
    datacenter: DatacenterName,
}

/// `GET /api/v1/events?datacenter=<id>/<version>`, and for who hears no events
/// `GET /api/v1/datacenters/<id>/<version>/access` and `…/freshness`.
pub(crate) fn routes(server: Server) -> Routes {
    let (asked, stated) = (server.clone(), server.clone());
    let events = warp::path!("api" / "v1" / "events")
        .and(warp::get())
        .and(warp::query::<Query>())
        .and(request())
        .map(move |query: Query, request: Request| server.follow(query.datacenter, &request));
    let access = datacenter().and(warp::path!("access")).and(warp::get()).and(request()).then(
        move |name: NamedDatacenter, request: Request| {
            let server = asked.clone();
            answer(async move { server.who_may_ask(&name?, &request.principal) })
        },
    );
    let freshness = datacenter().and(warp::path!("freshness")).and(warp::get()).then(move |name: NamedDatacenter| {
        let server = stated.clone();
        answer(async move { server.state_freshness(&name?) })
    });
    events.boxed().or(access.boxed()).unify().or(freshness.boxed()).unify().boxed()
}

impl Server {
    /// Sends a datacenter's newest snapshot now and each time it changes, watermarks, and freshness
    /// statements; of one that was deleted, that it was. A reader that is too slow for every
    /// snapshot gets the newest one: each is whole.
    fn follow(&self, datacenter: DatacenterName, request: &Request) -> Response {
        let last: Option<Sequence> = request.header("last-event-id").and_then(|id| id.parse().ok());
        if self.freshness.is_silent(&self.lander.published.borrow()) {
            return unavailable("this conf-master is a standby, and does not hear its leader; ask another one");
        }
        match self.streams.take(request.peer) {
            Ok(place) => {
                let (published, watermarks) = (self.lander.published.clone(), self.watermarks.clone());
                let hears = hears_of_access(&request.principal, &published.borrow().rights);
                let access = hears.then(|| AccessFeed::new(self.access.clone()));
                let may = reads(request.principal.clone(), datacenter.clone());
                let freshness = FreshnessFeed::new(self.freshness.clone());
                events_of(datacenter, last, (published, watermarks, access, freshness), (Some(place), may))
            }
            Err(full) => *full,
        }
    }
}

/// What a stream of events follows.
type Followed = (watch::Receiver<Arc<Published>>, Arc<Watermarks>, Option<AccessFeed>, FreshnessFeed);

/// Tells whether somebody is told who may ask conf-slaves: they themselves, and administrators.
fn hears_of_access(who: &Principal, rights: &Rights) -> bool {
    let is_slave = who.named().is_some_and(|named| matches!(named.scope, Scope::Slave(_)));
    rights.is_open || is_slave || rights.policy.check(who, Verb::Administer, Place::nowhere()).is_ok()
}

/// Tells whether somebody still reads a datacenter, whose right the policy may have taken.
fn reads(who: Principal, datacenter: DatacenterName) -> impl Fn(&Rights) -> bool + Send + 'static {
    let only = BTreeSet::from([datacenter]);
    move |rights| {
        let place = Place { datacenters: &only, ..Place::nowhere() };
        rights.is_open || rights.policy.check(&who, Verb::Read, place).is_ok()
    }
}

impl Server {
    fn who_may_ask(&self, datacenter: &DatacenterName, who: &Principal) -> Answered {
        let published = self.lander.published.borrow().clone();
        if !hears_of_access(who, &published.rights) {
            let words =
                format!("{who} may not ask for this: it is for conf-slaves of the datacenter and administrators");
            return Err(error(StatusCode::FORBIDDEN, words));
        }
        self.access.of(&published, datacenter).map_or_else(
            |cause| {
                tracing::error!(error = chain(&cause), %datacenter, "a list of who may ask cannot be signed");
                Err(error(StatusCode::INTERNAL_SERVER_ERROR, "conf-master cannot sign; its log says why"))
            },
            |statement| Ok(json(StatusCode::OK, &*statement)),
        )
    }

    fn state_freshness(&self, datacenter: &DatacenterName) -> Answered {
        let published = self.lander.published.borrow().clone();
        newest(&published, datacenter)?;
        match self.freshness.of(&published, datacenter, Instant::now()) {
            Ok((statement, _)) => Ok(json(StatusCode::OK, &statement.as_deref())),
            Err(cause) => {
                tracing::error!(error = chain(&cause), %datacenter, "a freshness statement cannot be signed");
                Err(error(StatusCode::INTERNAL_SERVER_ERROR, "conf-master cannot sign; its log says why"))
            }
        }
    }
}

/// What a stream of events woke up for.
enum Woken {
    Landing,
    Watermark,
    Freshness,
}

/// The events of one datacenter for a reader that has its snapshot `last`.
fn events_of(
    datacenter: DatacenterName,
    last: Option<Sequence>,
    (mut published, watermarks, mut access, mut freshness): Followed,
    (place, may): (Option<StreamPlace>, impl Fn(&Rights) -> bool + Send + 'static),
) -> Response {
    published.mark_changed();
    events(stream! {
        let _place = place;
        let mut sent = last;
        // The state whose snapshot was sent and whose watermark was not, and when that is due.
        let mut owed: Option<Arc<Published>> = None;
        let mut due = Instant::now();
        let (mut told_deleted, mut told_absent, mut told_keys) = (false, false, 0);
        loop {
            let woken = tokio::select! {
                biased;
                changed = published.changed() => match changed {
                    Ok(()) => Woken::Landing,
                    Err(_) => break,
                },
                () = sleep_until(due), if owed.is_some() => Woken::Watermark,
                () = sleep_until(freshness.due) => Woken::Freshness,
            };
            if matches!(woken, Woken::Freshness) {
                let now = published.borrow().clone();
                if freshness.is_silent(&now) {
                    break;
                }
                if let Some(statement) = freshness.next(&now, &datacenter, Instant::now()) {
                    yield Event::json("freshness", None, &*statement);
                }
            } else if matches!(woken, Woken::Landing) {
                let now = published.borrow_and_update().clone();
                // Before anything that another key may have signed.
                if now.keys.len() != told_keys {
                    told_keys = now.keys.len();
                    yield Event::json("keys", None, &KeysEvent { statements: now.keys.to_vec() });
                }
                let next = |access: &mut AccessFeed| access.next(&now, &datacenter);
                if let Some(statement) = access.as_mut().and_then(next) {
                    yield Event::json("access", None, &*statement);
                }
                if !may(&now.rights) {
                    break;
                }
                let deleted = now.deleted.contains(&datacenter);
                if deleted && !told_deleted {
                    let event = DeletedEvent { central: now.sequence, datacenter: datacenter.clone() };
                    yield Event::json("deleted", None, &event);
                }
                told_deleted = deleted;
                let snapshot = now.datacenters.get(&datacenter);
                if snapshot.is_none() && !deleted && !told_absent {
                    yield Event::json("absent", None, &absent(&now, &datacenter));
                }
                told_absent = snapshot.is_none();
                let Some(snapshot) = snapshot else {
                    // A watermark that was owed would say that the datacenter is there.
                    owed = None;
                    continue;
                };
                // Unequal, not greater: a reader that is ahead must learn of it too.
                if sent != Some(snapshot.sequence) {
                    sent = Some(snapshot.sequence);
                    yield Event::json("snapshot", Some(snapshot.sequence.to_string()), &moved(&now, snapshot));
                }
                owed = Some(now);
                freshness.hurry();
            } else if let Some(now) = owed.take() {
                due = Instant::now() + BETWEEN_WATERMARKS;
                match watermarks.of(&now, &datacenter) {
                    Ok(Some(watermark)) => yield Event::json("watermark", None, &*watermark),
                    Ok(None) => {}
                    Err(error) => tracing::error!(error = %chain(&error), %datacenter, "a watermark cannot be signed"),
                }
            }
        }
    })
}

fn moved(now: &Published, snapshot: &Snapshot) -> SnapshotEvent {
    SnapshotEvent {
        central: now.sequence,
        datacenter: snapshot.datacenter.clone(),
        sequence: snapshot.sequence,
        commit: snapshot.commit,
        previous: snapshot.parent,
    }
}

fn absent(now: &Published, datacenter: &DatacenterName) -> AbsentEvent {
    AbsentEvent {
        central: now.sequence,
        datacenter: datacenter.clone(),
        known: now.datacenters.keys().take(MOST_NAMED).cloned().collect(),
        more: now.datacenters.len().saturating_sub(MOST_NAMED),
    }
}

#[cfg(test)]
mod tests {
    use crate::delivery::FreshnessStatements;
    use conf_core::sign::SigningKey;
    use http_body_util::BodyExt as _;
    use libconf::name::{CommitId, ObjectId};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn no_watermark_follows_a_deletion() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = SigningKey::generate(&path, "test").unwrap();
        let statements = Arc::new(FreshnessStatements::new(Duration::from_secs(60), Arc::default()));
        let freshness = FreshnessFeed::new(statements);
        let name: DatacenterName = "dc/v1".parse().unwrap();
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
        let signer = Some(Arc::new(key));
        let there = Published { sequence: Sequence(1), datacenters, signer, ..Published::default() };
        let (publish, published) = watch::channel(Arc::new(there));
        let anybody = (None, |_: &Rights| true);
        let mut body = events_of(name.clone(), None, (published, Arc::default(), None, freshness), anybody).into_body();
        let beat = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(beat.starts_with(b"event: heartbeat"), "{beat:?}");
        // On a busy machine another heartbeat may come at any place.
        let mut next = async || loop {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            // And a freshness statement, of the time before.
            if !frame.starts_with(b"event: heartbeat") && !frame.starts_with(b"event: freshness") {
                break String::from_utf8_lossy(&frame).into_owned();
            }
        };
        for expected in ["event: snapshot", "event: deleted"] {
            let text = next().await;
            assert!(text.contains(expected), "{text}");
            let deleted = [name.clone()].into();
            let gone = Published { sequence: Sequence(2), deleted, ..Published::default() };
            publish.send_if_modified(|now| {
                let modified = now.deleted.is_empty();
                *now = Arc::new(gone);
                modified
            });
        }
        // The watermark of the snapshot would be due at once.
        let more = timeout(BETWEEN_WATERMARKS, next()).await;
        assert!(more.is_err(), "{more:?} followed");
    }
}
