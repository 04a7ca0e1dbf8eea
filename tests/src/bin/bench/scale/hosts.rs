//! The load of every tier with 10, 100 and 1,000 hosts.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use tests::{
    DEADLINE, Proxy, Site, eventually_within,
    figures::{Curve, Hop, three},
    program::{built, command, spawn},
    site::DATACENTER,
    usage::processor_time,
};

use crate::{
    fleet::{self, BRANCH, CHANGED, settings},
    options::Size,
    pusher::Pusher,
};

/// The time for all hosts to fetch and export for the first time, or to follow a change.
const PATIENCE: Duration = Duration::from_secs(300);

/// The hosts of a datacenter of the usual size.
const OF_A_DATACENTER: usize = 100;

/// What one number of hosts costs.
struct Cost {
    /// Processor time of each tier in milliseconds for one change.
    processor: [f64; 3],
    /// What passes from conf-slave to conf-master, from hosts to conf-slave, from hosts to Consul.
    hops: [Hop; 3],
}

/// Measures every number of hosts. The traffic is that of a datacenter of the usual size: what
/// conf-slave itself asks Consul is shared by its hosts.
pub(super) fn measure(size: Size) -> (Vec<Curve>, Vec<Hop>) {
    let most = size.agents().iter().copied().max().unwrap_or(1);
    eprintln!("bench: {most} agents");
    let site = fleet::start_proxied(size.services(), most);
    let pusher = Pusher::clone_of(&site.master.git_url(), BRANCH, &site.folder.path().join("scale-clone"));
    let tiers = ["conf-master", "conf-slave", "one conf-local"];
    let mut processor =
        Curve::new("hosts-processor", "processor time of each tier for one change", "hosts", "ms", &tiers);
    let names = ["to conf-master", "to conf-slave, of one host", "to Consul, of one host"];
    let mut requests = Curve::new("hosts-requests", "requests for one change", "hosts", "requests", &names);
    let mut bytes = Curve::new("hosts-bytes", "bytes of answers for one change", "hosts", "bytes", &names);
    let mut running = Vec::new();
    let mut started = 0;
    let mut measured = Vec::new();
    for hosts in size.agents().iter().copied() {
        eprintln!("bench: {hosts} hosts");
        running.push(Agents::start(&site, started + 1, hosts - started));
        started = hosts;
        let cost = of_hosts(size, &site, &pusher, &running, hosts);
        let x = f64::from(u32::try_from(hosts).unwrap_or(u32::MAX));
        processor.point(x, &cost.processor);
        requests.point(x, &cost.hops.each_ref().map(|hop| hop.requests));
        bytes.point(x, &cost.hops.each_ref().map(|hop| hop.bytes));
        if hosts <= OF_A_DATACENTER {
            measured = cost.hops.to_vec();
        }
    }
    drop(running);
    fleet::end(site);
    let processor = processor.means(
        "conf-master must be flat: hosts ask their conf-slave. The line of conf-slave grows with its hosts; add conf-slaves.",
    );
    let requests = requests.means("The requests to conf-master do not grow with the hosts of a datacenter.");
    let bytes = bytes.means("A change costs its own size, on every hop.");
    (vec![processor, requests, bytes], measured)
}

