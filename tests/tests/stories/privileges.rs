//! What processes may do: those that work on what somebody pushed have no privilege, and an agent
//! keeps of root's what it needs. An agent of an ordinary user does without root.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use tests::{
    Plan, Site, eventually,
    program::{Daemon, descendants, text},
    site::Pointers,
};

/// A user and a group that nobody else has.
const USER: u32 = 45_678;

/// What the kernel says of a process; nothing of one that has ended.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Pushes a change until a worker of a daemon was seen that has this word in its command line, and
/// returns what the kernel says of it.
fn worker(site: &Site, daemon: u32, word: &str) -> BTreeMap<String, String> {
    let mut round = 0;
    eventually(&format!("a worker {word}"), || {
        round += 1;
        site.push("services/web", "page.j2", &format!("{{{{ 1 + 1 }}}} {round}\n"));
        let all = descendants(daemon);
        let mut found = all.iter().filter(|(_, words)| words.contains(word)).map(|(pid, _)| status(*pid));
        // One that has just started has given up nothing yet, and read nothing.
        let found = found.rfind(|status| status.get("NoNewPrivs").is_some_and(|set| set == "1"));
        found.ok_or_else(|| format!("{all:?}"))
    })
}

fn expect_none(worker: &BTreeMap<String, String>, user: u32) {
    let ids = format!("{user}\t{user}\t{user}\t{user}");
    assert_eq!((&worker["Uid"], &worker["Gid"], worker["Groups"].as_str()), (&ids, &ids, ""), "{worker:?}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(worker[set], "0".repeat(16), "{set}: {worker:?}");
    }
}

#[test]
fn what_works_on_pushed_content_has_no_privilege() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let schema = r#"{"properties": {"port": {"type": "integer"}}}"#;
    let change = site.work.change().file("services/web/master", "config.yaml", "port: 80\n");
    change.file("services/web/master", "config.schema.json", schema).land();
    for daemon in [&site.master.daemon, &site.host().daemon] {
        expect_none(&worker(&site, daemon.pid(), "render-templates"), 65_534);
    }
    // The other workers of conf-master were asked about the schema.
    for (pid, words) in descendants(site.master.daemon.pid()) {
        let found = status(pid);
        let has_begun = found.get("NoNewPrivs").is_some_and(|set| set == "1");
        if words.starts_with("/proc/self/exe ") && has_begun {
            expect_none(&found, 65_534);
        }
    }
}

#[test]
fn an_agent_of_root_keeps_what_it_needs_and_gives_the_rest_only_to_commands_that_its_file_names() {
    let mut site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let needed = "00000000000805ff";
    let own = status(std::process::id());
    let found = status(site.host().daemon.pid());
    assert_eq!(["CapEff", "CapPrm", "CapBnd"].map(|set| found[set].as_str()), [needed; 3]);
    let file = site.host().home.join("conf-local.yaml");
    let seen = site.folder.path().join("seen");
    let run = |user: &str| {
        format!("{{component: services/web, command: [sh, -c, 'cat /proc/self/status >{}']{user}}}", seen.display())
    };
    fs::write(&file, format!("check: [{}]\n", run(""))).expect("it can be written");
    let daemon = &mut site.hosts[0].daemon;
    daemon.argument("--config");
    daemon.argument(&file);
    daemon.restart();
    let found = status(site.host().daemon.pid());
    assert_eq!((found["CapEff"].as_str(), &found["CapBnd"]), (needed, &own["CapBnd"]));
    site.push_and_wait("services/web", "round", "1\n");
    let checked = || fs::read_to_string(&seen).expect("the check ran");
    assert!(checked().contains(&format!("CapEff:\t{}", own["CapEff"])), "a command of root is root's: {}", checked());

    // A check and a probe of another user.
    fs::set_permissions(&seen, fs::Permissions::from_mode(0o666)).expect("it is ours");
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(&file, format!("check: [{}]\n", run(", user: nobody"))).expect("it can be written");
    site.hosts[0].daemon.restart();
    site.push_and_wait("services/web", "round", "2\n");
    let status = text(&site.host().run(&["status"]));
    assert!(
        checked().contains("Uid:\t65534\t65534") && checked().contains("CapEff:\t0000000000000000"),
        "{}{status}",
        checked()
    );
    fs::write(
        &file,
        "probe: [{component: services/web, command: [sh, -c, 'id -un; false'], user: nobody, retries: 0}]\n",
    )
    .expect("it can be written");
    site.hosts[0].daemon.restart();
    site.host().wait_status("have probed", |status| status["probes"][0]["error"].to_string().contains("nobody"));
}

