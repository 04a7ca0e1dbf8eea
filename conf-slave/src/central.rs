//! Follows the central server: hears of snapshots, has the mirror bring them, and has a damaged mirror cloned anew.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{Pointer, SnapshotEvent, WatermarkEvent},
    daemon::chain,
    retry::Backoff,
    upstream::{Event, Upstreams},
};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{mirror::Mirror, problems::Problems, reports::Hosts};

/// Hears what is newest and tells `wanted`, until `stop`. Of several that come at once only the newest counts.
pub async fn listen(
    mirror: Arc<Mirror>,
    upstreams: Arc<Upstreams>,
    wanted: watch::Sender<Option<Pointer>>,
    central: watch::Sender<Option<WatermarkEvent>>,
    hosts: Arc<Hosts>,
    problems: Arc<Problems>,
    stop: CancellationToken,
) {
    const TOPIC: &str = "central";
    let path = format!("api/v1/events?datacenter={}", mirror.datacenter());
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let listen = async {
        loop {
            let mut is_heard = false;
            let last = mirror.serving().map(|serving| serving.snapshot.sequence.to_string());
            let failed = match upstreams.events(&path, last.as_deref()).await {
                Ok(mut events) => loop {
                    match events.next().await {
                        Ok(event) => {
                            if !std::mem::replace(&mut is_heard, true) {
                                hosts.tell_anew();
                            }
                            backoff.reset();
                            problems.clear(TOPIC, "the central server is back");
                            take(&event, &mirror, &wanted, &central, &problems);
                        }
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            problems.set(TOPIC, chain(&failed));
            tokio::time::sleep(backoff.after(failed.retry_after())).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listen => {}
    }
}

fn take(
    event: &Event,
    mirror: &Mirror,
    wanted: &watch::Sender<Option<Pointer>>,
    central: &watch::Sender<Option<WatermarkEvent>>,
    problems: &Problems,
) {
    const TOPIC: &str = "central history";
    match event.name.as_str() {
        "snapshot" => match serde_json::from_str::<SnapshotEvent>(&event.data) {
            Ok(event) if event.datacenter == *mirror.datacenter() => {
                let (offered, highest) = (Pointer { sequence: event.sequence, commit: event.commit }, mirror.floor());
                if offered.sequence < highest {
                    let words = format!(
                        "the central server's newest snapshot is {offered}, this slave has served {highest} already and \
                         keeps it; was the central repository put back to an older state?"
                    );
                    problems.set(TOPIC, words);
                } else {
                    problems.clear(TOPIC, "the central server has caught up with this slave");
                    raise(wanted, offered);
                }
            }
            Ok(event) => {
                tracing::warn!(datacenter = %event.datacenter, "an event of another datacenter is passed over");
            }
            Err(error) => tracing::warn!(%error, "an event that cannot be read is passed over"),
        },
        "watermark" => {
            const TOPIC: &str = "watermarks";
            let watermark = match serde_json::from_str::<WatermarkEvent>(&event.data) {
                Ok(watermark) => watermark,
                Err(error) => {
                    problems.set(TOPIC, format!("the central server sends watermarks that cannot be read: {error}"));
                    return;
                }
            };
            // Hosts would not believe it either.
            if let Err(error) = mirror.trusts(&watermark) {
                problems.set(TOPIC, format!("a watermark of the central server is passed over: {}", chain(&error)));
                return;
            }
            problems.clear(TOPIC, "the central server sends good watermarks");
            // What was once so stays so: a central server put back to an older state makes nobody forget.
            central.send_if_modified(|now| {
                let newer = now.as_ref().is_none_or(|now| watermark.central > now.central);
                *now = if newer { Some(watermark) } else { now.take() };
                newer
            });
        }
        // Heartbeats, and what a later version adds.
        _ => {}
    }
}

/// Wants `pointer`, unless something newer is wanted already.
pub fn raise(wanted: &watch::Sender<Option<Pointer>>, pointer: Pointer) {
    wanted.send_if_modified(|now| {
        let newer = now.is_none_or(|now| pointer.sequence >= now.sequence);
        if newer {
            *now = Some(pointer);
        }
        newer
    });
}

/// Brings what `wanted` names, until `stop`; examines the mirror when `doubt` is told, and clones it anew when damaged.
pub async fn follow(
    mirror: Arc<Mirror>,
    mut wanted: watch::Receiver<Option<Pointer>>,
    doubt: Arc<Notify>,
    problems: Arc<Problems>,
    stop: CancellationToken,
) {
    const TOPIC: &str = "mirror";
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut damaged = false;
    let mut again: Option<Instant> = None;
    loop {
        let at = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(at), if again.is_some() => {}
            () = doubt.notified() => damaged = damaged || is_damaged(&mirror, &problems).await,
        }
        let work = async {
            if damaged {
                mirror.clone_anew().await?;
            }
            let newest = *wanted.borrow_and_update();
            match newest {
                Some(pointer) if pointer.sequence >= mirror.floor() => mirror.advance(pointer.commit).await,
                _ => Ok(()),
            }
        };
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = work => outcome,
        };
        match outcome {
            Ok(()) => {
                (damaged, again) = (false, None);
                backoff.reset();
                problems.clear(TOPIC, "the mirror is whole and up to date");
                problems.clear("repository", "the local repository is whole again");
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
    match spawn_blocking(move || examined.examine()).await.expect("examining does not panic") {
        Ok(()) => false,
        Err(reason) => {
            problems.set("repository", format!("the local repository is damaged and is cloned anew: {reason}"));
            true
        }
    }
}
