//! A peer that falls silent costs seconds: nobody closes a connection here. Processes are stopped, packets are
//! dropped, bytes are held back. Each story prints what it measured.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Consul, Network, Plan, Site, eventually, eventually_within, own_address,
    program::{command, signal_pid, spawn},
    site::{DATACENTER, Pointers},
    stalled_since,
};

use crate::{
    lies::OfNoUse,
    nginx::{Nginx, main_file, nginx},
};

/// Pushes one file and measures until every host has it.
#[track_caller]
fn push_measured(site: &Site, what: &str, goal: Duration) -> Duration {
    let sequence = site.push("services/web", "round", &format!("{}\n", rand::random::<u32>()));
    let start = Instant::now();
    site.wait_applied(sequence);
    within(what, start.elapsed(), goal)
}

/// Prints what was measured. A busy machine may take somewhat longer than the goal.
#[track_caller]
fn within(what: &str, took: Duration, goal: Duration) -> Duration {
    println!("{what}: {:.1} s, the goal is {} s", took.as_secs_f64(), goal.as_secs());
    let most = goal + BUSY + 3 * Instant::now().checked_sub(took).map_or(Duration::ZERO, stalled_since);
    assert!(took <= most, "{what}: {took:?}, the goal is {goal:?}, and at most {most:?}");
    took
}

fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

/// No value of a flag.
const NONE: [&str; 0] = [];
const SECONDS_5: Duration = Duration::from_secs(5);
/// What a change may take on a busy machine where nothing is silent.
const BUSY: Duration = Duration::from_secs(3);

