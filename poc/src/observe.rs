//! When each tier had a change, as anybody can observe it from outside.

use std::time::{Duration, SystemTime};

use conf_core::{
    api::Pointer,
    consul::{self, Consul},
    upstream::Upstreams,
};
use tokio::sync::mpsc::Sender;

use crate::{Seen, site::DATACENTER};

const RETRY: Duration = Duration::from_millis(300);

/// conf-master's stream of events: a snapshot that is durable.
pub(crate) async fn landings(master: Upstreams, seen: Sender<Seen>) {
    let path = format!("api/v1/events?datacenter={DATACENTER}");
    follow(&master, &path, "snapshot", Seen::Landed, seen).await;
}

/// A host's stream of events: its export was switched.
pub(crate) async fn exports(host: Upstreams, place: usize, seen: Sender<Seen>) {
    follow(&host, "v1/events", "change", |sequence, at| Seen::Exported(place, sequence, at), seen).await;
}

async fn follow(
    server: &Upstreams,
    path: &str,
    wanted: &str,
    make: impl Fn(u64, SystemTime) -> Seen,
    seen: Sender<Seen>,
) {
    let mut last_id: Option<String> = None;
    loop {
        if let Ok(mut events) = server.events(path, last_id.as_deref()).await {
            while let Ok(event) = events.next().await {
                let at = SystemTime::now();
                let sequence = event.id.as_deref().and_then(|id| id.parse().ok());
                if let (true, Some(sequence)) = (event.name == wanted, sequence) {
                    last_id = event.id;
                    let _ = seen.send(make(sequence, at)).await;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The authoritative key in Consul: conf-slave has the snapshot and serves it.
pub(crate) async fn pointer(consul: Consul, key: String, seen: Sender<Seen>) {
    let mut until_now = consul::Seen::default();
    let mut last = None;
    loop {
        match consul.watch(&key, &mut until_now, Duration::from_secs(30)).await {
            Ok(Some(entry)) => {
                let at = SystemTime::now();
                let pointer: Option<Pointer> =
                    std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
                if let Some(sequence) = pointer.map(|pointer| pointer.sequence.0).filter(|now| last != Some(*now)) {
                    last = Some(sequence);
                    let _ = seen.send(Seen::Published(sequence, at)).await;
                }
            }
            Ok(None) => {}
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
