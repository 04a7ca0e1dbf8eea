//! Random faults for a long time: whatever fails, everything heals by itself, and soon.

use std::{
    env, fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use tests::{Daemon, Plan, Proxy, Site, eventually_within};

/// How long a healed site may take until all hosts run the newest change, at the 99th percentile.
const CONVERGED: Duration = Duration::from_secs(5);

/// How long damage to the files of a host or of a cache may last.
const MENDED: Duration = Duration::from_secs(60);

/// What fails, and who.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A daemon is stopped, as by a hung disk: its connections stay open and silent.
    Stopped(Who),
    /// The connections to a daemon stay open, and nothing more passes.
    Silent(Who),
    /// The connections to a daemon break, and no new one is accepted.
    Cut(Who),
    /// Nothing passes anywhere, as while a firewall restarts.
    AllSilent,
    /// A daemon is killed, and its supervisor starts it again.
    Killed(Who),
    /// Files of a host are damaged or gone.
    Host(usize, Damage),
    /// Files of a cache are damaged or gone.
    Slave(usize, Damage),
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Master,
    Slave(usize),
    Host(usize),
    Consul,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Every ref is a file of zeros.
    Refs,
    PackedRefs,
    Gone(&'static str),
}

const DAMAGE: [Damage; 9] = [
    Damage::Refs,
    Damage::PackedRefs,
    Damage::Gone("export"),
    Damage::Gone("export/store"),
    Damage::Gone("export/snapshots"),
    Damage::Gone("export/current"),
    Damage::Gone("repo.git"),
    Damage::Gone("repo.git/objects"),
    Damage::Gone(""),
];

impl Fault {
    fn any(random: &mut StdRng, site: &Site) -> Self {
        let (slaves, hosts) = (site.slaves.len(), site.hosts.len());
        let (slave, host) = (random.random_range(0..slaves), random.random_range(0..hosts));
        let server = [Who::Master, Who::Slave(slave), Who::Consul][random.random_range(0..3)];
        let daemon = [Who::Master, Who::Slave(slave), Who::Consul, Who::Host(host)][random.random_range(0..4)];
        match random.random_range(0..8) {
            0 => Fault::Stopped(daemon),
            1 => Fault::Silent(server),
            2 => Fault::Cut(server),
            3 => Fault::AllSilent,
            4 => Fault::Killed(daemon),
            5 => Fault::Slave(slave, [Damage::Refs, Damage::PackedRefs][random.random_range(0..2)]),
            _ => Fault::Host(host, DAMAGE[random.random_range(0..DAMAGE.len())]),
        }
    }

    /// Tells whether it is damage, which ends only as somebody mends it.
    fn is_damage(self) -> bool {
        matches!(self, Fault::Host(..) | Fault::Slave(..))
    }

    /// Tells whether engineers can push meanwhile.
    fn lets_push(self) -> bool {
        !matches!(self, Fault::Stopped(Who::Master) | Fault::Killed(Who::Master))
    }

    fn begin(self, site: &mut Site) {
        match self {
            Fault::Stopped(who) => signal(site, who, Signal::STOP),
            Fault::Killed(Who::Consul) => site.consul.as_mut().expect("a real one").kill9(),
            Fault::Killed(who) => daemon(site, who).kill9(),
            Fault::Silent(who) => proxies(site, Some(who)).into_iter().for_each(|proxy| proxy.hold_after(0)),
            Fault::Cut(who) => proxies(site, Some(who)).into_iter().for_each(Proxy::cut),
            Fault::AllSilent => proxies(site, None).into_iter().for_each(|proxy| proxy.hold_after(0)),
            Fault::Host(number, damage) => damage.harm(&site.hosts[number].state, &site.hosts[number].repository()),
            Fault::Slave(number, damage) => {
                let slave = &site.slaves[number];
                slave.repositories().iter().for_each(|repo| damage.harm(&slave.state, repo));
            }
        }
    }

    fn heal(self, site: &mut Site) {
        match self {
            Fault::Stopped(who) => signal(site, who, Signal::CONT),
            Fault::Killed(Who::Consul) => site.consul.as_mut().expect("a real one").start_again(),
            Fault::Killed(who) => daemon(site, who).start(),
            Fault::Silent(who) | Fault::Cut(who) => proxies(site, Some(who)).into_iter().for_each(Proxy::mend),
            Fault::AllSilent => proxies(site, None).into_iter().for_each(Proxy::mend),
            Fault::Host(..) | Fault::Slave(..) => {}
        }
    }
}

impl Damage {
    fn harm(self, state: &Path, repo: &Path) {
        match self {
            Damage::Refs => zero_files(&repo.join("refs")),
            Damage::PackedRefs => fs::write(repo.join("packed-refs"), "\0garbage\n").expect("it can be written"),
            Damage::Gone(path) => {
                let path = state.join(path);
                // The agent may write there just now.
                eventually_within(Duration::from_secs(10), "the folder to be removed", || {
                    let removed = match path.symlink_metadata() {
                        Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                        Ok(_) => fs::remove_file(&path),
                        Err(_) => Ok(()),
                    };
                    removed.map_err(|error| error.to_string())
                });
            }
        }
    }
}

fn zero_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => zero_files(&entry.path()),
            // Only what is there: the daemon may have removed it meanwhile.
            Ok(_) => drop(fs::File::options().write(true).open(entry.path()).map(|file| file.set_len(0))),
            Err(_) => {}
        }
    }
}

