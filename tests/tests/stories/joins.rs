//! Hosts that join: one token for all of a datacenter, and then each by the first key that it shows.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tests::http::{Address, Answer};
use tests::program::{built, command, run, text};
use tests::site::{Pointers, instance, token_in};
use tests::{Plan, Reader, Site, eventually};

use crate::sessions::{identity, join};

const OWN: &str = "datacenters/us-west/v1";
/// What ends with a key ends within a second; this machine may stall for more.
const SOON: Duration = Duration::from_secs(5);

fn site() -> Site {
    Plan { tokens: true, keys: true, hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start()
}

fn fleet(site: &Site) -> String {
    token_in(&site.master.token("fleet", &["--join", "us-west/v1"]))
}

/// Pushes what the inventory says of hosts, and waits until the cache has it.
fn list(site: &Site, hosts: &str) {
    site.work.change().file(OWN, "datacenter.yaml", format!("{}{hosts}", instance())).land();
    site.wait_published(site.master.sequence());
}

#[track_caller]
fn refused(answer: &Answer, words: &str) {
    let said = answer.text();
    assert!(answer.status == 401 && said.contains(words), "{words:?} was expected, and not {} {said}", answer.status);
}

/// Joins, once the server has read the inventory.
fn joined(address: &Address, host: &str, file: &Path, token: &str) -> Value {
    eventually("the host to join", || {
        let answer = join(address, host, file, token);
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    })
}

/// The tokens, as an administrator sees them.
fn tokens(site: &Site) -> Vec<Value> {
    let listed = site.master.run(&["token", "list", "--json"]);
    serde_json::from_slice(&listed.stdout).expect("a list")
}

/// Revokes what an administrator sees under this name.
fn revoke(site: &Site, name: &str) {
    let all = tokens(site);
    let one = all.iter().find(|one| one["name"] == name && one["good"] == true).expect("it is listed");
    let revoked = site.master.run(&["token", "revoke", one["id"].as_str().expect("an id")]);
    assert!(revoked.status.success(), "{}", text(&revoked));
}

#[test]
fn hosts_that_join_together_follow_by_their_keys() {
    const MANY: usize = 40;
    let mut site = site();
    let (token, before) = (fleet(&site), site.master.sequence());
    let hosts = (0..MANY).map(|number| format!("node-{number}"));
    let hosts: Vec<_> = hosts.map(|name| (identity(&site, &name).0, name)).collect();
    let slave = site.slave().unproven();
    thread::scope(|scope| {
        for (file, name) in &hosts {
            scope.spawn(|| {
                joined(&slave, name, file, &token);
            });
        }
    });
    let changes = site.master.sequence() - before;
    assert!(changes < MANY as u64 / 2, "{changes} changes for {MANY} hosts");
    let joined: Vec<Value> = tokens(&site).into_iter().filter(|one| one["key"] == true).collect();
    assert!(joined.len() == MANY && joined.iter().all(|one| one["by"].to_string().contains("fleet (")), "{joined:?}");
    // A real host: by the token first, and by its key from then on.
    let file = site.folder.path().join("fleet.token");
    fs::write(&file, format!("{token}\n")).expect("it can be written");
    site.flag_hosts(&["--token-file", &file.display().to_string()]);
    site.add_host();
    let sequence = site.push("services/web", "round", "1\n");
    site.host().wait_applied(sequence);
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    revoke(&site, "fleet");
    site.hosts[0].daemon.kill9();
    site.hosts[0].daemon.start();
    let sequence = site.push("services/web", "round", "2\n");
    site.host().wait_applied(sequence);
    eventually("the host to be reported, as itself", || {
        let hosts = site.master.http().get_json("/api/v1/datacenters/us-west/v1/hosts")?;
        let is_there = hosts["hosts"].as_array().is_some_and(|all| all.iter().any(|one| one["host"] == "web-1"));
        if is_there { Ok(()) } else { Err(hosts.to_string()) }
    });
    // Sessions are of one process of the cache.
    site.slaves[0].daemon.kill9();
    site.slaves[0].daemon.start();
    let sequence = site.push("services/web", "round", "3\n");
    site.host().wait_applied(sequence);
    let (slave, master) = (site.slaves[0].daemon.log(), site.master.daemon.log());
    let local = site.host().daemon.log();
    for (of, log) in [("conf-slave", slave), ("conf-master", master), ("conf-local", local)] {
        assert!(!log.contains(&token), "the log of {of} shows the token");
    }
    site.expect_whole();
}

#[test]
fn the_first_key_of_a_host_counts_until_an_administrator_revokes_it() {
    let site = site();
    let token = fleet(&site);
    let (slave, master) = (site.slave().unproven(), site.master.unproven());
    let ((own, _), (other, _)) = (identity(&site, "web-1"), identity(&site, "other"));
    let bearer = |opened: Value| opened["bearer"].as_str().expect("a bearer").to_owned();
    let at_slave = slave.clone().with(&bearer(joined(&slave, "web-1", &own, &token)));
    // The key alone is enough from then on.
    let at_master = master.clone().with(&bearer(joined(&master, "web-1", &own, "")));
    for server in [&slave, &master] {
        refused(&join(server, "web-1", &other, &token), "has joined with another key");
        refused(&join(server, "web-2", &own, &token), "each host needs one of its own");
    }
    // It is a host: it reads its datacenter, and has no other right.
    let status = |address: &Address, path: &str| address.get(path).expect("an answer").status.as_u16();
    assert_eq!(status(&at_slave, "/api/v1/status"), 200);
    assert_eq!(status(&at_master, "/api/v1/datacenters/us-west/v1"), 200);
    assert_eq!(status(&at_master, "/api/v1/tokens"), 403);
    let path = "/api/v1/events?datacenter=us-west/v1";
    let streams = [at_slave.events(path, &[]), at_master.events(path, &[])];
    assert!(streams.iter().all(|stream| stream.beat_within(SOON)));
    revoke(&site, "web-1");
    for stream in &streams {
        assert!(stream.end_within(SOON), "the stream goes on");
    }
    assert_eq!(status(&at_slave, "/api/v1/status"), 401);
    for server in [&slave, &master] {
        refused(&join(server, "web-1", &own, &token), "its key was revoked; make another one");
    }
    joined(&slave, "web-1", &other, &token);
    let id = tokens(&site).into_iter().find(|one| one["name"] == "web-1" && one["good"] == true).expect("it joined");
    let rotated = site.master.run(&["token", "rotate", id["id"].as_str().expect("an id")]);
    assert!(!rotated.status.success() && text(&rotated).contains("is the key of the host"), "{}", text(&rotated));
}

#[test]
fn a_join_token_that_leaked_ends_with_all_that_joined_by_it() {
    let site = site();
    let token = token_in(&site.master.token("fleet", &["--join", "us-west/v1", "--hosts", "2"]));
    let other = token_in(&site.master.token("other", &["--join", "us-west/v1"]));
    let slave = site.slave().unproven();
    let files = ["web-1", "web-2", "web-3"].map(|name| (name, identity(&site, name).0));
    let bearers = [0, 1].map(|number| {
        let (name, file) = &files[number];
        joined(&slave, name, file, &token)["bearer"].as_str().expect("a bearer").to_owned()
    });
    let (name, file) = &files[2];
    let full = join(&slave, name, file, &token);
    assert!(full.status == 503 && full.text().contains("2 hosts have joined by this token"), "{}", full.text());
    let kept = joined(&slave, name, file, &other)["bearer"].as_str().expect("a bearer").to_owned();
    let path = "/api/v1/events?datacenter=us-west/v1";
    let streams = bearers.each_ref().map(|bearer| slave.clone().with(bearer).events(path, &[]));
    assert!(streams.iter().all(|stream| stream.beat_within(SOON)));
    let all = tokens(&site);
    let id = all.iter().find(|one| one["name"] == "fleet").expect("it is listed")["id"].as_str().expect("an id");
    let changes =
        || site.master.git(&["rev-list", "--count", "refs/conf/access"]).trim().parse::<u32>().expect("a number");
    let (before, revoke) = (changes(), ["token", "revoke", "--joined", id]);
    let revoked = site.master.run(&revoke);
    assert!(text(&revoked).contains("and the keys of 2 hosts that joined by it"), "{}", text(&revoked));
    assert_eq!(changes(), before + 1, "it is one change");
    assert!(streams.iter().all(|stream| stream.end_within(SOON)), "a stream goes on");
    for (name, file) in &files[..2] {
        refused(&join(&slave, name, file, &other), "its key was revoked");
    }
    // Who joined by another token stays.
    assert_eq!(slave.clone().with(&kept).get("/api/v1/status").expect("an answer").status, 200);
    let again = site.master.run(&revoke);
    assert!(!again.status.success() && text(&again).contains("is over already"), "{}", text(&again));
}

#[test]
fn who_may_join_is_said_by_the_token_and_the_inventory() {
    let mut site = site();
    let token = fleet(&site);
    let ((own, key), (other, other_key)) = (identity(&site, "web-1"), identity(&site, "web-2"));
    let make = |name: &str, flags: &[&str]| token_in(&site.master.token(name, flags));
    let wrong = "confj_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
    let far = make("far", &["--join", "eu-north/v1"]);
    let late = make("late", &["--join", "us-west/v1", "--expires", "0s"]);
    let ended = make("ended", &["--join", "us-west/v1"]);
    make("web-9", &["--host", "us-west/v1/web-9"]);
    revoke(&site, "ended");
    let (slave, master) = (site.slave().unproven(), site.master.unproven());
    let (file, _) = identity(&site, "first");
    for server in [&slave, &master] {
        joined(server, "first", &file, &token);
        refused(&join(server, "web-1", &own, &wrong), "the token is not known here");
        refused(&join(server, "web-1", &own, &far), "it is for: host that joins eu-north/v1");
        refused(&join(server, "web-1", &own, &late), "expired");
        refused(&join(server, "web-1", &own, &ended), "revoked");
        refused(&join(server, "web-9", &own, &token), "has a token of its own");
        // Another kind of token joins nothing, and a cut one is none.
        for other in [token_in(&site.master.token_file()), token[..20].to_owned(), String::new()] {
            refused(&join(server, "web-1", &own, &other), "this is no proof of the host web-1");
        }
    }
    // Where the inventory lists hosts, these join, and those with a key in it by that key alone.
    list(&site, &format!("inventories:\n  hosts:\n    web-1: {{}}\n    web-2: {{key: {key}}}\n"));
    for server in [&slave, &master] {
        refused(&join(server, "web-3", &other, &token), "this is no proof of the host web-3");
        refused(&join(server, "web-2", &other, &token), "this is no proof of the host web-2");
    }
    let opened = joined(&slave, "web-1", &other, &token);
    let session = slave.clone().with(opened["bearer"].as_str().expect("a bearer"));
    assert_eq!(session.get("/api/v1/status").expect("an answer").status, 200);
    list(&site, &format!("inventories:\n  hosts:\n    web-2: {{key: {other_key}}}\n"));
    eventually("the session to end with the host's place in the inventory", || {
        match session.get("/api/v1/status")?.status.as_u16() {
            401 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    // conf-slaves ask for hosts of their datacenter alone, and nobody asks with a token for joining.
    let body = json!({"key": key, "join": far}).to_string();
    let ask = |token: &str, path: &str| {
        let headers = [("content-type", "application/json")];
        let answer = master.clone().with(token).request(Method::POST, path, &headers, body.clone());
        answer.expect("an answer").status.as_u16()
    };
    let slaves = token_in(site.slave().token.as_ref().expect("it has a token"));
    assert_eq!(ask(&slaves, "/api/v1/datacenters/eu-north/v1/hosts/web-1/key"), 403);
    assert_eq!(ask(&slaves, "/api/v1/datacenters/us-west/v1/hosts/web-1/key"), 409);
    assert_eq!(ask(&token, "/api/v1/datacenters/us-west/v1/hosts/web-1/key"), 403);
    // A program that is no host says what its file holds.
    let file = site.folder.path().join("join.token");
    fs::write(&file, &token).expect("it can be written");
    let mut asking = command(built("conf-master"), site.folder.path());
    asking.args(["token", "list", "--server", &site.master.url(), "--token-file"]).arg(&file);
    let said = run(asking);
    assert!(text(&said).contains("it is a join token, which is for conf-local alone"), "{}", text(&said));
    site.slaves[0].daemon.stop();
}

#[test]
fn who_shows_wrong_tokens_again_and_again_is_not_passed_on() {
    let site = site();
    let token = fleet(&site);
    let ((own, _), slave) = (identity(&site, "web-1"), site.slave().unproven());
    joined(&slave, "web-1", &own, &token);
    let (other, _) = identity(&site, "web-2");
    let wrong = "confj_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for _ in 0..=20 {
        join(&slave, "web-2", &other, wrong);
    }
    // Nor is a good one from there; who has joined comes in all the same.
    let answer = join(&slave, "web-2", &other, &token);
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(join(&slave, "web-1", &own, "").status, 200);
    let names: Vec<String> = tokens(&site).iter().map(|one| one["name"].to_string()).collect();
    assert!(!names.contains(&"\"web-2\"".to_owned()), "{names:?}");
}