#[test]
fn a_fetch_of_a_slave_that_stalls_in_the_middle_of_a_pack_costs_seconds() {
    let site = Plan { proxied: true, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let way = site.slave().to_central.as_ref().expect("a proxy");
    // 3 MB that do not compress.
    let noise: Vec<u8> = (0..3 << 20).map(|_| rand::random::<u8>()).collect();
    way.reset();
    way.hold_one_answer_after(500_000);
    site.work.change().file("services/web/master", "noise", noise).land();
    let start = Instant::now();
    site.wait_applied(site.master.sequence());
    let took = start.elapsed();
    assert!(way.holds_an_answer(), "nothing was held: {:?}", way.requests());
    within("a conf-slave's fetch stalls in the middle of a pack", took, SECONDS_5);
}

#[test]
fn a_silent_way_from_a_host_to_consul_costs_seconds() {
    let Some(network) = Network::own("silence::a_silent_way_from_a_host_to_consul_costs_seconds") else { return };
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let mut host = site.make_host(1);
    // It hears of changes from Consul alone.
    host.daemon.set_flag("--surrogate", NONE);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    let consul = site.consul().address();
    let dropped = network.drop_connections(|end| end == consul);
    assert!(dropped > 0);
    push_measured(&site, "host to Consul, connections dead", SECONDS_5);
}

#[test]
fn one_hung_server_of_three_of_consul_costs_seconds() {
    let site = Plan { slaves: 0, hosts: 0, ..Plan::default() }.start_empty();
    site.populate();
    let mut site = site;
    let three = Consul::start_three(site.folder.path());
    let follower = three.iter().find(|server| !server.is_leader()).expect("two are followers");
    // The one that will hang is the first.
    let others = three.iter().map(Consul::url).filter(|url| *url != follower.url());
    let urls: Vec<String> = std::iter::once(follower.url()).chain(others).collect();
    let mut slave = site.make_slave(1);
    slave.daemon.set_flag("--consul", &urls);
    slave.daemon.start();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    host.daemon.set_flag("--consul", &urls);
    host.daemon.set_flag("--surrogate", NONE);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    push_measured(&site, "all three servers of Consul well", SECONDS_5);
    signal_pid(follower.pid(), Signal::STOP);
    push_measured(&site, "host to Consul, one of three servers hung", SECONDS_5);
    push_measured(&site, "the same, once more", SECONDS_5);
    let status = site.host().wait_status("say which server is silent", |status| problems(status).contains(&urls[0]));
    println!("the host says: {}", problems(&status));
    signal_pid(follower.pid(), Signal::CONT);
    site.host().wait_status("be well again", |status| !problems(status).contains("onsul"));
}

#[test]
fn a_silent_way_from_a_slave_to_the_central_server_costs_seconds() {
    let Some(network) = Network::own("silence::a_silent_way_from_a_slave_to_the_central_server_costs_seconds") else {
        return;
    };
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let central = site.master.address;
    let dropped = network.drop_connections(|end| end == central);
    assert!(dropped > 0);
    push_measured(&site, "conf-slave to conf-master", SECONDS_5);
}

#[test]
fn a_firewall_that_forgot_every_connection_costs_seconds() {
    let Some(network) = Network::own("silence::a_firewall_that_forgot_every_connection_costs_seconds") else { return };
    let site = Plan { slaves: 2, hosts: 3, ..Plan::default() }.start();
    for round in 1..=2 {
        let dropped = network.drop_connections(|_| true);
        assert!(dropped > 10, "{dropped}");
        push_measured(&site, &format!("all hops at once, round {round}"), Duration::from_secs(10));
    }
}

#[test]
fn a_hung_surrogate_costs_a_second_once_and_is_shown() {
    let host_flags = vec!["--surrogates-in-order".to_owned()];
    let site = Plan { slaves: 2, host_flags, ..Plan::default() }.start();
    site.push_and_wait("services/web", "round", "1\n");
    let hung = &site.slaves[0];
    hung.daemon.signal(Signal::STOP);
    push_measured(&site, "first surrogate hung", Duration::from_secs(1));
    push_measured(&site, "first surrogate hung, the next change", Duration::from_secs(1));
    push_measured(&site, "first surrogate hung, one more", Duration::from_secs(1));
    let status =
        site.host().wait_status("show it as away", |status| !status["away"][&format!("{}/", hung.url)].is_null());
    assert!(problems(&status).contains("was silent for"), "{status}");
    eventually_within(SECONDS_5 * 2, "the stream of the other one to be used", || {
        let status = site.host().status()?;
        let other = format!("{}/", site.slaves[1].url);
        if status["away"][&other].is_null() { Ok(()) } else { Err(status.to_string()) }
    });
    hung.daemon.signal(Signal::CONT);
    site.host().wait_status("be well again", |status| status["problems"] == serde_json::json!([]));
}

#[test]
fn hosts_without_any_consul_get_every_change_and_say_from_where() {
    let host_flags = vec!["--surrogates-in-order".to_owned()];
    let plan = Plan { hosts: 2, slaves: 2, hosts_without_consul: true, host_flags, ..Plan::default() };
    let mut site = plan.start();
    for _ in 0..3 {
        push_measured(&site, "hosts without any Consul", SECONDS_5);
    }
    let status = site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    let from = status["pointer_from"].as_str().expect("a source").to_owned();
    assert!(site.slaves.iter().any(|slave| from.starts_with(&slave.url)), "{from}");
    // Not even conf-slave has one.
    site.consul_mut().kill9();
    push_measured(&site, "Consul away", SECONDS_5);
    let first = site.slaves[0].url.clone();
    site.slaves[0].daemon.kill9();
    push_measured(&site, "Consul and a conf-slave away", SECONDS_5);
    site.host().wait_status("say that the conf-slave is away", |status| problems(status).contains(&first));
    // A host that starts now.
    site.hosts[0].daemon.kill9_and_restart();
    push_measured(&site, "the same, after a start", SECONDS_5);
    site.slaves[0].daemon.start();
    site.host().wait_status("be well again", |status| status["problems"] == serde_json::json!([]));
}

#[test]
fn a_surrogate_that_is_down_is_a_problem_although_nothing_is_fetched() {
    let mut site = Site::start();
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    site.slaves[0].daemon.kill9();
    let url = site.slaves[0].url.clone();
    let status = eventually_within(SECONDS_5, "the host to name the conf-slave", || {
        let status = site.host().status()?;
        if problems(&status).contains(&url) { Ok(status) } else { Err(status.to_string()) }
    });
    assert!(problems(&status).contains("see that the URL is right and the server runs"), "{status}");
    site.slaves[0].daemon.start();
    site.host().wait_status("be well again", |status| status["problems"] == serde_json::json!([]));
}

/// Starts nginx in front of servers, each at an address of its own, with nginx's defaults and these directives.
fn nginx_before(folder: &Path, servers: &[(SocketAddr, SocketAddr)], directives: &str) -> Nginx {
    let home = folder.join("nginx");
    let prefix = home.to_str().expect("text").to_owned();
    fs::create_dir_all(home.join("sites")).expect("the folder can be made");
    let blocks = servers
        .iter()
        .map(|(own, to)| format!("server {{ listen {own}; {directives} location / {{ proxy_pass http://{to}; }} }}\n"));
    fs::write(home.join("sites/all.conf"), blocks.collect::<String>()).expect("the folder can be written");
    fs::write(home.join("nginx.conf"), main_file(&prefix)).expect("the folder can be written");
    let mut start = command(nginx(), &home);
    start.args(["-e", &format!("{prefix}/error.log"), "-p", &prefix, "-c", &format!("{prefix}/nginx.conf")]);
    start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Nginx(spawn(start).expect("nginx can be started"));
    for (own, _) in servers {
        eventually("nginx to listen", || TcpStream::connect(own).map(drop).map_err(|error| error.to_string()));
    }
    running
}

/// A site whose conf-slave and host reach what is above them through nginx, and the host has no Consul.
fn behind_nginx(directives: &str) -> (Site, Nginx) {
    let plan = Plan { slaves: 0, hosts: 0, hosts_without_consul: true, ..Plan::default() };
    let mut site = plan.start();
    let (to_central, to_slave) = (own_address(7600), own_address(7601));
    let mut slave = site.make_slave(1);
    let servers = [(to_central, site.master.address), (to_slave, slave.address)];
    let nginx = nginx_before(site.folder.path(), &servers, directives);
    slave.daemon.set_flag("--central", [&format!("http://{to_central}")]);
    slave.daemon.start();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    host.daemon.set_flag("--central", NONE);
    host.daemon.set_flag("--surrogate", [&format!("http://{to_slave}")]);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    (site, nginx)
}

#[test]
fn nginx_with_its_defaults_between_the_tiers_holds_no_event_back() {
    let (site, nginx) = behind_nginx("");
    for _ in 0..5 {
        push_measured(&site, "nginx with its defaults", Duration::from_secs(2));
    }
    assert!(site.slave().status().expect("it answers")["problems"] == serde_json::json!([]));
    drop(nginx);
}

#[test]
fn behind_a_proxy_that_holds_every_event_back_questions_find_the_newest_snapshot() {
    let (site, nginx) = behind_nginx("proxy_ignore_headers X-Accel-Buffering;");
    for _ in 0..3 {
        push_measured(&site, "a proxy that holds events back", Duration::from_secs(10));
    }
    let status = site.host().wait_status("name the cause", |status| problems(status).contains("buffering"));
    assert_eq!(status["state"], "current");
    drop(nginx);
}

/// Answers every request for events with a snapshot that is nowhere, and with heartbeats; other requests with 404.
fn lying_slave() -> SocketAddr {
    let address = own_address(7602);
    let listener = TcpListener::bind(address).expect("a free loopback address");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A host that goes away ends its thread.
            thread::spawn(move || drop(lie(client)));
        }
    });
    address
}

