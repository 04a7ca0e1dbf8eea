//! A conf-slave at a far site that follows another one: everything reaches its hosts by that way, and everything of theirs
//! goes up by it.

use std::{
    fs,
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::{Value, json};
use tests::{
    Host, Plan, Site, Slave, eventually, eventually_within,
    http::{Address, Answer},
    program::text,
    site::{DATACENTER, ELSEWHERE, Pointers, in_repository, instance, token_in},
    stalled_since, wire,
};

use crate::{
    hostile::hostile,
    sessions::{identity, join},
};

const HOSTS: &str = "/api/v1/datacenters/us-west/v1/hosts";
/// What is told at once, on a busy machine. A conf-slave tells its hosts again every 60 s.
const SOON: Duration = Duration::from_secs(20);

/// Makes a conf-slave that follows another one, with a stand-in for Consul of its own.
fn make_behind(site: &Site, above: &str, number: usize) -> Slave {
    let mut slave = site.make_slave(number);
    slave.daemon.set_flag("--central", [above]);
    slave.daemon.set_flag("--consul", ["embedded"]);
    slave
}

/// Makes a host that knows this conf-slave and no other server.
fn make_host(site: &Site, slave: &Slave, number: usize) -> Host {
    let mut host = site.make_host(number);
    host.daemon.set_flag::<&str>("--central", []);
    for flag in ["--surrogate", "--consul"] {
        host.daemon.set_flag(flag, [&slave.url]);
    }
    host
}

/// A site whose first conf-slave is followed by a second one, which has the only host.
fn far(plan: Plan) -> Site {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, copied_key: true, ..plan }.start();
    let mut behind = make_behind(&site, &site.slave().url, 2);
    behind.daemon.start();
    let mut host = make_host(&site, &behind, 1);
    host.daemon.start();
    site.slaves.push(behind);
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    site
}

/// The same, where the inventory lists the host, so that conf-master counts it.
fn far_and_listed(plan: Plan) -> Site {
    let site = far(plan);
    let list = format!("{}inventories: {{hosts: {{web-1: {{}}}}}}\n", instance());
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", list).land();
    site.wait_applied(site.master.sequence());
    site
}

/// Waits until conf-master counts the host among those that run a change.
#[track_caller]
fn wait_counted(site: &Site, sequence: u64) {
    let path = format!("/api/v1/delivery?datacenter={DATACENTER}&sequence={sequence}");
    eventually_within(SOON, &format!("#{sequence} to be counted"), || {
        let told = site.master.http().get_json(&path)?;
        let is_counted = told["complete"] == true && told["datacenters"][0]["delivered"] == 1;
        if is_counted { Ok(()) } else { Err(told.to_string()) }
    });
}

/// Waits until a conf-slave has, or no longer has, a problem with these words.
#[track_caller]
fn wait_problem(slave: &Slave, words: &str, is_there: bool) -> String {
    eventually(&format!("a problem with {words:?}: {is_there}"), || {
        let problems = slave.status()?["problems"].to_string();
        if problems.contains(words) == is_there { Ok(problems) } else { Err(problems) }
    })
}

#[track_caller]
fn rotate(site: &Site) {
    let repo = site.master.repo.display().to_string();
    let done = site.master.run(&["key", "rotate", "--repo", &repo]);
    assert!(done.status.success(), "{}", text(&done));
}

