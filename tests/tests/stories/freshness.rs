//! Somebody withholds changes: hosts and conf-slaves notice within their limit, say so everywhere, and go on with what
//! they have.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    Daemon, Plan, Site, eventually, eventually_within,
    http::Address,
    own_address,
    program::{built, text},
    site::DATACENTER,
    stalled_since,
};

/// The limit of silence here: conf-master states the time every second.
const LIMIT: Duration = Duration::from_secs(8);
/// 5 s between two looks, a statement that was on its way, and what a busy machine takes.
pub(crate) const LATER: Duration = Duration::from_secs(10);

/// A site with a small limit.
pub(crate) fn site(plan: Plan) -> Site {
    let flags: Vec<String> = vec!["--stale-after".to_owned(), LIMIT.as_secs().to_string()];
    let plan = Plan { slave_flags: flags.clone(), host_flags: [flags, plan.host_flags].concat(), ..plan };
    let mut site = plan.start();
    for argument in ["--freshness-every", "1"] {
        site.master.daemon.argument(argument);
    }
    site.master.daemon.restart();
    site
}

/// Waits until a host or a conf-slave is stale, or is not. It must have heard conf-master once.
#[track_caller]
pub(crate) fn wait_stale(
    what: &str,
    limit: Duration,
    stale: bool,
    status: impl Fn() -> Result<Value, String>,
) -> Value {
    eventually_within(limit, &format!("{what} to be {}", if stale { "stale" } else { "fresh" }), || {
        let status = status()?;
        let freshness = &status["freshness"];
        let is_heard = freshness["time"].is_string();
        // The problem follows within one look.
        let is_said = status["problems"].to_string().contains("stale: ") == stale;
        if is_heard && is_said && freshness["stale"] == stale { Ok(status) } else { Err(status.to_string()) }
    })
}

/// Waits until a daemon answers so for its readiness and its metrics.
#[track_caller]
fn expect_shown(address: &Address, metric: &str, stale: bool) {
    eventually("readiness and metrics to say it", || {
        let ready = address.get("/readyz")?;
        let metrics = address.get("/metrics")?.text();
        let words = ready.text();
        let is_shown = words.starts_with("ready\n") && words.contains("freshness: stale") == stale;
        let is_counted = metrics.contains(&format!("{metric} {}\n", u8::from(stale)));
        if ready.status == 200 && is_shown && is_counted { Ok(()) } else { Err(format!("{words}\n{metrics}")) }
    });
}

#[test]
fn a_frozen_conf_slave_is_noticed_and_its_hosts_recover_when_it_goes_on() {
    let site = site(Plan::default());
    let (host, slave) = (site.host(), site.slave());
    wait_stale("the host", LATER, false, || host.status());
    wait_stale("conf-slave", LATER, false, || slave.status());
    expect_shown(&host.http(), "conf_local_stale", false);
    expect_shown(&slave.http(), "conf_slave_stale", false);
    let problems = host.wait_status("be well", |status| status["problems"] == json!([]));
    assert!(problems["freshness"]["remark"].is_null(), "{problems}");
    slave.daemon.signal(Signal::STOP);
    let start = Instant::now();
    let before = host.sequence();
    site.push("services/web", "round", "withheld\n");
    let status = wait_stale("the host", LIMIT + LATER + LIMIT, true, || host.status());
    let (took, most) = (start.elapsed(), LIMIT + LATER + 3 * stalled_since(start));
    println!("a frozen conf-slave: the host is stale after {:.1} s, the limit is {LIMIT:?}", took.as_secs_f64());
    assert!(took > LIMIT / 2 && took < most, "{took:?}");
    // It keeps running on what it has.
    assert_eq!(status["sequence"].as_u64(), Some(before));
    assert_eq!(host.file("services/web/latest/round"), "0\n");
    let problems = status["problems"].as_array().expect("a list");
    assert!(problems.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with("stale: "))), "{status}");
    expect_shown(&host.http(), "conf_local_stale", true);
    let shown = text(&host.run(&["status"]));
    assert!(shown.contains("stale: conf-master was heard"), "{shown}");
    slave.daemon.signal(Signal::CONT);
    wait_stale("the host", LATER * 2, false, || host.status());
    host.wait_applied(site.master.sequence());
    assert_eq!(host.file("services/web/latest/round"), "withheld\n");
    host.wait_status("be well again", |status| status["problems"] == json!([]));
    expect_shown(&host.http(), "conf_local_stale", false);
}