fn of_hosts(size: Size, site: &Site, pusher: &Pusher, agents: &[Agents], hosts: usize) -> Cost {
    let pids: Vec<u32> = agents.iter().map(|agents| agents.child.id()).collect();
    let groups = [vec![site.master.daemon.pid()], vec![site.slave().daemon.pid()], pids];
    let times = || groups.each_ref().map(|pids| processor_time(pids));
    let slave = site.slave();
    // Hosts may ask conf-master themselves, but should not.
    let to_master = [slave.to_central.as_ref(), site.master.proxy.as_ref()];
    let [to_slave, to_consul] = [[slave.proxy.as_ref(), None], [site.to_consul.first(), None]];
    let traffic = || [&to_master, &to_slave, &to_consul].map(passed);
    fleet::settle(size, &groups[1]);
    // What happens without a change.
    let (idle_times, idle_traffic, began) = (times(), traffic(), Instant::now());
    thread::sleep(size.idle());
    let idle = began.elapsed().as_secs_f64();
    let idle_times = rates(&times(), &idle_times, idle);
    let idle_traffic = differences(traffic(), idle_traffic).map(|(requests, bytes)| (requests / idle, bytes / idle));
    // And with some.
    let (before_times, before_traffic, began) = (times(), traffic(), Instant::now());
    for round in 0..size.changes_of_scale() {
        pusher.commit("config.yaml", &settings(CHANGED, hosts * 100 + round));
        pusher.push();
        wait(site, site.master.sequence(), hosts);
        thread::sleep(size.pause());
    }
    let lasted = began.elapsed().as_secs_f64();
    let changes = f64::from(u32::try_from(size.changes_of_scale()).unwrap_or(1));
    let each = f64::from(u32::try_from(hosts).unwrap_or(u32::MAX));
    let busy = rates(&times(), &before_times, lasted);
    let share = [1.0, 1.0, each];
    let processor = [0, 1, 2].map(|tier| {
        let busy: f64 = busy[tier];
        (busy - idle_times[tier]).max(0.0) * lasted * 1e3 / changes / share[tier]
    });
    let passed = differences(traffic(), before_traffic);
    let names =
        ["conf-slave asks conf-master", "a host asks conf-slave", "a host and its share of conf-slave ask Consul"];
    let share = [1.0, each, each];
    let hops = [0, 1, 2].map(|hop| {
        let (requests, bytes) = passed[hop];
        let (idle_requests, idle_bytes) = idle_traffic[hop];
        let of_change = |all: f64, idle: f64| three((all - idle * lasted).max(0.0) / changes / share[hop]);
        Hop {
            name: names[hop].to_owned(),
            requests: of_change(requests, idle_requests),
            bytes: of_change(bytes, idle_bytes),
            idle_requests: three(idle_requests * 60.0 / share[hop]),
            idle_bytes: three(idle_bytes * 60.0 / share[hop]),
        }
    });
    Cost { processor, hops }
}

fn rates(now: &[Duration; 3], before: &[Duration; 3], seconds: f64) -> [f64; 3] {
    [0, 1, 2].map(|tier| now[tier].saturating_sub(before[tier]).as_secs_f64() / seconds)
}

fn differences(now: [(f64, f64); 3], before: [(f64, f64); 3]) -> [(f64, f64); 3] {
    [0, 1, 2].map(|hop| (now[hop].0 - before[hop].0, now[hop].1 - before[hop].1))
}

/// The requests that have passed proxies, and the bytes of their answers.
fn passed(proxies: &[Option<&Proxy>; 2]) -> (f64, f64) {
    let requests: Vec<_> = proxies.iter().flatten().flat_map(|proxy| proxy.requests()).collect();
    let bytes: u64 = requests.iter().map(|request| request.received).sum();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    (requests.len() as f64, bytes as f64)
}

/// Waits until so many hosts have reported a sequence.
fn wait(site: &Site, sequence: u64, hosts: usize) {
    let start = Instant::now();
    eventually_within(PATIENCE, "every host to report the change", || {
        if start.elapsed() > Duration::from_millis(200) {
            thread::sleep(Duration::from_millis(200));
        }
        let all = site.slave().http().get_json("/api/v1/hosts")?;
        let all = all.as_array().cloned().unwrap_or_default();
        let there = all.iter().filter(|host| host["sequence"].as_u64() >= Some(sequence)).count();
        if there >= hosts { Ok(()) } else { Err(format!("{there} of {hosts}")) }
    });
}

/// Agents in a process.
struct Agents {
    child: Child,
}

impl Agents {
    /// Starts them, and waits until each has exported.
    fn start(site: &Site, first: usize, count: usize) -> Self {
        let home = site.folder.path();
        let mut bench = command(built("bench"), home);
        bench.args(["agents", "--first", &first.to_string(), "--count", &count.to_string(), "--folder"]);
        bench.arg(home.join("agents")).args(["--", "--datacenter", DATACENTER, "--surrogate"]);
        bench.arg(site.slave().public_url()).arg("--central").arg(site.master.public_url());
        let consul = site.to_consul.first().map_or_else(|| site.consul().url(), Proxy::url);
        bench.arg("--consul").arg(consul).arg("--trusted-key").arg(site.master.trusted_key());
        let log = File::create(home.join(format!("agents-{first}.log"))).expect("the log can be made");
        bench.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = spawn(bench).expect("the agents can be started");
        let output = child.stdout.take().expect("its output is piped");
        let (say, ready): (_, Receiver<()>) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.starts_with("ready ") && say.send(()).is_err() {
                    return;
                }
            }
        });
        for number in 0..count {
            let waited = ready.recv_timeout(DEADLINE.max(PATIENCE));
            waited.unwrap_or_else(|_| panic!("{number} of {count} agents got ready"));
        }
        Agents { child }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
