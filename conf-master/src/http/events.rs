//! The stream of events: every datacenter's newest snapshot, and watermarks.

use async_stream::stream;
use libconf::{
    name::{DatacenterName, Sequence},
    tier::{
        api::{SnapshotEvent, WatermarkEvent},
        http::{Event, Request, Response, Routes, events, request},
    },
};
use serde::Deserialize;
use warp::Filter as _;

use super::Server;

#[derive(Deserialize)]
struct Query {
    datacenter: DatacenterName,
}

/// `GET /api/v1/events?datacenter=<id>/<version>`
pub(super) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "events")
        .and(warp::get())
        .and(warp::query::<Query>())
        .and(request())
        .map(move |query: Query, request: Request| server.follow(query.datacenter, &request))
        .boxed()
}

impl Server {
    /// A datacenter's newest snapshot now and each time it changes, and watermarks. A reader too slow for every snapshot
    /// gets the newest: each is whole.
    fn follow(&self, datacenter: DatacenterName, request: &Request) -> Response {
        let last: Option<Sequence> = request.header("last-event-id").and_then(|id| id.parse().ok());
        let mut published = self.lander.published();
        published.mark_changed();
        events(stream! {
            let mut sent = last;
            while published.changed().await.is_ok() {
                let now = published.borrow_and_update().clone();
                let Some(snapshot) = now.datacenters.get(&datacenter) else {
                    continue;
                };
                // Unequal, not greater: a reader that is ahead must learn of it too.
                if sent != Some(snapshot.sequence) {
                    sent = Some(snapshot.sequence);
                    let event = SnapshotEvent {
                        central: now.central,
                        datacenter: datacenter.clone(),
                        sequence: snapshot.sequence,
                        commit: snapshot.commit,
                        previous: snapshot.parent,
                    };
                    yield Event::json("snapshot", Some(snapshot.sequence.to_string()), &event);
                }
                let watermark = WatermarkEvent {
                    central: now.central,
                    datacenter: datacenter.clone(),
                    snapshot: snapshot.sequence,
                };
                yield Event::json("watermark", None, &watermark);
            }
        })
    }
}
