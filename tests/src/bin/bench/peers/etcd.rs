//! etcd alone: somebody puts a value, and `etcdctl watch` runs a command on each host.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use serde_json::json;
use tests::{
    Reader, eventually,
    figures::Kind,
    http::Address,
    own_address,
    program::{command, spawn},
};

use crate::{
    client::Client,
    race::{Racer, last_signal},
};

const KEY: &str = "conf/services/s0/config.yaml";

/// A server, and `etcdctl watch` on every host.
pub(crate) struct Etcd {
    program: PathBuf,
    home: PathBuf,
    address: SocketAddr,
    client: Client,
    readers: Vec<Reader>,
    children: Vec<Child>,
}

impl Etcd {
    /// Starts the server that the variable `ETCD` names; `etcdctl` must be beside it.
    pub(crate) fn start(home: &Path) -> Option<Self> {
        let program = PathBuf::from(std::env::var_os("ETCD")?);
        let (address, peers) = (own_address(2379), own_address(2380));
        let folder = home.join("etcd");
        fs::create_dir_all(&folder).expect("the folder can be made");
        let log = File::create(home.join("etcd.log")).expect("the log can be made");
        let mut etcd = command(&program, home);
        etcd.arg("--data-dir").arg(&folder).args(["--log-level", "error", "--logger", "zap"]);
        for name in ["--listen-client-urls", "--advertise-client-urls"] {
            etcd.arg(name).arg(format!("http://{address}"));
        }
        for name in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
            etcd.arg(name).arg(format!("http://{peers}"));
        }
        etcd.arg("--initial-cluster").arg(format!("default=http://{peers}"));
        etcd.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let server = spawn(etcd).expect("etcd can be started");
        eventually("etcd to be healthy", || Address::Tcp(address).get_json("/health"));
        let client = Client::open(address);
        Some(Etcd { program, home: home.to_owned(), address, client, readers: Vec::new(), children: vec![server] })
    }

    /// Returns the address for requests.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The body of a put.
pub(crate) fn put(key: &str, value: &str) -> String {
    json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}).to_string()
}

impl Racer for Etcd {
    fn name(&self) -> (Kind, String) {
        (Kind::Peer, "etcd alone: put, `etcdctl watch` runs `kill`".to_owned())
    }

    fn grow(&mut self, hosts: usize) {
        let new = self.readers.len()..hosts.max(self.readers.len());
        for _ in new.clone() {
            let reader = Reader::start(&self.home);
            let mut watch = command(self.program.with_file_name("etcdctl"), &self.home);
            watch.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.address));
            watch.args(["watch", KEY, "--", "kill", "-HUP"]).arg(reader.pid().to_string());
            watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.children.push(spawn(watch).expect("etcdctl watch can be started"));
            self.readers.push(reader);
        }
        // They do not say when they are connected.
        let mut deaf: Vec<&Reader> = self.readers[new].iter().collect();
        eventually("every etcdctl watch to hear a change", || {
            self.client.send(Method::POST, "/v3/kv/put", put(KEY, "is anybody there"));
            deaf.retain(|reader| reader.told_within(Duration::from_millis(20)).is_none());
            if deaf.is_empty() { Ok(()) } else { Err(format!("{} are deaf", deaf.len())) }
        });
        // What those that were early still have to run.
        std::thread::sleep(Duration::from_millis(300));
    }

    fn watch_pids(&self) -> Option<Vec<u32>> {
        Some(self.children[1..].iter().map(Child::id).collect())
    }

    fn race(&mut self, round: usize) -> Duration {
        let client = &mut self.client;
        last_signal(&self.readers, || {
            let began = Instant::now();
            client.send(Method::POST, "/v3/kv/put", put(KEY, &format!("put in round {round}")));
            (began, None)
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