/// Makes a host whose agent runs as [`USER`], with this file of its own.
fn ordinary(site: &mut Site, file: &str) {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    open(site.folder.path());
    let mut host = site.make_host(1);
    let path = host.home.join("conf-local.yaml");
    fs::write(&path, file).expect("it can be written");
    chown(&host.home, Some(USER), Some(USER)).expect("this test runs as root");
    let mut words: Vec<String> = ["--pdeathsig", "KILL", "--clear-groups"].map(str::to_owned).to_vec();
    words.extend([format!("--reuid={USER}"), format!("--regid={USER}"), "--".to_owned()]);
    words.push(tests::program::built("conf-local").display().to_string());
    let own = host.daemon.arguments().drain(..).map(|word| word.into_string().expect("UTF-8")).collect::<Vec<_>>();
    words.extend(own);
    words.extend(["--config".to_owned(), path.display().to_string()]);
    host.daemon = Daemon::new("conf-local-ordinary", "setpriv".into(), site.folder.path(), words);
    site.hosts.push(host);
}

#[test]
fn an_agent_of_an_ordinary_user_exports_places_and_tells_its_own() {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let folder = site.folder.path().to_owned();
    // The way to the place may let the agent through, and no more.
    let way = folder.join("way");
    let place = way.join("mine");
    fs::create_dir_all(&place).expect("the folder can be made");
    chown(&place, Some(USER), Some(USER)).expect("this test runs as root");
    fs::set_permissions(&way, fs::Permissions::from_mode(0o711)).expect("it is ours");
    let (told, token) = (place.join("told"), place.join("token"));
    fs::write(&token, "canary\n").expect("it can be written");
    chown(&token, Some(USER), Some(USER)).expect("this test runs as root");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let file = format!(
        "export: [{{component: services/web, path: {0}/web, mode: copy}}]\n\
         watch: [{{components: [services/web], command: [touch, {1}]}}]\n\
         check: [{{component: services/web, command: [sh, -c, 'test $(id -u) = {USER}']}}]\n\
         secret-sources: {{own: {{command: [cat, {2}]}}}}\n",
        place.display(),
        told.display(),
        token.display()
    );
    ordinary(&mut site, &file);
    site.hosts[0].daemon.start();
    let own = tests::site::instance() + "secrets: {own: {from: own, readers: [services/api]}}\n";
    let change = site.work.change().file("datacenters/us-west/v1", "datacenter.yaml", own);
    change
        .file("services/web/master", "round", "1\n")
        .file("services/api/master", "login.j2", "{{ secrets.own }}")
        .land();
    site.wait_applied(site.master.sequence());
    assert_eq!(fs::read_to_string(place.join("web/round")).expect("it is placed"), "1\n");
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    assert_eq!(site.host().file("services/api/latest/login").trim(), "canary");
    eventually("the watcher to be told", || if told.exists() { Ok(()) } else { Err("not yet".to_owned()) });
    let found = status(site.host().daemon.pid());
    assert_eq!((found["Uid"].split('\t').next(), found["CapEff"].as_str()), (Some("45678"), "0000000000000000"));
    expect_none(&worker(&site, site.host().daemon.pid(), "render-templates"), USER);

    // It becomes nobody else.
    let fault = "the agent is not root, so nothing runs as nobody";
    fs::write(site.host().home.join("conf-local.yaml"), "secret-sources: {own: {command: [cat], user: nobody}}\n")
        .expect("it can be written");
    site.hosts[0].daemon.stop();
    site.hosts[0].daemon.start_unready();
    assert!(!site.hosts[0].daemon.wait_for_end(std::time::Duration::from_secs(60)).success());
    assert!(site.host().daemon.log().contains(fault), "{}", site.host().daemon.log());
}
