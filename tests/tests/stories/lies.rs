//! Peers that lie, again and again, and peers that are only slow: the others get every change in time, and nobody is
//! asked without need.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tests::{Plan, Site, eventually, eventually_within, own_address, site::DATACENTER, stalled_since};

/// What a change may take on a busy machine.
const SOON: Duration = Duration::from_secs(8);

/// Answers every connection in a thread of its own.
fn serve(port: u16, answer: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> SocketAddr {
    let address = own_address(port);
    let listener = TcpListener::bind(address).expect("a free loopback address");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let answer = answer.clone();
            // A client that goes away ends its thread.
            thread::spawn(move || drop(answer(client)));
        }
    });
    address
}

/// Answers a fetch with this request.
type Fetched = fn(TcpStream, &str) -> io::Result<()>;

/// Names a new number every 50 ms, and answers fetches as `fetched` does.
fn flood(mut client: TcpStream, fetched: Fetched) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(1_000_000);
    let (mut request, mut part) = (String::new(), [0; 8192]);
    loop {
        let length = client.read(&mut part)?;
        request.push_str(&String::from_utf8_lossy(&part[..length]));
        if length == 0 || !request.starts_with("POST") || request.ends_with("done\n0000") {
            break;
        }
    }
    if request.starts_with("POST /conf.git/git-upload-pack") {
        return fetched(client, &request);
    }
    if !request.starts_with("GET /api/v1/events") {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    write!(client, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let event = serde_json::json!({"central": number, "datacenter": DATACENTER, "sequence": number,
            "commit": format!("{number:040}"), "previous": null});
        write!(client, "event: snapshot\ndata: {event}\n\nevent: heartbeat\ndata: {{\"period\":2}}\n\n")?;
        thread::sleep(Duration::from_millis(50));
    }
}

fn nothing(mut client: TcpStream, _: &str) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Begins a pack that goes on for ever, a byte at a time.
fn trickle(mut client: TcpStream, _: &str) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nConnection: close\r\n\r\n";
    write!(client, "{head}000dpackfile\nfff0\u{1}PACK")?;
    loop {
        client.write_all(b"\0")?;
        thread::sleep(Duration::from_millis(300));
    }
}

/// The packs without an end that were begun.
static ENDLESS: AtomicU64 = AtomicU64::new(0);

/// Sends a good pack without an end for a forged commit, and has no other one.
fn endless(mut client: TcpStream, request: &str) -> io::Result<()> {
    if !request.contains(&format!("want {:020}", 0)) {
        return nothing(client, request);
    }
    ENDLESS.fetch_add(1, Ordering::Relaxed);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nConnection: close\r\n\r\n";
    client.write_all(format!("{head}000dpackfile\n").as_bytes())?;
    let packet = |content: &[u8]| [format!("{:04x}\u{1}", content.len() + 5).as_bytes(), content].concat();
    let count = 1_000_000_u32.to_be_bytes();
    client.write_all(&packet(&[&b"PACK\0\0\0\x02"[..], &count].concat()))?;
    for number in 0..u64::MAX {
        // A blob of 200 bytes, which zlib stores as they are.
        let content: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(200).collect();
        let (low, high) = content.iter().fold((1_u32, 0_u32), |(low, high), byte| {
            let low = (low + u32::from(*byte)) % 65_521;
            (low, (high + low) % 65_521)
        });
        let sum = (high << 16 | low).to_be_bytes();
        let stored: &[u8] = &[0xb8, 0x0c, 0x78, 0x01, 0x01, 200, 0, !200, !0];
        client.write_all(&packet(&[stored, &content, &sum].concat()))?;
        if number % 16 == 0 {
            thread::sleep(Duration::from_millis(250));
        }
    }
    Ok(())
}

/// A site whose host listens to a liar, and to Consul if there is one; it can fetch from a conf-slave too.
fn beside(port: u16, fetched: Fetched, hosts_without_consul: bool) -> Site {
    beside_in(port, fetched, Plan { hosts: 0, hosts_without_consul, ..Plan::default() })
}

fn beside_in(port: u16, fetched: Fetched, plan: Plan) -> Site {
    let mut site = plan.start();
    let liar = format!("http://{}", serve(port, move |client| flood(client, fetched)));
    let mut host = site.make_host(1);
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments.splice(at..at, ["--surrogates-in-order".into(), "--surrogate".into(), liar.into()]);
    host.daemon.start();
    site.hosts.push(host);
    site
}

#[track_caller]
fn expect_within(site: &Site, what: &str, limit: Duration) {
    let start = Instant::now();
    site.wait_applied(site.master.sequence());
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    let limit = limit + 3 * stalled_since(start);
    assert!(start.elapsed() < limit, "{what}: {:?}", start.elapsed());
}

#[test]
fn a_flood_of_forged_numbers_holds_back_no_change() {
    expect_each(&beside(7603, nothing, false), "a flood of forged numbers", SOON);
    expect_each(&beside(7607, nothing, true), "a flood of forged numbers, without Consul", SOON);
}

#[test]
fn a_flood_of_forged_snapshots_that_trickle_holds_back_no_change() {
    expect_each(&beside(7604, trickle, false), "forged snapshots trickle", SOON);
    // Nobody else is heard: the host asks the other conf-slave while the liar trickles.
    expect_each(&beside(7608, trickle, true), "forged snapshots trickle, without Consul", SOON);
}

