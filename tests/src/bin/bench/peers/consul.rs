//! Consul alone: somebody puts a value, and `consul watch` runs a command on each host.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    rc::Rc,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use hyper::Method;
use tests::{
    Consul, DEADLINE, Reader,
    figures::Kind,
    program::{command, spawn},
};

use crate::{
    client::Client,
    race::{Racer, last_signal},
};

/// The key that is watched: where git2consul puts the file that changes.
pub(crate) const KEY: &str = "conf/services/s0/config.yaml";

/// A Consul server for the peers alone, and `consul watch` on every host.
pub(crate) struct Watches {
    pub(crate) consul: Consul,
    home: PathBuf,
    readers: Vec<Reader>,
    children: Vec<Child>,
}

impl Watches {
    /// Starts the server.
    pub(crate) fn start(home: &Path) -> Self {
        let consul = Consul::start_durable(home);
        consul.put(KEY, "first");
        Watches { consul, home: home.to_owned(), readers: Vec::new(), children: Vec::new() }
    }

    /// Returns the processes of `consul watch`.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Returns the processes that get the signals.
    pub(crate) fn readers(&self) -> &[Reader] {
        &self.readers
    }

    /// Brings the number of hosts up to this.
    pub(crate) fn grow(&mut self, hosts: usize) {
        let new = self.readers.len()..hosts.max(self.readers.len());
        for _ in new.clone() {
            let reader = Reader::start(&self.home);
            let mut watch = command(Consul::program(), &self.home);
            watch.args(["watch", "-type=key", "-shell=false"]).arg(format!("-key={KEY}"));
            watch.arg(format!("-http-addr={}", self.consul.address()));
            watch.args(["kill", "-HUP"]).arg(reader.pid().to_string());
            watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.children.push(spawn(watch).expect("consul watch can be started"));
            self.readers.push(reader);
        }
        // Each runs its command once at its start.
        for reader in &self.readers[new] {
            reader.told();
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `PUT` of one key.
pub(crate) struct ConsulPut {
    watches: Rc<RefCell<Watches>>,
    client: Client,
}

impl ConsulPut {
    pub(crate) fn new(watches: &Rc<RefCell<Watches>>) -> Self {
        let client = Client::open(watches.borrow().consul.address());
        ConsulPut { watches: Rc::clone(watches), client }
    }
}

impl Racer for ConsulPut {
    fn name(&self) -> (Kind, String) {
        (Kind::Peer, "Consul alone: KV put, `consul watch` runs `kill`".to_owned())
    }

    fn grow(&mut self, hosts: usize) {
        self.watches.borrow_mut().grow(hosts);
    }

    fn watch_pids(&self) -> Option<Vec<u32>> {
        Some(self.watches.borrow().pids())
    }

    fn race(&mut self, round: usize) -> Duration {
        let watches = self.watches.borrow();
        last_signal(watches.readers(), || {
            let began = Instant::now();
            self.client.send(Method::PUT, &format!("/v1/kv/{KEY}"), format!("put in round {round}"));
            (began, None)
        })
    }
}

/// A blocking query of one connection: what any program that hears from Consul waits for.
pub(crate) struct BlockingQuery {
    client: Client,
    ask: Sender<()>,
    waiting: Receiver<()>,
    returned: Receiver<Instant>,
}

impl BlockingQuery {
    pub(crate) fn new(watches: &Watches) -> Self {
        let address = watches.consul.address();
        let ((ask, asked), (say, waiting), (done, returned)) = (channel(), channel(), channel());
        thread::spawn(move || {
            let mut client = Client::open(address);
            for () in asked {
                let now = client.send(Method::GET, &format!("/v1/kv/{KEY}"), String::new());
                let index = now.headers["x-consul-index"].to_str().expect("a number").to_owned();
                let _ = say.send(());
                client.send(Method::GET, &format!("/v1/kv/{KEY}?index={index}&wait=60s"), String::new());
                let _ = done.send(Instant::now());
            }
        });
        BlockingQuery { client: Client::open(address), ask, waiting, returned }
    }
}

impl Racer for BlockingQuery {
    fn name(&self) -> (Kind, String) {
        (Kind::Floor, "Consul: KV put, one blocking query returns".to_owned())
    }

    fn grow(&mut self, _: usize) {}

    fn race(&mut self, round: usize) -> Duration {
        self.ask.send(()).expect("the thread lives");
        self.waiting.recv_timeout(DEADLINE).expect("Consul answers");
        // The query is on its way; by then it has arrived.
        thread::sleep(Duration::from_millis(5));
        let began = Instant::now();
        self.client.send(Method::PUT, &format!("/v1/kv/{KEY}"), format!("asked in round {round}"));
        self.returned.recv_timeout(DEADLINE).expect("the query returns").saturating_duration_since(began)
    }
}
