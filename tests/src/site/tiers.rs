//! All tiers together.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use tempfile::TempDir;

use crate::{
    address::own_address,
    authority::Authority,
    consul::Consul,
    git::Work,
    program::{Daemon, built},
    proxy::Proxy,
    site::{
        content::{CLASS, DATACENTER, Pin, class, instance},
        host::Host,
        master::Master,
        plan::{Plan, Pointers},
        repository::{fsck, in_repository},
        slave::Slave,
    },
    wait::{eventually, stalled_since},
};

/// All tiers, running.
#[derive(Debug)]
pub struct Site {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The caches.
    pub slaves: Vec<Slave>,
    /// The central server.
    pub master: Master,
    /// The Consul servers; none where a cache stands in for them.
    pub consuls: Vec<Consul>,
    /// The proxy between every program and each Consul server.
    pub to_consul: Vec<Proxy>,
    /// The engineer's repository.
    pub work: Work,
    /// The folder of all programs; the last to be removed.
    pub folder: TempDir,
    pub(crate) plan: Plan,
}

impl Site {
    /// Starts the common case: one of each, and a real Consul.
    pub fn start() -> Self {
        Plan::default().start()
    }

    /// Returns the first host.
    pub fn host(&self) -> &Host {
        &self.hosts[0]
    }

    /// Returns the first cache.
    pub fn slave(&self) -> &Slave {
        &self.slaves[0]
    }

