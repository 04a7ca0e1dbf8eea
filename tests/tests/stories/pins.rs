//! Operations that are pinned to a change: each host finds the folder that was its datacenter's newest then, whether the
//! change is another datacenter's, older than what is kept, or from before the host was there; or says in time that it cannot.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use rand::Rng as _;
use serde_json::{Value, json};
use tests::{
    Host, Plan, Site, eventually, own_address,
    program::text,
    site::{DATACENTER, Pointers, instance},
};

const ROUND: &str = "services/web/latest/round";

/// Lands a change that touches another datacenter alone; its sequence.
fn elsewhere(site: &Site, round: u64) -> u64 {
    let manifest = format!("{}platform: {{round: {round}}}\n", instance());
    site.work.change().file("datacenters/us-east/v1", "datacenter.yaml", manifest).land();
    let answer = site.master.http().get_json("/api/v1/datacenters/us-east/v1").expect("the other datacenter");
    answer["sequence"].as_u64().expect("a sequence")
}

/// `GET /v1/at/<w>`: the status and the body.
fn at(host: &Host, change: u64, timeout: f64) -> (StatusCode, Value) {
    let answer = host.http().get(&format!("/v1/at/{change}?timeout={timeout}")).expect("the agent answers");
    (answer.status, answer.json())
}

/// The same, of a change that the host must find: its folder.
#[track_caller]
fn found(host: &Host, change: u64) -> (Value, PathBuf) {
    let (status, body) = at(host, change, 30.0);
    assert_eq!(status, 200, "change {change}: {body}\n{}", host.daemon.log());
    let folder = PathBuf::from(body["directory"].as_str().expect("a folder"));
    let (from, through) = (body["from"].as_u64().expect("a number"), body["through"].as_u64().expect("a number"));
    assert!((from..=through).contains(&change), "{body}");
    (body, folder)
}

