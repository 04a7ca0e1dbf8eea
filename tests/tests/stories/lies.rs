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

use tests::{Plan, Site, eventually, eventually_within, own_address, site::DATACENTER};

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

/// Names a new number every 50 ms, and answers fetches as `fetched` does.
fn flood(mut client: TcpStream, fetched: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(1_000_000);
    let mut request = [0; 8192];
    let length = client.read(&mut request)?;
    if request[..length].starts_with(b"POST /conf.git/git-upload-pack") {
        return fetched(client);
    }
    if !request[..length].starts_with(b"GET /api/v1/events") {
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

fn nothing(mut client: TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// A site whose host listens to a liar, and to Consul; it can fetch from a conf-slave too.
fn beside(port: u16, fetched: fn(TcpStream) -> io::Result<()>) -> Site {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let liar = format!("http://{}", serve(port, move |client| flood(client, fetched)));
    let mut host = site.make_host(1);
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments.splice(at..at, ["--surrogate".into(), liar.into()]);
    host.daemon.start();
    site.hosts.push(host);
    site
}

#[track_caller]
fn expect_within(site: &Site, what: &str, limit: Duration) {
    let start = Instant::now();
    site.wait_applied(site.master.sequence());
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed() < limit, "{what}: {:?}", start.elapsed());
}

#[test]
fn a_flood_of_forged_numbers_holds_back_no_change() {
    let site = beside(7603, nothing);
    expect_within(&site, "a flood of forged numbers, the start", SOON);
    for _ in 0..3 {
        site.push("services/web", "round", &format!("{}\n", rand::random::<u32>()));
        expect_within(&site, "a flood of forged numbers", SOON);
    }
}

#[test]
fn a_consul_of_no_use_is_asked_seldom_while_a_conf_slave_is_heard() {
    const DOWN: &str = "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const ABSENT: &str = "HTTP/1.1 404 No\r\nX-Consul-Index: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let rows = [("Consul is down", 7605, DOWN), ("the key is absent", 7606, ABSENT)];
    let asked = rows.map(|(_, port, answer)| {
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
        asked
    });
    site.wait_applied(site.master.sequence());
    let start = Instant::now();
    let before = asked.each_ref().map(|asked| asked.load(Ordering::Relaxed));
    eventually_within(Duration::from_secs(90), "a minute to pass", || {
        let left = Duration::from_secs(60).saturating_sub(start.elapsed());
        if left.is_zero() { Ok(()) } else { Err(format!("{left:?} left")) }
    });
    for (number, (what, ..)) in rows.into_iter().enumerate() {
        let count = asked[number].load(Ordering::Relaxed) - before[number];
        println!("{what}: {count} questions in the first minute");
        assert!((1..=8).contains(&count), "{what}: {count}");
    }
    site.push_and_wait("services/web", "round", "heard from the conf-slave\n");
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
    site.wait_applied(site.master.sequence());
    println!("a push while a slow transfer goes on: {:.1} s", start.elapsed().as_secs_f64());
    let requests = way.git_requests();
    assert!(requests[0].received > 4 << 20, "it was cut off: {requests:?}");
    assert!(requests.iter().skip(1).all(|request| request.received < 1 << 20), "it was repeated: {requests:?}");
    assert!(site.host().status().expect("it answers")["sequence"].as_u64() > Some(first));
}