    /// Waits until Consul names a sequence or a later one. Hosts may have it earlier, by the
    /// conf-slave's stream.
    #[track_caller]
    pub fn wait_published(&self, sequence: u64) {
        eventually(&format!("#{sequence} to be published"), || {
            let status = self.slave().status()?;
            if status["published"]["sequence"].as_u64() >= Some(sequence) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Waits until the first cache, of a datacenter that runs all there is, has fetched every branch
    /// behind its snapshot: that comes after the change itself.
    #[track_caller]
    pub fn wait_branches(&self) {
        // Each of the two has branches that the other has not.
        let kinds = ["services", "applications", "devices", "datacenters", "datacenter-configuration"];
        let kinds = kinds.map(|kind| format!("refs/heads/{kind}"));
        let all: Vec<&str> = ["for-each-ref"].into_iter().chain(kinds.iter().map(String::as_str)).collect();
        let branches = |repo: &Path| in_repository(repo, &all);
        let wanted = branches(&self.master.repo);
        eventually("its branches", || {
            let found = branches(&self.slave().state.join("repo.git"));
            if found == wanted { Ok(()) } else { Err(format!("{found}\nin place of\n{wanted}")) }
        });
    }

    /// Returns the Consul server, or the first of them.
    pub fn consul(&self) -> &Consul {
        self.consuls.first().expect("this site has a Consul server")
    }

    /// Returns the Consul server, or the first of them, to end it and start it again.
    pub fn consul_mut(&mut self) -> &mut Consul {
        self.consuls.first_mut().expect("this site has a Consul server")
    }

    /// Pushes one file of a component's branch `master`, and returns the sequence.
    #[track_caller]
    pub fn push(&self, component: &str, path: &str, content: &str) -> u64 {
        self.work.change().file(&format!("{component}/master"), path, content).land();
        self.master.sequence()
    }

    /// Pushes one file and waits until every host has it.
    #[track_caller]
    pub fn push_and_wait(&self, component: &str, path: &str, content: &str) -> u64 {
        let sequence = self.push(component, path, content);
        self.wait_applied(sequence);
        sequence
    }

    /// Waits until every host's export is at a sequence or a later one.
    #[track_caller]
    pub fn wait_applied(&self, sequence: u64) {
        for host in &self.hosts {
            host.wait_applied(sequence);
        }
    }

    /// Adds a cache and starts it.
    pub fn add_slave(&mut self) -> &mut Slave {
        self.add_slave_of(DATACENTER)
    }

    /// Adds a cache of a datacenter and starts it.
    pub fn add_slave_of(&mut self, datacenter: &str) -> &mut Slave {
        let mut slave = self.make_slave_of(datacenter, self.slaves.len() + 1);
        slave.daemon.start();
        self.slaves.push(slave);
        self.slaves.last_mut().expect("it was just added")
    }

    /// Adds a host and starts it.
    pub fn add_host(&mut self) -> &mut Host {
        self.add_host_of(DATACENTER)
    }

    /// Adds a host of a datacenter and starts it.
    pub fn add_host_of(&mut self, datacenter: &str) -> &mut Host {
        let mut host = self.make_host_of(datacenter, self.hosts.len() + 1);
        host.daemon.start();
        self.hosts.push(host);
        self.hosts.last_mut().expect("it was just added")
    }

    fn slaves_of<'s>(&'s self, datacenter: &'s str) -> impl Iterator<Item = &'s Slave> {
        self.slaves.iter().filter(move |slave| slave.datacenter == datacenter)
    }

    /// Returns the URLs of Consul for a program of a datacenter.
    pub fn consul_urls(&self, datacenter: &str) -> Vec<String> {
        if datacenter != DATACENTER || self.consuls.is_empty() {
            let first = self.slaves_of(datacenter).next();
            return vec![first.map_or_else(|| "embedded".to_owned(), |first| first.url.clone())];
        }
        let proxies: Vec<String> = self.to_consul.iter().map(Proxy::url).collect();
        if proxies.is_empty() { self.consuls.iter().map(Consul::url).collect() } else { proxies }
    }

    /// Gives a daemon what a Consul over TLS asks for.
    fn show_to_consul(&self, daemon: &mut Daemon, name: &str) {
        if let (Some(authority), false) = (&self.master.authority, self.consuls.is_empty()) {
            let pair = authority.pair(&format!("{name}-for-consul"), "", 30);
            daemon.environment("CONSUL_CLIENT_CERT", pair.certificate);
            daemon.environment("CONSUL_CLIENT_KEY", pair.key);
        }
    }

    /// Returns the file of the keys that caches and hosts are given.
    pub fn given_key(&self) -> PathBuf {
        if !self.plan.copied_key {
            return self.master.trusted_key();
        }
        let copy = self.folder.path().join("given.pub");
        if !copy.exists() {
            fs::copy(self.master.trusted_key(), &copy).expect("the folder can be written");
        }
        copy
    }

    /// Makes a cache without starting it.
    pub fn make_slave(&self, number: usize) -> Slave {
        self.make_slave_of(DATACENTER, number)
    }

    /// Makes a cache of a datacenter without starting it.
    pub fn make_slave_of(&self, datacenter: &str, number: usize) -> Slave {
        let address = own_address(7401);
        let folder = self.folder.path().join(format!("slave-{number}"));
        fs::create_dir_all(&folder).expect("the folder can be made");
        let mut arguments = vec![OsString::from("run")];
        arguments.extend(flag("--datacenter", datacenter));
        let to_central = self.plan.proxied.then(|| Proxy::start(self.master.address));
        let central = to_central.as_ref().map_or_else(|| self.master.url(), Proxy::url);
        arguments.extend(flag("--central", central));
        arguments.extend(flag("--listen", address.to_string()));
        arguments.extend(flag("--state", folder.join("state")));
        arguments.extend(self.consul_urls(datacenter).into_iter().flat_map(|url| flag("--consul", url)));
        arguments.extend(flag("--trusted-key", self.given_key()));
        let authority = self.master.authority.clone();
        if let Some(authority) = &authority {
            let pair = authority.pair(&format!("conf-slave-{number}"), &format!("IP:{}", address.ip()), 30);
            arguments.extend(pair.flags().map(OsString::from));
            arguments.extend(flag("--ca", authority.certificate()));
        }
        let token = self.plan.tokens.then(|| {
            let token = self.master.token(&format!("conf-slave-{number}"), &["--slave", datacenter]);
            arguments.extend(flag("--token-file", &token));
            token
        });
        arguments.extend(self.plan.slave_flags.iter().map(OsString::from));
        let name = format!("conf-slave-{number}");
        let mut daemon = Daemon::new(&name, built("conf-slave"), self.folder.path(), arguments);
        self.show_to_consul(&mut daemon, &name);
        let proxy = self.plan.proxied.then(|| Proxy::start(address));
        let scheme = if authority.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let (datacenter, state) = (datacenter.to_owned(), folder.join("state"));
        Slave { daemon, datacenter, address, url, authority, proxy, to_central, state, token }
    }

    /// Makes a host without starting it. It asks every present cache.
    pub fn make_host(&self, number: usize) -> Host {
        self.make_host_of(DATACENTER, number)
    }

    /// Makes a host of a datacenter without starting it. It asks every present cache of that
    /// datacenter.
    pub fn make_host_of(&self, datacenter: &str, number: usize) -> Host {
        let name = format!("web-{number}");
        let folder = self.folder.path().join(&name);
        fs::create_dir_all(&folder).expect("the folder can be made");
        let (state, socket) = (folder.join("state"), folder.join("socket"));
        let mut arguments = vec![OsString::from("run")];
        arguments.extend(flag("--datacenter", datacenter));
        arguments.extend(flag("--host", name.as_str()));
        arguments.extend(self.slaves_of(datacenter).flat_map(|slave| flag("--surrogate", slave.public_url())));
        arguments.extend(flag("--central", self.master.public_url()));
        if !self.plan.hosts_without_consul {
            arguments.extend(self.consul_urls(datacenter).into_iter().flat_map(|url| flag("--consul", url)));
        }
        arguments.extend(flag("--state", &state));
        arguments.extend(flag("--socket", &socket));
        arguments.extend(flag("--trusted-key", self.given_key()));
        arguments.extend(self.master.authority.iter().flat_map(|authority| flag("--ca", authority.certificate())));
        if self.plan.tokens && !self.plan.keys {
            let token = self.master.token(&name, &["--host", &format!("{datacenter}/{name}")]);
            arguments.extend(flag("--token-file", token));
        }
        arguments.extend(self.plan.host_flags.iter().map(OsString::from));
        let shown = format!("conf-local-{name}");
        let mut daemon = Daemon::new(&shown, built("conf-local"), self.folder.path(), arguments);
        self.show_to_consul(&mut daemon, &shown);
        Host { daemon, name, datacenter: datacenter.to_owned(), state, socket, home: folder }
    }

    /// Gives these flags to the hosts that are made from now on.
    pub fn flag_hosts(&mut self, flags: &[&str]) {
        self.plan.host_flags.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    /// Expects every repository of every tier to be whole, and the ledger unbroken.
    #[track_caller]
    pub fn expect_whole(&self) {
        fsck(&self.master.repo);
        for slave in &self.slaves {
            slave.repositories().iter().for_each(|repo| fsck(repo));
        }
        for host in &self.hosts {
            fsck(&host.repository());
        }
        self.master.expect_unbroken_ledger();
    }
}

impl Plan {
    /// Starts everything, with content for every component, and waits until every host has it.
    pub fn start(self) -> Site {
        let mut site = self.start_empty();
        site.populate();
        for _ in 0..site.plan.slaves {
            site.add_slave();
        }
        for _ in 0..site.plan.hosts {
            site.add_host();
        }
        site.wait_applied(site.master.sequence());
        site
    }

    /// Starts Consul and an empty central server.
    pub fn start_empty(self) -> Site {
        // Begins to watch the machine.
        stalled_since(Instant::now());
        let folder = tempfile::Builder::new().prefix("conf-").tempdir().expect("a temporary folder can be made");
        let authority = self.tls.then(|| Authority::new(&folder.path().join("tls"), "ca"));
        let consuls = match self.pointers {
            Pointers::Consul if authority.is_some() => {
                authority.iter().map(|authority| Consul::start_over_tls(folder.path(), authority)).collect()
            }
            Pointers::Consul => vec![Consul::start(folder.path())],
            Pointers::DurableConsul => vec![Consul::start_durable(folder.path())],
            Pointers::DenyingConsul => vec![Consul::start_denying(folder.path())],
            Pointers::ThreeConsuls => Consul::start_three(folder.path()).into(),
            Pointers::Embedded => Vec::new(),
        };
        let proxied = consuls.iter().filter(|_| self.proxied);
        let to_consul = proxied.map(|consul| Proxy::start(consul.address())).collect();
        let mut master = match self.earlier_master.clone() {
            Some(program) => Master::init_as(program, folder.path()),
            None => Master::init(folder.path()),
        };
        if let Some(authority) = &authority {
            assert!(!self.proxied, "a proxy reads what passes through it");
            master.speak_tls(authority);
        }
        if self.tokens {
            master.ask_for_tokens();
        }
        master.daemon.start();
        master.proxy = self.proxied.then(|| Proxy::start(master.address));
        let work = Work::new(&folder.path().join("work"), &master.git_url());
        if let Some(authority) = &master.authority {
            work.git(&["config", "http.sslCAInfo", authority.certificate().to_str().expect("text")]);
        }
        if self.tokens {
            master.show_token(&work, &master.token_file());
        }
        Site { hosts: Vec::new(), slaves: Vec::new(), master, consuls, to_consul, work, folder, plan: self }
    }
}

impl Site {
    /// Pushes the class, the datacenter and every component, in one step, or in several where there
    /// are more components than one push may have.
    pub fn populate(&self) {
        let pins: Vec<Pin<'_>> = self.plan.components.iter().map(|name| (name.as_str(), "master", "latest")).collect();
        let mut change = self.work.change();
        for (name, _, _) in &pins {
            let branch = format!("{name}/master");
            change = change.file(&branch, "config.yaml", format!("component: {name}\nround: 0\n"));
            change = change.file(&branch, "round", "0\n");
        }
        change = change.file(CLASS, "datacenter.yaml", class(&pins));
        change.file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", instance()).land_in_steps();
    }
}

fn flag(name: &str, value: impl Into<OsString>) -> [OsString; 2] {
    [name.into(), value.into()]
}