fn content(folder: &Path) -> String {
    fs::read_to_string(folder.join(ROUND)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// A site whose web service had a round for each of these changes; their sequences.
fn with_rounds(site: &Site, rounds: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    rounds.map(|round| site.push("services/web", "round", &format!("{round}\n"))).collect()
}

#[test]
fn a_change_that_does_not_touch_this_datacenter_is_pinned_without_a_new_snapshot() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let host = site.host();
    let own = host.sequence();
    let change = elsewhere(&site, 1);
    assert!(change > own);
    let (body, folder) = found(host, change);
    assert_eq!((body["sequence"].as_u64(), host.sequence()), (Some(own), own));
    assert_eq!(folder, host.export().canonicalize().unwrap().join(format!("snapshots/{own}")));
    let status = host.wait_status("know how new it is", |status| status["central"].as_u64() >= Some(change));
    assert_eq!(status["sequence"].as_u64(), Some(own));
    // What processes read without asking.
    eventually("export/central to say so", || {
        let text = fs::read_to_string(host.export().join("central")).map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let right = said["sequence"].as_u64() == Some(own) && said["central"].as_u64() >= Some(change);
        if right { Ok(()) } else { Err(text) }
    });
    // And scripts: the change has passed, though nothing of it comes here.
    let later = elsewhere(&site, 2).to_string();
    let output = host.run(&["wait", "services/web", "--sequence", &later, "--timeout", "30"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(host.sequence(), own);
    let output = host.run(&["status"]);
    assert!(text(&output).contains(&format!("the newest up to change {later}")), "{}", text(&output));
}

#[test]
fn what_the_host_knows_of_its_central_sequence_survives_a_restart() {
    let mut site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let change = elsewhere(&site, 1);
    found(site.host(), change);
    let central = site.host().export().join("central");
    eventually("export/central to be written", || {
        let text = fs::read_to_string(&central).map_err(|error| error.to_string())?;
        if text.contains(&format!("\"central\":{change}")) { Ok(()) } else { Err(text) }
    });
    site.slaves[0].daemon.kill9();
    site.master.daemon.kill9();
    site.hosts[0].daemon.kill9_and_restart();
    let status = site.host().wait_status("read what it knew", |status| status["commit"].is_string());
    assert_eq!(status["central"].as_u64(), Some(change));
    found(site.host(), change);
}

#[test]
fn a_change_from_before_the_host_was_there_is_fetched_and_proven() {
    let mut site = Plan { pointers: Pointers::Embedded, proxied: true, ..Plan::default() }.start();
    let first = site.host().sequence();
    let rounds = with_rounds(&site, 1..=3);
    let between = elsewhere(&site, 1);
    let last = with_rounds(&site, 4..=5)[1];
    site.wait_applied(last);
    site.add_host();
    site.hosts[1].wait_applied(last);
    let host = &site.hosts[1];
    let now = host.export().join("current").canonicalize().unwrap();
    let (body, folder) = found(host, rounds[0]);
    assert_eq!((body["sequence"].as_u64(), content(&folder).as_str()), (Some(rounds[0]), "1\n"));
    // In between lies another datacenter's change.
    let (body, folder) = found(host, between);
    assert_eq!((body["sequence"].as_u64(), content(&folder).as_str()), (Some(rounds[2]), "3\n"));
    assert_eq!(body["through"].as_u64(), Some(between));
    // The conf-slave is away: the central server has it too.
    site.slaves[0].proxy.as_ref().unwrap().cut();
    let (body, folder) = found(host, rounds[1]);
    assert_eq!((body["sequence"].as_u64(), content(&folder).as_str()), (Some(rounds[1]), "2\n"));
    // Both are away: a clear word in time, and no other version.
    site.master.proxy.as_ref().unwrap().cut();
    let started = Instant::now();
    let (status, body) = at(host, first, 1.0);
    assert_eq!(status, 504, "{body}");
    assert!(started.elapsed() < Duration::from_secs(30));
    let words = body["error"].as_str().unwrap_or_default();
    for url in [site.slaves[0].public_url(), site.master.public_url()] {
        assert!(words.contains(&url), "{words}");
    }
    let (status, body) = at(host, last + 1000, 1.0);
    assert_eq!(status, 504, "{body}");
    // What was brought before is still there.
    assert_eq!(content(&found(host, rounds[0]).1), "1\n");
    site.master.proxy.as_ref().unwrap().mend();
    assert_eq!(content(&found(host, first).1), "0\n");
    let (status, body) = at(host, first - 1, 30.0);
    assert_eq!(status, 404, "{body}");
    assert_eq!(host.export().join("current").canonicalize().unwrap(), now);
    assert_eq!(host.file(ROUND), "5\n");
    let output = host.run(&["verify"]);
    assert!(output.status.success(), "{}", text(&output));
    site.expect_whole();
}

#[test]
fn a_pinned_snapshot_stays_while_somebody_reads_in_it() {
    let flags = ["--keep", "1", "--keep-seconds", "1"].map(str::to_owned);
    let site = Plan { pointers: Pointers::Embedded, host_flags: flags.into(), ..Plan::default() }.start();
    let host = site.host();
    let rounds = with_rounds(&site, 1..=3);
    site.wait_applied(rounds[2]);
    let folder = |sequence: u64| host.export().join(format!("snapshots/{sequence}"));
    let mut round = 3;
    let mut until_gone = |sequence: u64| {
        eventually(&format!("#{sequence} to go"), || {
            round += 1;
            site.push_and_wait("services/web", "round", &format!("{round}\n"));
            if folder(sequence).exists() { Err(host.daemon.log()) } else { Ok(()) }
        });
    };
    until_gone(rounds[0]);
    until_gone(rounds[1]);
    // Fetched again, both.
    let (_, held) = found(host, rounds[0]);
    let reader = File::open(&held).expect("the folder opens");
    reader.try_lock_shared().expect("nobody removes it");
    let (_, left) = found(host, rounds[1]);
    assert_eq!((content(&held), content(&left)), ("1\n".to_owned(), "2\n".to_owned()));
    until_gone(rounds[1]);
    assert_eq!(content(&held), "1\n");
    drop(reader);
    until_gone(rounds[0]);
    // Removed by hand.
    let (_, folder) = found(host, rounds[1]);
    fs::remove_dir_all(&folder).expect("it can be removed");
    assert_eq!(content(&found(host, rounds[1]).1), "2\n");
    fs::remove_dir_all(&folder).expect("it can be removed");
    // And again: the ledger keeps everything.
    assert_eq!(content(&found(host, rounds[1]).1), "2\n");
    let output = host.run(&["verify"]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A conf-slave that answers questions for a change with `answer`, and reports with its watermark; everything else with 404.
fn liar(answer: Value) -> String {
    let address = own_address(7410);
    let listener = TcpListener::bind(address).expect("a free loopback address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let (status, body) = match first {
                    _ if first.contains("/api/v1/at?") => ("200 OK", answer.to_string()),
                    // The report itself is left unread.
                    _ if first.contains("/api/v1/reports") => {
                        ("200 OK", json!({"watermark": answer["watermark"]}).to_string())
                    }
                    _ => ("404 Not Found", "{}".to_owned()),
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}");
                // A host that went away needs no answer.
                let _ = write!(&stream, "{head}\r\nConnection: close\r\n\r\n{body}");
            });
        }
    });
    format!("http://{address}")
}