#[test]
fn silence_of_conf_master_is_noticed_and_restarts_forget_nothing_of_it() {
    let mut site = site(Plan::default());
    wait_stale("the host", LATER, false, || site.host().status());
    let heard = site.slave().status().expect("it answers")["statement"]["time"].as_i64();
    site.master.daemon.signal(Signal::STOP);
    let status = wait_stale("conf-slave", LIMIT + LATER * 2, true, || site.slave().status());
    assert!(status["problems"].to_string().contains("freshness: stale: "), "{status}");
    assert!(status["statement"]["time"].as_i64() >= heard, "{status}");
    expect_shown(&site.slave().http(), "conf_slave_stale", true);
    wait_stale("the host", LATER * 2, true, || site.host().status());
    // Neither hears anything new from now on.
    let last = |status: &Value| (status["statement"].clone(), status["freshness"]["time"].clone());
    let before = last(&site.slave().status().expect("it answers"));
    site.slaves[0].daemon.kill9_and_restart();
    site.hosts[0].daemon.kill9_and_restart();
    let status = wait_stale("conf-slave", LATER, true, || site.slave().status());
    assert_eq!(last(&status), before);
    wait_stale("the host", LATER, true, || site.host().status());
    site.master.daemon.signal(Signal::CONT);
    wait_stale("conf-slave", LATER * 2, false, || site.slave().status());
    wait_stale("the host", LATER * 2, false, || site.host().status());
}

/// Starts a conf-slave that repeats what the first one says now, and returns its URL.
fn frozen(site: &Site) -> (Daemon, String) {
    site.slave().wait_at(site.master.sequence());
    wait_stale("conf-slave", LATER, false, || site.slave().status());
    let (honest, listen) = (site.slave().address.to_string(), own_address(7401).to_string());
    let folder = site.folder.path().join("hostile-freeze").display().to_string();
    let flags = ["slave", "--honest", &honest, "--datacenter", DATACENTER, "--folder", &folder];
    let flags = [&flags[..], &["--mode", "freeze", "--listen", &listen]].concat();
    let mut liar = Daemon::new("hostile", built("hostile"), site.folder.path(), flags);
    liar.start();
    (liar, format!("http://{listen}"))
}

#[test]
fn a_conf_slave_that_repeats_old_statements_keeps_no_host_fresh() {
    let mut site = site(Plan { hosts: 0, hosts_without_consul: true, ..Plan::default() });
    let (liar, url) = frozen(&site);
    let mut host = site.make_host(1);
    let honest_url = site.slave().url.clone();
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--central").expect("it has one");
    arguments.drain(at..at + 2);
    let surrogate = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one") + 1;
    arguments[surrogate] = url.into();
    host.daemon.start();
    host.wait_applied(site.master.sequence());
    site.hosts.push(host);
    site.push("services/web", "round", "withheld\n");
    wait_stale("the host", LIMIT + LATER * 2, true, || site.host().status());
    // The statements go on to come, and change nothing.
    let said = |log: &str| log.matches("lied: a statement").count();
    let before = said(&liar.log());
    let status = eventually("more old statements", || {
        let status = site.host().status()?;
        assert_eq!(status["freshness"]["stale"], true, "{status}");
        if said(&liar.log()) > before + 10 { Ok(status) } else { Err(liar.log()) }
    });
    assert_eq!(site.host().file("services/web/latest/round"), "0\n", "{status}");
    // Its report reached the honest one, and conf-master shows it.
    let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
    eventually("conf-master to show it", || {
        let hosts = site.master.http().get_json(&path)?;
        if hosts["hosts"][0]["stale"] == true { Ok(()) } else { Err(hosts.to_string()) }
    });
    site.hosts[0].daemon.kill9_and_restart();
    wait_stale("the host", LATER, true, || site.host().status());
    // A conf-slave that is honest.
    site.hosts[0].daemon.kill9();
    site.hosts[0].daemon.arguments()[surrogate] = honest_url.into();
    site.hosts[0].daemon.start();
    wait_stale("the host", LATER * 2, false, || site.host().status());
    site.host().wait_applied(site.master.sequence());
    eventually("conf-master to show no stale host", || {
        let hosts = site.master.http().get_json(&path)?;
        if hosts["hosts"][0]["stale"].is_null() { Ok(()) } else { Err(hosts.to_string()) }
    });
}

