//! `GET /api/v1/events`: the snapshots that this slave serves, as it comes to serve them.
//!
//! Hosts hear of a change by this stream also where nothing can be published into Consul. The
//! stream begins with the newest snapshot. A reader that is too slow for every snapshot gets the
//! newest one: each is whole. The freshness statements of the central server go the same way, as
//! they came.

use std::sync::Arc;

use async_stream::stream;
use conf_core::{
    api::{HistoryEvent, KeysEvent, SnapshotEvent},
    http::{self as web, Event, Peer, Response, StreamPlaces},
};
use http::StatusCode;
use libconf::name::DatacenterName;
use serde::Deserialize;

use crate::{http::view::View, mirror::ServedSnapshot};

/// The query.
#[derive(Debug, Deserialize)]
pub(crate) struct EventsQuery {
    datacenter: DatacenterName,
}

/// The streams, and their bound.
#[derive(Debug)]
pub(crate) struct Streams {
    view: Arc<View>,
    /// A listening host costs one, and some bytes every 2 s.
    places: StreamPlaces,
}

impl Streams {
    pub(crate) fn new(view: Arc<View>, places: StreamPlaces) -> Self {
        Streams { view, places }
    }

    /// Answers with the events of this slave's datacenter.
    pub(crate) fn follow(&self, query: &EventsQuery, peer: Peer) -> Response {
        let view = Arc::clone(&self.view);
        let own = view.mirror.datacenter().clone();
        if query.datacenter != own {
            let words = format!("this conf-slave serves {own}, not {}", query.datacenter);
            return web::error(StatusCode::CONFLICT, words);
        }
        let place = match self.places.take(peer) {
            Ok(place) => place,
            Err(full) => return *full,
        };
        let (mut served, mut problems) = (view.mirror.subscribe(), view.problems.subscribe());
        let (mut keys, mut heard) = (view.keys.subscribe(), view.heard.subscribe());
        served.mark_changed();
        problems.mark_changed();
        keys.mark_changed();
        heard.mark_changed();
        web::events(stream! {
            let _place = place;
            let mut told = None;
            loop {
                tokio::select! {
                    biased;
                    // Before a snapshot that another key has signed.
                    changed = keys.changed() => {
                        if changed.is_err() { return }
                        let statements = keys.borrow_and_update().to_vec();
                        if !statements.is_empty() {
                            yield Event::json("keys", None, &KeysEvent { statements });
                        }
                    }
                    changed = served.changed() => {
                        if changed.is_err() { return }
                        let now = served.borrow_and_update().clone();
                        if let Some(now) = now {
                            yield snapshot_event(&view, &now);
                        }
                    }
                    changed = problems.changed() => {
                        if changed.is_err() { return }
                        problems.mark_unchanged();
                        let refused = view.problems.refused_history();
                        if told.as_ref() != Some(&refused) {
                            told = Some(refused.clone());
                            yield Event::json("history", None, &HistoryEvent { refused });
                        }
                    }
                    changed = heard.changed() => {
                        if changed.is_err() { return }
                        let newest = heard.borrow_and_update().clone();
                        if let Some(newest) = newest {
                            yield Event::json("freshness", None, &*newest);
                        }
                    }
                }
            }
        })
    }
}

fn snapshot_event(view: &View, served: &ServedSnapshot) -> Event {
    let snapshot = &served.snapshot;
    let heard = view.watermark.borrow().as_ref().map_or(snapshot.sequence, |watermark| watermark.central);
    let event = SnapshotEvent {
        central: heard.max(snapshot.sequence),
        datacenter: snapshot.datacenter.clone(),
        sequence: snapshot.sequence,
        commit: snapshot.commit,
        previous: snapshot.parent,
    };
    Event::json("snapshot", Some(snapshot.sequence.to_string()), &event)
}
