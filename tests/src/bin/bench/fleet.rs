//! The datacenter that is measured: many services, and hosts that run thirty of them each.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::PathBuf,
    process::Command,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    Plan, Proxy, Site,
    site::{CLASS, DATACENTER, Pin, Pointers, class},
    usage::processor_time,
};

use crate::options::Size;

/// The component that changes. Every host runs it.
pub(crate) const CHANGED: &str = "services/s0";
/// The branch that is pushed.
pub(crate) const BRANCH: &str = "services/s0/master";
/// The components of each role, and so of each host.
const OF_EACH: usize = 30;
/// The longest wait for a quiet moment.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// The roles of hosts.
const ROLES: usize = 100;

/// Starts a durable Consul, conf-master and one conf-slave, with so many services, and an inventory
/// of so many hosts. None of the hosts runs yet.
pub(crate) fn start(services: usize, hosts: usize) -> Site {
    let mut site = populated(services, hosts, false);
    site.add_slave();
    site
}

/// As [`start`], with a proxy in front of every server.
pub(crate) fn start_proxied(services: usize, hosts: usize) -> Site {
    let mut site = populated(services, hosts, true);
    site.add_slave();
    site
}

/// As [`start`], with a proxy between conf-slave and conf-master alone.
pub(crate) fn start_counted(services: usize, hosts: usize) -> Site {
    let mut site = populated(services, hosts, false);
    let mut slave = site.make_slave(1);
    let proxy = Proxy::start(site.master.address);
    let direct = OsString::from(site.master.url());
    let central = slave.daemon.arguments().iter_mut().find(|argument| **argument == direct);
    *central.expect("a conf-slave is given --central") = proxy.url().into();
    slave.to_central = Some(proxy);
    slave.daemon.start();
    site.slaves.push(slave);
    site
}

fn populated(services: usize, hosts: usize, proxied: bool) -> Site {
    let components = (0..services).map(|number| format!("services/s{number}")).collect();
    let plan = Plan { pointers: Pointers::DurableConsul, components, proxied, ..Plan::default() };
    let names = plan.components.clone();
    let site = plan.start_empty();
    let pins: Vec<Pin<'_>> = names.iter().map(|name| (name.as_str(), "master", "latest")).collect();
    let mut change = site.work.change();
    for (name, _, _) in &pins {
        change = change.file(&format!("{name}/master"), "config.yaml", settings(name, 0));
    }
    change = change.file(CLASS, "datacenter.yaml", class(&pins));
    change.file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", instance(services, hosts)).land_in_steps();
    site
}

/// The folders of sites that are over.
static OVER: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Ends a site, and leaves its folder until [`remove_folders`]: where the disk discards what is
/// freed, the removal takes minutes, and every later fsync would wait for it.
pub(crate) fn end(mut site: Site) {
    site.folder.disable_cleanup(true);
    OVER.lock().expect("no holder fails").push(site.folder.path().to_owned());
}

/// Removes the folders of all sites that are over, by a program that goes on alone.
pub(crate) fn remove_folders() {
    let folders = std::mem::take(&mut *OVER.lock().expect("no holder fails"));
    if !folders.is_empty() {
        // Left over for whoever tidies up temporary folders, if it cannot be started.
        let _ = Command::new("nice").args(["rm", "-rf", "--"]).args(folders).spawn();
    }
}

/// Waits until processes have done what followed from the changes before, such as a conf-slave's
/// branches and tags.
pub(crate) fn settle(size: Size, pids: &[u32]) {
    let began = Instant::now();
    let quiet = size.pause() * 3;
    let mut before = processor_time(pids);
    while began.elapsed() < QUIET_WITHIN {
        thread::sleep(quiet);
        let now = processor_time(pids);
        // A hundredth of a core is what streams and reports take.
        if now.saturating_sub(before) <= quiet / 100 {
            return;
        }
        before = now;
    }
}

/// The settings of a component: some twenty keys, one of which changes with each round.
pub(crate) fn settings(component: &str, round: usize) -> String {
    let mut text = format!("component: {component}\nround: {round}\n");
    for number in 0..18 {
        let _ = writeln!(text, "key_{number}: a value of some length, number {number}");
    }
    text
}

/// The same settings as an object.
pub(crate) fn object(component: &str, round: usize) -> Value {
    let text = settings(component, round);
    let keys = text.lines().filter_map(|line| line.split_once(": "));
    keys.map(|(key, value)| (key.to_owned(), Value::from(value))).collect::<serde_json::Map<_, _>>().into()
}

/// The datacenter's file: hosts take on one of a hundred roles.
fn instance(services: usize, hosts: usize) -> String {
    let mut text = format!("conf: {CLASS}/latest\ninventories:\n  roles:\n");
    for role in 0..ROLES.min(hosts) {
        let _ = writeln!(text, "    r{role}: {{components: [{}]}}", of_role(services, role).join(", "));
    }
    text.push_str("  hosts:\n");
    for host in 1..=hosts {
        let _ = writeln!(text, "    web-{host}: {{roles: [r{}]}}", (host - 1) % ROLES);
    }
    text
}

/// The components of a role: the one that changes, and others of its own.
fn of_role(services: usize, role: usize) -> Vec<String> {
    let others = OF_EACH.min(services) - 1;
    let others = (0..others).map(|next| format!("services/s{}", 1 + (role * others + next) % (services - 1)));
    std::iter::once(CHANGED.to_owned()).chain(others).collect()
}

/// The components of a host.
pub(crate) fn of_host(services: usize, host: usize) -> Vec<String> {
    of_role(services, (host - 1) % ROLES)
}
