//! `GET /api/v1/at`: the newest snapshot of this datacenter not above a change, once this slave
//! knows it.
//!
//! It knows it when the served snapshot is above the change, or when a watermark of the central
//! server says that no snapshot at or below the change is still to come, and the mirror serves the
//! one that the watermark names. Then the chain of snapshots has the answer.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{At, WatermarkEvent},
    daemon::chain,
    http::{self as web, Response, Shares, Who},
    snapshot::{AroundChange, around_change},
};
use git2::Repository;
use http::StatusCode;
use libconf::name::{DatacenterName, Sequence};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    http::{datacenters::not_of, view::View},
    mirror::ServedSnapshot,
};

/// The longest wait of one request. A client that wants to wait longer asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Requests that wait at once, half of them of one peer; each host of a datacenter asks one for
/// each sequence.
const MOST_WAITING: u64 = 4096;
/// Chains that are read at once, half of them for one peer.
const MOST_READING: u64 = 4;
/// Those that wait to read one, and how long each of them waits.
const MOST_TO_READ: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(30);

/// What those hear who are too many.
const CROWDED: &str = "too many questions wait already; ask again in a moment";

/// The query.
#[derive(Debug, Deserialize)]
pub(crate) struct AtQuery {
    datacenter: DatacenterName,
    sequence: Sequence,
    /// Seconds; 60 when absent.
    timeout: Option<f64>,
}

/// The requests, and their bounds.
#[derive(Debug)]
pub(crate) struct Questions {
    view: Arc<View>,
    waiting: Shares,
    reading: Shares,
    stop: CancellationToken,
}

impl Questions {
    pub(crate) fn new(view: Arc<View>, stop: CancellationToken) -> Self {
        let (waiting, reading) = (Shares::halves(MOST_WAITING, 0), Shares::halves(MOST_READING, MOST_TO_READ));
        Questions { view, waiting, reading, stop }
    }
}

/// Returns the change up to which all snapshots are known. A watermark counts once its snapshot is
/// served.
fn known(served: &ServedSnapshot, watermark: Option<&WatermarkEvent>) -> Sequence {
    let sequence = served.snapshot.sequence;
    watermark
        .filter(|watermark| watermark.snapshot <= sequence)
        .map_or(sequence, |watermark| watermark.central.max(sequence))
}

/// Answers as soon as the change is known. When the time is up, the answer says which change is
/// known.
pub(crate) async fn answer(questions: Arc<Questions>, query: AtQuery, who: Who) -> Response {
    let view = &questions.view;
    let own = view.mirror.datacenter();
    if query.datacenter != *own {
        return not_of(own, &query.datacenter);
    }
    let Ok(wait) = Duration::try_from_secs_f64(query.timeout.unwrap_or(LONGEST_WAIT.as_secs_f64())) else {
        return web::error(StatusCode::BAD_REQUEST, "timeout is a number of seconds, as in timeout=10");
    };
    let Some(_waiting) = questions.waiting.try_take(who, 1) else {
        return web::busy(CROWDED, 1);
    };
    let until = tokio::time::sleep(wait.min(LONGEST_WAIT));
    tokio::pin!(until);
    let (mut served, mut watermarks) = (view.mirror.subscribe(), view.watermark.clone());
    let mut central = Sequence::default();
    loop {
        let now = served.borrow_and_update().clone();
        if let Some(now) = now {
            let watermark = watermarks.borrow_and_update().clone();
            central = known(&now, watermark.as_ref());
            if let Some((last, first)) = view.keys.keys().gap(query.sequence) {
                let words = format!(
                    "change {} was replaced: conf-master's history goes on after {last} with {first}",
                    query.sequence
                );
                return web::error(StatusCode::GONE, words);
            }
            if central >= query.sequence {
                return read(&questions, who, (&now, central, watermark), query.sequence).await;
            }
        }
        tokio::select! {
            changed = served.changed() => if changed.is_err() { break },
            changed = watermarks.changed() => if changed.is_err() { break },
            () = &mut until => break,
            () = questions.stop.cancelled() => break,
        }
    }
    web::json(StatusCode::OK, &At { central, at: None, next: None, watermark: None })
}

async fn read(
    questions: &Questions,
    who: Who,
    (served, central, watermark): (&ServedSnapshot, Sequence, Option<WatermarkEvent>),
    change: Sequence,
) -> Response {
    let Ok(_reading) = questions.reading.take(who, 1, PATIENCE).await else {
        return web::busy(CROWDED, 1);
    };
    let (repo, newest) = (questions.view.mirror.repo(), served.snapshot.commit);
    let found = spawn_blocking(move || {
        let repo = Repository::open_bare(repo).map_err(|error| chain(&error))?;
        around_change(&repo, newest, change).map_err(|error| chain(&error))
    });
    match found.await {
        Ok(Ok(AroundChange::Known { at, next })) => {
            let proves = |watermark: &WatermarkEvent| watermark.central >= change && Some(watermark.newest()) == at;
            let watermark = watermark.filter(|watermark| next.is_none() && proves(watermark));
            web::json(StatusCode::OK, &At { central, at, next, watermark })
        }
        Ok(Ok(AroundChange::CutOff)) => {
            let words = format!("this conf-slave does not know what change {change} was; ask the central server");
            web::error(StatusCode::BAD_GATEWAY, words)
        }
        Ok(Err(error)) => web::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => web::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
