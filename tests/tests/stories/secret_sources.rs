//! Secrets that a host has itself, in a file or by a command: they come late, change, and fail.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tests::{
    Plan, Site, eventually,
    program::text,
    site::{DATACENTER, Pointers, instance},
};

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
    fs::write(folder.join("conf-local.yaml"), format!("watch:\n{}{}", watch("web"), watch("api")))
        .expect("it can be written");
    let secrets = format!(
        "secrets:\n  token: {{file: {place}/token, readers: [services/web]}}\n  key: {{command: [/bin/cat, {place}/key], readers: [services/api]}}\n"
    );
    let change =
        site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", instance() + &secrets);
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
