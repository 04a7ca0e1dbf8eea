//! Hosts that have no token: they prove themselves by their identity keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conf_core::secret::Identity;
use hyper::Method;
use serde_json::{Value, json};
use tests::http::{Address, Answer};
use tests::site::{Pointers, instance};
use tests::{Plan, Reader, Site, eventually};

const OWN: &str = "datacenters/us-west/v1";
/// What ends with a key ends within a second; this machine may stall for more.
const SOON: Duration = Duration::from_secs(5);

/// A site whose conf-slave stands in for Consul, and asks for tokens there too.
fn site() -> Site {
    Plan { tokens: true, keys: true, hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start()
}

/// Makes an identity for a host that has not started yet; returns its file and its public key.
pub(crate) fn identity(site: &Site, host: &str) -> (PathBuf, String) {
    let state = site.folder.path().join(host).join("state");
    fs::create_dir_all(&state).expect("the folder can be made");
    let file = state.join("identity");
    let (identity, _) = Identity::load_or_create(&file).expect("an identity");
    (file, identity.recipient().to_string())
}

/// Pushes an inventory, and waits until the cache has it.
fn list(site: &Site, hosts: &[(&str, &str)]) -> u64 {
    let hosts: Vec<String> = hosts.iter().map(|(name, key)| format!("    {name}: {{key: {key}}}\n")).collect();
    let text = format!("{}inventories:\n  hosts:\n{}", instance(), hosts.concat());
    site.work.change().file(OWN, "datacenter.yaml", text).land();
    let sequence = site.master.sequence();
    site.wait_published(sequence);
    sequence
}

fn post(address: &Address, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    address.request(Method::POST, "/api/v1/sessions", &headers, body.to_string()).expect("an answer")
}

/// Asks for a nonce and signs it as OpenSSH does.
fn signed(address: &Address, host: &str, file: &Path) -> Value {
    let mut body = json!({"datacenter": "us-west/v1", "host": host});
    let answer = post(address, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let nonce = answer.json()["nonce"].as_str().expect("a nonce").to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text");
    fs::write(&text, format!("conf-session 1\ndatacenter us-west/v1\nhost {host}\nnonce {nonce}\n")).expect("written");
    let signing =
        Command::new("ssh-keygen").args(["-q", "-Y", "sign", "-n", "conf-session", "-f"]).arg(file).arg(&text).output();
    assert!(signing.expect("ssh-keygen runs").status.success());
    let signature = fs::read_to_string(folder.path().join("text.sig")).expect("a signature");
    (body["nonce"], body["signature"]) = (nonce.into(), signature.into());
    body
}

/// Asks for a session with a join token.
pub(crate) fn join(address: &Address, host: &str, file: &Path, token: &str) -> Answer {
    let mut body = signed(address, host, file);
    (body["key"], body["join"]) = (public(file).into(), token.into());
    post(address, &body)
}

/// The public key of a private one.
fn public(file: &Path) -> String {
    let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(file).output().expect("ssh-keygen runs");
    String::from_utf8(output.stdout).expect("a key is text").trim().to_owned()
}

/// Opens a session, and returns the address with it.
fn open(address: &Address, host: &str, file: &Path) -> Address {
    let answer = post(address, &signed(address, host, file));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["lives"], 600);
    address.clone().with(answer["bearer"].as_str().expect("a bearer"))
}

fn status(address: &Address, path: &str) -> u16 {
    address.get(path).expect("an answer").status.as_u16()
}

#[test]
fn a_host_without_a_token_follows_by_its_key() {
    let mut site = site();
    let (_, key) = identity(&site, "web-1");
    let sequence = list(&site, &[("web-1", &key)]);
    site.add_host();
    site.host().wait_applied(sequence);
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    let sequence = site.push("services/web", "round", "1\n");
    assert!(reader.told().sequence >= sequence);
    eventually("the host to be reported, as itself", || {
        let hosts = site.master.http().get_json("/api/v1/datacenters/us-west/v1/hosts")?;
        let is_proven = hosts["hosts"].as_array().is_some_and(|all| all.iter().any(|one| one["host"] == "web-1"));
        if is_proven { Ok(()) } else { Err(hosts.to_string()) }
    });
    // Sessions are of one process of the cache: after its restart the host opens another.
    site.slaves[0].daemon.kill9();
    site.slaves[0].daemon.start();
    let sequence = site.push("services/web", "round", "2\n");
    site.host().wait_applied(sequence);
    // Without the cache, the host asks the central server in the same way.
    site.slaves[0].daemon.kill9();
    let status = site.host().status().expect("an answer");
    assert_eq!(status["sequence"], sequence, "{status}");
    site.expect_whole();
}

#[test]
fn a_host_that_the_inventory_does_not_list_by_its_key_gets_nothing() {
    let mut site = site();
    let ((_, first), (_, second)) = (identity(&site, "web-1"), identity(&site, "web-2"));
    // The key of the one stands with the name of the other.
    let sequence = list(&site, &[("web-1", &second), ("web-3", &first)]);
    site.add_host();
    let wrong = site.host().wait_status("say why it gets nothing", |status| {
        status.to_string().contains("this is no proof of the host web-1 of us-west/v1")
    });
    assert_eq!(wrong["sequence"], 0, "{wrong}");
    let said = site.slaves[0].daemon.log();
    assert!(said.contains("it is not signed by the key that the inventory lists"), "{said}");
    // Mended at the centre, with no hand on the host.
    list(&site, &[("web-1", &first)]);
    site.host().wait_applied(sequence + 1);
}

#[test]
fn a_session_is_of_one_host_and_ends_with_its_key() {
    let site = site();
    let ((own, key), (other, _)) = (identity(&site, "web-1"), identity(&site, "web-2"));
    list(&site, &[("web-1", &key)]);
    let (slave, master) = (site.slave().unproven(), site.master.unproven());
    for address in [&slave, &master] {
        eventually("the key to be known", || match post(address, &signed(address, "web-1", &own)).status.as_u16() {
            200 => Ok(()),
            other => Err(other.to_string()),
        });
        for body in [signed(address, "web-1", &other), signed(address, "web-2", &other)] {
            assert_eq!(post(address, &body).status, 401);
        }
        // Signed for another host than it names.
        let mut body = signed(address, "web-2", &own);
        body["host"] = "web-1".into();
        assert_eq!(post(address, &body).status, 401);
    }
    // A nonce of one server is none of the other.
    assert_eq!(post(&master, &signed(&slave, "web-1", &own)).status, 401);
    let (at_slave, at_master) = (open(&slave, "web-1", &own), open(&master, "web-1", &own));
    assert_eq!((status(&at_slave, "/api/v1/status"), status(&slave, "/api/v1/status")), (200, 401));
    assert_eq!(status(&at_master, "/api/v1/datacenters/us-west/v1"), 200);
    assert_eq!(status(&at_master, "/api/v1/datacenters/eu-north/v1"), 403);
    assert_eq!(status(&at_master, "/api/v1/tokens"), 403);
    assert_eq!(status(&at_master, "/conf.git/info/refs?service=git-receive-pack"), 403);
    // It reports as itself alone.
    let report = |host: &str| {
        let report = json!({"host": host, "datacenter": "us-west/v1", "sequence": 1, "commit": null,
            "state": "current", "agent": "0"});
        let headers = [("content-type", "application/json")];
        let answer = at_slave.request(Method::POST, "/api/v1/reports", &headers, report.to_string());
        answer.expect("an answer").status.as_u16()
    };
    assert_eq!((report("web-1"), report("web-2")), (200, 403));
    let path = "/api/v1/events?datacenter=us-west/v1";
    let streams = [at_slave.events(path, &[]), at_master.events(path, &[])];
    assert!(streams.iter().all(|stream| stream.beat_within(SOON)));
    list(&site, &[("web-2", &key)]);
    for stream in &streams {
        assert!(stream.end_within(SOON), "the stream goes on");
    }
    for address in [&at_slave, &at_master] {
        assert_eq!(status(address, "/api/v1/status"), 401);
    }
    assert_eq!(post(&slave, &signed(&slave, "web-1", &own)).status, 401);
}