#[test]
fn a_pack_without_an_end_holds_back_no_change_that_could_not_be_fetched_for_a_while() {
    let mut site = beside_in(7609, endless, Plan { hosts: 0, proxied: true, ..Plan::default() });
    let arguments = site.hosts[0].daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--central").expect("it has one");
    arguments.drain(at..at + 2);
    site.hosts[0].daemon.restart();
    site.wait_applied(site.master.sequence());
    // Consul names the change, and nobody has it.
    site.slave().proxy.as_ref().expect("a proxy").cut();
    site.push("services/web", "round", "held back\n");
    let (before, since) = (ENDLESS.load(Ordering::Relaxed), Instant::now());
    // Turns that become ever longer would be long by now.
    eventually_within(3 * SOON * 2, "the liar to have its time", || {
        let begun = ENDLESS.load(Ordering::Relaxed) - before;
        let is_over = begun >= 3 || begun >= 1 && since.elapsed() > Duration::from_secs(35);
        if is_over { Ok(()) } else { Err(format!("{begun} packs")) }
    });
    site.slave().proxy.as_ref().expect("a proxy").mend();
    expect_within(&site, "a pack without an end", 3 * SOON);
}

/// Expects the start of the host and three changes to come in time.
#[track_caller]
fn expect_each(site: &Site, what: &str, start: Duration) {
    expect_within(site, &format!("{what}, the start"), start);
    for _ in 0..3 {
        site.push("services/web", "round", &format!("{}\n", rand::random::<u32>()));
        expect_within(site, what, SOON);
    }
}

/// Hosts whose Consul is of no use, while they hear a conf-slave.
pub(crate) struct OfNoUse {
    site: Site,
    /// How often each Consul was asked, and before the hosts had anything.
    asked: [(&'static str, Arc<AtomicU64>, u64); 2],
}

impl OfNoUse {
    pub(crate) fn start() -> Self {
        const DOWN: &str = "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        const ABSENT: &str = "HTTP/1.1 404 No\r\nX-Consul-Index: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let mut site = Plan { hosts: 0, ..Plan::default() }.start();
        let rows = [("Consul is down", 7605, DOWN), ("the key is absent", 7606, ABSENT)];
        let asked = rows.map(|(what, port, answer)| {
            let asked = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&asked);
            let address = serve(port, move |mut client| {
                let mut request = [0; 8192];
                let _ = client.read(&mut request)?;
                counted.fetch_add(1, Ordering::Relaxed);
                client.write_all(answer.as_bytes())
            });
            let mut host = site.make_host(site.hosts.len() + 1);
            let arguments = host.daemon.arguments();
            let at = arguments.iter().position(|argument| argument == "--consul").expect("it has one");
            arguments[at + 1] = format!("http://{address}").into();
            host.daemon.start();
            site.hosts.push(host);
            (what, asked)
        });
        site.wait_applied(site.master.sequence());
        let asked = asked.map(|(what, asked)| {
            let before = asked.load(Ordering::Relaxed);
            (what, asked, before)
        });
        OfNoUse { site, asked }
    }

    /// Expects few questions in the two minutes since the start.
    pub(crate) fn expect_few_questions(self) {
        for (what, asked, before) in &self.asked {
            let count = asked.load(Ordering::Relaxed) - before;
            println!("{what}: {count} questions in the first two minutes");
            // Ever more seldom in the first one, up to one a minute.
            assert!((2..=11).contains(&count), "{what}: {count}");
        }
        self.site.push_and_wait("services/web", "round", "heard from the conf-slave\n");
    }
}

#[test]
fn a_slow_transfer_to_a_conf_slave_comes_to_its_end_although_there_is_a_push() {
    let site = Plan { proxied: true, ..Plan::default() }.start();
    let way = site.slave().to_central.as_ref().expect("a proxy");
    way.reset();
    way.slow(300_000);
    // 4 MB that do not compress: 14 s.
    let noise: Vec<u8> = (0..4 << 20).map(|_| rand::random::<u8>()).collect();
    site.work.change().file("services/web/master", "noise", noise).land();
    eventually("the transfer to go on", || {
        let requests = way.git_requests();
        if requests.iter().any(|request| request.received > 100_000) { Ok(()) } else { Err(format!("{requests:?}")) }
    });
    let first = site.master.sequence();
    site.push("services/api", "round", "a push in between\n");
    let start = Instant::now();
    site.slave().wait_at(first);
    // Small ones may stand before it: the branches of an earlier change come when they come. Those of this change bring the
    // file once more, in a moment.
    let requests = way.git_requests();
    site.wait_applied(site.master.sequence());
    println!("a push while a slow transfer goes on: {:.1} s", start.elapsed().as_secs_f64());
    let large: Vec<u64> =
        requests.iter().map(|request| request.received).filter(|received| *received > 1 << 20).collect();
    assert!(large.len() == 1 && large[0] > 4 << 20, "it was cut off, or repeated: {requests:?}");
    assert!(site.host().status().expect("it answers")["sequence"].as_u64() > Some(first));
}