fn everything_reaches_a_far_host(plan: Plan) {
    let mut site = far_and_listed(plan);
    let start = Instant::now();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3) + stalled_since(start), "{took:?}");
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    wait_counted(&site, sequence);
    let waited = site.master.run(&["wait", DATACENTER, "--sequence", &sequence.to_string()]);
    assert!(waited.status.success(), "{}", text(&waited));

    // All that conf-master says is here as it is there.
    let [above, behind] = [0, 1].map(|at: usize| site.slaves[at].http());
    eventually("the statements of conf-master", || {
        let [near, far] = [&site.slaves[0], &site.slaves[1]].map(Slave::status);
        let (near, far) = (near?, far?);
        let relays = (near["central"]["relays"].as_u64(), far["central"]["relays"].as_u64());
        let is_told =
            ["sequence", "commit", "watermark", "statement"].iter().all(|member| near[*member] == far[*member]);
        let is_well = is_told && relays == (Some(0), Some(1)) && far["problems"] == json!([]);
        if is_well && far["freshness"]["stale"] == false { Ok(()) } else { Err(format!("{far}\nbehind {near}")) }
    });
    for path in ["/api/v1/access", "/api/v1/datacenters/us-west/v1/access", "/api/v1/datacenters/us-west/v1"] {
        let [near, far] = [&above, &behind].map(|one| one.get_json(path).expect("an answer"));
        assert_eq!(near, far, "{path}");
    }
    let path = "/api/v1/datacenters/us-west/v1";
    let [central, near] = [site.master.http(), above].map(|one| one.get_json(path).expect("an answer"));
    assert_eq!(central, near, "it says the same as conf-master");

    // Branches and tags come after the change.
    site.work.git(&["tag", "services/web/v1", &site.work.id("services/web/master")]);
    let branches =
        |slave: &Slave| in_repository(&slave.state.join("repo.git"), &["for-each-ref", "refs/heads", "refs/tags"]);
    eventually("its branches", || {
        let [near, far] = [0, 1].map(|at: usize| branches(&site.slaves[at]));
        let has_all = near == far && far.contains(&site.work.id("services/web/master"));
        if has_all { Ok(()) } else { Err(format!("{far}\nin place of\n{near}")) }
    });

    // Another key signs.
    rotate(&site);
    site.wait_applied(site.master.sequence());
    let sequence = site.push_and_wait("services/web", "round", "2\n");
    wait_counted(&site, sequence);
    let keys = behind.get_json("/api/v1/keys").expect("an answer");
    assert_eq!(keys["statements"].as_array().map(Vec::len), Some(1), "{keys}");

    // conf-master forgets reports when it starts again.
    site.master.daemon.restart();
    wait_counted(&site, sequence);

    // The one between is away, and comes back.
    site.slaves[0].daemon.kill9();
    let sequence = site.push("services/web", "round", "3\n");
    wait_problem(&site.slaves[1], "central: ", true);
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
    site.hosts[0].daemon.restart();
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
    site.slaves[0].daemon.start();
    site.wait_applied(sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "3\n");
    wait_counted(&site, sequence);
    wait_problem(&site.slaves[1], "central: ", false);
    site.slaves[1].empty_and_restart();
    site.push_and_wait("services/web", "round", "4\n");
    site.expect_whole();
}

#[test]
fn everything_reaches_a_host_behind_a_relay() {
    everything_reaches_a_far_host(Plan { tokens: true, ..Plan::default() });
}

#[test]
fn everything_reaches_a_host_behind_a_relay_where_nobody_needs_a_token() {
    everything_reaches_a_far_host(Plan::default());
}

fn post(address: &Address, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    address.request(Method::POST, path, &headers, body.to_string()).expect("an answer")
}

