//! Tokens for tiers, tokens for Consul.

use std::{fs, path::Path};

use tests::{
    Plan, Reader, Site, eventually, page,
    site::{DATACENTER, Pointers},
};

const MANUAL: &str = include_str!("../../../docs/operating.md");

/// What a token looks like to the JSON routes and to Git.
fn headers(token: &str) -> [String; 2] {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    [format!("Bearer {token}"), format!("Basic {}", STANDARD.encode(format!("conf:{token}")))]
}

fn demand(site: &Site, token: &str) {
    let accepted = headers(token);
    let accepted = [accepted[0].as_str(), accepted[1].as_str()];
    site.slaves.iter().for_each(|slave| {
        slave.to_central.as_ref().expect("a proxy").demand(&accepted);
        slave.proxy.as_ref().expect("a proxy").demand(&accepted);
    });
    site.master.proxy.as_ref().expect("a proxy").demand(&accepted);
}

#[test]
fn tiers_show_their_tokens_and_a_new_one_is_read_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "first-secret\n").expect("it can be written");
    let flags = vec!["--token-file".to_owned(), file.to_str().expect("text").to_owned()];
    let plan = Plan { proxied: true, slave_flags: flags.clone(), host_flags: flags, ..Plan::default() };
    let site = plan.start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());

    demand(&site, "first-secret");
    let sequence = site.push("services/web", "round", "1\n");
    assert!(reader.told().sequence >= sequence);

    // Refused: both say so, keep what they have, and go on by themselves once the file is right.
    demand(&site, "second-secret");
    site.slave().to_central.as_ref().expect("a proxy").cut();
    site.slave().to_central.as_ref().expect("a proxy").mend();
    let sequence = site.push("services/web", "round", "2\n");
    eventually("the slave to say that it is refused", || {
        let status = site.slave().status()?;
        let said = status["problems"].to_string();
        if said.contains("401") || said.contains("token") { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    fs::write(&file, "second-secret\n").expect("it can be written");
    assert!(reader.told().sequence >= sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
    // No token stands where others can read it.
    for pid in [site.slave().daemon.pid(), site.host().daemon.pid()] {
        for what in ["cmdline", "environ"] {
            let shown = fs::read(Path::new("/proc").join(pid.to_string()).join(what)).expect("it runs");
            assert!(!String::from_utf8_lossy(&shown).contains("second-secret"));
        }
    }
    let logs = site.slave().daemon.log() + &site.host().daemon.log();
    assert!(!logs.contains("-secret"), "a token is in the logs:\n{logs}");
}

/// The policy that docs/operating.md prints for a program.
pub(crate) fn policy(program: &str) -> String {
    page::fenced(MANUAL, &format!("#### Policy for {program}"), "hcl").concat()
}

#[test]
fn with_consul_denying_all_else_the_policies_of_the_manual_are_enough() {
    let mut site = Plan { pointers: Pointers::DenyingConsul, ..Plan::default() }.start_empty();
    site.populate();
    let (for_slave, for_local) = (policy("conf-slave"), policy("conf-local"));
    assert!(
        for_slave.contains(DATACENTER) && for_local.contains(DATACENTER),
        "written for the datacenter of this story"
    );
    let mut slave = site.make_slave(1);
    slave.daemon.environment("CONSUL_HTTP_TOKEN", site.consul().token("conf-slave", &for_slave));
    slave.daemon.start();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    let file = site.folder.path().join("consul-token");
    fs::write(&file, site.consul().token("conf-local", &for_local)).expect("it can be written");
    host.daemon.environment("CONSUL_HTTP_TOKEN_FILE", &file);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());

    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    let sequence = site.push("services/web", "round", "1\n");
    assert!(reader.told().sequence >= sequence);
    let tip = site.work.id("services/web/master");
    eventually("the component's key", || {
        let value = site.consul().get("configurations/services/web/latest").map(|entry| entry.value);
        if value == Some(format!("master/{tip}")) { Ok(()) } else { Err(format!("{value:?}")) }
    });
    // What the snapshot does not list goes by the same policy.
    site.consul().put("configurations/services/nobody/latest", &format!("master/{tip}"));
    eventually("a key of nobody's to go", || {
        let found = site.consul().get("configurations/services/nobody/latest");
        if found.is_none() { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn with_a_pointer_prefix_all_keys_stand_behind_it() {
    let flags = vec!["--pointer-prefix".to_owned(), "team-a/conf".to_owned()];
    let plan = Plan { slave_flags: flags.clone(), host_flags: flags, ..Plan::default() };
    let site = plan.start();
    site.push_and_wait("services/web", "round", "1\n");
    eventually("every key", || {
        let keys: Vec<String> = site.consul().values("").into_keys().collect();
        let wrong = keys.iter().any(|key| !key.starts_with("team-a/conf/configurations/"));
        if keys.len() == 6 && !wrong { Ok(()) } else { Err(format!("{keys:?}")) }
    });
}

#[test]
fn a_slave_of_another_datacenter_under_one_prefix_publishes_its_own_pointer_only_and_says_so() {
    let mut site = Site::start();
    site.wait_published(site.master.sequence());
    site.work.change().file("datacenters/eu-north/v1", "datacenter.yaml", tests::site::instance()).land();
    let keys = site.consul().values("configurations/services");
    let mut other = site.make_slave(2);
    let arguments = other.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == DATACENTER).expect("the flag is there");
    arguments[at] = "eu-north/v1".into();
    other.daemon.start();
    let sequence = {
        let answer = site.master.http().get_json("/api/v1/datacenters/eu-north/v1").expect("an answer");
        answer["sequence"].as_u64().expect("a number")
    };
    eventually("its own pointer", || {
        let value =
            site.consul().get("configurations/snapshots/eu-north/v1").map(|entry| entry.value).unwrap_or_default();
        if value.starts_with(&format!("{sequence}/")) { Ok(()) } else { Err(value) }
    });
    assert_eq!(site.consul().values("configurations/services"), keys);
    eventually("it to say so", || {
        let (log, status) = (other.daemon.log(), other.status()?);
        let said = log.contains(DATACENTER) || status["problems"].to_string().contains(DATACENTER);
        if said { Ok(()) } else { Err(format!("{log}\n{status}")) }
    });
    site.slaves.push(other);
    site.push_and_wait("services/web", "round", "1\n");
}
