//! `GET /api/v1/events`: the snapshots that this slave serves, as it comes to serve them.
//!
//! Hosts hear of a change by this stream also where nothing can be published into Consul. The
//! stream begins with the newest snapshot. A reader that is too slow for every snapshot gets the
//! newest one: each is whole. The freshness statements of the central server go the same way, as
//! they came. Another conf-slave that follows this one hears all that conf-master says.

use std::sync::Arc;

use async_stream::stream;
use conf_core::{
    api::{HistoryEvent, KeysEvent, RelayEvent, SnapshotEvent, WatermarkEvent},
    http::{self as web, Event, Request, Response, StreamPlace, StreamPlaces},
};
use http::StatusCode;
use libconf::name::DatacenterName;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    above::Absence,
    access::may_relay,
    http::{datacenters::not_of, view::View},
    mirror::ServedSnapshot,
};

/// The query.
#[derive(Debug, Deserialize)]
pub(crate) struct EventsQuery {
    datacenter: DatacenterName,
    /// Another conf-slave follows this one.
    #[serde(default)]
    relay: bool,
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
    pub(crate) fn follow(&self, query: &EventsQuery, request: &Request) -> Response {
        let own = self.view.mirror.datacenter();
        if query.datacenter != *own {
            return not_of(own, &query.datacenter);
        }
        let who = &request.principal;
        if query.relay && !may_relay(who) {
            let words = format!("{who} may not follow as a conf-slave; that needs the token of one of {own}");
            return web::error(StatusCode::FORBIDDEN, words);
        }
        let place = match self.places.take(request.peer) {
            Ok(place) => place,
            Err(full) => return *full,
        };
        self.stream(place, query.relay)
    }

    /// The events; those for another conf-slave, too, if one asks.
    fn stream(&self, place: StreamPlace, is_relay: bool) -> Response {
        let view = Arc::clone(&self.view);
        let (mut served, mut problems) = (anew(view.mirror.subscribe()), anew(view.problems.subscribe()));
        let (mut keys, mut heard) = (anew(view.keys.subscribe()), anew(view.heard.subscribe()));
        let (mut tiers, mut absence) = (anew(view.above.subscribe_tiers()), anew(view.above.subscribe_absence()));
        let (mut access, mut watermarks) = (anew(view.access.subscribe()), anew(view.watermark.clone()));
        web::events(stream! {
            let _place = place;
            let mut told = None;
            loop {
                tokio::select! {
                    biased;
                    // Before all else, so that nobody takes this slave for conf-master.
                    changed = tiers.changed(), if is_relay => {
                        if changed.is_err() { return }
                        let tiers = *tiers.borrow_and_update();
                        yield Event::json("relay", None, &RelayEvent { tiers });
                    }
                    // Before a snapshot that another key has signed.
                    changed = keys.changed() => {
                        if changed.is_err() { return }
                        let statements = keys.borrow_and_update().to_vec();
                        if !statements.is_empty() {
                            yield Event::json("keys", None, &KeysEvent { statements });
                        }
                    }
                    changed = access.changed(), if is_relay => {
                        if changed.is_err() { return }
                        access.mark_unchanged();
                        if let Some(list) = view.access.newest() {
                            yield Event::json("access", None, &list);
                        }
                    }
                    changed = served.changed() => {
                        if changed.is_err() { return }
                        let now = served.borrow_and_update().clone();
                        if let Some(now) = now {
                            yield snapshot_event(&view, &now);
                        }
                        // It may have waited for this snapshot.
                        watermarks.mark_changed();
                    }
                    // After the last snapshot, which would say that the datacenter is there.
                    changed = absence.changed(), if is_relay => {
                        if changed.is_err() { return }
                        let now = absence.borrow_and_update().clone();
                        match now {
                            Some(Absence::Deleted(event)) => yield Event::json("deleted", None, &event),
                            Some(Absence::Unknown(event)) => yield Event::json("absent", None, &event),
                            None => {}
                        }
                    }
                    changed = watermarks.changed(), if is_relay => {
                        if changed.is_err() { return }
                        watermarks.mark_unchanged();
                        if let Some(watermark) = view.due_watermark() {
                            yield Event::json("watermark", None, &watermark);
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

/// What is there already counts as a change.
fn anew<T>(mut receiver: watch::Receiver<T>) -> watch::Receiver<T> {
    receiver.mark_changed();
    receiver
}

impl View {
    /// The newest watermark, once the snapshot that it names is served: it says that all up to it
    /// were sent.
    fn due_watermark(&self) -> Option<WatermarkEvent> {
        let (served, watermark) = (self.mirror.served()?, self.watermark.borrow().clone()?);
        let is_due = watermark.snapshot <= served.snapshot.sequence && !self.above.is_absent();
        is_due.then_some(watermark)
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