#[test]
fn a_conf_slave_that_names_an_older_snapshot_is_refused_by_the_proof() {
    let mut site = Plan { pointers: Pointers::Embedded, hosts: 0, proxied: true, ..Plan::default() }.start();
    let commits: Vec<(u64, String)> = (1..=3)
        .map(|round| (site.push("services/web", "round", &format!("{round}\n")), site.master.snapshot()))
        .collect();
    let named = |at: usize| json!({"sequence": commits[at].0, "commit": commits[at].1});
    let (wanted, newest) = (commits[1].0, commits[2].0);
    let nobodys = || json!({"sequence": 9_999, "commit": "a".repeat(40)});
    let lies = [
        // The first, though the second is not above the change either.
        (json!({"central": 10_000, "at": named(0), "next": named(2)}), "is not proven"),
        // A watermark in place of the proof.
        (json!({"central": 10_000, "at": named(0), "next": null}), "contradicts"),
        // Another commit by the right number.
        (
            json!({"central": 10_000, "at": {"sequence": wanted, "commit": commits[0].1}, "next": named(2)}),
            "is not proven",
        ),
        // A newer one that nobody has signed.
        (json!({"central": 10_000, "at": named(2), "next": nobodys()}), "contradicts"),
        // That there was none yet: without the first one, with one that is not the first, with one that nobody has.
        (json!({"central": 10_000, "at": null, "next": null}), "contradicts"),
        (json!({"central": 10_000, "at": null, "next": named(2)}), "is not proven"),
    ];
    for (lie, said) in lies {
        let host = lied_to(&mut site, &liar(lie.clone()));
        host.wait_applied(commits[2].0);
        let (body, folder) = found(&host, wanted);
        assert_eq!((body["sequence"].as_u64(), content(&folder).as_str()), (Some(wanted), "2\n"), "{lie}");
        let log = host.daemon.log();
        assert!(log.contains(said), "{lie}\n{log}");
        assert_eq!(host.file(ROUND), "3\n");
        let status = host.status().expect("a status");
        assert_eq!(status["state"], "current", "a lie is no state of the host: {status}");
        site.hosts.push(host);
    }
    // Of a change that is not there yet, a newer snapshot that nobody has: the honest server is asked after it.
    let url = liar(json!({"central": 10_000, "at": nobodys(), "next": null}));
    let change = 9_999.to_string();
    let host = lied_to(&mut site, &url);
    host.wait_applied(newest);
    let body = eventually("the lie to be found out", || match at(&host, 9_999, 3.0) {
        (StatusCode::BAD_GATEWAY, body) => Ok(body),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((host.sequence(), host.file(ROUND).as_str()), (newest, "3\n"), "{body}");
    let central = host.status().expect("a status")["central"].as_u64();
    assert!(central < Some(9_999), "{central:?} is nobody's");
    let output = host.run(&["wait", "services/web", "--sequence", &change, "--timeout", "1"]);
    assert!(!output.status.success(), "{}", text(&output));
    // While the central server is away, a lie is no proof of having none so old: it is known late, or not at all.
    site.hosts.push(host);
    for lie in [json!({"central": 10_000, "at": null, "next": null}), json!({"central": 1, "at": null, "next": null})] {
        let host = lied_to(&mut site, &liar(lie.clone()));
        host.wait_applied(newest);
        site.master.proxy.as_ref().unwrap().cut();
        let (status, body) = at(&host, wanted, 2.0);
        assert_eq!(status, 504, "{lie}: {body}");
        site.master.proxy.as_ref().unwrap().mend();
        assert_eq!(content(&found(&host, wanted).1), "2\n", "{lie}");
        site.hosts.push(host);
    }
}

/// A new host whose conf-slave is the one at `url`; the pointer still comes from the honest one.
fn lied_to(site: &mut Site, url: &str) -> Host {
    let honest = site.slaves[0].public_url();
    let mut host = site.make_host(site.hosts.len() + 1);
    let mut before = String::new();
    for argument in host.daemon.arguments() {
        if before == "--surrogate" && *argument == *honest {
            *argument = url.into();
        }
        before = argument.to_string_lossy().into_owned();
    }
    host.daemon.start();
    host
}

#[test]
fn a_conf_slave_cannot_say_that_nothing_follows_what_a_host_exports() {
    let mut site = Plan { pointers: Pointers::Embedded, hosts: 0, proxied: true, ..Plan::default() }.start();
    let newest = site.push("services/web", "round", "1\n");
    site.slave().wait_at(newest);
    let change = elsewhere(&site, 1);
    let ask = |datacenter: &str| {
        let path = format!("/api/v1/at?datacenter={datacenter}&sequence={change}&timeout=20");
        site.master.http().get_json(&path).expect("an answer")
    };
    let (own, other) = (ask(DATACENTER), ask("us-east/v1"));
    assert_eq!(own["watermark"]["central"].as_u64(), Some(change), "{own}");
    let forged = |of: &Value, changes: &[(&str, Value)]| {
        let mut answer = json!({"central": 9_999, "at": own["at"], "next": null, "watermark": of["watermark"]});
        for (key, value) in changes {
            answer["watermark"][*key] = value.clone();
        }
        answer
    };
    let lies = [
        forged(&own, &[("central", 9_999.into())]),
        forged(&own, &[("central", 9_999.into()), ("signature", "".into())]),
        forged(&other, &[("central", 9_999.into())]),
        // Good for the other datacenter.
        forged(&other, &[]),
        forged(
            &other,
            &[("datacenter", DATACENTER.into()), ("snapshot", newest.into()), ("commit", own["at"]["commit"].clone())],
        ),
    ];
    for lie in lies {
        let host = lied_to(&mut site, &liar(lie.clone()));
        host.wait_applied(newest);
        eventually("the lie to be heard", || {
            let log = host.daemon.log();
            if log.contains("a conf-slave's watermark is not proven") { Ok(()) } else { Err(log) }
        });
        let central = |host: &Host| host.status().expect("a status")["central"].as_u64();
        assert_eq!(central(&host), Some(newest), "{lie}");
        let (status, body) = at(&host, 9_000, 1.0);
        assert_eq!(status, 504, "{lie}: {body}");
        assert_eq!(central(&host), Some(newest), "{lie}");
        // The central server says what is so, and it is signed.
        found(&host, change);
        assert_eq!(central(&host), Some(change), "{lie}");
        site.hosts.push(host);
    }
}

#[test]
fn a_lock_that_anybody_takes_holds_no_reader_up() {
    let flags = ["--keep", "1", "--keep-seconds", "600"].map(str::to_owned);
    let site = Plan { pointers: Pointers::Embedded, host_flags: flags.into(), ..Plan::default() }.start();
    let host = site.host();
    let rounds = with_rounds(&site, 1..=2);
    site.wait_applied(rounds[1]);
    let hog = |sequence: u64| {
        let folder = File::open(host.export().join(format!("snapshots/{sequence}"))).expect("the folder opens");
        folder.try_lock().expect("nobody else holds it");
        folder
    };
    let (old, current) = (hog(rounds[0]), hog(rounds[1]));
    assert_eq!(content(&found(host, rounds[0]).1), "1\n");
    assert_eq!(content(&found(host, rounds[1]).1), "2\n");
    // Nor does it hold up what comes.
    let next = site.push_and_wait("services/web", "round", "3\n");
    assert_eq!(content(&found(host, next).1), "3\n");
    assert_eq!(content(&found(host, rounds[0]).1), "1\n");
    drop((old, current));
}

#[test]
fn an_attempt_is_ended_for_whoever_asks_next() {
    let mut site = Plan { pointers: Pointers::Embedded, hosts: 0, ..Plan::default() }.start();
    let rounds = with_rounds(&site, 1..=3);
    let mut host = site.make_host(1);
    host.daemon.start();
    host.wait_applied(rounds[2]);
    // Nobody waits as long as it takes.
    let body = eventually("the folder to be there at once", || match at(&host, rounds[0], 0.0) {
        (StatusCode::OK, body) => Ok(body),
        (status, body) => Err(format!("{status}: {body}")),
    });
    assert_eq!(body["sequence"].as_u64(), Some(rounds[0]));
    site.hosts.push(host);
}

#[test]
fn an_agent_that_is_killed_while_it_brings_an_older_snapshot_leaves_nothing_torn() {
    let flags = ["--keep", "2", "--keep-seconds", "600"].map(str::to_owned);
    let mut site = Plan { pointers: Pointers::Embedded, hosts: 0, ..Plan::default() }.start();
    let rounds = with_rounds(&site, 1..=12);
    let mut host = site.make_host(1);
    host.daemon.arguments().extend(flags.map(Into::into));
    host.daemon.start();
    host.wait_applied(rounds[11]);
    for (round, change) in rounds.iter().enumerate().take(11) {
        let http = host.http();
        let path = format!("/v1/at/{change}?timeout=5");
        let asking = thread::spawn(move || http.get(&path));
        thread::sleep(Duration::from_millis(rand::rng().random_range(0..40)));
        host.daemon.kill9_and_restart();
        // It may have been answered before, or not.
        let _ = asking.join().expect("asking does not panic");
        let settled = host.wait_status("be ready again", |status| status["commit"].is_string());
        assert_eq!(settled["sequence"].as_u64(), Some(rounds[11]));
        assert_eq!(host.file(ROUND), "12\n");
        // What is there by its number is whole.
        for entry in fs::read_dir(host.export().join("snapshots")).unwrap().flatten() {
            let Some(sequence) = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) else { continue };
            let at = rounds.iter().position(|one| *one == sequence).expect("one of the changes");
            assert_eq!(content(&entry.path()), format!("{}\n", at + 1));
        }
        assert_eq!(content(&found(&host, *change).1), format!("{}\n", round + 1));
    }
    let output = host.run(&["verify"]);
    assert!(output.status.success(), "{}", text(&output));
    site.hosts.push(host);
    site.expect_whole();
}

#[test]
fn processes_say_what_they_run_on() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let host = site.host();
    let sequence = host.sequence();
    let error = json!({"component": "services/web/latest", "sequence": sequence, "error": "port is not a number"});
    let said = json!({"sequence": sequence - 1, "program": "shop\u{7}", "errors": [error]}).to_string();
    let answer = host.http().request(Method::POST, "/v1/processes", &[], said).expect("an answer");
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({})), "{}", answer.text());
    // One that ends at once.
    let ended = Command::new("curl")
        .args(["--silent", "--fail", "--unix-socket", host.socket.to_str().unwrap()])
        .args(["--data", "{\"sequence\": 1, \"program\": \"ended\"}", "http://localhost/v1/processes"])
        .stdout(Stdio::null())
        .status()
        .expect("curl runs");
    assert!(ended.success());
    let processes = host.http().get_json("/v1/processes").expect("a list");
    let [process] = processes.as_array().expect("a list").as_slice() else { panic!("one runs: {processes}") };
    assert_eq!(process["pid"].as_u64(), Some(std::process::id().into()));
    assert_eq!((process["sequence"].as_u64(), process["program"].as_str()), (Some(sequence - 1), Some("shop ")));
    assert_eq!(process["errors"], json!([error]));
    let output = host.run(&["status"]);
    let shown = text(&output);
    assert!(shown.contains("keeps older values"), "{shown}");
    assert!(shown.contains("keeps an older value of services/web/latest"), "{shown}");
    assert!(shown.contains("port is not a number"), "{shown}");
    let bad = host.http().request(Method::POST, "/v1/processes", &[], "{}").expect("an answer");
    assert_eq!(bad.status, 400);
}