#[test]
fn hosts_join_through_a_relay_and_nobody_else_has_anything_passed_on() {
    let mut site = far(Plan { tokens: true, ..Plan::default() });
    let fleet = token_in(&site.master.token("fleet", &["--join", DATACENTER]));
    let (file, _) = identity(&site, "node-1");
    let (behind, own) = (site.slaves[1].unproven(), site.slaves[1].http());
    let answer = eventually("the host to join", || {
        let answer = join(&behind, "node-1", &file, &fleet);
        if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
    });
    let session = behind.clone().with(answer.json()["bearer"].as_str().expect("a bearer"));
    let report = json!({"host": "node-1", "datacenter": DATACENTER, "sequence": 1, "commit": null,
        "state": "current", "agent": "0"});
    assert_eq!(post(&session, "/api/v1/reports", &[], &report).status, 200);
    eventually("conf-master to hear of the host", || {
        let hosts = site.master.http().get_json(HOSTS)?.to_string();
        if hosts.contains("node-1") { Ok(()) } else { Err(hosts) }
    });
    // Another key under the same name.
    let other = site.folder.path().join("other");
    fs::create_dir_all(&other).expect("the folder can be made");
    let (another, _) = identity(&site, "other/node");
    let refused = join(&behind, "node-1", &another, &fleet);
    assert_eq!(refused.status, 401, "{}", refused.text());

    // Hosts and readers have nothing passed on, and are not told who may ask.
    let above = site.slaves[0].unproven();
    let host = site.master.token("web-9", &["--host", &format!("{DATACENTER}/web-9")]);
    let reader = site.master.token("ann", &["--group", "administrators"]);
    let [host, reader] = [host, reader].map(|file| above.clone().with(&token_in(&file)));
    eventually("the list to be there", || {
        let known = [&host, &reader].map(|one| one.get("/api/v1/status").map(|answer| answer.status.as_u16()));
        if known == [Ok(200), Ok(200)] { Ok(()) } else { Err(format!("{known:?}")) }
    });
    let (summary, follow) =
        (json!({"sequence": 1, "hosts": []}), format!("/api/v1/events?datacenter={DATACENTER}&relay=true"));
    for (who, expected) in [(&above, 401), (&host, 403), (&reader, 403)] {
        assert_eq!(post(who, HOSTS, &[], &summary).status, expected);
        assert_eq!(post(who, &format!("{HOSTS}/web-9/key"), &[], &summary).status, expected);
        assert_eq!(who.get(&follow).expect("an answer").status, expected);
    }
    for path in ["/api/v1/access", "/api/v1/access/", "/api/v1/datacenters/us-west/v1/access/"] {
        assert_eq!(host.get(path).expect("an answer").status, 403, "{path}");
    }
    let slave = site.slaves[0].http();
    assert_eq!(post(&slave, HOSTS, &[], &summary).status, 200);
    assert_eq!(post(&slave, "/api/v1/datacenters/eu-north/v1/hosts", &[], &summary).status, 409);
    // What conf-master says is passed back.
    assert_eq!(post(&slave, HOSTS, &[], &json!([])).status, 400);
    assert_eq!(post(&own, &format!("{HOSTS}/web-9/key"), &[], &json!({"key": "none", "join": "none"})).status, 409);
    for path in ["/api/v1/tokens", "/api/v1/config/update", "/conf.git/git-receive-pack"] {
        assert!([403, 404].contains(&post(&slave, path, &[], &json!({})).status.as_u16()), "{path}");
    }
    assert_eq!(post(&slave, HOSTS, &[("x-conf-hops", "4")], &summary).status, 508);

    // Without conf-master nothing is passed on, and it is said.
    site.master.daemon.stop();
    let unheard = post(&own, HOSTS, &[], &summary);
    assert!(unheard.status == 503 && unheard.text().contains("conf-master"), "{}", unheard.text());
}

#[test]
fn conf_slaves_that_follow_each_other_say_so_and_do_no_harm() {
    let mut site = far_and_listed(Plan::default());
    let before = site.push_and_wait("services/web", "round", "1\n");
    let far = site.slaves[1].url.clone();
    let central = site.master.url();
    site.slaves[0].daemon.set_flag("--central", [&far]);
    site.slaves[0].daemon.restart();
    for slave in &site.slaves {
        wait_problem(slave, "it follows this conf-slave in turn", true);
    }
    // What is to be passed on goes round and comes to an end.
    let summary = json!({"sequence": before, "hosts": []});
    let start = Instant::now();
    let answer = post(&site.slaves[1].http(), HOSTS, &[], &summary);
    assert!(answer.status == 508 && answer.text().contains("follow each other"), "{} {}", answer.status, answer.text());
    assert!(start.elapsed() < Duration::from_secs(5) + stalled_since(start), "{:?}", start.elapsed());
    let snapshot = site.master.snapshot();
    let step = wire::step(&snapshot, &"f".repeat(40));
    let start = Instant::now();
    let fetched = wire::fetch(&site.slaves[1].http(), &step).expect("an answer");
    assert!(wire::pack_in(&fetched.body).is_some(), "{}", fetched.text());
    // Nobody waits in vain for 3 s for an answer that nobody has.
    assert!(start.elapsed() < Duration::from_secs(2) + stalled_since(start), "{:?}", start.elapsed());
    wait_problem(&site.slaves[1], "508", true);
    let logs = site.slaves.iter().map(|slave| slave.daemon.log().lines().count()).sum::<usize>();
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    site.push("services/web", "round", "2\n");
    // Several rounds of asking later.
    let start = Instant::now();
    eventually("some time to pass", || {
        for slave in &site.slaves {
            assert!(slave.status()?["problems"].to_string().contains("relay: "));
        }
        if start.elapsed() > Duration::from_secs(12) { Ok(()) } else { Err(String::new()) }
    });
    let more = site.slaves.iter().map(|slave| slave.daemon.log().lines().count()).sum::<usize>() - logs;
    assert!(more < 40, "{more} lines");
    // One of them names conf-master again.
    site.slaves[0].daemon.set_flag("--central", [&central]);
    site.slaves[0].daemon.restart();
    let sequence = site.push_and_wait("services/web", "round", "3\n");
    wait_counted(&site, sequence);
    for slave in &site.slaves {
        wait_problem(slave, "relay: ", false);
    }
}