fn lie(mut client: TcpStream) -> io::Result<()> {
    let mut request = [0; 8192];
    let length = client.read(&mut request)?;
    if !request[..length].starts_with(b"GET /api/v1/events") {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let nowhere = "1234567890123456789012345678901234567890";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let event = serde_json::json!({"central": u64::MAX, "datacenter": DATACENTER, "sequence": u64::MAX,
        "commit": nowhere, "previous": null});
    write!(client, "{head}event: snapshot\ndata: {event}\n\n")?;
    loop {
        write!(client, "event: heartbeat\ndata: {{\"period\":2}}\n\n")?;
        thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_conf_slave_that_names_what_is_nowhere_holds_back_no_change() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let mut host = site.make_host(1);
    let liar = format!("http://{}", lying_slave());
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments.splice(at..at, ["--surrogates-in-order".into(), "--surrogate".into(), liar.clone().into()]);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    for _ in 0..3 {
        push_measured(&site, "a conf-slave lies", SECONDS_5);
        let sequence = site.master.sequence();
        let status =
            site.host().wait_status("say what is wrong", |status| problems(status).contains("cannot be fetched"));
        assert_eq!(
            (&status["sequence"], status["pointer_from"].as_str()),
            (&sequence.into(), Some(format!("{liar}/").as_str()))
        );
    }
}

#[test]
fn an_idle_host_asks_seldom_and_so_does_one_whose_consul_is_of_no_use() {
    // Both take two minutes, the same ones.
    let of_no_use = OfNoUse::start();
    let site = Plan { proxied: true, ..Plan::default() }.start();
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    let (consul, slave) = (&site.to_consul[0], site.slave().proxy.as_ref().expect("a proxy"));
    consul.reset();
    slave.reset();
    // The conf-slave's own questions to Consul go through the same proxy: those for single keys without
    // `consistent` are the host's and the conf-slave's watch.
    let start = Instant::now();
    let count = || {
        let from_host = slave.requests();
        let watches: Vec<_> =
            consul.requests().into_iter().filter(|request| request.line.contains("wait=60000ms")).collect();
        (from_host, watches)
    };
    eventually_within(Duration::from_secs(180), "two minutes to pass", || {
        let left = Duration::from_secs(120).saturating_sub(start.elapsed());
        if left.is_zero() { Ok(()) } else { Err(format!("{left:?} left")) }
    });
    let (from_host, watches) = count();
    println!(
        "an idle host in 2 minutes: {} requests to its conf-slave {:?}, {} to Consul",
        from_host.len(),
        from_host.iter().map(|request| &request.line).collect::<Vec<_>>(),
        watches.len()
    );
    // Two a minute, and one that began before.
    assert!(from_host.len() + watches.len() <= 5, "{from_host:?} {watches:?}");
    of_no_use.expect_few_questions();
}
