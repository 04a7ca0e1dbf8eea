//! What a bystander waits while others take much of the central server, beside what a machine costs
//! that is busy with something else.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use conf_core::git::{Depth, Step};
use hyper::Method;
use tests::{
    Site, Work,
    site::DATACENTER,
    wire::{self, Claim, ZERO},
};

use crate::slots::{
    API, Stranger, WEB, as_stranger, central_with, noise, push, push_schemas, slow_readers, slow_senders,
};

/// The median, and what all but one of a hundred are below.
fn figures(mut all: Vec<Duration>) -> [Duration; 2] {
    all.sort_unstable();
    [all[all.len() / 2], all[(all.len() * 99).div_ceil(100) - 1]]
}

/// What a bystander's pushes and fetches take.
fn bystander(site: &Site, rounds: std::ops::Range<usize>) -> [[Duration; 2]; 2] {
    let (mut pushes, mut fetches) = (Vec::new(), Vec::new());
    let reader = Work::new(&site.folder.path().join(format!("reader-{}", rounds.start)), &site.master.git_url());
    reader.git(&["fetch", "-q", "origin", &format!("refs/heads/{API}:refs/heads/{API}")]);
    for round in rounds {
        pushes.push(push(&site.work, API, round));
        let began = Instant::now();
        reader.git(&["fetch", "-q", "origin", &format!("refs/heads/{API}:refs/heads/{API}")]);
        fetches.push(began.elapsed());
    }
    [figures(pushes), figures(fetches)]
}

/// Something that goes on in threads until it is dropped.
struct Ongoing {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Ongoing {
    fn start(threads: usize, work: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let (stop, work) = (Arc::new(AtomicBool::new(false)), Arc::new(work));
        let threads = (0..threads).map(|number| {
            let (stop, work) = (stop.clone(), work.clone());
            thread::spawn(move || {
                // It stands for other machines, whose processors are their own. Best effort.
                let _ = rustix::process::setpriority_process(None, 19);
                while !stop.load(Ordering::Relaxed) {
                    work(number);
                }
            })
        });
        Ongoing { threads: threads.collect(), stop }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Programs that have nothing to do with this system, and keep every processor busy.
struct Busy(Vec<std::process::Child>);

impl Busy {
    fn start() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |_| {
            let mut count = std::process::Command::new("nice");
            count.args(["-n", "19", "sh", "-c", "while :; do :; done"]).spawn().expect("it starts")
        };
        Busy((0..processors).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

#[test]
#[ignore = "long: measures a bystander under each of several loads"]
fn what_a_bystander_waits_under_each_load() {
    let site = central_with(20);
    site.work.change().file(WEB, "noise", noise(6 << 20)).land();
    let mut table = String::new();
    let mut round = 0;
    let mut measured = |what: &str, site: &Site| {
        round += 1000;
        let [push, fetch] = bystander(site, round..round + 100);
        let _ = writeln!(
            table,
            "{what:<50} push {:>9.1?} {:>9.1?}   fetch {:>9.1?} {:>9.1?}",
            push[0], push[1], fetch[0], fetch[1]
        );
        [push[1], fetch[1]]
    };
    let quiet = measured("quiet", &site);
    // What a busy machine costs by itself, though whoever makes it busy comes after all others.
    let busy = Busy::start();
    measured("as many programs as processors that only count", &site);
    drop(busy);
    let mut under = Vec::new();

    let held = slow_senders(&site, 120);
    let _readers = slow_readers(&site, 40);
    under.push(measured("120 slow senders, 40 slow readers", &site));
    drop(held);

    let (server, want) = (as_stranger(&site), site.master.snapshot().parse().expect("a commit"));
    let request = Step { have: None, want, depth: Depth::Full }.request();
    let clones = Ongoing::start(40, move |_| drop(wire::fetch(&server, &request)));
    under.push(measured("40 first fetches at once, again and again", &site));
    drop(clones);

    let stranger = Stranger::of(&site);
    let schemas = Ongoing::start(1, move |_| {
        push_schemas(&stranger, &stranger.work(), 0..20, 200);
    });
    under.push(measured("schemas that never end", &site));
    drop(schemas);

    let (server, commit) = (as_stranger(&site), site.work.id(&format!("refs/heads/{WEB}")));
    let refs = Ongoing::start(2, move |_| {
        let names: Vec<String> = (0..1000).map(|number| format!("refs/heads/services/web/no{number}/x")).collect();
        let claims: Vec<Claim<'_>> = names.iter().map(|name| Claim { old: ZERO, new: &commit, name }).collect();
        let _ = wire::push(&server, &claims, "report-status", None);
    });
    under.push(measured("1,000 refs at once, refused again and again", &site));
    drop(refs);

    let server = as_stranger(&site);
    let mut body = vec![b' '; 31 << 20];
    body.splice(..0, *br#"{"sequence": 1, "hosts": []"#);
    body.push(b'}');
    // One for all: to start a program takes a process with much memory long.
    let body = Bytes::from(body);
    let bodies = Ongoing::start(40, move |_| {
        let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
        let _ = server.request(Method::POST, &path, &[("content-type", "application/json")], body.clone());
    });
    under.push(measured("40 bodies of 31 MiB at once, again and again", &site));
    drop(bodies);
    println!("{:<50} {:<25}   p50 p99\n{table}", "a bystander's", "p50 p99");
    for found in under {
        for (found, quiet) in found.iter().zip(quiet) {
            // At most twice is the aim, and the table shows it, beside what a machine costs that is
            // busy with something else; a busy machine is no fault.
            assert!(*found < quiet * 10 + Duration::from_secs(1), "{found:?} where it was {quiet:?}\n{table}");
        }
    }
}