fn daemon(site: &mut Site, who: Who) -> &mut Daemon {
    match who {
        Who::Master => &mut site.master.daemon,
        Who::Slave(number) => &mut site.slaves[number].daemon,
        Who::Host(number) => &mut site.hosts[number].daemon,
        Who::Consul => unreachable!("Consul is no daemon of this project"),
    }
}

fn signal(site: &mut Site, who: Who, signal: Signal) {
    match who {
        Who::Consul => site.consul().signal(signal),
        who => daemon(site, who).signal(signal),
    }
}

/// Lists the proxies before one server, or all.
fn proxies(site: &Site, before: Option<Who>) -> Vec<&Proxy> {
    let mut list = Vec::new();
    if matches!(before, None | Some(Who::Master)) {
        list.extend(&site.master.proxy);
        list.extend(site.slaves.iter().filter_map(|slave| slave.to_central.as_ref()));
    }
    if matches!(before, None | Some(Who::Consul)) {
        list.extend(&site.to_consul);
    }
    for (number, slave) in site.slaves.iter().enumerate() {
        if before.is_none() || matches!(before, Some(Who::Slave(one)) if one == number) {
            list.extend(&slave.proxy);
        }
    }
    list
}

/// The times that hosts took after each kind of fault.
#[derive(Default)]
struct Times {
    all: Vec<(Duration, String)>,
}

impl Times {
    fn expect(mut self, what: &str, share: f64, limit: Duration) {
        self.all.sort();
        let at = |share: f64| {
            // The shares are between 0 and 1, and the list is short.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let index = ((self.all.len() - 1) as f64 * share).ceil() as usize;
            self.all[index].0
        };
        let (half, most) = (at(0.5), at(share));
        println!("{what}: {} times, half within {half:.2?}, {:.0} % within {most:.2?}", self.all.len(), share * 100.0);
        for (took, fault) in self.all.iter().rev().take(5) {
            println!("  {took:.2?} after {fault}");
        }
        assert!(most <= limit, "{what}: {most:.2?}, and may take {limit:?}");
    }
}

/// Pushes a change, if the central server takes it now.
fn push(site: &Site, round: usize) {
    let component = ["services/web/master", "services/api/master", "devices/router/master"][round % 3];
    site.work.change().file(component, "round", format!("{round}\n")).land();
}

/// Waits until every host runs the newest change, whole and without a problem.
fn converge(site: &Site, round: usize, deadline: Duration, fault: &str) {
    let sequence = site.master.sequence();
    let file = ["services/web", "services/api", "devices/router"][round % 3];
    for host in &site.hosts {
        eventually_within(deadline, &format!("{} to run #{sequence} after {fault}", host.name), || {
            let status = host.status()?;
            let text = host.read(&format!("{file}/latest/round"))?;
            if status["sequence"].as_u64() == Some(sequence) && text == format!("{round}\n") {
                Ok(())
            } else {
                Err(format!("{text:?}, {status}"))
            }
        });
    }
}

#[test]
#[ignore = "long: random faults for 15 minutes"]
fn whatever_fails_for_a_while_all_hosts_run_the_newest_change_soon_after() {
    let set = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = set("SOAK_SEED").unwrap_or_else(rand::random);
    let length = Duration::from_secs(set("SOAK_SECONDS").unwrap_or(15 * 60));
    println!("SOAK_SEED={seed} makes the same faults again");
    let mut random = StdRng::seed_from_u64(seed);
    let mut site = Plan { hosts: 10, slaves: 2, proxied: true, ..Plan::default() }.start();
    let (mut healed, mut mended) = (Times::default(), Times::default());
    let (start, mut round) = (Instant::now(), 0);
    while start.elapsed() < length {
        let fault = Fault::any(&mut random, &site);
        let words = format!("{fault:?}");
        fault.begin(&mut site);
        if !fault.is_damage() {
            // Some changes come meanwhile, and some faults end before anybody notices.
            let until = Instant::now() + Duration::from_millis(random.random_range(200..8_000));
            while Instant::now() < until {
                if fault.lets_push() {
                    round += 1;
                    push(&site, round);
                }
                thread::sleep(Duration::from_millis(random.random_range(100..1_000)));
            }
        }
        fault.heal(&mut site);
        let healing = Instant::now();
        round += 1;
        push(&site, round);
        let (times, deadline) = if fault.is_damage() { (&mut mended, MENDED) } else { (&mut healed, MENDED) };
        converge(&site, round, deadline, &words);
        times.all.push((healing.elapsed(), words));
    }
    site.hosts.iter().for_each(|host| drop(host.wait_status("have no problem", is_well)));
    healed.expect("all hosts ran the newest change after a fault", 0.99, CONVERGED);
    mended.expect("all hosts ran the newest change after damage", 1.0, MENDED);
    site.expect_whole();
}

fn is_well(status: &serde_json::Value) -> bool {
    status["problems"].as_array().is_none_or(Vec::is_empty)
}
