//! Secrets that a host has itself, in a file or by a command: only its own file chooses them. They
//! come late, change, and fail.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use hyper::Method;
use serde_json::Value;
use tests::{
    Plan, Site, eventually,
    program::{Daemon, descendants, text},
    site::{DATACENTER, Pointers, instance},
};

const OWN: &str = "datacenters/us-west/v1";

fn write(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("it can be written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("it is ours");
    fs::rename(new, path).expect("it can be renamed");
}

/// One host, whose components web and api read a secret each: from a file, and by a command that
/// prints another file. Neither exists. Each component has a watcher, which writes a line.
fn site() -> Site {
    let plan = Plan {
        hosts: 0,
        pointers: Pointers::Embedded,
        host_flags: vec!["--secrets-every=1".to_owned()],
        ..Plan::default()
    };
    let mut site = plan.start();
    let folder = site.folder.path().to_owned();
    let place = folder.display();
    let watch = |component: &str| {
        format!(
            "  - {{components: [services/{component}], command: [sh, -c, 'echo $CONF_COMPONENTS >>{place}/told-{component}']}}\n"
        )
    };
    let sources = format!(
        "secret-sources:\n  ownToken: {{file: {place}/token}}\n  \
         ownKey: {{command: [/bin/cat, {place}/key], user: root}}\n"
    );
    fs::write(folder.join("conf-local.yaml"), format!("{sources}watch:\n{}{}", watch("web"), watch("api")))
        .expect("it can be written");
    let secrets = "secrets:\n  token: {from: ownToken, readers: [services/web]}\n  \
                   key: {from: ownKey, readers: [services/api]}\n";
    let change = site.work.change().file(OWN, "datacenter.yaml", instance() + secrets);
    let change = change.file("services/web/master", "login.j2", "{{ secrets.token }}");
    change.file("services/api/master", "login.j2", "{{ secrets.key }}").land();
    let mut host = site.make_host(1);
    host.daemon.argument("--config");
    host.daemon.argument(folder.join("conf-local.yaml"));
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    site
}

fn told(site: &Site, component: &str) -> usize {
    fs::read_to_string(site.folder.path().join(format!("told-{component}"))).unwrap_or_default().lines().count()
}

/// Waits until a component is rendered with a value, and its watcher was told once more.
#[track_caller]
fn arrives(site: &Site, component: &str, value: &str, before: usize) {
    eventually("the value to be rendered, and the watcher to be told", || {
        let found = site.host().read(&format!("services/{component}/latest/login"));
        let found = (found.map(|text| text.trim().to_owned()), told(site, component));
        if found == (Ok(value.to_owned()), before + 1) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_secret_of_the_host_is_read_again_until_it_is_there_and_whenever_it_changes() {
    let mut site = site();
    let folder = site.folder.path().to_owned();
    let (token, key) = (folder.join("token"), folder.join("key"));
    let faults = |status: &serde_json::Value| status["faults"].as_object().map_or(0, serde_json::Map::len);
    let status = site.host().wait_status("hold both back", |status| faults(status) == 2);
    assert_eq!(status["sequence"], site.master.sequence(), "the rest is there");
    assert_eq!((told(&site, "web"), told(&site, "api")), (0, 0));

    write(&token, "canary-1\n");
    arrives(&site, "web", "canary-1", 0);
    assert_eq!(told(&site, "api"), 0, "nobody else is told");
    write(&key, "canary-2\n");
    arrives(&site, "api", "canary-2", 0);
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    write(&token, "canary-3\n");
    arrives(&site, "web", "canary-3", 1);
    write(&key, "canary-4\n");
    arrives(&site, "api", "canary-4", 1);
    assert_eq!(told(&site, "web"), 2, "nobody else is told");

    // What cannot be read any more keeps its last good value, and that is a problem.
    fs::remove_file(&token).expect("it is there");
    fs::remove_file(&key).expect("it is there");
    let problem = |name: &str| format!("the secret {name} keeps its last good value");
    let both = |status: &serde_json::Value| {
        let problems = status["problems"].to_string();
        problems.contains(&problem("token")) && problems.contains(&problem("key"))
    };
    let status = site.host().wait_status("say so", both);
    assert_eq!((faults(&status), &status["state"]), (0, &"current".into()), "{status}");
    site.push_and_wait("services/api", "login.j2", "new {{ secrets.key }}");
    arrives(&site, "api", "new canary-4", 2);
    // What it does not know to be told, it tells again.
    site.host().wait_status("know that both were told", |status| {
        status["watchers"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "told"))
    });
    site.hosts[0].daemon.restart();
    let status = site.host().wait_status("say so after a restart", both);
    assert_eq!((faults(&status), told(&site, "web"), told(&site, "api")), (0, 2, 3), "{status}");
    write(&key, "canary-5\n");
    arrives(&site, "api", "new canary-5", 3);
    write(&token, "canary-3\n");
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    assert_eq!(told(&site, "web"), 2, "the same value is no change");

    let shown = format!("{}{}", text(&site.host().run(&["status", "--json"])), site.host().daemon.log());
    assert!(!shown.contains("canary"), "{shown}");
    let outbox = fs::read_to_string(site.host().state.join("duties.json")).unwrap_or_default();
    assert!(!outbox.contains("canary"), "{outbox}");
}

/// A host that is not started, with this file of its own.
fn host_with(site: &mut Site, file: &str) -> PathBuf {
    let mut host = site.make_host(1);
    let path = host.home.join("conf-local.yaml");
    fs::write(&path, file).expect("it can be written");
    host.daemon.argument("--config");
    host.daemon.argument(&path);
    site.hosts.push(host);
    path
}

#[track_caller]
fn reads(site: &Site, value: &str) {
    eventually("the value to be rendered", || {
        let found = site.host().read("services/web/latest/login").map(|text| text.trim().to_owned());
        if found.as_deref() == Ok(value) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn only_the_hosts_own_file_chooses_what_is_read_or_run_there() {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let ran = site.folder.path().join("ran");
    let command = format!("[/bin/touch, {}]", ran.display());
    for (key, value) in [("file", "/etc/shadow"), ("command", command.as_str())] {
        let secrets = format!("secrets:\n  c: {{{key}: {value}, readers: [services/web]}}\n");
        let refused = site.work.change().file(OWN, "datacenter.yaml", instance() + &secrets).push();
        let instead = format!("secret-sources: {{<name>: {{{key}: …}}}} in conf-local.yaml");
        refused.refused(&["datacenter.yaml:3", &format!("`{key}` would choose"), "write from: <name>", &instead]);
    }
    let secrets = "secrets:\n  db: {from: vaultToken, readers: [services/web]}\n";
    let change = site.work.change().file(OWN, "datacenter.yaml", instance() + secrets);
    let said = change.file("services/web/master", "login.j2", "{{ secrets.db }}").land();
    assert!(said.contains("hosts of us-west/v1 must offer secret source vaultToken"), "{said}");

    // Nothing by default.
    let file = host_with(&mut site, "{}\n");
    site.hosts[0].daemon.start();
    site.wait_applied(site.master.sequence());
    let missing = "this host offers no secret source vaultToken";
    let status = text(&site.host().run(&["status"]));
    assert!(status.contains("services/web/latest") && status.contains(missing), "{status}");

    // A command of root says so, or says whose it is.
    let token = site.folder.path().join("vault-token");
    let tell = |user: &str| {
        let script =
            format!("cat {0}; id -un; setsid sh -c 'setsid sleep 987654 & setsid sleep 987654 &'", token.display());
        fs::write(&file, format!("secret-sources: {{vaultToken: {{command: [/bin/sh, -c, \"{script}\"]{user}}}}}\n"))
            .expect("it can be written");
    };
    write(&token, "canary-1\n");
    tell("");
    site.hosts[0].daemon.stop();
    let mut unsaid = Daemon::new("unsaid", tests::program::built("conf-local"), site.folder.path(), [""; 0]);
    unsaid.arguments().clone_from(site.hosts[0].daemon.arguments());
    unsaid.start_unready();
    assert!(!unsaid.wait_for_end(std::time::Duration::from_secs(60)).success());
    assert!(unsaid.log().contains("secret-sources: vaultToken: the agent is root"), "{}", unsaid.log());

    // The file is root's alone: what runs as another user cannot read it.
    tell(", user: nobody");
    site.hosts[0].daemon.start();
    reads(&site, "nobody");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("it is ours");
    tell(", user: root");
    site.hosts[0].daemon.restart();
    reads(&site, "canary-1\nroot");
    let left = descendants(1).into_iter().filter(|(_, words)| words.contains("sleep 987654")).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");

    // conf-master knows what the host says that it offers.
    let sources = |report: &Value| report["sources"] == serde_json::json!(["vaultToken"]);
    eventually("the report to name the source", || {
        let hosts = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts"))?;
        let reports = hosts["hosts"].as_array().or(hosts.as_array()).cloned().unwrap_or_default();
        if reports.iter().any(sources) { Ok(()) } else { Err(hosts.to_string()) }
    });
    let more = "secrets:\n  db: {from: vaultToken, readers: [services/web, services/api]}\n  \
                other: {from: otherToken, readers: [services/web]}\n";
    let said = site.work.change().file(OWN, "datacenter.yaml", instance() + more).land();
    assert!(
        said.contains("hosts of us-west/v1 must offer secret source otherToken; not known to offer it: web-1"),
        "{said}"
    );
    assert!(!said.contains("vaultToken"), "no host needs it that did not before: {said}");
    assert!(!ran.exists());
    let body = serde_json::json!({
        "host": "web-9", "datacenter": DATACENTER, "sequence": 0, "commit": null, "state": "current", "agent": "x",
        "sources": null
    });
    let headers = [("content-type", "application/json")];
    let answer = site.slave().http().request(Method::POST, "/api/v1/reports", &headers, body.to_string());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text());
}
