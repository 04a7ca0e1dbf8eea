//! The moments at which each tier had a change, as anyone can observe them from outside.

use std::{
    process::ExitStatus,
    time::{Duration, SystemTime},
};

use conf_core::{
    api::Pointer,
    consul::{Consul, WatchIndex},
    upstream::Upstreams,
};
use poc::Report;
use tokio::sync::mpsc::Sender;

use crate::place::{DATACENTER, Unit};

/// The pause before a daemon that is away is asked again.
const RETRY: Duration = Duration::from_millis(300);

/// Something that was observed.
#[derive(Debug)]
pub(crate) enum Observation {
    /// conf-master has a snapshot with this sequence.
    Landed(u64, SystemTime),
    /// Consul names it.
    Published(u64, SystemTime),
    /// The host of this place exports it.
    Exported(usize, u64, SystemTime),
    /// The job of this place wrote a report.
    Job(usize, Report),
    /// A program ended, which none should.
    Died(Unit, ExitStatus),
}

/// Follows conf-master's events: each durable snapshot.
pub(crate) async fn landings(master: Upstreams, observed: Sender<Observation>) {
    let path = format!("api/v1/events?datacenter={DATACENTER}");
    follow(&master, &path, "snapshot", Observation::Landed, observed).await;
}

/// Follows a host's events: each switch of its export.
pub(crate) async fn exports(host: Upstreams, place: usize, observed: Sender<Observation>) {
    follow(&host, "v1/events", "change", |sequence, at| Observation::Exported(place, sequence, at), observed).await;
}

async fn follow(
    server: &Upstreams,
    path: &str,
    wanted: &str,
    make: impl Fn(u64, SystemTime) -> Observation,
    observed: Sender<Observation>,
) {
    let mut last_id: Option<String> = None;
    loop {
        if let Ok(mut events) = server.events(path, last_id.as_deref()).await {
            while let Ok(event) = events.next().await {
                let at = SystemTime::now();
                let sequence = event.id.as_deref().and_then(|id| id.parse().ok());
                if let (true, Some(sequence)) = (event.name == wanted, sequence) {
                    last_id = event.id;
                    let _ = observed.send(make(sequence, at)).await;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the authoritative key in Consul, which moves once conf-slave serves a snapshot.
pub(crate) async fn pointer(consul: Consul, key: String, observed: Sender<Observation>) {
    let mut seen = WatchIndex::default();
    let mut last = None;
    loop {
        match consul.watch(&key, &mut seen, Duration::from_secs(30)).await {
            Ok(Some(entry)) => {
                let at = SystemTime::now();
                let pointer = str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<Pointer>().ok());
                if let Some(sequence) = pointer.map(|pointer| pointer.sequence.0).filter(|now| last != Some(*now)) {
                    last = Some(sequence);
                    let _ = observed.send(Observation::Published(sequence, at)).await;
                }
            }
            Ok(None) => {}
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
