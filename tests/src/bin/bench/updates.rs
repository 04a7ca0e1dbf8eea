//! Durable updates through the API, beside the same of Consul and etcd, all on one disk.
//!
//! Each client has one connection and one section (or key) of its own, and sends the next update
//! when the last one is answered. Every update makes a signed snapshot of a datacenter as well.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use serde_json::{Value, json};
use tests::{
    Consul, Plan, Site,
    figures::{Kind, Row, Spread},
    site::Pointers,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{client::Connection, fleet, options::Size, peers::Etcd};

/// The goals: by the number of clients, updates in a second.
const GOALS: [(usize, f64); 3] = [(1, 300.0), (16, 800.0), (64, 1000.0)];
/// The goal for the median answer with 64 clients, in milliseconds.
const GOAL_MEDIAN: f64 = 70.0;

/// The next request of a client: how many were answered, and the last answer.
type Next = Box<dyn FnMut(u64, Option<&Value>) -> Request + Send>;

struct Request {
    method: Method,
    path: String,
    body: String,
}

/// Measures every number of clients.
pub(crate) fn measure(size: Size) -> Vec<Row> {
    let most = size.clients().iter().copied().max().unwrap_or(1);
    let plan = Plan {
        pointers: Pointers::Embedded,
        components: (0..most).map(|number| format!("services/s{number}")).collect(),
        ..Plan::default()
    };
    let site = plan.start_empty();
    site.populate();
    let consul = Consul::start_durable(site.folder.path());
    let etcd = Etcd::start(site.folder.path());
    let mut rows = Vec::new();
    for clients in size.clients().iter().copied() {
        eprintln!("bench: updates of {clients} clients");
        rows.extend(of_clients(size, clients, &site, &consul, etcd.as_ref()));
    }
    site.master.expect_unbroken_ledger();
    tests::site::fsck(&site.master.repo);
    drop((consul, etcd));
    fleet::end(site);
    rows
}

fn of_clients(size: Size, clients: usize, site: &Site, consul: &Consul, etcd: Option<&Etcd>) -> Vec<Row> {
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut medians: [Vec<f64>; 2] = Default::default();
    for slice in 0..size.slices() {
        let ours = load(clients, size.lasting(), |client| updates(site, client));
        let theirs = load(clients, size.lasting(), |client| puts(consul, slice * 1000 + clients, client));
        for (side, load) in [ours, theirs].into_iter().enumerate() {
            rates[side].push(load.rate());
            medians[side].push(load.median());
        }
        if let Some(etcd) = etcd {
            let theirs = load(clients, size.lasting(), |client| transactions(etcd, slice * 1000 + clients, client));
            rates[2].push(theirs.rate());
        }
    }
    let [ours, consul, etcd] = rates;
    let plural = if clients == 1 { "" } else { "s" };
    let what = format!("durable updates through the API, {clients} client{plural}");
    let mut row = Row::new(&format!("updates-{clients}"), &what, "1/s", Spread::of(ours)).more_is_better();
    row = row.beside(Kind::Peer, "Consul: PUT ?cas=", Spread::of(consul));
    if !etcd.is_empty() {
        row = row.beside(Kind::Peer, "etcd: transaction that creates a key", Spread::of(etcd));
    }
    if let Some((_, goal)) = GOALS.into_iter().find(|(number, _)| *number == clients) {
        row = row.goal(goal);
    }
    let row = row.means(
        "Each update is checked against the schemas of every datacenter that runs it, signed and durable. One conf-master \
         takes this many from all programs and people together.",
    );
    let [ours, consul] = medians;
    let what = format!("… the median answer, {clients} client{plural}");
    let mut answer = Row::new(&format!("updates-{clients}-answer"), &what, "ms", Spread::of(ours));
    answer = answer.beside(Kind::Peer, "Consul: PUT ?cas=", Spread::of(consul));
    if clients == 64 {
        answer = answer.goal(GOAL_MEDIAN);
    }
    vec![row, answer.means("A program that changes configuration waits this long for an answer that is final.")]
}

/// The answers of all clients.
pub(crate) struct Load {
    took: Vec<Duration>,
    lasted: Duration,
}

impl Load {
    pub(crate) fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.took.len()).unwrap_or(u32::MAX)) / self.lasted.as_secs_f64()
    }

    pub(crate) fn median(&self) -> f64 {
        Spread::of_times(&self.took).median
    }
}

fn load(clients: usize, lasting: Duration, client: impl Fn(usize) -> (SocketAddr, Next)) -> Load {
    let clients: Vec<_> = (0..clients).map(client).collect();
    let runtime = Runtime::new().expect("a runtime can be built");
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for (address, next) in clients {
            tasks.spawn(ask(address, next, began + lasting));
        }
        let took = tasks.join_all().await.concat();
        Load { took, lasted: began.elapsed() }
    })
}

async fn ask(address: SocketAddr, mut next: Next, until: Instant) -> Vec<Duration> {
    let mut connection = Connection::open(address).await;
    let (mut took, mut last) = (Vec::new(), None);
    while Instant::now() < until || took.is_empty() {
        let Request { method, path, body } = next(took.len() as u64, last.as_ref());
        let began = Instant::now();
        let answer = connection.send(method, &path, body).await;
        took.push(began.elapsed());
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        last = serde_json::from_slice(&answer.body).ok();
    }
    took
}

fn updates(site: &Site, client: usize) -> (SocketAddr, Next) {
    let section = format!("services/s{client}");
    let now = site.master.http().get_json(&format!("/api/v1/config/{section}")).expect("the section is there");
    let version = now["version"].as_i64();
    let next = move |answered: u64, last: Option<&Value>| {
        let version = last.and_then(|last| last["version"].as_i64()).or(version);
        let request = json!({"section": section, "config": {"round": answered, "port": 8080}, "version": version});
        let body = json!({"request": request}).to_string();
        Request { method: Method::POST, path: "/api/v1/config/update".to_owned(), body }
    };
    (site.master.address, Box::new(next))
}

/// A new key each time: what `?cas=0` allows without a read before each write.
fn puts(consul: &Consul, round: usize, client: usize) -> (SocketAddr, Next) {
    let next = move |answered: u64, _: Option<&Value>| {
        let path = format!("/v1/kv/bench/{round}/{client}/{answered}?cas=0");
        Request { method: Method::PUT, path, body: json!({"round": answered, "port": 8080}).to_string() }
    };
    (consul.address(), Box::new(next))
}

fn transactions(etcd: &Etcd, round: usize, client: usize) -> (SocketAddr, Next) {
    let next = move |answered: u64, _: Option<&Value>| {
        let key = STANDARD.encode(format!("bench/{round}/{client}/{answered}"));
        let value = STANDARD.encode(json!({"round": answered, "port": 8080}).to_string());
        let body = json!({
            "compare": [{"key": key, "target": "CREATE", "create_revision": "0"}],
            "success": [{"request_put": {"key": key, "value": value}}],
        });
        Request { method: Method::POST, path: "/v3/kv/txn".to_owned(), body: body.to_string() }
    };
    (etcd.address(), Box::new(next))
}
