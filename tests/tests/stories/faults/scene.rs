//! All tiers, where everything can fail: three servers of Consul, two conf-masters of which an election
//! makes one the leader, three conf-slaves, hosts, and the processes on them.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use rustix::process::Signal;
use tests::http::Address;
use tests::program::signal_pid;
use tests::site::{Pointers, fsck};
use tests::{Daemon, Disk, Master, Network, Plan, Proxy, Reader, eventually};

use crate::clocks::{library, own_clock};
use crate::faults::engineer::COMPONENTS;
use crate::faults::fault::Who;
use crate::standby::Room;

/// Whose state is on a disk of its own.
pub(super) const DISKS: [Who; 3] = [Who::Host(0), Who::Host(1), Who::Slave(0)];

/// Who has a clock of its own.
pub(super) const CLOCKS: [Who; 3] = [Who::Master, Who::Slave(1), Who::Host(2)];

/// The hosts with processes that are told of changes. Their files are not damaged: a host that lost
/// all it had has lost whom to tell, too.
const WITH_READERS: std::ops::Range<usize> = 3..5;

/// The first host whose files may be damaged.
pub(super) const FIRST_HARMED: usize = WITH_READERS.end;

pub(super) struct Scene {
    pub(super) room: Room,
    pub(super) network: Network,
    disks: Vec<(Who, Disk)>,
    clocks: Vec<(Who, PathBuf)>,
    readers: Vec<Told>,
}

/// A process on a host.
struct Told {
    host: usize,
    reader: Reader,
    /// The newest change that it was told of.
    newest: Cell<u64>,
}

impl Scene {
    /// Starts everything.
    pub(super) fn start(hosts: usize, network: Network) -> Self {
        let plan = Plan { slaves: 0, hosts: 0, proxied: true, pointers: Pointers::ThreeConsuls, ..Plan::default() };
        let mut site = plan.start_empty();
        site.populate();
        let folder = site.folder.path().to_owned();
        let library = library(&folder);
        let (mut disks, mut clocks) = (Vec::new(), Vec::new());
        let mut prepare = |who: Who, daemon: &mut Daemon| {
            let name = match who {
                Who::Slave(number) => format!("slave-{}", number + 1),
                Who::Host(number) => format!("web-{}", number + 1),
                _ => "central".to_owned(),
            };
            if DISKS.contains(&who) {
                disks.push((who, Disk::mount(&folder.join(&name), 192)));
            }
            if CLOCKS.contains(&who) {
                clocks.push((who, own_clock(&library, daemon, folder.join(format!("clock-{name}")))));
            }
        };
        prepare(Who::Master, &mut site.master.daemon);
        for number in 0..3 {
            let mut slave = site.make_slave(number + 1);
            prepare(Who::Slave(number), &mut slave.daemon);
            slave.daemon.start();
            site.slaves.push(slave);
        }
        let mut room = Room::of(site, &["--sync", "1"]).elect(None);
        for number in 0..hosts {
            let mut host = room.site.make_host(number + 1);
            prepare(Who::Host(number), &mut host.daemon);
            host.daemon.start();
            room.site.hosts.push(host);
        }
        room.site.wait_applied(room.site.master.sequence());
        let readers = WITH_READERS.map(|number| {
            let host = &room.site.hosts[number];
            let reader = Reader::start(&host.export());
            host.watch(&COMPONENTS, reader.pid());
            Told { host: number, reader, newest: Cell::new(0) }
        });
        let readers = readers.collect();
        Scene { room, network, disks, clocks, readers }
    }

    /// Where each host has its files.
    pub(super) fn exports(&self) -> Vec<PathBuf> {
        self.room.site.hosts.iter().map(tests::Host::export).collect()
    }

    /// Lists every daemon.
    pub(super) fn daemons(&self) -> Vec<Who> {
        let (slaves, hosts) = (self.room.site.slaves.len(), self.room.site.hosts.len());
        let both = [Who::Master, Who::Standby].into_iter();
        both.chain((0..slaves).map(Who::Slave)).chain((0..hosts).map(Who::Host)).collect()
    }

    fn daemon(&mut self, who: Who) -> &mut Daemon {
        match who {
            Who::Master => &mut self.room.site.master.daemon,
            Who::Standby => &mut self.room.standby.daemon,
            Who::Slave(number) => &mut self.room.site.slaves[number].daemon,
            Who::Host(number) => &mut self.room.site.hosts[number].daemon,
            Who::Consul(_) => unreachable!("Consul is no daemon of this project"),
        }
    }

    /// The process of a program that runs.
    pub(super) fn pid(&self, who: Who) -> u32 {
        match who {
            Who::Master => self.room.site.master.daemon.pid(),
            Who::Standby => self.room.standby.daemon.pid(),
            Who::Slave(number) => self.room.site.slaves[number].daemon.pid(),
            Who::Host(number) => self.room.site.hosts[number].daemon.pid(),
            Who::Consul(number) => self.room.site.consuls[number].pid(),
        }
    }

