//! Many datacenters of one class: their first push, and a change of all of them.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use hyper::Method;
use tests::{
    DEADLINE, Plan, Site, Work, eventually_within,
    figures::{Kind, Row, Spread},
    site::{Pointers, Slave, instance},
};

use crate::{client::Client, fleet, options::Size};

/// The goal for the first push, in seconds.
const GOAL_FIRST: f64 = 5.0;
/// The goal for the last pointer of a change of all datacenters, in milliseconds.
const GOAL_POINTER: f64 = 600.0;
/// The time for all conf-slaves to fetch and publish for the first time.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures a push of all datacenters but one, beside somebody who pushes something else.
pub(crate) fn measure(size: Size) -> Vec<Row> {
    let (datacenters, components) = (size.datacenters(), size.services());
    eprintln!("bench: {datacenters} datacenters of {components} components");
    let plan = Plan {
        pointers: Pointers::Embedded,
        components: (0..components).map(|number| format!("services/s{number}")).collect(),
        ..Plan::default()
    };
    let mut site = plan.start_empty();
    site.populate();
    let bystander = Work::new(&site.folder.path().join("bystander"), &site.master.git_url());
    let alone: Vec<Duration> = (0..size.rounds()).map(|round| push(&bystander, round)).collect();

    let mut change = site.work.change();
    for number in 1..datacenters {
        change = change.file(&format!("datacenters/dc-{number}/v1"), "datacenter.yaml", instance());
    }
    let over = AtomicBool::new(false);
    let (first, beside) = thread::scope(|scope| {
        let over = &over;
        let pushes = scope.spawn(move || {
            let mut took = Vec::new();
            while took.is_empty() || !over.load(Ordering::Relaxed) {
                took.push(push(&bystander, 1000 + took.len()));
            }
            took
        });
        let began = Instant::now();
        change.land();
        let first = began.elapsed();
        over.store(true, Ordering::Relaxed);
        (first, pushes.join().expect("the pushes are accepted"))
    });
    let longest = beside.iter().max().copied().unwrap_or_default();

    let what = format!("first push of {} datacenters of one class, {components} components", datacenters - 1);
    let first = Row::new("datacenters", &what, "s", Spread::one(first.as_secs_f64())).goal(GOAL_FIRST).means(
        "Somebody sets up a whole fleet in one push. It happens once; what matters is that nobody waits for it.",
    );
    let what = format!("… the longest of {} pushes of somebody else meanwhile", beside.len());
    let other = Row::new("datacenters-bystander", &what, "ms", Spread::one(longest.as_secs_f64() * 1e3))
        .beside(Kind::Ours, "the same push when nobody else pushes", Spread::of_times(&alone))
        .means("One push, however large, must not hold up the others.");
    let all = one_for_all(size, &site, datacenters);
    let pointer = last_pointer(size, &mut site, datacenters);
    fleet::end(site);
    vec![first, other, all, pointer]
}

/// A change of a component that all of them run, while conf-slaves share the cores: until the last
/// of them has published its pointer. Each stands in for the Consul of its datacenter.
fn last_pointer(size: Size, site: &mut Site, datacenters: usize) -> Row {
    let slaves = size.slaves();
    eprintln!("bench: {slaves} conf-slaves, each of a datacenter of its own");
    for number in 1..=slaves {
        site.add_slave_of(&format!("dc-{number}/v1"));
    }
    for slave in &site.slaves {
        eventually_within(PATIENCE, &format!("{} to publish", slave.url), || {
            let status = slave.status()?;
            if status["published"].is_null() { Err(status.to_string()) } else { Ok(()) }
        });
    }
    let pids: Vec<u32> = site.slaves.iter().map(|slave| slave.daemon.pid()).collect();
    fleet::settle(size, &pids);
    let published = pointers(&site.slaves);
    let (mut last, mut pushed) = (Vec::new(), Vec::new());
    for round in 0..=size.rounds().min(11) {
        let text = format!("pointer: {}\n", round + 1);
        let change = site.work.change().file("services/s0/master", "config.yaml", text);
        while published.try_recv().is_ok() {}
        let began = Instant::now();
        change.land();
        let answered = began.elapsed();
        let mut when = began;
        for _ in 0..slaves {
            when = when.max(published.recv_timeout(DEADLINE).expect("every conf-slave publishes"));
        }
        // The first round is not counted: it opens what stays open.
        if round > 0 {
            pushed.push(answered);
            last.push(when.saturating_duration_since(began));
        }
        fleet::settle(size, &pids);
    }
    let what = format!(
        "start of the same push of {datacenters} datacenters to the last pointer of {slaves}, their conf-slaves on the same cores"
    );
    Row::new("datacenters-pointer", &what, "ms", Spread::of_times(&last))
        .goal(GOAL_POINTER)
        .beside(Kind::Ours, "the end of that push", Spread::of_times(&pushed))
        .means("Every datacenter hears of the change by then. In a fleet each conf-slave has cores of its own.")
}

/// Tells when each conf-slave's pointer becomes another.
fn pointers(slaves: &[Slave]) -> Receiver<Instant> {
    let (say, published) = channel();
    for slave in slaves {
        let (say, address) = (say.clone(), slave.address);
        let key = format!("/v1/kv/configurations/snapshots/{}", slave.datacenter);
        thread::spawn(move || {
            let mut client = Client::open(address);
            let mut before = client.send(Method::GET, &format!("{key}?raw"), String::new());
            loop {
                let index = before.headers["x-consul-index"].to_str().unwrap_or("0");
                let path = format!("{key}?raw&index={index}&wait=600s");
                let Some(now) = client.try_send(Method::GET, &path) else { return };
                let at = Instant::now();
                if now.body != before.body && say.send(at).is_err() {
                    return;
                }
                before = now;
            }
        });
    }
    published
}

/// A change of a component that all of them run.
fn one_for_all(size: Size, site: &Site, datacenters: usize) -> Row {
    let took: Vec<Duration> = (0..size.rounds().min(11))
        .map(|round| {
            let change =
                site.work.change().file("services/s0/master", "config.yaml", format!("round: {}\n", round + 1));
            let began = Instant::now();
            change.land();
            began.elapsed()
        })
        .collect();
    let one: Vec<Duration> = (0..size.rounds().min(11))
        .map(|round| {
            let text = format!("round: {}\n", round + 1);
            let change = site.work.change().file("datacenters/dc-1/v1", "overrides/services/s0.yaml", text);
            let began = Instant::now();
            change.land();
            began.elapsed()
        })
        .collect();
    let what = format!("push of one component that {datacenters} datacenters run, commit included");
    Row::new("datacenters-change", &what, "ms", Spread::of_times(&took))
        .beside(Kind::Ours, "the same for one of the datacenters", Spread::of_times(&one))
        .means("The signed snapshots of all datacenters are made before the answer: they all have the change, or none has.")
}

/// Pushes what no datacenter runs. Returns the time of the push with its commit.
fn push(work: &Work, round: usize) -> Duration {
    let change = work.change().file("services/bystander/master", "config.yaml", format!("round: {round}\n"));
    let began = Instant::now();
    change.land();
    began.elapsed()
}