#[test]
fn two_conf_slaves_are_each_others_way_to_a_conf_master_that_one_does_not_reach() {
    let mut site = far_and_listed(Plan { proxied: true, ..Plan::default() });
    // Each names conf-master, and then the other.
    let urls = [0, 1].map(|at: usize| site.slaves[at].url.clone());
    let central = site.master.url();
    for (at, other) in [(0, &urls[1]), (1, &urls[0])] {
        let daemon = &mut site.slaves[at].daemon;
        if at == 1 {
            daemon.set_flag("--central", [&central]);
        }
        daemon.argument("--central");
        daemon.argument(other.as_str());
        daemon.restart();
    }
    site.push_and_wait("services/web", "round", "1\n");
    site.slaves[0].to_central.as_ref().expect("a proxy").cut();
    site.push_and_wait("services/web", "round", "2\n");
    site.slaves[0].wait_at(site.master.sequence());
    eventually("the first one to follow the second", || {
        let status = site.slaves[0].status()?;
        if status["central"]["relays"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });
    // Both lose it, and find it again.
    site.master.daemon.stop();
    for slave in &site.slaves {
        wait_problem(slave, "it follows this conf-slave in turn", true);
    }
    site.slaves[0].to_central.as_ref().expect("a proxy").mend();
    site.master.daemon.start();
    let sequence = site.push_and_wait("services/web", "round", "3\n");
    wait_counted(&site, sequence);
    for slave in &site.slaves {
        wait_problem(slave, "relay: ", false);
    }
}

#[test]
fn a_relay_of_another_datacenter_is_of_no_use_and_it_is_said() {
    let site = far(Plan::default());
    let mut other = make_behind(&site, &site.slave().url, 3);
    other.daemon.set_flag("--datacenter", [ELSEWHERE]);
    other.daemon.start();
    // Nobody has told it who may ask for its status.
    eventually("it to say so", || {
        let log = other.daemon.log();
        if log.contains(&format!("this conf-slave serves {DATACENTER}, not {ELSEWHERE}")) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn no_lie_of_a_relay_is_believed() {
    let mut site = far(Plan::default());
    site.push_and_wait("services/web", "round", "1\n");
    let (honest, above) = (site.slave().address.to_string(), site.slave().url.clone());
    for mode in ["forge", "replay"] {
        let folder = site.folder.path().join(format!("hostile-{mode}"));
        let folder = folder.to_str().expect("text");
        let flags = ["slave", "--honest", &honest, "--datacenter", DATACENTER, "--folder", folder, "--mode", mode];
        let (liar, url) = hostile(&site, &flags);
        let before = site.slaves[1].status().expect("it answers");
        site.slaves[1].daemon.set_flag("--central", [&url]);
        site.slaves[1].daemon.restart();
        eventually("the conf-slave to refuse the lie", || {
            let status = site.slaves[1].status()?;
            let is_refused =
                liar.log().contains("lied: ") && status["problems"].to_string().contains("refused snapshot: ");
            if is_refused { Ok(()) } else { Err(format!("{status}\n{}", liar.log())) }
        });
        let after = site.slaves[1].status().expect("it answers");
        assert_eq!((&after["sequence"], &after["commit"]), (&before["sequence"], &before["commit"]), "{mode}");
        site.slaves[1].daemon.set_flag("--central", [&above]);
        site.slaves[1].daemon.restart();
        site.push_and_wait("services/web", "round", &format!("{mode}\n"));
    }
}