#[test]
fn conf_master_and_conf_slave_say_what_was_the_newest_at_a_change() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let first = site.host().sequence();
    let rounds = with_rounds(&site, 1..=2);
    let between = elsewhere(&site, 1);
    site.slave().wait_at(rounds[1]);
    for server in [site.master.http(), site.slave().http()] {
        let ask = |change: u64| {
            let path = format!("/api/v1/at?datacenter={DATACENTER}&sequence={change}&timeout=20");
            server.get_json(&path).expect("an answer")
        };
        let answer = ask(rounds[0]);
        assert_eq!(answer["at"]["sequence"].as_u64(), Some(rounds[0]), "{answer}");
        assert_eq!(answer["next"]["sequence"].as_u64(), Some(rounds[1]), "{answer}");
        let answer = ask(between);
        assert_eq!((answer["at"]["sequence"].as_u64(), &answer["next"]), (Some(rounds[1]), &Value::Null), "{answer}");
        assert!(answer["central"].as_u64() >= Some(between), "{answer}");
        let answer = ask(first - 1);
        assert_eq!((&answer["at"], answer["next"]["sequence"].as_u64()), (&Value::Null, Some(first)), "{answer}");
        // There is no such change yet: what is known, and nothing else.
        let answer = server.get_json(&format!("/api/v1/at?datacenter={DATACENTER}&sequence=100000&timeout=0.1"));
        let answer = answer.expect("an answer");
        assert_eq!((&answer["at"], answer["central"].as_u64()), (&Value::Null, Some(between)), "{answer}");
    }
    // A conf-slave waits until it knows.
    let waiting = {
        let server = site.slave().http();
        let path = format!("/api/v1/at?datacenter={DATACENTER}&sequence={}&timeout=30", between + 1);
        thread::spawn(move || server.get_json(&path))
    };
    let next = elsewhere(&site, 2);
    assert_eq!(next, between + 1);
    let answer = waiting.join().expect("asking does not panic").expect("an answer");
    assert_eq!(answer["at"]["sequence"].as_u64(), Some(rounds[1]), "{answer}");
    let other = site.slave().http().get("/api/v1/at?datacenter=us-east/v1&sequence=1").expect("an answer");
    assert_eq!(other.status, 409);
}
