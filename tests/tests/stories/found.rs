//! Conf-slaves in Consul's catalog: they enter it themselves, and hosts find them there.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Host, Plan, Site, eventually, eventually_within,
    http::Address,
    remove_folder,
    site::{DATACENTER, Pointers},
    stalled_since,
};

/// A question to Consul, which may have forgotten to wake who waits for its answer, and some more.
const FOUND: Duration = Duration::from_secs(150);

/// The entries of the service, with their addresses, and whether each is well.
fn entries(site: &Site) -> Result<Vec<(String, bool, Value)>, String> {
    let consul = Address::of(site.consul().address(), None);
    let all = consul.get_json("/v1/health/service/conf-slave")?;
    let entry = |one: &Value| {
        let service = &one["Service"];
        let address = format!("{}:{}", service["Address"].as_str().unwrap_or_default(), service["Port"]);
        let checks = one["Checks"].as_array().cloned().unwrap_or_default();
        (address, checks.iter().all(|check| check["Status"] == "passing"), service.clone())
    };
    Ok(all.as_array().ok_or("no list")?.iter().map(entry).collect())
}

/// Waits until the catalog has these addresses, and says of each whether it is well.
fn wait_entries(site: &Site, what: &str, wanted: &[(String, bool)]) {
    eventually(what, || {
        let mut found: Vec<_> = entries(site)?.into_iter().map(|(address, is_well, _)| (address, is_well)).collect();
        found.sort();
        let mut wanted = wanted.to_vec();
        wanted.sort();
        if found == wanted { Ok(()) } else { Err(format!("{found:?}, and not {wanted:?}")) }
    });
}

#[test]
fn a_conf_slave_enters_consuls_catalog_and_leaves_it() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let address = site.slave().address.to_string();
    wait_entries(&site, "the conf-slave to be in the catalog", &[(address.clone(), true)]);
    let (_, _, service) = entries(&site).expect("Consul answers").remove(0);
    assert_eq!(service["Meta"]["datacenter"], DATACENTER);
    assert_eq!(service["Meta"]["scheme"], "http");
    assert_eq!(service["Meta"]["version"], env!("CARGO_PKG_VERSION"));

    // It hangs, and goes on.
    let start = Instant::now();
    site.slave().daemon.signal(Signal::STOP);
    wait_entries(&site, "Consul to notice that it hangs", &[(address.clone(), false)]);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10) + stalled_since(start), "{took:?}");
    site.slave().daemon.signal(Signal::CONT);
    wait_entries(&site, "Consul to notice that it goes on", &[(address.clone(), true)]);

    // This Consul forgets everything.
    site.consul_mut().kill9();
    eventually("the problem to be shown", || {
        let status = site.slave().status()?;
        let problems = status["problems"].to_string();
        if problems.contains("registration: ") { Ok(()) } else { Err(problems) }
    });
    assert_eq!(site.slave().http().get("/readyz").expect("it answers").status, 200, "it stops nothing");
    site.consul_mut().start_again();
    wait_entries(&site, "the conf-slave to be in the catalog again", &[(address, true)]);
    eventually("the problem to end", || {
        let problems = site.slave().status()?["problems"].to_string();
        if problems.contains("registration") { Err(problems) } else { Ok(()) }
    });

    site.slaves[0].daemon.stop();
    wait_entries(&site, "the conf-slave to be gone from the catalog", &[]);
}

#[test]
fn a_conf_slave_stays_out_of_the_catalog_where_it_is_told_to_and_where_consul_refuses_it() {
    let slave_flags = vec!["--no-register".to_owned()];
    let site = Plan { hosts: 0, slave_flags, ..Plan::default() }.start();
    site.push_and_wait("services/web", "round", "1\n");
    assert!(entries(&site).expect("Consul answers").is_empty());

    let mut site = Plan { pointers: Pointers::DenyingConsul, ..Plan::default() }.start_empty();
    let mut slave = site.make_slave(1);
    let keys = r#"key_prefix "configurations/" { policy = "write" }"#;
    slave.daemon.environment("CONSUL_HTTP_TOKEN", site.consul().token("keys-alone", keys));
    slave.daemon.start();
    site.slaves.push(slave);
    eventually("the problem to be shown", || {
        let problems = site.slave().status()?["problems"].to_string();
        if problems.contains("service:write for conf-slave") { Ok(()) } else { Err(problems) }
    });
}

