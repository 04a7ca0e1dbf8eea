//! Durable updates per second through the API, beside `PUT …?cas=` on a real Consul on the same disk, in the same run.
//!
//! `cargo build --release --workspace --bins && CONSUL=$(tests/get-consul) cargo bench -p tests --bench updates`
//!
//! Each client has one connection and one section (or key) of its own, and sends the next update when the last one is
//! answered. Every update of a component that a datacenter runs makes a signed snapshot of it as well.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::{Consul, Plan, Site, site::Pointers};
use tokio::{net::TcpStream, runtime::Runtime, task::JoinSet};

/// How many clients ask at once.
const CLIENTS: [usize; 3] = [1, 16, 64];
/// How long each measurement lasts.
const LASTING: Duration = Duration::from_secs(5);

fn main() {
    let plan = Plan {
        pointers: Pointers::Embedded,
        components: (0..CLIENTS[2]).map(|number| format!("services/s{number}")).collect(),
        ..Plan::default()
    };
    let site = plan.start_empty();
    site.populate();
    let consul = Consul::start_durable(site.folder.path());
    println!("durable updates per second, {} s each", LASTING.as_secs());
    println!(
        "{:>8} {:>24} {:>24} {:>16} {:>8}",
        "clients", "API, run by a datacenter", "API, run by nobody", "Consul PUT ?cas=", "ratio"
    );
    for (round, clients) in CLIENTS.into_iter().enumerate() {
        let run = measure(clients, |client| updates(&site, format!("services/s{client}"), None));
        let alone = measure(clients, |client| updates(&site, format!("services/alone-{round}-{client}"), Some(-1)));
        let put = measure(clients, |client| puts(&consul, round, client));
        println!("{clients:>8} {run:>24.0} {alone:>24.0} {put:>16.0} {:>8.2}", run / put);
    }
    let sequence = site.master.sequence();
    println!("{sequence} changes in the ledger; it is whole:");
    site.master.expect_unbroken_ledger();
    tests::site::fsck(&site.master.repo);
    println!("  yes");
}

/// What one client sends: given how many were answered and the last answer, a request that must be answered with 200.
type Next = Box<dyn FnMut(u64, Option<&Value>) -> Request<Full<Bytes>> + Send>;

/// Answers per second of so many clients together.
fn measure(clients: usize, client: impl Fn(usize) -> (std::net::SocketAddr, Next)) -> f64 {
    let clients: Vec<_> = (0..clients).map(client).collect();
    let runtime = Runtime::new().expect("a runtime can be built");
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for (address, next) in clients {
            tasks.spawn(ask(address, next, began + LASTING));
        }
        let answered: u64 = tasks.join_all().await.into_iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let answered = answered as f64;
        answered / began.elapsed().as_secs_f64()
    })
}

async fn ask(address: std::net::SocketAddr, mut next: Next, until: Instant) -> u64 {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    stream.set_nodelay(true).expect("a socket takes options");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("the server speaks HTTP");
    tokio::spawn(connection);
    let (mut answered, mut last) = (0, None);
    while Instant::now() < until {
        let answer = sender.send_request(next(answered, last.as_ref())).await.expect("an answer");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        last = serde_json::from_slice(&body).ok();
        answered += 1;
    }
    answered
}

fn updates(site: &Site, section: String, version: Option<i64>) -> (std::net::SocketAddr, Next) {
    let address = site.master.address;
    let version = version.or_else(|| {
        let now = site.master.http().get_json(&format!("/api/v1/config/{section}")).expect("the section is there");
        now["version"].as_i64()
    });
    let next = move |answered: u64, last: Option<&Value>| {
        let version = last.and_then(|last| last["version"].as_i64()).or(version);
        let request = json!({"section": section, "config": {"round": answered, "port": 8080}, "version": version});
        post(address, Method::POST, "/api/v1/config/update", json!({"request": request}).to_string())
    };
    (address, Box::new(next))
}

/// A new key each time: what `?cas=0` allows without a read before each write.
fn puts(consul: &Consul, round: usize, client: usize) -> (std::net::SocketAddr, Next) {
    let address = consul.address();
    let next = move |answered: u64, _: Option<&Value>| {
        let path = format!("/v1/kv/bench/{round}/{client}/{answered}?cas=0");
        post(address, Method::PUT, &path, json!({"round": answered, "port": 8080}).to_string())
    };
    (address, Box::new(next))
}

fn post(address: std::net::SocketAddr, method: Method, path: &str, body: String) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", address.to_string());
    request.body(Full::new(body.into())).expect("the request is well formed")
}
