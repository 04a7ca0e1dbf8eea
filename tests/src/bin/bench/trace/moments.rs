//! When each tier has a change, seen from outside.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use hyper::Method;
use tests::{
    DEADLINE, Reader, Site,
    figures::{Moment, Spread},
    http::Address,
    site::DATACENTER,
};

use crate::{
    client::Client,
    fleet::{CHANGED, settings},
    options::Size,
    pusher::{Pusher, end},
};

/// A tier had a sequence at a time.
struct Seen {
    what: &'static str,
    sequence: u64,
    at: Instant,
}

/// What is seen from outside, in the order in which it is expected.
const EVENT: &str = "conf-master tells: the change is checked, signed and durable";
const SERVED: &str = "conf-slave has fetched and verified the snapshot";
const PUBLISHED: &str = "Consul has the pointer, a blocking query has returned";
const SWITCHED: &str = "conf-local has switched the files";
const SIGNALLED: &str = "the process has its signal";
const PUSHED: &str = "`git push` has ended";

/// Makes changes one by one, and notes when each is seen where.
pub(super) fn measure(size: Size, site: &Site, pusher: &Pusher, reader: &Reader) -> Vec<Moment> {
    let (say, seen) = channel();
    listen(site.master.http(), &format!("/api/v1/events?datacenter={DATACENTER}"), "snapshot", EVENT, &say);
    listen(site.slave().http(), &format!("/api/v1/events?datacenter={DATACENTER}"), "snapshot", SERVED, &say);
    listen(site.host().http(), "/v1/events", "change", SWITCHED, &say);
    query(site, say);
    let mut at: HashMap<&str, Vec<Duration>> = HashMap::new();
    for round in 0..=size.rounds() {
        pusher.commit("config.yaml", &settings(CHANGED, 20_000 + round));
        // Everything of the change before has been seen by now.
        let before = site.master.sequence();
        thread::sleep(size.pause());
        reader.all_told();
        while seen.try_recv().is_ok() {}
        let (began, push) = pusher.start();
        let told = reader.told();
        end(push);
        let pushed = Instant::now();
        let mut all = of_one_change(&seen, before);
        all.insert(SIGNALLED, told.when);
        all.insert(PUSHED, pushed);
        // The first one is not counted: it opens what stays open.
        for (what, when) in all.into_iter().filter(|_| round > 0) {
            at.entry(what).or_default().push(when.saturating_duration_since(began));
        }
    }
    let moment = |what: &str, at: &[Duration]| Moment { what: what.to_owned(), at: Spread::of_times(at) };
    let mut moments: Vec<Moment> = at.iter().map(|(what, at)| moment(what, at)).collect();
    moments.sort_by(|one, other| one.at.median.total_cmp(&other.at.median));
    moments
}

/// Collects what is seen of the change after `before`.
fn of_one_change(seen: &Receiver<Seen>, before: u64) -> HashMap<&'static str, Instant> {
    let mut all = HashMap::new();
    while all.len() < 4 {
        let one = seen.recv_timeout(DEADLINE).expect("every tier shows the change");
        if one.sequence > before {
            all.entry(one.what).or_insert(one.at);
        }
    }
    all
}

/// Notes the events of a stream.
fn listen(server: Address, path: &str, name: &'static str, what: &'static str, say: &Sender<Seen>) {
    let (path, say) = (path.to_owned(), say.clone());
    thread::spawn(move || {
        let events = server.events(&path, &[]);
        loop {
            let event = events.next_within(Duration::from_secs(3600));
            let at = Instant::now();
            let Some(event) = event else { return };
            let data: serde_json::Value = serde_json::from_str(&event.data).unwrap_or_default();
            let sequence = data["sequence"].as_u64().unwrap_or_default();
            if event.name == name && say.send(Seen { what, sequence, at }).is_err() {
                return;
            }
        }
    });
}

/// Notes the values of the pointer in Consul.
fn query(site: &Site, say: Sender<Seen>) {
    let address = site.consul().address();
    thread::spawn(move || {
        let mut client = Client::open(address);
        let mut index = "0".to_owned();
        loop {
            let path = format!("/v1/kv/configurations/snapshots/{DATACENTER}?raw&index={index}&wait=600s");
            let answer = client.send(Method::GET, &path, String::new());
            let at = Instant::now();
            answer.headers["x-consul-index"].to_str().unwrap_or("0").clone_into(&mut index);
            let value = String::from_utf8_lossy(&answer.body);
            let sequence = value.split('/').next().and_then(|sequence| sequence.parse().ok()).unwrap_or_default();
            if say.send(Seen { what: PUBLISHED, sequence, at }).is_err() {
                return;
            }
        }
    });
}
