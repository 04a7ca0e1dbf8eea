//! Follows the central server: listens to its events, and has the mirror fetch the snapshots that
//! they name.

use std::{mem, sync::Arc, time::Duration};

use conf_core::{
    api::{AbsentEvent, DeletedEvent, Pointer, SnapshotEvent},
    daemon::chain,
    retry::Backoff,
    upstream::Event,
};
use tokio::{task::spawn_blocking, time::Instant};

use crate::{mirror::Mirror, problems::Problems, reports::HostReports};

/// The topic of a damaged repository.
const REPOSITORY: &str = "repository";

/// The topic of a datacenter that the central server does not have.
pub(crate) const DATACENTER: &str = "datacenter";

/// Listens to the central server's events, which tell the mirror the newest pointer and watermark.
pub(crate) async fn listen(mirror: Arc<Mirror>, reports: Arc<HostReports>, problems: Arc<Problems>) {
    const TOPIC: &str = "central";
    let path = format!("api/v1/events?datacenter={}", mirror.datacenter());
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let mut is_first = true;
        let last = mirror.served().map(|served| served.snapshot.sequence.to_string());
        let failed = match mirror.upstreams.events(&path, last.as_deref()).await {
            Ok(mut events) => loop {
                match events.next().await {
                    Ok(event) => {
                        if mem::take(&mut is_first) {
                            reports.resend_all();
                        }
                        backoff.reset();
                        problems.clear(TOPIC, "the central server is back");
                        take(&event, &mirror, &problems);
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        problems.set(TOPIC, chain(&failed));
        tokio::time::sleep(backoff.after(failed.retry_after())).await;
    }
}

fn take(event: &Event, mirror: &Mirror, problems: &Problems) {
    match event.name.as_str() {
        "snapshot" => match serde_json::from_str(&event.data) {
            Ok(event) => take_snapshot(&event, mirror, problems),
            Err(error) => tracing::warn!(%error, "an unreadable event is ignored"),
        },
        "deleted" => match serde_json::from_str::<DeletedEvent>(&event.data) {
            Ok(event) if event.datacenter == *mirror.datacenter() => set_deleted(true, mirror, problems),
            _ => tracing::warn!("an unreadable event is ignored"),
        },
        "absent" => match serde_json::from_str::<AbsentEvent>(&event.data) {
            Ok(event) if event.datacenter == *mirror.datacenter() => problems.set(DATACENTER, words_of(&event)),
            _ => tracing::warn!("an unreadable event is ignored"),
        },
        "watermark" => {
            set_deleted(false, mirror, problems);
            let problem = match serde_json::from_str(&event.data) {
                Ok(watermark) => mirror
                    .take_watermark(watermark)
                    .err()
                    .map(|error| format!("a watermark of the central server is ignored: {}", chain(&error))),
                Err(error) => Some(format!("the central server sends unreadable watermarks: {error}")),
            };
            problems.report("watermarks", problem, "the central server sends good watermarks");
        }
        // Heartbeats, and events of later versions.
        _ => {}
    }
}

/// Says that the central server has no such datacenter, and which it has.
fn words_of(event: &AbsentEvent) -> String {
    let mut known: Vec<String> = event.known.iter().map(ToString::to_string).collect();
    if event.more > 0 {
        known.push(format!("{} more", event.more));
    }
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    format!(
        "the central server has no datacenter {0}; it has: {known}. Name one of them with --datacenter, or push the branch \
         datacenters/{0}: this slave waits for it",
        event.datacenter
    )
}

/// Notes whether the central server has deleted the datacenter. Nothing else follows from it: this
/// slave and its hosts keep the last snapshot.
fn set_deleted(deleted: bool, mirror: &Mirror, problems: &Problems) {
    mirror.set_deleted(deleted);
    let problem = deleted.then(|| {
        format!(
            "datacenter {0} was deleted on the central server; this slave goes on to serve its last snapshot, and hosts keep \
             their files. Push the branch datacenters/{0} again, or retire this slave and its hosts",
            mirror.datacenter()
        )
    });
    problems.report(DATACENTER, problem, "the central server has the datacenter again");
}

fn take_snapshot(event: &SnapshotEvent, mirror: &Mirror, problems: &Problems) {
    if event.datacenter != *mirror.datacenter() {
        tracing::warn!(datacenter = %event.datacenter, "an event of another datacenter is ignored");
        return;
    }
    set_deleted(false, mirror, problems);
    let (offered, highest) = (Pointer { sequence: event.sequence, commit: event.commit }, mirror.highest());
    let is_behind = offered.sequence < highest;
    if !is_behind {
        mirror.want(offered);
    }
    let problem = is_behind.then(|| {
        format!(
            "the central server's newest snapshot is {offered}, this slave has served {highest} already and keeps it; \
             was the central repository put back to an older state?"
        )
    });
    problems.report("central history", problem, "the central server has caught up with this slave");
}

/// Fetches every wanted snapshot. After a suspicion it examines the mirror, and clones a damaged
/// one anew.
pub(crate) async fn fetch_wanted(mirror: Arc<Mirror>, problems: Arc<Problems>) {
    const TOPIC: &str = "mirror";
    let mut wanted = mirror.subscribe_wanted();
    wanted.mark_changed();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut damaged = false;
    let mut again: Option<Instant> = None;
    loop {
        let at = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(at), if again.is_some() => {}
            () = mirror.suspicion.notified() => damaged = damaged || is_damaged(&mirror, &problems).await,
        }
        let work = async {
            if damaged {
                mirror.clone_anew().await?;
            }
            let newest = *wanted.borrow_and_update();
            match newest {
                Some(pointer) if pointer.sequence >= mirror.highest() => mirror.advance(pointer.commit).await,
                _ => Ok(()),
            }
        };
        match work.await {
            Ok(()) => {
                (damaged, again) = (false, None);
                backoff.reset();
                problems.clear(TOPIC, "the mirror is whole and up to date");
                problems.clear(REPOSITORY, "the local repository is whole again");
            }
            Err(error) => {
                problems.set(TOPIC, chain(&error));
                again = Some(Instant::now() + backoff.next_wait());
                damaged = damaged || error.may_be_damage() && is_damaged(&mirror, &problems).await;
            }
        }
    }
}

async fn is_damaged(mirror: &Arc<Mirror>, problems: &Problems) -> bool {
    let examined = Arc::clone(mirror);
    let reason = spawn_blocking(move || examined.examine()).await.expect("examining does not panic").err();
    if let Some(reason) = &reason {
        problems.set(REPOSITORY, format!("the local repository is damaged and is cloned anew: {reason}"));
    }
    reason.is_some()
}