#[test]
fn a_host_with_another_conf_slave_gets_what_the_first_one_withholds() {
    let mut site = site(Plan { hosts: 0, hosts_without_consul: true, ..Plan::default() });
    let (_liar, liar) = frozen(&site);
    let mut host = site.make_host(1);
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments.splice(at..at, ["--surrogates-in-order".into(), "--surrogate".into(), liar.into()]);
    host.daemon.start();
    host.wait_applied(site.master.sequence());
    site.hosts.push(host);
    let start = Instant::now();
    let sequence = site.push("services/web", "round", "not withheld\n");
    site.wait_applied(sequence);
    println!("a conf-slave withholds a change, another one has it: {:.1} s", start.elapsed().as_secs_f64());
    // Again and again, for longer than the limit.
    let start = Instant::now();
    eventually_within(LIMIT * 6, "the limit to pass", || {
        let status = site.host().status()?;
        assert_eq!(status["freshness"]["stale"], false, "{status}");
        if start.elapsed() > LIMIT * 2 { Ok(()) } else { Err("it is not over".to_owned()) }
    });
}

#[test]
fn a_host_that_never_heard_conf_master_is_not_stale_and_says_so() {
    let mut site = site(Plan { hosts: 0, ..Plan::default() });
    let mut host = site.make_host(1);
    // As with a conf-slave of an earlier version, nothing comes here.
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments.drain(at..at + 2);
    host.daemon.start();
    site.hosts.push(host);
    let start = Instant::now();
    site.host().wait_applied(site.master.sequence());
    eventually_within(LIMIT * 4, "the limit to pass", || {
        let status = site.host().status()?;
        let freshness = &status["freshness"];
        assert!(freshness["stale"] == false && freshness["time"].is_null(), "{status}");
        assert!(freshness["remark"].as_str().is_some_and(|words| words.contains("no freshness statement")), "{status}");
        if start.elapsed() > LIMIT + LATER { Ok(()) } else { Err("it is not over".to_owned()) }
    });
    let problems = site.host().status().expect("it answers")["problems"].to_string();
    assert!(!problems.contains("freshness") && !problems.contains("stale"), "{problems}");
    let shown = text(&site.host().run(&["status"]));
    assert!(shown.contains("no freshness statement of conf-master has come here"), "{shown}");
}

#[test]
fn conf_master_states_what_is_newest_on_its_streams_and_on_demand() {
    let site = site(Plan { slaves: 0, hosts: 0, ..Plan::default() });
    let path = format!("/api/v1/datacenters/{DATACENTER}/freshness");
    let first = site.master.http().get_json(&path).expect("it answers");
    assert_eq!(first["snapshot"].as_u64(), Some(site.master.sequence()), "{first}");
    assert_eq!((&first["datacenter"], &first["commit"]), (&json!(DATACENTER), &json!(site.master.snapshot())));
    let events = format!("/api/v1/events?datacenter={DATACENTER}");
    let stream = site.master.http().events(&events, &[]);
    let times = [(); 3].map(|()| {
        let statement: Value = serde_json::from_str(&stream.next_named("freshness").data).expect("JSON");
        statement["time"].as_i64().expect("a number")
    });
    assert!(first["time"].as_i64() <= times.first().copied(), "{first}, {times:?}");
    assert!(times.windows(2).all(|two| two[0] < two[1]), "{times:?}");
    let absent = site.master.http().get("/api/v1/datacenters/no/v1/freshness").expect("it answers");
    assert_eq!(absent.status, 404, "{}", absent.text());
}
