//! What fails, and whose it is.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::Signal;
use tests::program::{command, signal_pid, spawn};
use tests::{Proxy, eventually_within};

use crate::faults::scene::{CLOCKS, DISKS, FIRST_HARMED, Scene};

/// Who fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Master,
    Standby,
    Slave(usize),
    Host(usize),
    Consul(usize),
}

/// What fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// A program is stopped, as by a hung disk: its connections stay open and silent.
    Stopped(Who),
    /// Every packet to a server and from it is lost.
    Dropped(Who),
    /// The connections to a server break, and no new one is accepted.
    Cut(Who),
    /// 256 kbit a second pass.
    Slow(Who),
    /// Answers come with wrong bits.
    Garbled(Who),
    /// Nothing passes anywhere, as while a firewall restarts.
    AllSilent,
    /// A program is killed, and its supervisor starts it again.
    Killed(Who),
    /// A daemon is killed as one of its threads makes its N-th call of one kind that changes something.
    KilledAt(Who, &'static str, u32),
    /// A disk is full.
    Full(Who),
    /// A disk refuses writes after an error. It is mounted anew, and the daemon is started again.
    ReadOnly(Who),
    /// The power of a machine fails.
    PowerCut(Who),
    /// A clock is set by so many seconds.
    Clock(Who, i64),
    /// A server of Consul does not hear the other ones.
    Deaf(usize),
    /// Consul loses its keys.
    Forgotten,
    /// Files of a host are damaged or gone.
    Host(usize, Damage),
    /// Files of a cache are damaged or gone.
    Slave(usize, Damage),
}

/// Damage to the files of a daemon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
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

/// The calls by which a daemon changes what lasts.
const CALLS: [&str; 8] = ["rename", "renameat2", "unlink", "linkat", "mkdir", "fsync", "fdatasync", "pwrite64"];

/// What a fault needs for its end.
pub(super) enum Begun {
    Nothing,
    /// What kills a daemon.
    Tracer(Child),
    /// What fills a disk.
    Filler(PathBuf),
}

impl Fault {
    /// One or two faults of different programs.
    pub(super) fn some(random: &mut StdRng, scene: &Scene) -> Vec<Self> {
        let first = Self::any(random, scene);
        if random.random_range(0..3) > 0 {
            return vec![first];
        }
        let second = Self::any(random, scene);
        if second.who() == first.who() { vec![first] } else { vec![first, second] }
    }

    fn any(random: &mut StdRng, scene: &Scene) -> Self {
        let site = &scene.room.site;
        let (slave, consul) = (random.random_range(0..site.slaves.len()), random.random_range(0..site.consuls.len()));
        let host = random.random_range(0..site.hosts.len());
        let harmed = random.random_range(FIRST_HARMED..site.hosts.len());
        let server = *[Who::Master, Who::Standby, Who::Slave(slave), Who::Consul(consul)].choose(random).expect("some");
        let own = *[Who::Master, Who::Standby, Who::Slave(slave), Who::Host(host)].choose(random).expect("some");
        let any = if random.random_range(0..5) == 0 { Who::Consul(consul) } else { own };
        match random.random_range(0..16) {
            0 => Fault::Stopped(any),
            1 => Fault::Dropped(server),
            2 => Fault::Cut(server),
            3 => Fault::Slow(server),
            4 => Fault::Garbled(server),
            5 => Fault::AllSilent,
            6 => Fault::Killed(any),
            7 | 8 => Fault::KilledAt(own, CALLS.choose(random).expect("some"), random.random_range(1..20)),
            9 => Fault::Full(*DISKS.choose(random).expect("some")),
            10 => Fault::ReadOnly(*DISKS.choose(random).expect("some")),
            11 => Fault::PowerCut(*DISKS.choose(random).expect("some")),
            12 => {
                let seconds = [3600, -3600, -5 * 365 * 24 * 3600];
                Fault::Clock(*CLOCKS.choose(random).expect("some"), *seconds.choose(random).expect("some"))
            }
            13 => *[Fault::Deaf(consul), Fault::Forgotten].choose(random).expect("some"),
            14 => Fault::Slave(slave, DAMAGE[random.random_range(0..2)]),
            _ => Fault::Host(harmed, DAMAGE[random.random_range(0..DAMAGE.len())]),
        }
    }

    /// Who fails; nobody where it is all of them.
    fn who(self) -> Option<Who> {
        match self {
            Fault::Stopped(who)
            | Fault::Dropped(who)
            | Fault::Cut(who)
            | Fault::Slow(who)
            | Fault::Garbled(who)
            | Fault::Killed(who)
            | Fault::KilledAt(who, ..)
            | Fault::Clock(who, _)
            | Fault::Full(who)
            | Fault::ReadOnly(who)
            | Fault::PowerCut(who) => Some(who),
            Fault::Deaf(server) => Some(Who::Consul(server)),
            Fault::Host(number, _) => Some(Who::Host(number)),
            Fault::Slave(number, _) => Some(Who::Slave(number)),
            Fault::AllSilent | Fault::Forgotten => None,
        }
    }

