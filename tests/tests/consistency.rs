//! One version for one operation: services in two datacenters that call each other while configuration changes, without
//! faults and with them; and what they saw, looked at by a checker that must catch a service which breaks the rule.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use hyper::Method;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tests::{
    DEADLINE, Daemon, Plan, Site, eventually, eventually_within,
    history::{self, Observation, Truth},
    http::Address,
    own_address,
    program::built,
    site::{CLASS, DATACENTER, ELSEWHERE, Pointers},
};

const COMMON: &str = "services/common";
/// How many operations are under way at once.
const CALLERS: usize = 8;

/// A service on a host.
struct Service {
    daemon: Daemon,
    http: Address,
    datacenter: &'static str,
    history: PathBuf,
}

/// Three services: `front` calls `cart`, which runs in another datacenter and calls `stock`, beside `front` again.
struct Scene {
    site: Site,
    services: Vec<Service>,
}

const NAMES: [&str; 3] = ["front", "cart", "stock"];
const HOMES: [&str; 3] = [DATACENTER, ELSEWHERE, DATACENTER];

impl Scene {
    fn start(modes: [&str; 3], proxied: bool) -> Self {
        let components = vec![COMMON.to_owned()];
        let plan = Plan { slaves: 0, hosts: 0, pointers: Pointers::Embedded, components, proxied, ..Plan::default() };
        let mut site = plan.start_empty();
        site.populate();
        let mut change = site.work.change();
        for datacenter in [DATACENTER, ELSEWHERE] {
            let branch = format!("datacenters/{datacenter}");
            change = change.file(&branch, "datacenter.yaml", format!("conf: {CLASS}/latest\n"));
            change = change.file(&branch, "overrides/services/common.yaml", "local: 0\n");
        }
        change.land();
        for datacenter in [DATACENTER, ELSEWHERE] {
            site.add_slave_of(datacenter);
        }
        for datacenter in HOMES {
            site.add_host_of(datacenter);
        }
        for host in &site.hosts {
            host.wait_status("run something", |status| status["sequence"].as_u64() > Some(0));
        }
        let addresses: Vec<_> = NAMES.iter().map(|_| own_address(8000)).collect();
        let service = |at: usize| {
            let history = site.folder.path().join(format!("{}.history", NAMES[at]));
            let mut arguments = vec![NAMES[at].to_owned(), addresses[at].to_string()];
            arguments.push(history.to_str().expect("a test's paths are text").to_owned());
            arguments.push(modes[at].to_owned());
            arguments.extend(addresses.get(at + 1).map(ToString::to_string));
            let mut daemon = Daemon::new(NAMES[at], built("participant"), site.folder.path(), arguments);
            daemon.environment("CONF_LOCAL_SOCKET", &site.hosts[at].socket);
            daemon.start();
            Service { daemon, http: Address::Tcp(addresses[at]), datacenter: HOMES[at], history }
        };
        let services = (0..NAMES.len()).map(service).collect();
        Scene { site, services }
    }

    fn histories(&self) -> Vec<(&str, Vec<Observation>)> {
        self.services.iter().map(|service| (service.datacenter, history::read(&service.history))).collect()
    }
}

