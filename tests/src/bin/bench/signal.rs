//! From the start of a push to the signal on the last host.

use std::{
    cell::RefCell,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use tests::{
    Site,
    figures::{Kind, Row, Spread},
    usage::{Memory, memory, processor_time},
};

use crate::{
    fleet::BRANCH,
    options::Size,
    peers::{BlockingQuery, ConsulPut, Etcd, Git2consul, PlainGit, Watches},
    pusher::Pusher,
    race::{Ours, Racer},
};

/// The goals, by the number of hosts, in milliseconds.
const GOALS: [(usize, f64); 3] = [(1, 55.0), (50, 100.0), (200, 250.0)];

/// The goal for the private memory of an agent, in MiB.
const GOAL_MEMORY: f64 = 10.0;
/// The goals for the processor time of a host and of a conf-slave for one change, in milliseconds.
const GOAL_HOST: f64 = 2.0;
const GOAL_SLAVE: f64 = 10.0;

/// Measures for every number of hosts, and names the peers that were not there.
pub(crate) fn measure(size: Size, site: &mut Site, plain: &PlainGit) -> (Vec<Row>, Vec<String>) {
    let home = site.folder.path().to_owned();
    let peers = home.join("peers");
    std::fs::create_dir_all(&peers).expect("the folder can be made");
    let watches = Rc::new(RefCell::new(Watches::start(&peers)));
    let mut missing = Vec::new();
    let mut racers: Vec<Box<dyn Racer>> = vec![Box::new(ConsulPut::new(&watches))];
    match Etcd::start(&peers) {
        Some(etcd) => racers.push(Box::new(etcd)),
        None => missing.push("etcd: set ETCD to its program, with etcdctl beside it".to_owned()),
    }
    match Git2consul::start(&peers, plain, &watches, size.services()) {
        Some(git2consul) => racers.push(Box::new(git2consul)),
        None => missing.push("git2consul: set GIT2CONSUL to a checkout with its packages installed".to_owned()),
    }
    racers.push(Box::new(BlockingQuery::new(&watches.borrow())));
    let pusher = Pusher::clone_of(&site.master.git_url(), BRANCH, &home.join("signal-ours"));
    let mut ours = Ours::new(site, pusher);
    let mut rows = Vec::new();
    for (number, hosts) in size.hosts().into_iter().enumerate() {
        eprintln!("bench: from the start of a push to the signal, {hosts} hosts");
        rows.push(of_hosts(size, hosts, (number + 1) * 1000, &mut ours, &mut racers));
    }
    rows.extend(rows.last().map(processor).unwrap_or_default());
    rows.push(memory_of_agents(&ours, &racers));
    (rows, missing)
}

/// The memory of agents, and of what watches on a host for Consul and etcd.
fn memory_of_agents(ours: &Ours<'_>, racers: &[Box<dyn Racer>]) -> Row {
    let [_, _, (_, agents)] = ours.tiers();
    let all: Vec<Memory> = agents.iter().map(|&pid| memory(&[pid])).collect();
    let of = |value: fn(&Memory) -> u64| Spread::of(all.iter().map(|one| mebibytes(value(one))).collect());
    let what = "private memory of all processes of an agent, 30 components";
    let mut row = Row::new("memory", what, "MiB", of(|one| one.private)).goal(GOAL_MEMORY);
    row = row.beside(Kind::Ours, "with its share of what processes share", of(|one| one.proportional));
    row = row.beside(Kind::Ours, "resident", of(|one| one.resident));
    for racer in racers {
        if let Some(pids) = racer.watch_pids() {
            let each = pids.iter().map(|&pid| mebibytes(memory(&[pid]).private));
            row = row.beside(Kind::Peer, &watcher(racer.as_ref()), Spread::of(each.collect()));
        }
    }
    row.means("Every host of the fleet pays this, all the time.")
}

/// What watches on a host for a peer.
fn watcher(racer: &dyn Racer) -> String {
    let (_, name) = racer.name();
    format!("a host's process of: {name}")
}

/// The processor time of one host and of one conf-slave for a change, as rows of their own.
fn processor(row: &Row) -> Vec<Row> {
    let of = |name: &str| row.tiers.iter().find(|tier| tier.name == name).map(|tier| Spread::one(tier.milliseconds));
    let mut rows = Vec::new();
    if let Some(host) = of("conf-local") {
        let mut one =
            Row::new("processor-host", "processor time of one host for a change that concerns it", "ms", host);
        for tier in row.tiers.iter().filter(|tier| tier.name.starts_with("a host's process")) {
            one = one.beside(Kind::Peer, &tier.name, Spread::one(tier.milliseconds));
        }
        rows.push(
            one.goal(GOAL_HOST).means("Every host pays this for each change; a thousand changes a day are seconds."),
        );
    }
    if let Some(slave) = of("conf-slave") {
        let one = Row::new("processor-slave", "processor time of one conf-slave for a change", "ms", slave);
        rows.push(
            one.goal(GOAL_SLAVE).means(
                "One conf-slave serves a datacenter; this and its hosts' requests bound the changes of a second.",
            ),
        );
    }
    rows
}

fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let bytes = bytes as f64;
    bytes / 1024.0 / 1024.0
}

