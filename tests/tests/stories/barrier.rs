//! The delivery barrier: waiting until hosts run a change, before programs that need it are
//! deployed.

use std::process::{Command, Output, Stdio};

use hyper::Method;
use serde_json::Value;
use tests::{
    Plan, Site,
    program::{spawn, text},
    site::{DATACENTER, Pointers, instance},
};

const OWN: &str = "datacenters/us-west/v1";

/// Two hosts, and an inventory that lists what is said of them.
fn site(inventory: &str) -> Site {
    let site = Plan { hosts: 2, pointers: Pointers::Embedded, ..Plan::default() }.start();
    list(&site, inventory);
    site
}

/// Lands an inventory.
fn list(site: &Site, hosts: &str) {
    let (hosts, closed) = hosts.split_once("; ").unwrap_or((hosts, "true"));
    let closed = if hosts == "{}" { String::new() } else { format!("  closed: {closed}\n") };
    let text = format!("{}inventories:\n  hosts: {hosts}\n{closed}", instance());
    site.work.change().file(OWN, "datacenter.yaml", text).land();
}

const BOTH: &str = "{web-1: {}, web-2: {}}";

/// `conf-master wait` with its exit code and all that it said.
fn wait(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    ended(&site.master.run(&[&["wait", DATACENTER], arguments].concat()))
}

fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(output))
}

/// The same, while something else happens.
fn waiting(mut client: Command) -> std::process::Child {
    spawn(client_of(&mut client)).expect("the client starts")
}

fn client_of(client: &mut Command) -> Command {
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    std::mem::replace(client, Command::new("true"))
}

fn delivery(site: &Site, query: &str) -> Value {
    let path = format!("/api/v1/delivery?datacenter={DATACENTER}{query}");
    site.master.http().get_json(&path).expect("an answer")
}

#[test]
fn a_watcher_or_a_probe_that_failed_counts_against_its_own_change_alone() {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let (ill, config) = (site.folder.path().join("ill"), site.folder.path().join("conf-local.yaml"));
    let ill_text = ill.to_str().expect("text");
    // One is told, and the other asked, where the file is not.
    let file = format!(
        "watch: [{{components: [services/web], command: [test, '!', -e, {ill_text}]}}]\n\
         probe: [{{component: services/api, command: [test, '!', -e, {ill_text}], retries: 0}}]\n"
    );
    std::fs::write(&config, file).expect("it can be written");
    let mut host = site.make_host(1);
    host.daemon.argument("--config");
    host.daemon.argument(&config);
    host.daemon.start();
    site.hosts.push(host);
    list(&site, "{web-1: {}}");
    let (code, said) = wait(&site, &[]);
    assert_eq!(code, Some(0), "{said}");

    let complete = |sequence: u64| delivery(&site, &format!("&sequence={sequence}"))["complete"] == true;
    for (component, words) in [("services/web", "could not be told"), ("services/api", "is not well")] {
        std::fs::write(&ill, "").expect("it can be written");
        let before = site.master.sequence();
        let sequence = site.push(component, "round", &format!("{component} is ill\n"));
        tests::eventually("the failure to be reported", || {
            let told = delivery(&site, &format!("&sequence={sequence}"));
            if told["complete"] == false && told["datacenters"][0]["late"].to_string().contains(words) {
                return Ok(());
            }
            Err(told.to_string())
        });
        assert!(complete(before), "the change before is where it was");
        let (code, said) = wait(&site, &["--sequence", &sequence.to_string(), "--timeout", "1"]);
        assert!(code == Some(1) && said.contains(words), "{said}");
        // A later change that is not about this component arrives, and the failure stays.
        let later = site.push("devices/router", "round", &format!("after {component}\n"));
        let (code, said) = wait(&site, &["--sequence", &later.to_string()]);
        assert_eq!(code, Some(0), "{said}");
        assert!(!complete(sequence), "what failed has not become good");
        std::fs::remove_file(&ill).expect("it is there");
        let mended = site.push(component, "round", &format!("{component} is well\n"));
        tests::eventually("both to be delivered", || {
            if complete(mended) && complete(sequence) { Ok(()) } else { Err(delivery(&site, "").to_string()) }
        });
    }
}