/// Changes what all datacenters share, then what is one's own, then the other's, and so on; says what became of it. The
/// n-th change waits until `may` says so.
fn change(master: &Address, changes: u64, may: impl Fn(u64)) -> Truth {
    let overrides = [DATACENTER, ELSEWHERE].map(|datacenter| format!("datacenters/{datacenter}:{COMMON}"));
    let mut truth = Truth::default();
    for number in 1..=changes {
        may(number);
        // The first datacenter's branch was pushed twice until now, the others once.
        let (section, config, before) = match number % 3 {
            1 => (COMMON, json!({"round": number}), 0),
            2 => (overrides[0].as_str(), json!({"local": number}), 1),
            _ => (overrides[1].as_str(), json!({"local": number}), 0),
        };
        let request = json!({"section": section, "config": config, "version": before + (number - 1) / 3});
        let body = json!({"request": request}).to_string();
        let headers = [("idempotency-key", format!("change-{number}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        // Until it is known what became of it: the key makes one change of all tries.
        let answer = eventually_within(3 * DEADLINE, "an update to be answered", || {
            let answer = master.request(Method::POST, "/api/v1/config/update", &headers, body.clone())?;
            assert!(answer.status.is_success() || answer.status.is_server_error(), "{}", answer.text());
            if answer.status.is_success() { Ok(answer.json()) } else { Err(answer.text()) }
        });
        let sequence = answer["sequence"].as_u64().expect("a sequence");
        match number % 3 {
            1 => truth.round(sequence, number),
            2 => truth.local(DATACENTER, sequence, number),
            _ => truth.local(ELSEWHERE, sequence, number),
        }
    }
    truth
}

/// What callers saw; looked at when all of them have ended, so that a fault does not leave the others waiting.
#[derive(Default)]
struct Seen {
    versions: Mutex<BTreeSet<u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn take(&self, operation: &[Observation]) {
        if operation.len() == NAMES.len() && history::is_one(operation) && !history::is_mixed(operation) {
            self.versions.lock().expect("not poisoned").insert(operation[0].pinned);
        } else {
            self.fail(format!("{operation:?}"));
        }
    }

    fn fail(&self, words: String) {
        self.wrong.lock().expect("not poisoned").push(words);
    }

    /// The versions that were pinned, once nothing was wrong.
    #[track_caller]
    fn versions(self) -> BTreeSet<u64> {
        let wrong = self.wrong.into_inner().expect("not poisoned");
        assert!(wrong.is_empty(), "{} operations were wrong, among them {}", wrong.len(), wrong[0]);
        self.versions.into_inner().expect("not poisoned")
    }
}

/// One operation from its first participant on.
fn operate(front: &Address) -> Result<Vec<Observation>, String> {
    let answer = front.get_json("/operation")?;
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

/// Runs operations from several callers until `done` says so, while `changes` land, evenly spread over `operations`.
/// Every answer goes to `take`, every failure to `fail`.
fn run(
    scene: &Scene,
    changes: u64,
    operations: u64,
    take: impl Fn(Vec<Observation>) + Sync,
    fail: impl Fn(String) + Sync,
) -> Truth {
    let (front, master) = (&scene.services[0].http, scene.site.master.http());
    let (answered, changed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (answered, changed, take, fail) = (&answered, &changed, &take, &fail);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(move || {
                while answered.load(Ordering::Relaxed) < operations || !changed.load(Ordering::Relaxed) {
                    match operate(front) {
                        Ok(operation) => take(operation),
                        Err(error) => fail(error),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // However changing ends, callers end after it.
        let _changed = Raised(changed);
        change(&master, changes, |number| {
            eventually_within(10 * DEADLINE, "operations to go on", || {
                let now = answered.load(Ordering::Relaxed);
                if now >= (number - 1) * operations / changes { Ok(()) } else { Err(format!("{now} answered")) }
            });
        })
    })
}

/// Raises a flag when it goes.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads at each of these versions through each service.
fn read_everywhere(scene: &Scene, versions: &BTreeSet<u64>) {
    for service in &scene.services {
        for version in versions {
            eventually(&format!("change {version} to be read in {}", service.datacenter), || {
                service.http.get_json(&format!("/at/{version}"))
            });
        }
    }
}

#[track_caller]
fn expect_no_faults(truth: &Truth, scene: &Scene) {
    let faults = history::faults(truth, &scene.histories());
    assert!(faults.is_empty(), "{} faults, among them: {:#?}", faults.len(), &faults[..faults.len().min(5)]);
}

#[test]
fn consistency_all_participants_of_an_operation_read_one_version() {
    let scene = Scene::start(["pinned"; 3], false);
    let seen = Seen::default();
    let truth = run(&scene, 100, 10_000, |operation| seen.take(&operation), |error| seen.fail(error));
    let versions = seen.versions();
    expect_no_faults(&truth, &scene);
    assert!(versions.len() > 30, "only {versions:?} were pinned, so hardly anything was tried");
    // What was written can be read everywhere, also where the change was none.
    read_everywhere(&scene, &[truth.newest()].into());
    expect_no_faults(&truth, &scene);
}

#[test]
fn consistency_without_pinning_operations_mix_versions() {
    let scene = Scene::start(["unpinned"; 3], false);
    let mixed = AtomicU64::new(0);
    run(
        &scene,
        100,
        2_000,
        |operation| {
            mixed.fetch_add(u64::from(history::is_mixed(&operation)), Ordering::Relaxed);
        },
        |error| panic!("an operation failed: {error}"),
    );
    assert!(mixed.into_inner() > 0, "no operation mixed versions, so the story of pinned ones shows nothing");
}

#[test]
fn consistency_checker_catches_a_service_that_reads_what_is_current_in_place_of_what_was_pinned() {
    let scene = Scene::start(["pinned", "adrift", "pinned"], false);
    let truth = run(&scene, 100, 2_000, |_| (), |error| panic!("an operation failed: {error}"));
    let faults = history::faults(&truth, &scene.histories());
    assert!(!faults.is_empty(), "nothing was found in what a broken service said");
    assert!(faults.iter().all(|fault| fault.contains("cart")), "the others are not broken: {faults:#?}");
}

/// What goes wrong while operations run.
fn trouble(scene: &mut Scene, random: &mut StdRng) -> String {
    let site = &mut scene.site;
    match random.random_range(0..6) {
        0 => {
            let host = random.random_range(0..site.hosts.len());
            site.hosts[host].daemon.kill9_and_restart();
            format!("agent {host} killed")
        }
        1 => {
            let slave = random.random_range(0..site.slaves.len());
            site.slaves[slave].daemon.kill9_and_restart();
            format!("cache {slave} killed")
        }
        2 => {
            site.master.daemon.kill9_and_restart();
            "the central server killed".to_owned()
        }
        3 => {
            let service = random.random_range(0..scene.services.len());
            scene.services[service].daemon.kill9_and_restart();
            format!("service {service} killed")
        }
        _ => {
            let proxies = site.slaves.iter().flat_map(|slave| [&slave.proxy, &slave.to_central]);
            let proxies: Vec<_> = proxies.chain([&site.master.proxy]).flatten().collect();
            let proxy = proxies.choose(random).expect("this site has proxies");
            proxy.cut();
            thread::sleep(Duration::from_millis(random.random_range(50..1500)));
            proxy.mend();
            format!("{} cut off", proxy.url())
        }
    }
}

#[test]
fn consistency_holds_under_kills_and_partitions() {
    let mut scene = Scene::start(["pinned"; 3], true);
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let seen = Seen::default();
    let (front, master) = (scene.services[0].http.clone(), scene.site.master.http());
    let (good, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut troubles = Vec::new();
    let truth = thread::scope(|scope| {
        for _ in 0..CALLERS {
            let (front, seen, good, over) = (&front, &seen, &good, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Failing is allowed, being wrong is not.
                    let Ok(operation) = operate(front) else { continue };
                    seen.take(&operation);
                    good.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let good = &good;
        let changing = scope.spawn(move || {
            change(&master, 100, |number| {
                eventually_within(10 * DEADLINE, "operations to go on", || {
                    let now = good.load(Ordering::Relaxed);
                    if now >= number * 20 { Ok(()) } else { Err(format!("{now} answered")) }
                });
            })
        });
        while !changing.is_finished() {
            troubles.push(trouble(&mut scene, &mut random));
            thread::sleep(Duration::from_millis(random.random_range(100..600)));
        }
        let truth = changing.join();
        over.store(true, Ordering::Relaxed);
        truth.unwrap_or_else(|_| panic!("seed {seed}: {troubles:?}"))
    });
    eprintln!("seed {seed}: {} operations, {} times trouble", good.into_inner(), troubles.len());
    // What one observed every other can observe, now that nothing is in the way.
    let mut versions = seen.versions();
    versions.insert(truth.newest());
    read_everywhere(&scene, &versions);
    expect_no_faults(&truth, &scene);
    scene.site.expect_whole();
}