fn of_hosts(size: Size, hosts: usize, first: usize, ours: &mut Ours<'_>, racers: &mut [Box<dyn Racer>]) -> Row {
    ours.grow(hosts);
    racers.iter_mut().for_each(|racer| racer.grow(hosts));
    let mut took: Vec<Vec<Duration>> = vec![Vec::new(); racers.len() + 1];
    let idle = rate(ours, size.pause() * 3);
    let mut used: Vec<Duration> = Vec::new();
    let mut of_peers = vec![Duration::ZERO; racers.len()];
    let mut all = Duration::ZERO;
    for round in 0..=size.rounds() {
        let before = times(ours);
        let began = Instant::now();
        let time = ours.race(first + round);
        thread::sleep(size.pause());
        // The first round is not counted: it opens what stays open.
        if round > 0 {
            took[0].push(time);
            let now = times(ours);
            let spent = now.iter().zip(&before).map(|(now, before)| now.saturating_sub(*before));
            used = spent.enumerate().map(|(at, spent)| used.get(at).copied().unwrap_or_default() + spent).collect();
            all += began.elapsed();
        }
        for ((racer, took), used) in racers.iter_mut().zip(&mut took[1..]).zip(&mut of_peers) {
            let pids = racer.watch_pids().unwrap_or_default();
            let before = processor_time(&pids);
            let time = racer.race(first + round);
            if round > 0 {
                took.push(time);
                *used += processor_time(&pids).saturating_sub(before);
            }
        }
    }
    let what = match hosts {
        1 => "start of a push to the signal, 1 host".to_owned(),
        _ => format!("start of a push to the last signal of {hosts} hosts"),
    };
    let mut row = Row::new(&format!("signal-{hosts}"), &what, "ms", Spread::of_times(&took[0]));
    for (racer, took) in racers.iter().zip(&took[1..]) {
        let (kind, name) = racer.name();
        row = row.beside(kind, &name, Spread::of_times(took));
    }
    if let Some((_, goal)) = GOALS.into_iter().find(|(number, _)| *number == hosts) {
        row = row.goal(goal);
    }
    let rounds = f64::from(u32::try_from(size.rounds()).unwrap_or(1));
    for (((name, pids), used), idle) in ours.tiers().into_iter().zip(used).zip(idle) {
        let busy = used.as_secs_f64() - idle * all.as_secs_f64();
        let processes = f64::from(u32::try_from(pids.len()).unwrap_or(1));
        row = row.tier(name, busy.max(0.0) * 1e3 / rounds / processes);
    }
    for (racer, used) in racers.iter().zip(of_peers) {
        if let Some(pids) = racer.watch_pids() {
            let processes = f64::from(u32::try_from(pids.len()).unwrap_or(1));
            row = row.tier(&watcher(racer.as_ref()), used.as_secs_f64() * 1e3 / rounds / processes);
        }
    }
    row.means(
        "A process on the last host is told this long after somebody typed `git push`. Here all hosts share the cores of one \
         machine; in a fleet each host has its own, so the figure of one host, plus the network, is what each host sees.",
    )
}

/// The processor time of each tier until now.
fn times(ours: &Ours<'_>) -> Vec<Duration> {
    ours.tiers().iter().map(|(_, pids)| processor_time(pids)).collect()
}

/// The processor time of each tier while nothing changes, in seconds for each second.
fn rate(ours: &Ours<'_>, lasting: Duration) -> Vec<f64> {
    let (began, before) = (Instant::now(), times(ours));
    thread::sleep(lasting);
    let seconds = began.elapsed().as_secs_f64();
    times(ours).iter().zip(before).map(|(now, before)| now.saturating_sub(before).as_secs_f64() / seconds).collect()
}