#[test]
fn a_wait_ends_when_every_listed_host_runs_the_change() {
    let mut site = site(BOTH);
    let sequence = site.push("services/web", "round", "1\n");
    let (code, said) = wait(&site, &["--sequence", &sequence.to_string()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{DATACENTER}: 2 of 2 hosts run #{sequence};")), "{said}");
    for host in &site.hosts {
        assert!(host.sequence() >= sequence, "it was said to run it");
    }
    // Without a sequence it is the newest, and JSON says all of it.
    let (code, said) = wait(&site, &["--json"]);
    let told: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, &told["complete"], &told["sequence"]), (Some(0), &true.into(), &sequence.into()), "{said}");

    // One that is away is named when time is up; others may be enough.
    site.hosts[1].daemon.stop();
    let sequence = site.push("services/web", "round", "2\n");
    let (code, said) = wait(&site, &["--percent", "50"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 of 2 hosts"), "{said}");
    let (code, said) = wait(&site, &["--timeout", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("web-2 is at #") && !said.contains("web-1 is at #"), "{said}");
    let told = delivery(&site, &format!("&sequence={sequence}&timeout=60&percent=50"));
    assert_eq!((&told["complete"], &told["datacenters"][0]["delivered"]), (&true.into(), &1.into()), "{told}");
    assert_eq!(told["datacenters"][0]["late"][0]["host"], "web-2", "{told}");

    // And the wait that goes on ends when it is back.
    let client = waiting(site.master.client(&["wait", DATACENTER]));
    site.hosts[1].daemon.start();
    let (code, said) = ended(&client.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_change_that_does_not_touch_a_datacenter_asks_for_its_newest_before() {
    let site = site(BOTH);
    let older = site.push("services/web", "round", "1\n");
    site.work.change().file("services/lonely/master", "config.yaml", "a: 1\n").land();
    let newer = site.push("services/web", "round", "2\n");
    assert_eq!(newer, older + 2);
    let (code, said) = wait(&site, &["--sequence", &(older + 1).to_string()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("run #{older}, its newest at #{}", older + 1)), "{said}");
    // What is not there is not waited for.
    for (sequence, words) in [(newer + 1, "there is no change"), (0, "had no configuration yet")] {
        let (code, said) = wait(&site, &["--sequence", &sequence.to_string()]);
        assert!(code == Some(1) && said.contains(words), "{said}");
    }
    let output = site.master.run(&["wait", "elsewhere/v1"]);
    assert!(ended(&output).0 == Some(1) && text(&output).contains("there is no datacenter"), "{}", text(&output));
    for wrong in [&["wait"][..], &["wait", DATACENTER, "--percent", "0"], &["wait", "nonsense"]] {
        assert_eq!(ended(&site.master.run(wrong)).0, Some(2), "{wrong:?}");
    }
    for wrong in ["&percent=101", "&sequence=x", "&timeout=x", "&datacenter=x"] {
        let path = format!("/api/v1/delivery?datacenter={DATACENTER}{wrong}");
        assert_eq!(site.master.http().get(&path).expect("an answer").status, 400, "{wrong}");
    }
}

#[test]
fn hosts_that_nobody_lists_are_shown_apart_and_listed_ones_that_never_spoke_are_waited_for() {
    let mut site = site("{web-1: {}, web-9: {}}; false");
    restart_with(&mut site, "0");
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let (code, said) = wait(&site, &["--percent", "50"]);
    assert_eq!(code, Some(0), "{said}");
    let told = delivery(&site, "");
    let one = &told["datacenters"][0];
    assert_eq!((&told["complete"], &one["silent"][0]), (&false.into(), &"web-9".into()), "{told}");
    let told = tests::eventually("web-2 to be shown", || {
        let told = delivery(&site, "");
        let apart = &told["datacenters"][0]["apart"][0];
        if apart["host"] == "web-2" && apart["sequence"] == sequence { Ok(told) } else { Err(told.to_string()) }
    });
    assert_eq!(told["datacenters"][0]["hosts"], 2, "{told}");
    // An inventory that changes meanwhile is the one that counts.
    let client = waiting(site.master.client(&["wait", DATACENTER, "--sequence", &sequence.to_string()]));
    list(&site, "{web-1: {}}");
    let (code, said) = ended(&client.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("web-2 is at #") && said.contains("not in the inventory"), "{said}");
    // Where none is listed, all that report are all, which is said.
    list(&site, "{}");
    let (code, said) = wait(&site, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 of 2 hosts") && said.contains("inventory lists none"), "{said}");
}

#[test]
fn a_wait_goes_on_while_conf_master_restarts() {
    let mut site = site(BOTH);
    site.hosts[1].daemon.stop();
    let sequence = site.push("services/web", "round", "1\n");
    let client = waiting(site.master.client(&["wait", DATACENTER, "--sequence", &sequence.to_string()]));
    tests::eventually("the first of the two to run it", || {
        let told = delivery(&site, "");
        if told["datacenters"][0]["delivered"] == 1 { Ok(()) } else { Err(told.to_string()) }
    });
    site.master.daemon.kill9_and_restart();
    site.hosts[1].daemon.start();
    let (code, said) = ended(&client.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 of 2 hosts"), "{said}");
}

#[test]
fn what_hosts_took_of_a_history_that_is_lost_delivers_nothing() {
    let mut site = site("{}");
    list_with_keys(&site);
    let kept = site.push_and_wait("services/web", "round", "1\n");
    site.master.daemon.stop();
    let backup = site.folder.path().join("backup.git");
    copy(&site.master.repo, &backup);
    site.master.daemon.start();
    for round in ["2\n", "3\n"] {
        site.push_and_wait("services/web", "round", round);
    }
    let (code, said) = wait(&site, &["--proven"]);
    assert_eq!(code, Some(0), "{said}");

    site.master.daemon.stop();
    std::fs::remove_dir_all(&site.master.repo).expect("the repository can be removed");
    copy(&backup, &site.master.repo);
    site.master.daemon.start();
    let ahead = wait_shown(&site, "web-2", kept + 2);
    assert_eq!(ahead["proof"], "signed", "{ahead}");
    // Above the newest, at its very number, and below it: they are of the other history.
    let older = (kept + 1).to_string();
    for round in ["4\n", "5\n", "6\n"] {
        let sequence = site.push("services/web", "round", round);
        for flags in [&["--proven"][..], &[], &["--sequence", &older]] {
            let (code, said) = wait(&site, &[flags, &["--timeout", "0"]].concat());
            assert_eq!(code, Some(1), "{flags:?} at #{sequence}: {said}");
            // Also where the numbers are past it.
            assert!(said.contains(&format!("web-2 is at #{} of another history", kept + 2)), "{said}");
        }
        assert_eq!(shown(&site, "web-2")["late"], true, "#{sequence}");
    }
}

#[test]
fn one_host_that_reports_too_much_makes_no_cache_mute() {
    let mut site = site(BOTH);
    let taken = reports(&site);
    let mut claim = taken.first().cloned().expect("a host has reported");
    claim["agent"] = "x".repeat(60 << 10).into();
    for number in 0..600 {
        claim["host"] = format!("invented-{number}").into();
        let json = [("content-type", "application/json")];
        let answer = site.slave().http().request(Method::POST, "/api/v1/reports", &json, claim.to_string());
        assert_eq!(answer.expect("an answer").status, 200);
    }
    // Now it is told of all of them at once.
    site.master.daemon.kill9_and_restart();
    let sequence = site.push("services/web", "round", "1\n");
    let (code, said) = wait(&site, &["--timeout", "60"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("2 of 2 hosts run #{sequence}")), "{said}");
    tests::eventually("all of them to be told of", || {
        let told = delivery(&site, "&limit=1000");
        let apart = told["datacenters"][0]["apart"].as_array().map(Vec::len);
        if apart == Some(600) { Ok(()) } else { Err(format!("{apart:?}")) }
    });
}

/// Copies a folder.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp starts");
    assert!(copied.success(), "{} is copied", from.display());
}

/// Starts the central server again, for which so many seconds later all hosts are heard of.
fn restart_with(site: &mut Site, seconds: &str) {
    for argument in ["--hosts-within", seconds] {
        site.master.daemon.argument(argument);
    }
    site.master.daemon.restart();
}

#[test]
fn where_no_host_is_listed_a_wait_ends_no_sooner_than_all_may_have_been_heard_of() {
    let mut site = site("{}");
    let sequence = site.push("services/web", "round", "1\n");
    let first = tests::eventually("the first of the two to have reported", || {
        let told = reports(&site);
        let first = told.iter().find(|one| one["host"] == "web-1" && one["sequence"] == sequence);
        first.cloned().ok_or_else(|| format!("{told:?}"))
    });
    site.slaves[0].daemon.stop();
    site.master.daemon.kill9_and_restart();
    say(&site, &first);
    let (code, said) = wait(&site, &["--timeout", "0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("1 of 1 host runs #{sequence};")) && said.contains("more hosts may report for"),
        "{said}"
    );
    let told = delivery(&site, "");
    let settles = told["datacenters"][0]["settles_in"].as_u64();
    assert!(settles.is_some_and(|seconds| (1..=75).contains(&seconds)), "{told}");
    // A wait ends by itself when that is over.
    restart_with(&mut site, "3");
    say(&site, &first);
    let (code, said) = wait(&site, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("more hosts may report for"), "{said}");
}

/// The key of a host.
fn key(site: &Site, host: usize) -> String {
    let host = &site.hosts[host];
    let output = host.run(&["identity", "--state", host.state.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Lists both hosts with their keys.
fn list_with_keys(site: &Site) {
    list(site, &format!("{{web-1: {{key: {}}}, web-2: {{key: {}}}}}", key(site, 0), key(site, 1)));
}

/// What the cache would send up of its hosts.
fn reports(site: &Site) -> Vec<Value> {
    let reports = site.slave().http().get_json("/api/v1/hosts").expect("an answer");
    reports.as_array().expect("a list").clone()
}

/// Says something to the central server, as a cache does, or somebody in its place.
fn say(site: &Site, report: &Value) {
    let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
    let body = serde_json::json!({"sequence": 0, "hosts": [report]}).to_string();
    let answer = site.master.http().request(Method::POST, &path, &[("content-type", "application/json")], body);
    assert_eq!(answer.expect("an answer").status, 200);
}

/// What the central server shows of a host.
fn shown(site: &Site, name: &str) -> Value {
    try_shown(site, name).unwrap_or_else(|error| panic!("{error}"))
}

fn try_shown(site: &Site, name: &str) -> Result<Value, String> {
    let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
    let told = site.master.http().get_json(&path).expect("an answer");
    let hosts = told["hosts"].as_array().expect("a list");
    hosts.iter().find(|one| one["host"] == name).cloned().ok_or_else(|| format!("{name} is not in {told}"))
}

fn wait_shown(site: &Site, name: &str, sequence: u64) -> Value {
    tests::eventually(&format!("{name} to be shown at #{sequence}"), || {
        let shown = try_shown(site, name)?;
        if shown["sequence"] == sequence { Ok(shown) } else { Err(shown.to_string()) }
    })
}

#[test]
fn a_slave_that_invents_reports_delivers_nothing() {
    let mut site = site("{}");
    list_with_keys(&site);
    let sequence = site.push("services/web", "round", "1\n");
    let (code, said) = wait(&site, &["--proven", "--sequence", &sequence.to_string()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("word of their conf-slave"), "{said}");
    let signed = wait_shown(&site, "web-2", sequence);
    assert_eq!((&signed["proof"], &signed["signature"]), (&"signed".into(), &Value::Null), "{signed}");

    site.hosts[1].daemon.stop();
    let taken = reports(&site);
    let of = |name: &str| taken.iter().find(|one| one["host"] == name).cloned().expect("it has reported");
    let next = site.push("services/web", "round", "2\n");
    let (code, said) = wait(&site, &["--percent", "50"]);
    assert_eq!(code, Some(0), "{said}");
    let claim = |report: &Value, time: u64| {
        let mut claim = report.clone();
        claim["host"] = "web-2".into();
        claim["sequence"] = next.into();
        claim["commit"] = site.master.snapshot().into();
        claim["time"] = time.into();
        claim["received"] = "2099-01-01T00:00:00Z".into();
        claim
    };
    let time = of("web-2")["time"].as_u64().expect("a time");
    let mut unsigned = claim(&of("web-2"), time + 1);
    unsigned["signature"] = Value::Null;
    // Nothing; the right key's signature of other words; another host's; and that of the time that
    // was signed.
    let forged = [
        unsigned,
        claim(&of("web-2"), time + 2),
        claim(&of("web-1"), time + 3),
        claim(&of("web-2"), time),
        claim(&of("web-2"), u64::MAX),
    ];
    for forged in &forged {
        say(&site, forged);
        let told = delivery(&site, &format!("&sequence={next}"));
        assert_eq!((&told["complete"], &told["datacenters"][0]["delivered"]), (&false.into(), &1.into()), "{told}");
    }
    // None of them stands: what the host has signed is shown, and its next word comes through.
    let (code, said) = wait(&site, &["--timeout", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("web-2 is at #{sequence}")) && !said.contains("not proven"), "{said}");
    let stands = shown(&site, "web-2");
    assert_eq!((&stands["sequence"], &stands["proof"]), (&sequence.into(), &"signed".into()), "{stands}");
    site.hosts[1].daemon.start();
    let (code, said) = wait(&site, &["--proven"]);
    assert_eq!(code, Some(0), "{said}");

    // What was said before brings nothing back.
    for old in [of("web-1"), of("web-2")] {
        say(&site, &old);
    }
    for name in ["web-1", "web-2"] {
        let shown = shown(&site, name);
        assert_eq!((&shown["sequence"], &shown["proof"]), (&next.into(), &"signed".into()), "{shown}");
    }
}

#[test]
fn a_host_without_a_key_counts_by_the_word_of_its_slave_unless_proofs_are_asked_for() {
    let site = site("{}");
    let old = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    list(&site, &format!("{{web-1: {{key: {}}}, web-2: {{key: {old}}}}}", key(&site, 0)));
    let (code, said) = wait(&site, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("; 1 on the word of their conf-slave alone"), "{said}");
    let (code, said) = wait(&site, &["--proven", "--timeout", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("web-2 is reported at #") && said.contains("no key that signs"), "{said}");
    assert_eq!(shown(&site, "web-2")["proof"], "word");
    // A host that runs with another identity than the inventory says is not it.
    let other = site.folder.path().join("other");
    let output = site.host().run(&["identity", "--state", other.to_str().expect("UTF-8")]);
    let other = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    list(&site, &format!("{{web-1: {{key: {}}}, web-2: {{key: {other}}}}}", key(&site, 0)));
    tests::eventually("the other key to be named", || {
        let (code, said) = wait(&site, &["--timeout", "0"]);
        let is_named = code == Some(1) && said.contains("another key than the inventory lists");
        if is_named { Ok(()) } else { Err(said) }
    });
    let (code, said) = wait(&site, &["--percent", "50"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn hosts_come_page_by_page_and_invented_ones_drive_none_out() {
    let site = site("{web-1: {}, web-9: {}}; false");
    let real = tests::eventually("both hosts to have reported", || {
        let told = reports(&site);
        if told.len() == 2 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    let mut names: Vec<String> = (0..2500).map(|number| format!("invented-{number:04}")).collect();
    let invented: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut claim = real[0].clone();
            (claim["host"], claim["signature"]) = (name.as_str().into(), Value::Null);
            claim
        })
        .collect();
    let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
    let body = serde_json::json!({"sequence": 0, "hosts": invented}).to_string();
    let json = [("content-type", "application/json")];
    assert_eq!(site.master.http().request(Method::POST, &path, &json, body).expect("an answer").status, 200);
    wait_shown_of(&site, "web-2");
    names.extend(["web-1", "web-2", "web-9"].map(str::to_owned));
    let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let told = site.master.http().get_json(&format!("{path}?limit=900{after}")).expect("an answer");
        let text = |one: &Value| one.as_str().expect("a name").to_owned();
        let mut page: Vec<String> =
            told["hosts"].as_array().expect("a list").iter().map(|one| text(&one["host"])).collect();
        page.extend(told["silent"].as_array().expect("a list").iter().map(text));
        page.sort();
        seen.extend(page);
        pages += 1;
        match told["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((pages, &seen), (3, &names));
    for limit in ["0", "10001", "9223372036854775808", "99999999999999999999", "-1", "x"] {
        let answer = site.master.http().get(&format!("{path}?limit={limit}")).expect("an answer");
        assert_eq!(answer.status, 400, "{limit}: {}", answer.text());
    }
}

/// Waits until a host is shown, on whichever page.
fn wait_shown_of(site: &Site, name: &str) {
    let path = format!("/api/v1/datacenters/{DATACENTER}/hosts?after=web&limit=10");
    tests::eventually(&format!("{name} to be shown"), || {
        let told = site.master.http().get_json(&path).expect("an answer");
        if told["hosts"].to_string().contains(&format!("\"{name}\"")) { Ok(()) } else { Err(told.to_string()) }
    });
}
