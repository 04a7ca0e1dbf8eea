//! A hostile conf-slave and a hostile Consul, each a program in front of an honest one: nothing of what they say reaches
//! a process, they hold no host back, and they fill neither its disk nor its memory.

use std::{net::SocketAddr, time::Instant};

use tests::{
    Daemon, Plan, Site, eventually, own_address,
    program::built,
    site::{DATACENTER, ELSEWHERE, Host, instance},
    usage::{bytes_below, memory},
};

const MIB: u64 = 1 << 20;
/// The seconds that a change may take on a busy machine, from the end of the push.
const SOON: f64 = 45.0;

/// Starts the program, with its own address.
pub(crate) fn hostile(site: &Site, arguments: &[&str]) -> (Daemon, String) {
    let address = own_address(7401);
    let listen = address.to_string();
    let arguments = [arguments, &["--listen", &listen]].concat();
    let mut daemon = Daemon::new("hostile", built("hostile"), site.folder.path(), arguments);
    daemon.start();
    (daemon, format!("http://{listen}"))
}

/// Makes a change, and expects a host to have it soon, and nothing else.
#[track_caller]
fn expect_honest(site: &Site, host: &Host, what: &str) {
    host.wait_applied(site.master.sequence());
    let content = format!("{what} {}\n", rand::random::<u32>());
    let sequence = site.push("services/web", "round", &content);
    let start = Instant::now();
    host.wait_applied(sequence);
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(host.file("services/web/latest/round"), content, "{what}");
    assert_eq!(host.file("services/api/latest/round"), "0\n", "{what}");
    assert_eq!(host.sequence(), site.master.sequence(), "{what}");
    let (disk, memory) = (bytes_below(&host.state), memory(&[host.daemon.pid()]).resident);
    println!("{what}: {seconds:.1} s, disk {} KiB, memory {} MiB", disk >> 10, memory / MIB);
    assert!(seconds < SOON, "{what}: {seconds} s");
    assert!(disk < 16 * MIB, "{what}: {disk} bytes of disk");
    assert!(memory < 200 * MIB, "{what}: {memory} bytes of memory");
}

fn replace(host: &mut Host, flag: &str, value: &str) {
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == flag).expect("it has that flag");
    arguments[at + 1] = value.into();
}

fn site() -> Site {
    let site = Plan { hosts: 0, ..Plan::default() }.start();
    site.work.change().file(&format!("datacenters/{ELSEWHERE}"), "datacenter.yaml", instance()).land();
    for round in 1..=3 {
        site.push("services/web", "round", &format!("{round}\n"));
    }
    site.slave().wait_at(site.master.sequence());
    site
}

#[test]
fn no_lie_of_a_conf_slave_reaches_a_process() {
    let mut site = site();
    let foreign: SocketAddr = site.add_slave_of(ELSEWHERE).address;
    let (honest, other) = (site.slave().address.to_string(), foreign.to_string());
    for (number, mode) in
        ["forge", "mix", "replay", "foreign", "replace", "cut", "stall", "flood", "inflate"].iter().enumerate()
    {
        let folder = site.folder.path().join(format!("hostile-{mode}"));
        let folder = folder.to_str().expect("text");
        let flags = ["slave", "--honest", &honest, "--other", &other, "--datacenter", DATACENTER, "--folder", folder];
        let (liar, url) = hostile(&site, &[&flags[..], &["--mode", mode]].concat());
        let mut host = site.make_host(number + 1);
        let arguments = host.daemon.arguments();
        let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
        arguments.splice(at..at, ["--surrogates-in-order".into(), "--surrogate".into(), url.into()]);
        host.daemon.start();
        expect_honest(&site, &host, mode);
        // Not all lies lead to a fetch: nobody asks again for the first snapshot, or for what is nowhere.
        let lie = if matches!(*mode, "replay" | "flood") { "lied: an event" } else { "lied: a fetch" };
        eventually("the host to hear the lie", || {
            let log = liar.log();
            if log.contains(lie) { Ok(()) } else { Err(log) }
        });
        expect_honest(&site, &host, mode);
        drop((host, liar));
    }
}

#[test]
fn no_lie_of_consul_reaches_a_process() {
    let site = site();
    let first = site.master.git(&["rev-list", "--reverse", &format!("refs/snapshots/{DATACENTER}")]);
    let first = first.lines().next().expect("there is one").to_owned();
    let foreign = site.master.git(&["rev-parse", &format!("refs/snapshots/{ELSEWHERE}")]);
    let honest = site.consul().address().to_string();
    let key = format!("configurations/snapshots/{DATACENTER}");
    let unknown = "1234567890123456789012345678901234567890";
    for (number, (what, mode, value)) in [
        ("an unknown snapshot", "value", format!("1000000/{unknown}")),
        ("the first snapshot as a newer one", "value", format!("1000000/{first}")),
        ("another datacenter's snapshot", "value", format!("1000000/{foreign}")),
        ("no pointer", "value", "nonsense \u{7}\n".to_owned()),
        ("no key", "gone", String::new()),
        ("a flood", "flood", unknown.to_owned()),
        ("half answers", "cut", String::new()),
        ("silence", "stall", String::new()),
        ("answers without an end", "inflate", String::new()),
    ]
    .into_iter()
    .enumerate()
    {
        let flags = ["consul", "--honest", &honest, "--key", &key, "--mode", mode, "--value", &value];
        let (liar, url) = hostile(&site, &flags);
        let mut host = site.make_host(number + 1);
        replace(&mut host, "--consul", &url);
        host.daemon.start();
        eventually("the host to hear the lie", || {
            let log = liar.log();
            if log.contains("lied: a pointer") { Ok(()) } else { Err(log) }
        });
        expect_honest(&site, &host, what);
        drop((host, liar));
    }
}