    /// Tells whether it is damage, which ends only as somebody mends it.
    pub(super) fn is_damage(self) -> bool {
        matches!(self, Fault::Host(..) | Fault::Slave(..))
    }

    /// The host whose files may be away meanwhile.
    pub(super) fn harms_host(self) -> Option<usize> {
        match self {
            Fault::Host(number, _) | Fault::ReadOnly(Who::Host(number)) | Fault::PowerCut(Who::Host(number)) => {
                Some(number)
            }
            _ => None,
        }
    }

    /// Begins.
    pub(super) fn begin(self, scene: &mut Scene) -> Begun {
        match self {
            Fault::Stopped(who) => scene.signal(who, Signal::STOP),
            Fault::Killed(who) => scene.kill(who),
            Fault::KilledAt(who, call, number) => return Begun::Tracer(tracer(scene.pid(who), call, number)),
            Fault::Dropped(who) => {
                let addresses: Vec<IpAddr> =
                    scene.proxies(Some(who)).iter().map(|proxy| proxy.address().ip()).collect();
                scene.network.drop_all(&addresses);
            }
            Fault::Cut(who) => scene.proxies(Some(who)).into_iter().for_each(Proxy::cut),
            Fault::Slow(who) => scene.proxies(Some(who)).into_iter().for_each(|proxy| proxy.slow(32_000)),
            Fault::Garbled(who) => scene.proxies(Some(who)).into_iter().for_each(Proxy::garble),
            Fault::AllSilent => scene.proxies(None).into_iter().for_each(|proxy| proxy.hold_after(0)),
            Fault::Full(who) => return Begun::Filler(scene.disk(who).fill()),
            Fault::ReadOnly(who) => scene.disk(who).turn_read_only(),
            Fault::PowerCut(who) => {
                scene.disk(who).cut_power();
                scene.kill(who);
            }
            Fault::Clock(who, seconds) => scene.set_clock(who, seconds),
            Fault::Deaf(server) => {
                scene.network.drop_ports(scene.room.site.consuls[server].address().ip(), "8300:8302");
            }
            Fault::Forgotten => scene.forget_keys(),
            Fault::Host(number, damage) => {
                let host = &scene.room.site.hosts[number];
                damage.harm(&host.state, &host.repository());
            }
            Fault::Slave(number, damage) => {
                let slave = &scene.room.site.slaves[number];
                slave.repositories().iter().for_each(|repo| damage.harm(&slave.state, repo));
            }
        }
        Begun::Nothing
    }

    /// Ends. Returns who has to be started again.
    pub(super) fn end(self, scene: &mut Scene, begun: Begun) -> Option<Who> {
        match begun {
            Begun::Nothing => {}
            Begun::Tracer(mut tracer) => {
                signal_pid(tracer.id(), Signal::TERM);
                let _ = tracer.wait();
            }
            Begun::Filler(file) => fs::remove_file(file).expect("it is ours"),
        }
        match self {
            Fault::Stopped(who) => scene.signal(who, Signal::CONT),
            Fault::Killed(who) => return Some(who),
            Fault::KilledAt(who, ..) => {
                scene.kill(who);
                return Some(who);
            }
            Fault::Cut(who) | Fault::Slow(who) | Fault::Garbled(who) => {
                scene.proxies(Some(who)).into_iter().for_each(Proxy::mend);
            }
            Fault::AllSilent => scene.proxies(None).into_iter().for_each(Proxy::mend),
            Fault::ReadOnly(who) | Fault::PowerCut(who) => {
                scene.kill(who);
                scene.disk(who).remount();
                return Some(who);
            }
            Fault::Clock(who, _) => scene.set_clock(who, 0),
            Fault::Full(_)
            | Fault::Dropped(_)
            | Fault::Deaf(_)
            | Fault::Forgotten
            | Fault::Host(..)
            | Fault::Slave(..) => {}
        }
        None
    }
}

/// Starts what kills a daemon at a call.
fn tracer(pid: u32, call: &str, number: u32) -> Child {
    let strace = std::env::var_os("STRACE").unwrap_or_else(|| "strace".into());
    let mut tracer = command(strace, Path::new("/"));
    tracer.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    tracer.args(["-e", &format!("inject={call}:signal=SIGKILL:when={number}"), "-p", &pid.to_string()]);
    spawn(tracer).expect("tests/get-strace names an strace to use as STRACE")
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
