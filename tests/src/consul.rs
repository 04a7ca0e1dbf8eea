//! A real Consul server for one test.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use bytes::Bytes;
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    address::own_address,
    authority::{Authority, Pair},
    http::{Address, Answer},
    program::{command, run, signal_pid, spawn, text},
    wait::eventually,
};

/// The token with all rights, if the server checks tokens.
pub const ROOT_TOKEN: &str = "0a6b9c1e-4d55-4b9a-9d0e-2f7f8f6f1c11";

/// A key in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: String,
    /// Its flags.
    pub flags: u64,
    /// The index of its last change.
    pub modified: u64,
}

/// A server. Unless it is durable it holds everything in memory, and is empty after a restart.
#[derive(Debug)]
pub struct Consul {
    address: SocketAddr,
    folder: PathBuf,
    acl: bool,
    durable: bool,
    /// The addresses of all servers of its cluster; empty for one that is alone.
    cluster: Vec<String>,
    /// Its certificate, and the authority of its clients, if it speaks TLS besides.
    tls: Option<(Authority, Pair)>,
    child: Option<Child>,
}

impl Consul {
    /// Starts one without access rules.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, false, false)
    }

    /// Starts one that requires tokens.
    pub fn start_denying(folder: &Path) -> Self {
        Self::start_with(folder, true, false)
    }

    /// Starts one that writes to disk, as in production.
    pub fn start_durable(folder: &Path) -> Self {
        Self::start_with(folder, false, true)
    }

    /// Starts one that also speaks TLS, and asks its clients there for a certificate.
    pub fn start_over_tls(folder: &Path, authority: &Authority) -> Self {
        let (address, folder) = (own_address(8500), folder.join("consul"));
        fs::create_dir_all(&folder).expect("the folder can be made");
        let pair = authority.pair("consul", &format!("IP:{}", address.ip()), 30);
        let tls = Some((authority.clone(), pair));
        let mut consul = Consul { address, folder, acl: false, durable: false, cluster: Vec::new(), tls, child: None };
        consul.start_again();
        consul
    }

    /// Starts a cluster of three servers.
    pub fn start_three(folder: &Path) -> [Self; 3] {
        let addresses = [8500; 3].map(own_address);
        let cluster: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        let mut servers = addresses.map(|address| {
            let folder = folder.join(format!("consul-{}", address.ip()));
            fs::create_dir_all(&folder).expect("the folder can be made");
            Consul { address, folder, acl: false, durable: true, cluster: cluster.clone(), tls: None, child: None }
        });
        servers.iter_mut().for_each(Consul::spawn);
        servers.iter_mut().for_each(Consul::wait_ready);
        servers
    }

    fn start_with(folder: &Path, acl: bool, durable: bool) -> Self {
        let folder = folder.join("consul");
        fs::create_dir_all(&folder).expect("the folder can be made");
        let cluster = Vec::new();
        let mut consul = Consul { address: own_address(8500), folder, acl, durable, cluster, tls: None, child: None };
        consul.start_again();
        consul
    }

    /// Starts it after [`Consul::kill9`], on the same address.
    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "Consul runs already");
        let ip = self.address.ip().to_string();
        let mut settings = json!({
            "node_name": format!("test-{}", ip.replace('.', "-")), "bind_addr": ip, "client_addr": ip, "advertise_addr": ip,
            "ports": {"http": self.address.port(), "dns": -1, "grpc": -1, "serf_wan": -1},
            "limits": {"http_max_conns_per_client": 10000},
            "disable_update_check": true, "log_level": "warn", "connect": {"enabled": false},
        });
        if self.acl {
            settings["acl"] = json!({"enabled": true, "default_policy": "deny",
                "tokens": {Self::root_token_key(): ROOT_TOKEN}});
            settings["primary_datacenter"] = json!("dc1");
        }
        if let Some((authority, pair)) = &self.tls {
            settings["ports"]["https"] = json!(8501);
            settings["ca_file"] = json!(authority.certificate());
            settings["cert_file"] = json!(pair.certificate);
            settings["key_file"] = json!(pair.key);
            settings["verify_incoming_https"] = json!(true);
        }
        let file = self.folder.join("consul.json");
        if !self.cluster.is_empty() {
            settings["retry_join"] = json!(self.cluster);
        }
        if self.durable {
            // What Consul's manual says for production; without it a first leader takes seven seconds.
            settings["performance"] = json!({"raft_multiplier": 1});
        }
        fs::write(&file, settings.to_string()).expect("the folder can be written");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log can be opened");
        let mut command = command(Self::program(), &self.folder);
        if self.durable {
            let servers = format!("-bootstrap-expect={}", self.cluster.len().max(1));
            command.args(["agent", "-server", &servers, "-data-dir"]).arg(self.folder.join("data"));
        } else {
            command.args(["agent", "-dev"]);
        }
        command.arg("-config-file").arg(&file);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        self.child = Some(spawn(command).expect("Consul can be started"));
    }

    fn wait_ready(&mut self) {
        eventually("Consul to answer", || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("Consul ended with {status}:\n{}", fs::read_to_string(self.log_path()).unwrap_or_default());
            }
            let answer = self.try_request(Method::PUT, "/v1/kv/ready", "yes")?;
            if answer.text().trim() == "true" { Ok(()) } else { Err(answer.text()) }
        });
        self.delete("ready");
    }

    /// Returns its base URL.
    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://{}:8501", self.address.ip()),
            None => format!("http://{}", self.address),
        }
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.child.as_ref().expect("it runs").id(), signal);
    }

    /// Kills it.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Tells whether it leads its cluster.
    pub fn is_leader(&self) -> bool {
        let answer = self.request(Method::GET, "/v1/status/leader", "").text();
        answer.contains(&format!("{}:", self.address.ip()))
    }

    /// Reads a key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        let answer = self.request(Method::GET, &format!("/v1/kv/{key}"), "");
        if answer.status == 404 {
            return None;
        }
        assert!(answer.status.is_success(), "Consul: {} {}", answer.status, answer.text());
        Some(entry(&answer.json()[0]))
    }

    /// Reads every key below a prefix.
    pub fn list(&self, prefix: &str) -> BTreeMap<String, Entry> {
        let answer = self.request(Method::GET, &format!("/v1/kv/{prefix}?recurse"), "");
        if answer.status == 404 {
            return BTreeMap::new();
        }
        assert!(answer.status.is_success(), "Consul: {} {}", answer.status, answer.text());
        let answer = answer.json();
        let entries = answer.as_array().expect("Consul answers a list").iter();
        entries.map(|one| (one["Key"].as_str().expect("a key is text").to_owned(), entry(one))).collect()
    }

    /// Reads every value below a prefix.
    pub fn values(&self, prefix: &str) -> BTreeMap<String, String> {
        self.list(prefix).into_iter().map(|(key, entry)| (key, entry.value)).collect()
    }

    /// Sets a key.
    pub fn put(&self, key: &str, value: &str) {
        let answer = self.request(Method::PUT, &format!("/v1/kv/{key}"), value.to_owned());
        assert_eq!(answer.text().trim(), "true");
    }

    /// Deletes one key.
    pub fn delete(&self, key: &str) {
        let answer = self.request(Method::DELETE, &format!("/v1/kv/{key}"), "");
        assert_eq!(answer.text().trim(), "true");
    }

    /// Deletes every key below a prefix.
    pub fn delete_all(&self, prefix: &str) {
        let answer = self.request(Method::DELETE, &format!("/v1/kv/{prefix}?recurse"), "");
        assert_eq!(answer.text().trim(), "true");
    }

    /// Makes a backup.
    pub fn backup(&self) -> Bytes {
        let answer = self.request(Method::GET, "/v1/snapshot", "");
        assert!(answer.status.is_success(), "Consul: {} {}", answer.status, answer.text());
        answer.body
    }

    /// Restores a backup.
    pub fn restore(&self, backup: &Bytes) {
        eventually("Consul to take the backup", || {
            let answer = self.try_request(Method::PUT, "/v1/snapshot", backup.clone())?;
            if answer.status.is_success() { Ok(()) } else { Err(answer.text()) }
        });
    }

    /// Makes a token with these rules, and returns its secret.
    pub fn token(&self, name: &str, rules: &str) -> String {
        let policy = json!({"Name": name, "Rules": rules}).to_string();
        let answer = self.request(Method::PUT, "/v1/acl/policy", policy);
        assert!(answer.status.is_success(), "Consul refuses the policy {name}: {}", answer.text());
        let token = json!({"Policies": [{"Name": name}]}).to_string();
        let answer = self.request(Method::PUT, "/v1/acl/token", token);
        answer.json()["SecretID"].as_str().unwrap_or_else(|| panic!("no token: {}", answer.text())).to_owned()
    }

    fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.try_request(method, path, body).unwrap_or_else(|error| panic!("Consul: {error}"))
    }

    fn try_request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Answer, String> {
        let token: &[(&str, &str)] = if self.acl { &[("x-consul-token", ROOT_TOKEN)] } else { &[] };
        Address::Tcp(self.address).request(method, path, token, body)
    }

    /// Finds the program: `$CONSUL`, as `tests/run` sets it, or the one that `tests/get-consul`
    /// finds or downloads.
    pub fn program() -> PathBuf {
        if let Some(path) = std::env::var_os("CONSUL") {
            return path.into();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-consul");
        let home = std::env::var_os("HOME").unwrap_or_default();
        let found = run(command(script, Path::new(&home)));
        assert!(found.status.success(), "{}", text(&found));
        String::from_utf8_lossy(&found.stdout).trim().into()
    }

    /// Returns the setting for the token with all rights, which has another name in newer servers.
    fn root_token_key() -> &'static str {
        let mut ask = command(Self::program(), Path::new("/"));
        ask.arg("version");
        let version = text(&run(ask));
        let old = ["v1.7.", "v1.8.", "v1.9.", "v1.10."].iter().any(|old| version.contains(old));
        if old { "master" } else { "initial_management" }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("consul.log")
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn entry(json: &Value) -> Entry {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let value = STANDARD.decode(json["Value"].as_str().unwrap_or_default()).expect("Consul sends base64");
    Entry {
        value: String::from_utf8_lossy(&value).into_owned(),
        flags: json["Flags"].as_u64().unwrap_or_default(),
        modified: json["ModifyIndex"].as_u64().unwrap_or_default(),
    }
}
