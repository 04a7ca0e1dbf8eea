//! Tokens: who has none gets nothing, and who has one is known by name.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tests::http::Address;
use tests::program::text;
use tests::site::{Pointers, token_in};
use tests::{Plan, Reader, Site, Slave, Work, eventually};

const OPENAPI: &str = include_str!("../../../conf-master/src/http/openapi.json");
/// What ends with a token ends within a second; this machine may stall for more.
const SOON: Duration = Duration::from_secs(5);

fn closed() -> Site {
    Plan { slaves: 0, hosts: 0, tokens: true, ..Plan::default() }.start()
}

/// Every route of the description, with some value for each part of its path.
fn routes() -> Vec<(Method, String)> {
    let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let paths = description["paths"].as_object().expect("paths");
    let methods = ["get", "put", "post", "delete"];
    let of_path = |(path, about): (&String, &Value)| -> Vec<(Method, String)> {
        let path = path.replace("{section}", "services/web").replace("{kind}", "services");
        let path = path.replace("{id}", "us-west").replace("{version}", "v1").replace("{name}", "web");
        let path = path.replace("{token}", "0123456789ab").replace("{host}", "web-1");
        assert!(!path.contains('{'), "{path}");
        let has = methods.into_iter().filter(|method| about.get(method).is_some());
        has.map(|method| (method.to_uppercase().parse().expect("a method"), path.clone())).collect()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Everything in the repository that a change could change.
fn state(site: &Site) -> String {
    site.master.git(&["for-each-ref"])
}

#[test]
fn who_has_no_token_gets_nothing_and_changes_nothing() {
    let site = closed();
    let before = state(&site);
    let wrong = site.master.unproven().with("conf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    for address in [site.master.unproven(), wrong] {
        let mut asked = routes();
        asked.extend([
            (Method::GET, "/conf.git/info/refs?service=git-upload-pack".to_owned()),
            (Method::GET, "/conf.git/info/refs?service=git-receive-pack".to_owned()),
            (Method::POST, "/conf.git/git-upload-pack".to_owned()),
            (Method::POST, "/conf.git/git-receive-pack".to_owned()),
            (Method::GET, "/nowhere".to_owned()),
        ]);
        for (method, path) in asked {
            let for_anybody = matches!(path.as_str(), "/healthz" | "/readyz" | "/api/v1/sessions");
            let headers = [("content-type", "application/json")];
            let answer = address.request(method.clone(), &path, &headers, "{}").expect("an answer");
            let status = answer.status.as_u16();
            // After twenty wrong tokens nobody is told more.
            let refused = matches!(status, 401 | 429);
            assert_eq!(!refused, for_anybody, "{method} {path}: {status} {}", answer.text());
        }
    }
    let stranger = Work::new(&site.folder.path().join("stranger"), &site.master.git_url());
    stranger.change().file("services/web/master", "round", "x\n").push().refused(&["could not read Username"]);
    assert!(!stranger.try_git(&["ls-remote", "origin"]).ok);
    assert_eq!(state(&site), before);
    // The same requests are answered where the server is open, so this test would see that.
    let open = Plan { slaves: 0, hosts: 0, ..Plan::default() }.start();
    assert_eq!(open.master.unproven().get("/api/v1/datacenters").expect("an answer").status, 200);
}

#[test]
fn every_tier_shows_its_own_token_and_a_change_has_its_authors_name() {
    let site = Plan { tokens: true, ..Plan::default() }.start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    let file = site.master.token("ann", &["--group", "administrators"]);
    site.master.show_token(&site.work, &file);
    let sequence = site.push("services/web", "round", "1\n");
    assert!(reader.told().sequence >= sequence);
    let entry = site.master.git(&["log", "-1", "--format=%B", "refs/conf/ledger"]);
    assert!(entry.contains("\nConf-By: ann\n") && entry.contains("\nConf-Through: http 127.0.0."), "{entry}");
    // Hosts report through their conf-slave, and both by their own token.
    eventually("the host to be reported", || {
        let hosts = site.master.http().get_json("/api/v1/datacenters/us-west/v1/hosts")?;
        if hosts.to_string().contains("web-1") { Ok(()) } else { Err(hosts.to_string()) }
    });
    let listed = site.master.run(&["token", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let used = |name: &str| {
        listed.as_array().expect("a list").iter().any(|one| one["name"] == name && one["used"].is_string())
    };
    assert!(used("ann") && used("conf-slave-1"), "{listed}");
    let slave = token_in(&site.folder.path().join("conf-slave-1.token"));
    let answer = site.master.unproven().with(&slave).get("/api/v1/tokens").expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.text());
}

#[test]
fn a_revoked_token_ends_what_goes_on_with_it() {
    let site = closed();
    let file = site.master.token("ann", &["--group", "administrators"]);
    let ann = site.master.unproven().with(&token_in(&file));
    let id = ann.get_json("/api/v1/principal").expect("it is good")["token"].as_str().expect("a token").to_owned();
    let events = ann.events("/api/v1/events?datacenter=us-west/v1", &[]);
    assert!(events.beat_within(SOON));
    let waiting = {
        let (ann, sequence) = (ann.clone(), site.master.sequence() + 1);
        std::thread::spawn(move || ann.get(&format!("/api/v1/delivery?sequence={sequence}&timeout=60")))
    };
    // A push whose sender takes his time.
    let mut pushing = TcpStream::connect(site.master.address).expect("it listens");
    let head = format!(
        "POST /conf.git/git-receive-pack HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Length: 1000\r\n\r\n0",
        site.master.address,
        token_in(&file)
    );
    pushing.write_all(head.as_bytes()).expect("it is read");
    let began = Instant::now();
    let revoked = site.master.run(&["token", "revoke", &id]);
    assert!(revoked.status.success(), "{}", text(&revoked));
    assert!(events.end_within(SOON), "the stream goes on");
    pushing.set_read_timeout(Some(SOON)).expect("it can be set");
    let mut status = [0; 12];
    pushing.read_exact(&mut status).expect("the push goes on");
    assert_eq!(&status, b"HTTP/1.1 401");
    let answer = waiting.join().expect("it ends").expect("an answer");
    assert!(matches!(answer.status.as_u16(), 400..=499), "{} {}", answer.status, answer.text());
    assert!(began.elapsed() < 2 * SOON, "{:?}", began.elapsed());
    let answer = ann.get("/api/v1/principal").expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.text().contains("revoked")), (401, true), "{}", answer.text());
    let work = Work::new(&site.folder.path().join("ann"), &site.master.git_url());
    site.master.show_token(&work, &file);
    assert!(!work.try_git(&["ls-remote", "origin"]).ok);
    let again = site.master.run(&["token", "revoke", &id]);
    assert!(!again.status.success() && text(&again).contains("revoked already"), "{}", text(&again));
}

#[test]
fn a_token_is_replaced_expires_and_outlives_a_restart() {
    let mut site = closed();
    let ask = |site: &Site, file: &Path| {
        let answer = site.master.unproven().with(&token_in(file)).get("/api/v1/principal").expect("an answer");
        (answer.status.as_u16(), answer.json())
    };
    let first = site.master.token("ann", &["--group", "web", "--expires", "90d"]);
    let (status, about) = ask(&site, &first);
    assert_eq!((status, about["name"].as_str(), about["groups"].clone()), (200, Some("ann"), json!(["web"])));
    let id = about["token"].as_str().expect("a token").to_owned();
    let replace = |site: &Site, id: &str, overlap: &str, out: &str| {
        let out = site.folder.path().join(out);
        let shown = out.display().to_string();
        let done = site.master.run(&["token", "rotate", id, "--overlap", overlap, "--out", &shown]);
        assert!(done.status.success(), "{}", text(&done));
        out
    };
    let second = replace(&site, &id, "1h", "second.token");
    assert_eq!((ask(&site, &first).0, ask(&site, &second).0), (200, 200));
    let id = ask(&site, &second).1["token"].as_str().expect("a token").to_owned();
    let third = replace(&site, &id, "0s", "third.token");
    assert_eq!((ask(&site, &second).0, ask(&site, &third).0), (401, 200));
    let short = site.master.token("bob", &["--expires", "1s"]);
    eventually("a token to expire", || {
        let (status, words) = ask(&site, &short);
        if status == 401 && words.to_string().contains("expired") { Ok(()) } else { Err(words.to_string()) }
    });
    site.master.daemon.kill9();
    site.master.daemon.start();
    assert_eq!((ask(&site, &second).0, ask(&site, &third).0), (401, 200));
    let mode = fs::metadata(&third).expect("it is there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    site.expect_whole();
}

#[test]
fn the_last_use_of_a_token_is_known_after_a_restart() {
    let mut site = closed();
    let file = site.master.token("ann", &["--group", "administrators"]);
    let used = |site: &Site| {
        let listed: Value =
            serde_json::from_slice(&site.master.run(&["token", "list", "--json"]).stdout).expect("JSON");
        let ann = listed.as_array().expect("a list").iter().find(|one| one["name"] == "ann").expect("hers").clone();
        (ann["used"].clone(), ann["used_from"].clone())
    };
    assert_eq!(used(&site), (Value::Null, Value::Null));
    assert_eq!(site.master.unproven().with(&token_in(&file)).get("/api/v1/principal").expect("an answer").status, 200);
    let before = used(&site);
    assert!(before.0.is_string() && before.1 == "127.0.0.1", "{before:?}");
    site.master.daemon.restart();
    assert_eq!(used(&site), before);
    // What cannot be read is forgotten, and keeps nobody out.
    site.master.daemon.stop();
    fs::write(site.master.repo.join("conf-token-uses.json"), "{").expect("it can be written");
    site.master.daemon.start();
    assert_eq!(used(&site), (Value::Null, Value::Null));
}

#[test]
fn a_file_that_holds_no_token_is_named_by_its_fault() {
    let site = closed();
    let good = token_in(&site.master.token_file());
    let file = site.folder.path().join("some.token");
    for (content, words) in [
        (String::new(), "empty"),
        (good[..30].to_owned(), "cut off"),
        (format!("\u{feff}{good}\n"), "byte order mark"),
        ("hunter2\n".to_owned(), "begins with `conf_`"),
    ] {
        fs::write(&file, &content).expect("it can be written");
        let mut client = site.master.client(&["token", "list"]);
        client.env("CONF_MASTER_TOKEN_FILE", &file);
        let output = tests::program::run(client);
        let said = text(&output);
        assert!(!output.status.success() && said.contains(words), "{content:?}: {said}");
        assert!(content.is_empty() || !said.contains(content.trim()), "{said}");
    }
    fs::write(&file, format!("{good}\r\n")).expect("it can be written");
    let mut client = site.master.client(&["token", "list"]);
    client.env("CONF_MASTER_TOKEN_FILE", &file);
    assert!(tests::program::run(client).status.success());
}

#[test]
fn who_loses_the_last_token_makes_one_at_the_servers_own_machine() {
    let site = closed();
    let listed = site.master.http().get_json("/api/v1/tokens").expect("it is good");
    let id = listed["tokens"][0]["id"].as_str().expect("one").to_owned();
    let repo = site.master.repo.display().to_string();
    let revoked = site.master.run(&["token", "revoke", &id, "--repo", &repo]);
    assert!(revoked.status.success(), "{}", text(&revoked));
    let out = site.master.run(&["token", "list"]);
    assert!(!out.status.success() && text(&out).contains("revoked"), "{}", text(&out));
    let file = site.master.token("ann", &["--group", "administrators"]);
    let ann: Address = site.master.unproven().with(&token_in(&file));
    assert_eq!(ann.get("/api/v1/tokens").expect("an answer").status, 200);
    // Who has no such right makes none, and nothing is left of the try.
    let before = state(&site);
    let bob = site.master.token("bob", &[]);
    let before_bob = state(&site);
    assert_ne!(before, before_bob);
    let (client, out) = (site.folder.path().join("more.token"), "--out");
    let mut more = site.master.client(&["token", "add", "eve", "--group", "administrators", out]);
    more.arg(&client).env("CONF_MASTER_TOKEN_FILE", &bob);
    let more = tests::program::run(more);
    assert!(!more.status.success() && text(&more).contains("administer"), "{}", text(&more));
    assert!(!client.exists());
    assert_eq!(state(&site), before_bob);
}

#[test]
fn a_conf_slave_lets_in_whom_conf_master_names_and_decides_alone() {
    let mut site = Plan { tokens: true, hosts: 2, ..Plan::default() }.start();
    let slave = site.slave().unproven();
    let token = |name: &str| token_in(&site.folder.path().join(format!("{name}.token")));
    let (first, second) = (token("web-1"), token("web-2"));
    let elsewhere = token_in(&site.master.token("elsewhere", &["--slave", "eu-north/*"]));
    let status = |address: &Address, path: &str| address.get(path).expect("an answer").status.as_u16();
    for path in ["/api/v1/status", "/conf.git/info/refs?service=git-upload-pack", "/metrics", "/v1/kv/x", "/nowhere"] {
        assert_eq!(status(&slave, path), 401, "{path}");
        assert_eq!(status(&slave.clone().with(&elsewhere), path), 401, "{path}");
    }
    assert_eq!((status(&slave, "/readyz"), status(&slave.clone().with(&first), "/api/v1/status")), (200, 200));
    // Nobody reports for another host, here or at the central server, and hosts push nothing.
    let all = json!({"sequence": 1, "hosts": [{"host": "web-2", "datacenter": "us-west/v1", "sequence": 1,
        "commit": null, "state": "current", "agent": "0"}]});
    let headers = [("content-type", "application/json")];
    let central = site.master.unproven().with(&first);
    let path = "/api/v1/datacenters/us-west/v1/hosts";
    let forged = central.request(Method::POST, path, &headers, all.to_string()).expect("an answer");
    assert_eq!(forged.status, 403, "{}", forged.text());
    assert_eq!(status(&central, "/conf.git/info/refs?service=git-receive-pack"), 403);
    let report = json!({"host": "web-2", "datacenter": "us-west/v1", "sequence": 1, "commit": null,
        "state": "current", "agent": "0"});
    let send = |token: &str| {
        let headers = [("content-type", "application/json")];
        let address = slave.clone().with(token);
        let answer = address.request(Method::POST, "/api/v1/reports", &headers, report.to_string());
        answer.expect("an answer").status.as_u16()
    };
    assert_eq!((send(&first), send(&second)), (403, 200));
    let events = slave.clone().with(&first).events("/api/v1/events?datacenter=us-west/v1", &[]);
    assert!(events.beat_within(SOON));
    let about = site.master.unproven().with(&first).get_json("/api/v1/principal").expect("it is good");
    let id = about["token"].as_str().expect("a token").to_owned();
    let revoked = site.master.run(&["token", "revoke", &id]);
    assert!(revoked.status.success(), "{}", text(&revoked));
    assert!(events.end_within(SOON), "the stream goes on");
    assert_eq!(status(&slave.clone().with(&first), "/api/v1/status"), 401);
    // The other host goes on, also while the central server is away and the cache starts again.
    let sequence = site.push("services/web", "round", "9\n");
    site.hosts[1].wait_applied(sequence);
    site.master.daemon.stop();
    site.slaves[0].daemon.kill9();
    site.slaves[0].daemon.start();
    assert_eq!(status(&slave.clone().with(&first), "/api/v1/status"), 401);
    assert_eq!(status(&slave.clone().with(&second), "/api/v1/status"), 200);
    assert_eq!(status(&slave, "/api/v1/status"), 401);
}

const POLICY: &str = r#"
groups: {web: [ann], readers: [bob]}
rights:
  - {group: administrators, may: [administer]}
  - {group: web, may: [read]}
  - {group: web, may: [push], refs: ["services/web/*"], datacenters: ["us-west/*"]}
  - {group: readers, may: [read]}
"#;

#[test]
fn a_policy_says_who_reads_and_who_pushes_on_every_tier() {
    let site = Plan { tokens: true, hosts: 0, ..Plan::default() }.start();
    let (ann, bob) = (site.master.token("ann", &[]), site.master.token("bob", &[]));
    let work = Work::new(&site.folder.path().join("ann"), &site.master.git_url());
    site.master.show_token(&work, &ann);
    let asks = |file: &Path, address: &Address| {
        let address = address.clone().with(&token_in(file));
        address.get("/api/v1/status").expect("an answer").status.as_u16()
    };
    let (master, slave) = (site.master.unproven(), site.slave().unproven());
    // Without a policy only administrators and those whom a token is for do anything.
    assert_eq!((asks(&ann, &master), asks(&bob, &slave)), (403, 401));
    assert!(!work.try_git(&["fetch", "-q", "origin"]).ok);
    site.work.change().file("policy", "policy.yaml", POLICY).land();
    assert_eq!(asks(&bob, &master), 404, "there is no such route, and it may ask");
    eventually("the conf-slave to let in who reads", || {
        if asks(&bob, &slave) == 200 { Ok(()) } else { Err("it does not".to_owned()) }
    });
    work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    work.change().file("services/web/master", "round", "1\n").land();
    let entry = site.master.git(&["log", "-1", "--format=%B", "refs/conf/ledger"]);
    let policy = site.master.git(&["rev-parse", "refs/heads/policy"]);
    assert!(entry.contains("\nConf-By: ann\n"), "{entry}");
    assert!(entry.contains(&format!("\nConf-Policy: {}", policy.trim())), "{entry}");
    let shown = text(&site.master.run(&["log", "us-west/v1"]));
    for words in ["ann", "token ", "http 127.", &format!("policy {}", &policy[..7])] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let before = state(&site);
    // A dry run of what she may not do shows her nothing.
    let dry = work.change().file("services/api/master", "round", "1\n").option("--push-option=dry-run").push();
    let said = dry.refused(&["ann lacks the right `push`"]);
    assert!(!said.contains("would change"), "{said}");
    work.change().file("services/api/master", "round", "1\n").push().refused(&["ann lacks the right `push`"]);
    work.change().file("policy", "policy.yaml", "rights: []\n").push().refused(&["administer"]);
    let shown = bob.display().to_string();
    let update = ["update", "services/web", "--file", "-", "--token-file", &shown];
    let update = tests::program::run_reading(site.master.client(&update), std::process::Stdio::null());
    assert!(!update.status.success() && text(&update).contains("lacks the right"), "{}", text(&update));
    // Nobody locks everybody out: neither by a policy, nor by revoking.
    let closed = POLICY.replace("administer]", "read]");
    site.work.change().file("policy", "policy.yaml", &closed).push().refused(&["administer"]);
    let listed = site.master.http().get_json("/api/v1/tokens").expect("it is good");
    let own = listed["tokens"].as_array().expect("a list").iter().find(|one| one["name"] == "admin").expect("its own");
    let revoked = site.master.run(&["token", "revoke", own["id"].as_str().expect("an id")]);
    assert!(!revoked.status.success() && text(&revoked).contains("no token would be left"), "{}", text(&revoked));
    assert_eq!(state(&site), before);
    // What the policy takes away is gone on the conf-slave, too, and what goes on with it ends.
    let stream = |address: &Address, file: &Path| {
        let events = address.clone().with(&token_in(file)).events("/api/v1/events?datacenter=us-west/v1", &[]);
        assert!(events.beat_within(SOON));
        events
    };
    let (ended, goes_on) =
        ([&master, &slave].map(|one| stream(one, &bob)), [&master, &slave].map(|one| stream(one, &ann)));
    let fewer = POLICY.replace("readers: [bob]", "readers: []");
    site.work.change().file("policy", "policy.yaml", &fewer).land();
    assert!(ended.iter().all(|events| events.end_within(SOON)), "a stream goes on");
    assert!(goes_on.iter().all(|events| events.beat_within(SOON)), "another stream ended");
    eventually("the conf-slave to let him in no more", || {
        if asks(&bob, &slave) == 401 { Ok(()) } else { Err("it does".to_owned()) }
    });
    assert_eq!(asks(&bob, &master), 403);
    let explained = site.master.run(&["policy", "explain", "--as", "ann", "services/web/master"]);
    assert!(explained.status.success() && text(&explained).contains("push"), "{}", text(&explained));
}

#[test]
fn a_policy_that_takes_long_to_try_keeps_no_processor() {
    let site = closed();
    let name = "a".repeat(100);
    for round in 0..20 {
        let branch = format!("services/{name}/{name}");
        site.work.change().file(&branch, "round", format!("{round}\n")).land();
    }
    let bob = site.master.token("bob", &["--group", "administrators"]);
    let ask = |policy: &str| {
        let (bob, body) = (site.master.unproven().with(&token_in(&bob)), json!({"policy": policy}));
        let headers = [("content-type", "application/json")];
        bob.request(Method::POST, "/api/v1/policy/test", &headers, body.to_string()).expect("an answer")
    };
    // Each pattern looks at the whole name, from each place of it.
    let slow = |number: usize| format!("\"*{}{number:04}\"", "a".repeat(95));
    let slow = (0..10_000).map(slow).collect::<Vec<_>>().join(",");
    let slow = format!("rights: [{{group: x, may: [push], refs: [{slow}]}}]\n");
    let (began, answer) = (Instant::now(), ask(&slow));
    assert_eq!((answer.status.as_u16(), answer.text().contains("longer than 5 s")), (504, true), "{}", answer.text());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(ask(POLICY).status, 200);
}

#[test]
fn a_plan_is_for_who_may_change_something_and_names_nothing_else() {
    const OWN_POLICY: &str = "groups: {readers: [rita], web: [paula]}
rights:
  - {group: administrators, may: [administer]}
  - {group: readers, may: [read], datacenters: [\"us-west/*\"]}
  - {group: web, may: [push], refs: [\"services/web/*\"]}
  - {group: web, may: [read], datacenters: [\"us-west/*\"]}
";
    let site = closed();
    site.work.change().file("policy", "policy.yaml", OWN_POLICY).land();
    let token = |name: &str| site.master.unproven().with(&token_in(&site.master.token(name, &[])));
    let plan = |address: &Address, refs: &Value| {
        let headers = [("content-type", "application/json")];
        let path = "/api/v1/datacenters/us-west/v1/plan";
        let answer = address.request(Method::POST, path, &headers, json!({"refs": refs}).to_string());
        let answer = answer.expect("an answer");
        (answer.status.as_u16(), answer.text())
    };
    let (rita, paula, admin) = (token("rita"), token("paula"), site.master.http());
    assert_eq!(plan(&rita, &json!({})).0, 200);
    let mistyped = json!({"services/web/master": "services/apj/master"});
    let (status, said) = plan(&rita, &mistyped);
    assert!(status == 403 && said.contains("plans nothing"), "{status} {said}");
    // Who reads a part is given no name beyond it; who reads everything is helped.
    let (status, said) = plan(&paula, &mistyped);
    assert!(status == 422 && !said.contains("services/api"), "{status} {said}");
    let (status, said) = plan(&admin, &mistyped);
    assert!(status == 422 && said.contains("services/api"), "{status} {said}");
    let (status, said) = plan(&paula, &json!({"services/api/master": "services/web/master"}));
    assert!(status == 403 && said.contains("lacks the right"), "{status} {said}");
    let many: serde_json::Map<_, _> =
        (0..=1000).map(|number| (format!("services/c-{number}/master"), json!("services/web/master"))).collect();
    let (status, said) = plan(&paula, &many.into());
    assert!(status == 422 && said.contains("1001 refs are too many"), "{status} {said}");
}

#[test]
fn a_conf_slave_with_the_token_of_a_host_says_so_and_blames_no_host() {
    let site = Plan { tokens: true, hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let host = site.master.token("web-9", &["--host", "us-west/v1/web-9"]);
    let mut slave = site.make_slave(2);
    let own = slave.token.clone().expect("it has a token");
    let place = |arguments: &mut Vec<OsString>, file: &Path| {
        let at = arguments.iter().position(|one| one == "--token-file").expect("it is given a token");
        arguments[at + 1] = file.into();
    };
    place(slave.daemon.arguments(), &host);
    slave.daemon.start();
    eventually("the conf-slave to say that its token is a wrong one", || {
        let log = slave.daemon.log();
        if log.contains("the token of --token-file must be one for a conf-slave") { Ok(()) } else { Err(log) }
    });
    // Nobody has said that this token is none: another server may know it.
    let ask = |slave: &Slave| {
        slave.unproven().with(&token_in(&host)).get("/api/v1/status").expect("an answer").status.as_u16()
    };
    assert_eq!(ask(&slave), 503);
    slave.daemon.stop();
    place(slave.daemon.arguments(), &own);
    slave.daemon.start();
    eventually("the host to be let in", || match ask(&slave) {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}
