//! `GET /api/v1/at`: which snapshot is this datacenter's newest not above a change, once that is known here.
//!
//! It is known when the snapshot that is served is above the change, or when the central server has told that nothing at or
//! below the change is still on its way (a watermark) and the mirror serves as far. Then the chain of snapshots answers.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{At, WatermarkEvent},
    http::{self as web, Response},
    snapshot::{self, AroundChange},
};
use git2::Repository;
use http::StatusCode;
use libconf::name::{DatacenterName, Sequence};
use serde::Deserialize;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{http::Shown, mirror::Serving};

/// The longest that one question waits; who wants to wait longer asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Questions that wait at once; hosts of a datacenter ask one for each sequence.
const MOST_WAITING: usize = 4096;
/// Chains that are followed at once.
const MOST_READING: usize = 4;

/// The query.
#[derive(Debug, Deserialize)]
pub struct AtQuery {
    datacenter: DatacenterName,
    sequence: Sequence,
    /// Seconds; 60 when it is left out.
    timeout: Option<f64>,
}

/// What bounds the questions.
#[derive(Debug)]
pub struct Bounds {
    waiting: Semaphore,
    reading: Semaphore,
    stop: CancellationToken,
}

impl Bounds {
    /// Questions that wait end with `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Bounds { waiting: Semaphore::new(MOST_WAITING), reading: Semaphore::new(MOST_READING), stop }
    }
}

/// Up to which change all snapshots are known: what was heard counts once it is served.
fn known(serving: &Serving, heard: Option<&WatermarkEvent>) -> Sequence {
    let sequence = serving.snapshot.sequence;
    heard.filter(|heard| heard.snapshot <= sequence).map_or(sequence, |heard| heard.central.max(sequence))
}

/// Answers once the change is known, or by what is known when time is up.
pub async fn answer(shown: Arc<Shown>, query: AtQuery) -> Response {
    let own = shown.mirror.datacenter();
    if query.datacenter != *own {
        let words = format!("this conf-slave serves {own}, not {}", query.datacenter);
        return web::error(StatusCode::CONFLICT, words);
    }
    let Ok(wait) = Duration::try_from_secs_f64(query.timeout.unwrap_or(LONGEST_WAIT.as_secs_f64())) else {
        return web::error(StatusCode::BAD_REQUEST, "timeout is a number of seconds, as in timeout=10");
    };
    let Ok(_waiting) = shown.bounds.waiting.try_acquire() else {
        return web::error(StatusCode::SERVICE_UNAVAILABLE, "too many questions wait already; ask again in a moment");
    };
    let until = tokio::time::sleep(wait.min(LONGEST_WAIT));
    tokio::pin!(until);
    let (mut servings, mut watermarks) = (shown.mirror.subscribe(), shown.central.clone());
    let mut central = Sequence::default();
    loop {
        let serving = servings.borrow_and_update().clone();
        if let Some(serving) = serving {
            let heard = watermarks.borrow_and_update().clone();
            central = known(&serving, heard.as_ref());
            if central >= query.sequence {
                return read(&shown, &serving, query.sequence, central, heard).await;
            }
        }
        tokio::select! {
            changed = servings.changed() => if changed.is_err() { break },
            changed = watermarks.changed() => if changed.is_err() { break },
            () = &mut until => break,
            () = shown.bounds.stop.cancelled() => break,
        }
    }
    web::json(StatusCode::OK, &At { central, at: None, next: None, watermark: None })
}

async fn read(
    shown: &Shown,
    serving: &Serving,
    change: Sequence,
    central: Sequence,
    heard: Option<WatermarkEvent>,
) -> Response {
    let Ok(_reading) = shown.bounds.reading.acquire().await else {
        return web::error(StatusCode::SERVICE_UNAVAILABLE, "this conf-slave is stopping");
    };
    let (repo, newest) = (shown.mirror.repo(), serving.snapshot.commit);
    let found = spawn_blocking(move || {
        let repo = Repository::open_bare(repo).map_err(|error| error.to_string())?;
        snapshot::around_change(&repo, newest, change).map_err(|error| conf_core::daemon::chain(&error))
    });
    match found.await {
        Ok(Ok(AroundChange::Known { at, next })) => {
            let tells = |heard: &WatermarkEvent| heard.central >= change && Some(heard.newest()) == at;
            let watermark = heard.filter(|heard| next.is_none() && tells(heard));
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
