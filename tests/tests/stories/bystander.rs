//! What a bystander waits while others take much of the central server, beside what a machine costs
//! that is busy with something else.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use conf_core::git::{Depth, Step};
use hyper::Method;
use tests::{
    Site, Work, eventually,
    site::DATACENTER,
    usage::processor_time,
    wire::{self, Claim, ZERO},
};

use crate::slots::{
    API, Held, Stranger, WEB, as_stranger, central_with, noise, push, push_schemas, slow_readers, slow_senders,
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
    /// How often it was done.
    rounds: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

/// Has this thread, and what it starts, leave its processor at once to whoever else wants it: it
/// stands for another machine, whose processors are its own. The lowest nice value does not do
/// that: who wakes up waits for the next tick. Source: sched(7), on `SCHED_IDLE`.
fn stand_for_another_machine() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = std::process::Command::new("chrt");
    let status = chrt.args(["--idle", "--pid", "0", &thread]).status();
    assert!(status.expect("chrt, of util-linux, starts").success());
}

impl Ongoing {
    fn start(threads: usize, work: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let (stop, rounds, work) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::new(work));
        let threads = (0..threads).map(|number| {
            let (stop, rounds, work) = (stop.clone(), rounds.clone(), work.clone());
            thread::spawn(move || {
                stand_for_another_machine();
                while !stop.load(Ordering::Relaxed) {
                    work(number);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Ongoing { threads: threads.collect(), rounds, stop }
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
            let mut count = std::process::Command::new("chrt");
            count.args(["--idle", "0", "sh", "-c", "while :; do :; done"]).spawn().expect("it starts")
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

/// A load, for as long as it is not dropped.
#[derive(Default)]
struct Load {
    /// Requests again and again.
    requests: Option<Ongoing>,
    /// Connections that are open.
    _held: Vec<Held>,
    /// Other programs.
    _others: Option<Busy>,
}

impl Load {
    fn of(requests: Ongoing) -> Self {
        Load { requests: Some(requests), ..Load::default() }
    }
}

/// First fetches.
fn first_fetches(site: &Site) -> Load {
    let (server, want) = (as_stranger(site), site.master.snapshot().parse().expect("a commit"));
    let request = Step { have: None, want, depth: Depth::Full }.request();
    Load::of(Ongoing::start(40, move |_| {
        // Some are told to ask again later.
        let _ = wire::fetch(&server, &request);
    }))
}

/// Schemas that never end.
fn schemas(site: &Site) -> Load {
    let stranger = Stranger::of(site);
    Load::of(Ongoing::start(1, move |_| {
        push_schemas(&stranger, &stranger.work(), 0..20, 200);
    }))
}

/// Pushes of as many refs as one may have, all of which are refused.
fn refused(site: &Site, pack: Option<Vec<u8>>, words: &'static str) -> Load {
    let (server, commit) = (as_stranger(site), site.work.id(&format!("refs/heads/{WEB}")));
    let names: Vec<String> = (0..1000).map(|number| format!("refs/heads/services/web/no{number}/x")).collect();
    Load::of(Ongoing::start(2, move |_| {
        let claims: Vec<Claim<'_>> = names.iter().map(|name| Claim { old: ZERO, new: &commit, name }).collect();
        let answer = wire::push(&server, &claims, "report-status", pack.as_deref()).expect("an answer");
        let report = wire::report(&answer);
        assert!(report.contains(words), "{}", report.chars().take(1000).collect::<String>());
    }))
}

/// Large bodies.
fn bodies(site: &Site) -> Load {
    let server = as_stranger(site);
    let mut body = vec![b' '; 31 << 20];
    body.splice(..0, *br#"{"sequence": 1, "hosts": []"#);
    body.push(b'}');
    // One for all: to start a program takes a process with much memory long.
    let body = Bytes::from(body);
    Load::of(Ongoing::start(40, move |_| {
        let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
        let _ = server.request(Method::POST, &path, &[("content-type", "application/json")], body.clone());
    }))
}

/// What a bystander waited.
struct Waited {
    /// Median and 99th percentile.
    push: [Duration; 2],
    fetch: [Duration; 2],
    /// How often the load's requests were answered meanwhile.
    rounds: usize,
    /// The processor time of conf-master for each push and fetch of the bystander, and for what the
    /// load asked for meanwhile.
    used: Duration,
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waited { push: [push, late_push], fetch: [fetch, late_fetch], rounds, used } = self;
        write!(f, "push {push:>8.1?} {late_push:>8.1?}  fetch {fetch:>8.1?} {late_fetch:>8.1?}  ")?;
        write!(f, "{rounds:>5} rounds, {used:>8.1?} of conf-master")
    }
}

/// A bystander's pushes and fetches of one measure.
const ROUNDS: usize = 100;
/// The bystander's pace is measured when conf-master has worked for the load for so long.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// Measures a bystander of a server.
struct Measure<'a> {
    site: &'a Site,
    round: usize,
}

impl Measure<'_> {
    fn used(&self) -> Duration {
        processor_time(&[self.site.master.daemon.pid()])
    }

    fn under(&mut self, what: &str, load: &Load) -> Waited {
        let rounds = || load.requests.as_ref().map_or(0, |requests| requests.rounds.load(Ordering::Relaxed));
        let before = self.used();
        if load.requests.is_some() {
            eventually("the load to take place", || match self.used().saturating_sub(before) {
                used if used < UNDER_WAY => Err(format!("{used:?} of processor time")),
                _ => Ok(()),
            });
        }
        self.round += 1000;
        let (rounds_before, before) = (rounds(), self.used());
        let [push, fetch] = bystander(self.site, self.round..self.round + ROUNDS);
        let used = self.used().saturating_sub(before) / u32::try_from(ROUNDS).expect("few");
        let waited = Waited { push, fetch, rounds: rounds() - rounds_before, used };
        println!("{what:<48} {waited}");
        waited
    }
}

/// Begins a load.
type Start<'a> = &'a dyn Fn(&Site) -> Load;

#[test]
#[ignore = "long: measures a bystander under each of several loads"]
fn what_a_bystander_waits_under_each_load() {
    let site = central_with(20);
    site.work.change().file(WEB, "noise", noise(6 << 20)).land();
    let empty = site.work.git_pack(&[]);
    let loads: [(&str, Start<'_>); 6] = [
        ("120 slow senders, 40 slow readers", &|site| {
            let held = vec![slow_senders(site, 120), slow_readers(site, 40)];
            Load { _held: held, ..Load::default() }
        }),
        ("40 first fetches at once, again and again", &first_fetches),
        ("schemas that never end", &schemas),
        ("1,000 refs without a pack, again and again", &|site| refused(site, None, "unpack eof before pack header")),
        ("1,000 refs that are judged, again and again", &move |site| {
            refused(site, Some(empty.clone()), "ng refs/heads/services/web/no999/x pre-receive hook declined")
        }),
        ("40 bodies of 31 MiB at once, again and again", &bodies),
    ];
    println!("{:<48} p50 and p99", "a bystander's");
    let mut measure = Measure { site: &site, round: 0 };
    for (what, start) in loads {
        let quiet = measure.under("quiet", &Load::default());
        // What a busy machine costs by itself, though whoever makes it busy comes after all others.
        let floor = measure.under("others only count", &Load { _others: Some(Busy::start()), ..Load::default() });
        let load = start(&site);
        let waited = measure.under(what, &load);
        if load.requests.is_some() {
            let is_load = waited.rounds > 0 || waited.used > quiet.used * 5 / 4;
            assert!(is_load, "it did not take place: {what}: {waited}");
        }
        for of in [|one: &Waited| one.push[1], |one: &Waited| one.fetch[1]] {
            let (found, bare) = (of(&waited), of(&quiet).max(of(&floor)));
            // At most twice is the aim, and the lines show it; a busy machine is no fault.
            assert!(found < bare * 10 + Duration::from_secs(1), "{what}: {found:?} where it was {bare:?}");
        }
    }
}