    /// Where a daemon keeps what it has.
    pub(super) fn state(&self, who: Who) -> PathBuf {
        match who {
            Who::Master => self.room.site.master.repo.clone(),
            Who::Standby => self.room.standby.repo.clone(),
            Who::Slave(number) => self.room.site.slaves[number].state.clone(),
            Who::Host(number) => self.room.site.hosts[number].state.clone(),
            Who::Consul(_) => unreachable!("Consul is no daemon of this project"),
        }
    }

    pub(super) fn signal(&self, who: Who, signal: Signal) {
        signal_pid(self.pid(who), signal);
    }

    pub(super) fn kill(&mut self, who: Who) {
        match who {
            Who::Consul(number) => self.room.site.consuls[number].kill9(),
            who => self.daemon(who).kill9(),
        }
    }

    /// Starts a program again that was killed, and waits until it is ready.
    pub(super) fn start_again(&mut self, who: Who) {
        match who {
            Who::Consul(number) => self.room.site.consuls[number].start_again(),
            who => self.daemon(who).start(),
        }
    }

    pub(super) fn disk(&self, who: Who) -> &Disk {
        let found = self.disks.iter().find(|(owner, _)| *owner == who);
        &found.expect("it has a disk of its own").1
    }

    pub(super) fn set_clock(&self, who: Who, seconds: i64) {
        let (_, file) = self.clocks.iter().find(|(owner, _)| *owner == who).expect("it has a clock of its own");
        fs::write(file, seconds.to_string()).expect("it can be written");
    }

    /// Deletes all that conf-slaves have put into Consul, at a server that answers.
    pub(super) fn forget_keys(&self) {
        let delete = |server: &tests::Consul| {
            let path = "/v1/kv/configurations/?recurse";
            Address::Tcp(server.address()).request_within(Duration::from_secs(3), Method::DELETE, path, &[], "").is_ok()
        };
        // Where none does, Consul is away as well.
        let _ = self.room.site.consuls.iter().any(delete);
    }

    /// Lists the proxies before one server, or all.
    pub(super) fn proxies(&self, before: Option<Who>) -> Vec<&Proxy> {
        let site = &self.room.site;
        let mut all: Vec<(Who, &Proxy)> = Vec::new();
        let to_first = site.slaves.iter().filter_map(|slave| slave.to_central.as_ref());
        all.extend(site.master.proxy.iter().chain(to_first).map(|proxy| (Who::Master, proxy)));
        all.extend(self.room.standby.proxy.iter().map(|proxy| (Who::Standby, proxy)));
        let numbered = site.slaves.iter().enumerate();
        all.extend(numbered.filter_map(|(number, slave)| Some((Who::Slave(number), slave.proxy.as_ref()?))));
        all.extend(site.to_consul.iter().enumerate().map(|(number, proxy)| (Who::Consul(number), proxy)));
        all.into_iter().filter(|(who, _)| before.is_none_or(|before| before == *who)).map(|(_, proxy)| proxy).collect()
    }

    /// Expects that no daemon has ended by itself.
    pub(super) fn expect_all_running(&mut self, after: &str) {
        for who in self.daemons() {
            let daemon = self.daemon(who);
            assert!(daemon.is_running(), "{who:?} ended by itself, {after}:\n{}", daemon.log());
        }
    }

    /// The conf-master that leads.
    #[track_caller]
    pub(super) fn leader(&self) -> &Master {
        eventually("one of both to lead", || {
            let leads = |of: &&Master| Room::told(of).is_ok_and(|told| told["leader"].is_null());
            let both = [&self.room.site.master, &self.room.standby];
            both.into_iter().find(leads).ok_or_else(|| format!("{:?}", both.map(Room::told)))
        })
    }

    /// Expects the processes to be told of a change.
    #[track_caller]
    pub(super) fn expect_told(&self, sequence: u64) {
        for Told { host, reader, newest } in &self.readers {
            let host = &self.room.site.hosts[*host];
            eventually(&format!("the process on {} to be told of #{sequence}", host.name), || {
                let told = reader.all_told().iter().map(|told| told.sequence).max();
                newest.set(newest.get().max(told.unwrap_or_default()));
                if newest.get() >= sequence { Ok(()) } else { Err(format!("#{}; {:?}", newest.get(), host.status())) }
            });
        }
    }

    /// Expects that nobody has a problem any more.
    #[track_caller]
    pub(super) fn expect_well(&self) {
        for host in &self.room.site.hosts {
            host.wait_status("have no problem", |status| status["problems"].as_array().is_none_or(Vec::is_empty));
        }
    }

    /// Expects every repository to be whole.
    #[track_caller]
    pub(super) fn expect_whole(&self) {
        self.room.site.expect_whole();
        fsck(&self.room.standby.repo);
        self.room.standby.expect_unbroken_ledger();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Their files are on the disks.
        self.readers.clear();
        self.room.site.hosts.clear();
        self.room.site.slaves.clear();
        self.disks.clear();
    }
}
