//! The manual, docs/operating.md: its policies, its file for conf-local, its metrics and its messages.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{fs, path::Path};

use hyper::Method;
use tests::{
    Daemon, Plan,
    http::Address,
    page,
    program::built,
    site::{DATACENTER, Pointers},
};

const MANUAL: &str = include_str!("../../docs/operating.md");

/// The fenced blocks of one language under a heading, one after the other.
fn blocks(heading: &str, language: &str) -> String {
    page::fenced(MANUAL, heading, language).concat()
}

#[test]
fn the_consul_policies_and_the_metrics() {
    let mut site = Plan { pointers: Pointers::DenyingConsul, ..Plan::default() }.start_empty();
    site.populate();
    let slave_token = site.consul().token("conf-slave", &blocks("#### Policy for conf-slave", "hcl"));
    let local_token = site.consul().token("conf-local", &blocks("#### Policy for conf-local", "hcl"));

    let mut slave = site.make_slave(1);
    slave.daemon.environment("CONSUL_HTTP_TOKEN", slave_token.clone());
    slave.daemon.start();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    host.daemon.environment("CONSUL_HTTP_TOKEN", local_token.clone());
    host.daemon.start();
    site.hosts.push(host);
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    site.wait_published(sequence);
    assert!(site.consul().get("configurations/services/web/latest").is_some());

    for server in [site.master.http(), site.slave().http(), site.host().http()] {
        let metrics = server.get("/metrics").unwrap().text();
        for name in metrics.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()) {
            assert!(MANUAL.contains(&format!("`{name}`")), "docs/operating.md does not say what {name} is");
        }
    }

    // And no more than that.
    let consul = Address::Tcp(site.consul().address());
    let ask = |method: Method, key: &str, token: &str| {
        let headers = [("x-consul-token", token)];
        consul.request(method, &format!("/v1/kv/{key}"), &headers, "1").unwrap().status.as_u16()
    };
    let own = format!("configurations/snapshots/{DATACENTER}");
    assert_eq!(ask(Method::GET, &own, &local_token), 200);
    assert_eq!(ask(Method::PUT, &own, &local_token), 403);
    assert_eq!(ask(Method::GET, "configurations/services/web/latest", &local_token), 403);
    assert_eq!(ask(Method::PUT, "configurations/snapshots/elsewhere/v1", &slave_token), 403);
    assert_eq!(ask(Method::PUT, "else", &slave_token), 403);
    site.wait_applied(sequence);
}

#[test]
fn the_example_of_conf_local_yaml() {
    let site = Plan { hosts: 0, slaves: 0, pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let folder = site.folder.path().to_str().unwrap();
    let file = blocks("### systemd", "yaml")
        .replace("/var/lib/conf-local", &format!("{folder}/state"))
        .replace("/run/conf-local/", &format!("{folder}/"))
        .replace("/etc/conf-master.pub", site.master.trusted_key().to_str().unwrap());
    let path = site.folder.path().join("conf-local.yaml");
    fs::write(&path, file).unwrap();
    // Nothing that it names answers, so it waits for a first snapshot, and says so.
    let arguments = ["run", "--config", path.to_str().unwrap()];
    let mut agent = Daemon::new("conf-local", built("conf-local"), site.folder.path(), arguments);
    agent.start();
    let status = Address::Unix(site.folder.path().join("conf-local.sock")).get_json("/v1/status").unwrap();
    assert_eq!((status["host"].as_str(), status["watchers"].as_array().map(Vec::len)), (Some("web-1"), Some(2)));
    agent.stop();
}

/// The messages that the manual explains are messages that some program has.
#[test]
fn the_manual_quotes_what_programs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = String::new();
    for folder in ["libconf/src", "libconf/core/src", "conf-master/src", "conf-slave/src", "conf-local/src"] {
        gather(&root.join(folder), &mut sources);
    }
    // A message that goes on in the next line of its source is one line when it is said.
    let sources = sources.replace("\\\n", " ");
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut quoted, mut unknown) = (0, Vec::new());
    for heading in ["## Refusal messages", "## Outage messages"] {
        let section = MANUAL.split_once(heading).unwrap().1.split("\n## ").next().unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        for words in rows.filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split('`').skip(1).step_by(2))
        {
            let parts = words.split('…').map(|part| part.trim().trim_end_matches([';', ':', ',']));
            for part in parts.filter(|part| part.len() > 3 && !part.starts_with("datacenter.yaml")) {
                quoted += 1;
                if !sources.contains(part) {
                    unknown.push(part);
                }
            }
        }
    }
    assert!(unknown.is_empty(), "the manual explains what no program says: {unknown:#?}");
    assert!(quoted > 40, "only {quoted} messages were found in the manual");
}

fn gather(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