/// A host that has no other address than Consul's.
fn finding_host(site: &Site, number: usize) -> Host {
    let mut host = site.make_host(number);
    let arguments = host.daemon.arguments();
    for flag in ["--surrogate", "--central"] {
        while let Some(at) = arguments.iter().position(|argument| argument == flag) {
            arguments.drain(at..at + 2);
        }
    }
    arguments.extend(["--surrogate".into(), "consul:conf-slave".into()]);
    host
}

#[test]
fn hosts_find_conf_slaves_in_consul_and_keep_them_without_it() {
    let mut site = Plan { slaves: 2, hosts: 0, tokens: true, ..Plan::default() }.start();
    let wanted: Vec<_> = site.slaves.iter().take(2).map(|slave| (slave.address.to_string(), true)).collect();
    eventually("both to be in the catalog", || {
        let found = entries(&site)?;
        let has = |one: &(String, bool)| found.iter().any(|(address, well, _)| (address, well) == (&one.0, &one.1));
        if wanted.iter().all(has) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    for number in 1..=4 {
        let mut host = finding_host(&site, number);
        host.daemon.start();
        site.hosts.push(host);
    }
    site.wait_applied(site.master.sequence());

    // One dies, and Consul with it: the other one goes on.
    site.slaves[0].daemon.kill9();
    site.consul_mut().kill9();
    site.push_and_wait("services/web", "round", "without Consul\n");
    // What was found outlives a restart.
    site.hosts[0].daemon.kill9_and_restart();
    site.push_and_wait("services/web", "round", "after a restart\n");
    site.hosts[0].wait_status("say that Consul is away", |status| {
        status.to_string().contains("those that were found last are asked")
    });

    // It comes back with nothing in it, and another conf-slave in place of the dead one.
    site.consul_mut().start_again();
    site.slaves.remove(0);
    let mut slave = site.make_slave(3);
    slave.daemon.start();
    let new = slave.address.to_string();
    site.slaves.push(slave);
    for host in &site.hosts {
        let kept = host.state.join("found-conf-slave.json");
        eventually_within(FOUND, "the host to find the new one", || {
            let text = std::fs::read_to_string(&kept).map_err(|error| error.to_string())?;
            if text.contains(&new) { Ok(()) } else { Err(text) }
        });
    }
    site.push_and_wait("services/web", "round", "all is well\n");
}

#[test]
fn a_conf_slave_that_asked_to_be_left_alone_is_no_problem_when_it_is_well() {
    let mut site = Plan { slaves: 2, hosts: 0, tokens: true, hosts_without_consul: true, ..Plan::default() }.start();
    let mut host = site.make_host(1);
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--central").expect("it has one");
    arguments.drain(at..at + 2);
    // Neither conf-slave knows who may ask, so that each answers 503 for a while.
    site.master.daemon.kill9();
    for slave in &mut site.slaves {
        slave.daemon.kill9();
        remove_folder(&slave.state);
        slave.daemon.start_unready();
    }
    host.daemon.start_unready();
    let problems = |host: &Host| host.status().map(|status| status["problems"].to_string());
    let urls: Vec<String> = site.slaves.iter().map(|slave| slave.url.clone()).collect();
    eventually("both to be told of", || {
        let problems = problems(&host)?;
        let is_told = urls.iter().all(|url| problems.contains(url.as_str())) && problems.contains("503");
        if is_told { Ok(()) } else { Err(problems) }
    });
    site.master.daemon.start();
    eventually("the host to have no problem", || {
        let problems = problems(&host)?;
        if problems == "[]" { Ok(()) } else { Err(problems) }
    });
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
}
