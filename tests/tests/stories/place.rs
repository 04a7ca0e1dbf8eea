//! Components placed where programs look for them, and checks that look at them first.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tests::{Plan, Site};

/// A site whose one host has this in its configuration; `PLACE` is a folder of its own.
fn site_with(file: &str) -> (Site, PathBuf) {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let place = site.folder.path().join("etc");
    fs::create_dir(&place).expect("the folder can be made");
    let host = site.make_host(1);
    site.hosts.push(host);
    configure(&mut site, &file.replace("PLACE", place.to_str().expect("text")));
    site.hosts[0].daemon.start();
    (site, place)
}

fn configure(site: &mut Site, file: &str) {
    let path = site.hosts[0].home.join("conf-local.yaml");
    fs::write(&path, file).expect("the file can be written");
    site.hosts[0].daemon.argument("--config");
    site.hosts[0].daemon.argument(path);
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_component_stands_where_its_program_looks_and_nothing_else_there_is_touched() {
    let (site, place) = site_with(
        "export:\n  - {component: services/web, path: PLACE/web, mode: copy, file_mode: '0640', dir_mode: '0750'}\n",
    );
    site.wait_applied(site.master.sequence());
    let web = place.join("web");
    assert_eq!(read(&web.join("round")), "0\n");
    fs::write(web.join("of-the-distribution"), "mine").expect("it can be written");
    let change = site.work.change().file("services/web/master", "round", "1\n");
    change.file("services/web/master", "sites/a.conf", "a").file("services/web/master", "old", "x").land();
    site.wait_applied(site.master.sequence());
    assert_eq!((read(&web.join("round")), read(&web.join("sites/a.conf"))), ("1\n".to_owned(), "a".to_owned()));
    let mode = |path: &str| fs::metadata(web.join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("round"), mode("sites"), mode("")), (0o640, 0o750, 0o750));

    // Removed files are removed, a folder with them; what is not ours stays.
    site.work.change().without("services/web/master", "sites/a.conf").without("services/web/master", "old").land();
    site.wait_applied(site.master.sequence());
    assert!(!web.join("sites").exists() && !web.join("old").exists());
    assert_eq!(read(&web.join("of-the-distribution")), "mine");
    let mut left: Vec<_> =
        fs::read_dir(&web).expect("it is there").map(|entry| entry.expect("one").file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.yaml", "of-the-distribution", "round"]);
    // A host may be there before the pointer is in Consul.
    let status = site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    assert_eq!(status["placements"][0]["files"].as_u64(), Some(2));
}

#[test]
fn what_a_check_refuses_keeps_its_older_files_and_the_others_switch() {
    let check = r#"grep -q good round || { echo "round is $(cat round)"; echo "not good" >&2; exit 3; }"#;
    let (site, place) = site_with(&format!(
        "check:\n  - component: services/web\n    command: [sh, -c, '{check}']\nexport:\n  - {{component: services/web, path: PLACE/web, mode: copy}}\n"
    ));
    // The first one does not pass, so there is none of it at all.
    site.wait_applied(site.master.sequence());
    assert!(site.host().read("services/web/latest/round").is_err() && !place.join("web/round").exists());
    assert_eq!(site.host().file("services/api/latest/round"), "0\n");

    site.push_and_wait("services/web", "round", "good 1\n");
    assert_eq!(site.host().file("services/web/latest/round"), "good 1\n");
    assert_eq!(read(&place.join("web/round")), "good 1\n");

    let change = site.work.change().file("services/web/master", "round", "bad 2\n");
    change.file("services/api/master", "round", "2\n").land();
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "good 1\n");
    assert_eq!(site.host().file("services/api/latest/round"), "2\n");
    assert_eq!(read(&place.join("web/round")), "good 1\n");
    let status = site.host().status().expect("it answers");
    let fault = status["faults"]["services/web/latest"].as_str().expect("a fault");
    assert!(fault.contains("exit status: 3: round is bad 2; not good"), "{fault}");
    let checks = &status["checks"][0];
    assert_eq!((checks["passed"].as_bool(), checks["sequence"].as_u64()), (Some(false), Some(sequence)), "{checks}");
    let hosts = tests::eventually("the report to arrive", || {
        let hosts = site.slave().http().get_json("/api/v1/hosts")?.to_string();
        if hosts.contains("not good") { Ok(hosts) } else { Err(hosts) }
    });
    assert!(hosts.contains("failed"), "{hosts}");
    assert!(site.host().daemon.log().contains("not good"));

    site.push_and_wait("services/web", "round", "good 3\n");
    assert_eq!(read(&place.join("web/round")), "good 3\n");
    // A host may be there before the pointer is in Consul.
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
}

#[test]
fn a_new_version_that_a_check_refuses_leaves_the_one_before_it_where_it_is() {
    let check = "! grep -q bad round";
    let (site, place) = site_with(&format!(
        "check:\n  - {{component: services/web, command: [sh, -c, '{check}']}}\nexport:\n  - {{component: services/web, path: PLACE/web, mode: copy}}\nwatch:\n  - {{components: [services/web], command: [sh, -c, 'echo told >> PLACE/told']}}\n"
    ));
    site.wait_applied(site.master.sequence());
    let told = place.join("told");
    tests::eventually("it to be told once", || fs::remove_file(&told).map_err(|error| error.to_string()));
    let runs = |version: &str, round: &str| {
        let pins = [("services/web", "master", version), ("services/api", "master", "latest")];
        let change = site.work.change().file("services/web/master", "round", round);
        let change = change.also(&format!("refs/heads/services/web/master:refs/tags/services/web/{version}"));
        let change = change.file(tests::site::CLASS, "datacenter.yaml", tests::site::class(&pins));
        change.option("--push-option=allow-shrink").land();
        site.wait_applied(site.master.sequence());
    };
    runs("v2", "bad 2\n");
    let status = site.host().status().expect("it answers");
    assert!(status["faults"]["services/web/v2"].to_string().contains("did not pass"), "{status}");
    assert_eq!(
        (read(&place.join("web/round")), site.host().file("services/web/latest/round")),
        ("0\n".into(), "0\n".into())
    );
    assert!(!told.exists());
    runs("v3", "good 3\n");
    assert_eq!(
        (read(&place.join("web/round")), site.host().file("services/web/v3/round")),
        ("good 3\n".into(), "good 3\n".into())
    );
    assert!(site.host().read("services/web/latest/round").is_err());
    tests::eventually("it to be told", || fs::remove_file(&told).map_err(|error| error.to_string()));
}

/// The processes of this machine whose command line has these words.
fn running(words: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").expect("/proc is there").flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(words) && !line.contains("sh -c")).collect()
}

#[test]
fn checks_that_hang_flood_or_fork_end_with_all_that_they_started() {
    // A number of its own finds what this test has started.
    let number = 100_000 + u64::from(rand::random::<u16>());
    let file = format!(
        "check:
  - {{component: services/web, command: [sh, -c, 'echo waiting; setsid sleep {number}; sleep {number}'], timeout: 5}}
  - {{component: services/api, command: [sh, -c, 'yes 0123456789 | head -c 30000000; echo flooded; exit 1']}}
  - {{component: applications/shop, command: [sh, -c, 'setsid sleep {number} & setsid sh -c \"sleep {number}; true\" & ls -l /proc/self/fd']}}
"
    );
    let (mut site, _) = site_with(&file);
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    let status = site.host().status().expect("it answers");
    let web = status["faults"]["services/web/latest"].as_str().expect("it hangs");
    assert!(web.contains("ended after 5 s") && web.contains("waiting"), "{web}");
    let api = status["faults"]["services/api/latest"].as_str().expect("it floods");
    assert!(api.contains("exit status: 1") && api.contains("flooded") && api.len() < 3000, "{} characters", api.len());
    assert_eq!(site.host().file("applications/shop/latest/round"), "0\n");
    assert_eq!(site.host().file("devices/router/latest/round"), "0\n");
    let left = running(&format!("sleep {number}"));
    assert!(left.is_empty(), "{left:?}");

    // Also with the agent itself, whatever it dies of, and when it stops in order: checks and probes alike.
    let there = |wanted: bool| {
        tests::eventually("the check's processes to come or go", || {
            let found = running(&format!("sleep {number}"));
            if found.is_empty() == wanted { Err(format!("{found:?}")) } else { Ok(()) }
        });
    };
    let path = site.hosts[0].home.join("conf-local.yaml");
    fs::write(&path, file.replace("timeout: 5}", "timeout: 500}")).expect("it can be written");
    site.hosts[0].daemon.kill9();
    // While it is away, so that no check of this change has ended before.
    site.work.change().file("services/web/master", "round", "1\n").land();
    site.hosts[0].daemon.start();
    there(true);
    site.hosts[0].daemon.kill9();
    there(false);
    site.hosts[0].daemon.start();
    there(true);
    site.hosts[0].daemon.stop();
    there(false);
    let probe = format!(
        "probe:\n  - {{component: services/api, command: [sh, -c, 'setsid sleep {number}; sleep {number}'], timeout: 500}}\n"
    );
    fs::write(&path, probe).expect("it can be written");
    // A probe follows a change; what was held back may wait for some minutes.
    site.work.change().file("services/api/master", "round", "1\n").land();
    site.hosts[0].daemon.start();
    there(true);
    site.hosts[0].daemon.stop();
    there(false);
}

#[test]
fn paths_that_lead_elsewhere_are_refused_in_words_and_taken_once_they_are_put_right() {
    let (site, place) = site_with(
        "export:
  - {component: services/web, path: PLACE/link, mode: copy}
  - {component: services/api, path: PLACE/link/below, mode: copy}
  - {component: applications/shop, path: PLACE/theirs, mode: copy}
  - {component: devices/router, path: PLACE/router, mode: copy}
"
        .replace("PLACE/link/below", "PLACE/open/below")
        .as_str(),
    );
    site.wait_applied(site.master.sequence());
    // By now they stand there; let somebody change them under the agent's hands.
    let elsewhere = site.folder.path().join("elsewhere");
    fs::rename(place.join("link"), &elsewhere).expect("it is there");
    std::os::unix::fs::symlink(&elsewhere, place.join("link")).expect("a link can be made");
    std::os::unix::fs::chown(place.join("theirs"), Some(12345), None).expect("this test runs as root");
    fs::set_permissions(place.join("open"), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let mut change = site.work.change();
    for component in ["services/web", "services/api", "applications/shop", "devices/router"] {
        change = change.file(&format!("{component}/master"), "round", "1\n");
    }
    change.land();
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    let status = site.host().status().expect("it answers");
    for (component, words) in [
        ("services/web", "is a link; name the folder itself"),
        ("services/api", "may be written by others (mode 0777)"),
        ("applications/shop", "belongs to user 12345"),
    ] {
        let fault =
            status["faults"][format!("{component}/latest")].as_str().unwrap_or_else(|| panic!("{component}: {status}"));
        assert!(fault.contains(words), "{fault}");
        assert_eq!(site.host().file(&format!("{component}/latest/round")), "0\n");
    }
    assert_eq!(read(&elsewhere.join("round")), "0\n");
    assert_eq!(read(&place.join("theirs/round")), "0\n");
    assert_eq!(read(&place.join("open/below/round")), "0\n");
    assert_eq!(read(&place.join("router/round")), "1\n");

    // Without a push and without a restart.
    fs::remove_file(place.join("link")).expect("it is a link");
    fs::rename(&elsewhere, place.join("link")).expect("it is there");
    std::os::unix::fs::chown(place.join("theirs"), Some(0), None).expect("this test runs as root");
    fs::set_permissions(place.join("open"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    site.host().wait_status("place all of it", |status| status["problems"] == serde_json::json!([]));
    for path in ["link/round", "theirs/round", "open/below/round"] {
        assert_eq!(read(&place.join(path)), "1\n", "{path}");
    }
}

#[test]
fn what_is_not_ours_is_neither_replaced_nor_followed() {
    let (site, place) = site_with("export:\n  - {component: services/web, path: PLACE/web, mode: copy}\n");
    site.wait_applied(site.master.sequence());
    let web = place.join("web");
    let sentinel = site.folder.path().join("sentinel");
    fs::write(&sentinel, "untouched").expect("it can be written");
    std::os::unix::fs::symlink(&sentinel, web.join("a.conf")).expect("a link can be made");
    std::os::unix::fs::symlink(site.folder.path(), web.join("sub")).expect("a link can be made");
    fs::create_dir(web.join("folder")).expect("it can be made");
    fs::write(web.join("folder/theirs"), "theirs").expect("it can be written");
    fs::write(web.join("bobs"), "bob's").expect("it can be written");
    std::os::unix::fs::chown(web.join("bobs"), Some(12345), None).expect("this test runs as root");
    for (path, words) in [
        ("a.conf", "is a link that conf-local did not place"),
        ("sub/sentinel", "is a link that conf-local did not place"),
        ("folder", "is a folder with more in it than conf-local placed"),
        ("bobs", "belongs to user 12345"),
    ] {
        site.push_and_wait("services/web", path, "ours");
        let status = site.host().status().expect("it answers");
        let fault = status["faults"]["services/web/latest"].as_str().unwrap_or_else(|| panic!("{path}: {status}"));
        assert!(fault.contains(words), "{path}: {fault}");
        site.work.change().without("services/web/master", path).land();
        site.wait_applied(site.master.sequence());
        assert_eq!(site.host().status().expect("it answers")["faults"], serde_json::json!({}));
    }
    assert_eq!(read(&sentinel), "untouched");
    assert_eq!((read(&web.join("folder/theirs")), read(&web.join("bobs"))), ("theirs".to_owned(), "bob's".to_owned()));
    assert!(web.join("sub").is_symlink() && web.join("a.conf").is_symlink());
}

#[test]
fn entries_that_cannot_all_be_keep_the_agent_from_starting_with_words() {
    let site = Plan { hosts: 0, slaves: 0, pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start_empty();
    for (number, (entries, words)) in [
        (
            "[{component: services/a, path: /etc/a, mode: copy}, {component: services/b, path: /etc/a/b, mode: link}]",
            "must not contain each other",
        ),
        ("[{component: services/a, path: STATE/export, mode: copy}]", "must not contain each other"),
        ("[{component: services/a, path: etc/a, mode: copy}]", "is not absolute"),
        ("[{component: services/a, path: /etc/../a, mode: copy}]", "without '.' and '..'"),
        ("[{component: services/a, path: /, mode: copy}]", "root of everything"),
        ("[{component: services/a, path: /etc/a, mode: copy, owner: nobody-of-this-name}]", "there is no user"),
        ("[{component: services/a, path: /etc/a, mode: copy, file_mode: '0666'}]", "lets every user write"),
        ("[{component: services/a, path: /etc/a, mode: link, file_mode: '0644'}]", "are for mode copy"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut host = site.make_host(10 + number);
        let path = host.home.join("conf-local.yaml");
        let text = format!("export: {entries}\n").replace("STATE", host.state.to_str().expect("text"));
        fs::write(&path, text).expect("the file can be written");
        host.daemon.argument("--config");
        host.daemon.argument(path);
        host.daemon.start_unready();
        let status = host.daemon.wait_for_end(std::time::Duration::from_secs(30));
        let log = host.daemon.log();
        assert!(!status.success() && log.contains(words), "{entries}: {status}\n{log}");
        assert!(!host.state.join("placed.json").exists(), "{entries}");
    }
}

#[test]
fn a_program_that_reads_through_a_link_sees_each_switch_whole() {
    let (mut site, place) = site_with("export:\n  - {component: services/web, path: PLACE/web, mode: link}\n");
    site.wait_applied(site.master.sequence());
    let web = place.join("web");
    assert!(web.is_symlink());
    assert_eq!(read(&web.join("round")), "0\n");
    site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(read(&web.join("round")), "1\n");
    // Somebody's own folder in its place is not taken away.
    fs::remove_file(&web).expect("it is a link");
    fs::create_dir(&web).expect("it can be made");
    fs::write(web.join("theirs"), "theirs").expect("it can be written");
    site.push_and_wait("services/web", "round", "2\n");
    let status = site.host().status().expect("it answers");
    assert!(status["faults"]["services/web/latest"].to_string().contains("is a folder; move it away"), "{status}");
    assert_eq!(read(&web.join("theirs")), "theirs");
    fs::remove_dir_all(&web).expect("it is ours");
    site.hosts[0].daemon.kill9_and_restart();
    site.host().wait_status("place it", |status| status["problems"] == serde_json::json!([]));
    assert_eq!(read(&web.join("round")), "2\n");
    // Gone with its component.
    let pins = [("services/api", "master", "latest")];
    let change = site.work.change().file(tests::site::CLASS, "datacenter.yaml", tests::site::class(&pins));
    change.option("--push-option=allow-shrink").land();
    site.wait_applied(site.master.sequence());
    assert!(!web.is_symlink());
}

#[test]
fn verify_finds_what_was_changed_at_a_place_and_puts_it_right() {
    let (site, place) = site_with("export:\n  - {component: services/web, path: PLACE/web, mode: copy}\n");
    site.wait_applied(site.master.sequence());
    let round = place.join("web/round");
    // The agent's own look, every few seconds, may come first.
    tests::eventually("verify to find it before the agent does", || {
        let _ = fs::remove_file(&round);
        fs::write(&round, "by hand").expect("it can be written");
        let found = site.host().run(&["verify"]);
        let words = tests::program::text(&found);
        let is_found = !found.status.success() && words.contains("web/round is not as services/web");
        if is_found && fs::read_to_string(&round).is_ok_and(|text| text == "by hand") { Ok(()) } else { Err(words) }
    });
    let mended = site.host().run(&["verify", "--repair"]);
    assert!(mended.status.success(), "{}", tests::program::text(&mended));
    assert_eq!(read(&round), "0\n");
    assert!(site.host().run(&["verify"]).status.success());
}

#[test]
fn a_probe_says_whether_the_program_is_well_after_it_was_told() {
    let (site, place) = site_with(
        r"export:
  - {component: services/web, path: PLACE/web, mode: copy}
watch:
  - {components: [services/web], command: [cp, PLACE/web/round, PLACE/running]}
probe:
  - {component: services/web, command: [sh, -c, '! grep ill PLACE/running'], retries: 1, timeout: 30}
",
    );
    site.wait_applied(site.master.sequence());
    let probe = |status: &serde_json::Value| status["probes"][0]["passed"].as_bool();
    site.host().wait_status("be well", |status| probe(status) == Some(true));
    // It is asked after the command has run, or it would see what ran before.
    let sequence = site.push_and_wait("services/web", "round", "ill\n");
    let status = site.host().wait_status("be ill", |status| probe(status) == Some(false));
    assert_eq!((status["state"].as_str(), status["probes"][0]["sequence"].as_u64()), (Some("failed"), Some(sequence)));
    assert!(
        status["problems"].to_string().contains("services/web is not well: it ended with exit status: 1: ill"),
        "{status}"
    );
    assert_eq!(
        (site.host().file("services/web/latest/round"), read(&place.join("running"))),
        ("ill\n".into(), "ill\n".into())
    );
    tests::eventually("the report to arrive", || {
        let hosts = site.slave().http().get_json("/api/v1/hosts")?.to_string();
        if hosts.contains("is not well") { Ok(()) } else { Err(hosts) }
    });
    site.push_and_wait("services/web", "round", "fine\n");
    site.host().wait_status("be well again", |status| probe(status) == Some(true) && status["state"] == "current");
}

#[test]
fn an_agent_that_observes_tells_nobody_and_diff_compares_with_what_another_tool_wrote() {
    let (mut site, place) = site_with(
        "export:\n  - {component: services/web, path: PLACE/web, mode: copy}\nwatch:\n  - {components: [services/web], command: [touch, PLACE/told]}\n",
    );
    site.wait_applied(site.master.sequence());
    tests::eventually("it to be told once", || fs::remove_file(place.join("told")).map_err(|error| error.to_string()));
    site.hosts[0].daemon.stop();
    site.hosts[0].daemon.argument("--observe");
    site.hosts[0].daemon.start();
    site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(
        (site.host().file("services/web/latest/round"), read(&place.join("web/round"))),
        ("1\n".into(), "0\n".into())
    );
    let refused = site.host().run(&["watch", "services/web", "--pid", &std::process::id().to_string()]);
    assert!(!refused.status.success() && tests::program::text(&refused).contains("only observes"));

    let web = place.join("web");
    fs::write(web.join("of-the-other-tool"), "x").expect("it can be written");
    let path = web.to_str().expect("text");
    let differs = site.host().run(&["diff", "services/web", path]);
    let text = tests::program::text(&differs);
    assert_eq!(differs.status.code(), Some(1), "{text}");
    assert!(text.contains("-0\n+1\n") && text.contains("only at") && text.contains("of-the-other-tool"), "{text}");
    let json = site.host().run(&["diff", "services/web", path, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        (json["files"][0]["change"].as_str(), json["files"][1]["change"].as_str()),
        (Some("removed"), Some("changed"))
    );
    fs::remove_file(web.join("of-the-other-tool")).expect("it is there");
    fs::remove_file(web.join("round")).expect("it is there");
    fs::write(web.join("round"), "1\n").expect("it can be written");
    let same = site.host().run(&["diff", "services/web", path]);
    assert!(same.status.success(), "{}", tests::program::text(&same));
    assert!(!place.join("told").exists(), "an agent that observes ran a command");
    // Taken over: what it owes is told now.
    site.hosts[0].daemon.stop();
    site.hosts[0].daemon.arguments().pop();
    site.hosts[0].daemon.start();
    site.push_and_wait("services/web", "round", "2\n");
    assert_eq!(read(&web.join("round")), "2\n");
    tests::eventually("it to be told", || if place.join("told").exists() { Ok(()) } else { Err("not yet".to_owned()) });
}

#[test]
fn a_secret_is_its_owners_alone_where_it_is_placed_and_no_check_probe_or_watcher_quotes_it() {
    let (site, place) = site_with(
        r#"export:
  - {component: services/web, path: PLACE/web, mode: copy, dir_mode: '0700'}
  - {component: services/web, path: PLACE/group, mode: copy, file_mode: '0644'}
check:
  - component: services/web
    command: [sh, -c, 'test ! -e bad || { cat login; exit 1; }']
watch:
  - {components: [services/web], command: [sh, -c, 'cat "$CONF_EXPORT/services/web/latest/login"; touch PLACE/told; exit 1']}
probe:
  - {component: services/web, command: [sh, -c, 'cat "$CONF_EXPORT/services/web/latest/login" >&2; exit 1'], retries: 0}
  - {component: services/web, http: 'http://somebody:of-the-probe@127.0.0.1:1/', retries: 0}
secret-sources: {own: {file: PLACE/token}}
"#,
    );
    let token = place.join("token");
    let canary = format!("canary{}", rand::random::<u64>());
    fs::write(&token, &canary).expect("it can be written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let instance = tests::site::instance() + "secrets:\n  token: {from: own, readers: [services/web]}\n";
    let change =
        site.work.change().file(&format!("datacenters/{}", tests::site::DATACENTER), "datacenter.yaml", instance);
    change.file("services/web/master", "login.j2", "{{ secrets.token }}").land();
    site.wait_applied(site.master.sequence());
    let login = place.join("web/login");
    assert_eq!(read(&login).trim(), canary, "{}", site.host().status().expect("it answers"));
    let mode = |path: &str| fs::metadata(place.join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("web/login"), mode("group/login"), mode("group/round")), (0o600, 0o640, 0o644));
    site.push_and_wait("services/web", "bad", "");
    let status = site.host().status().expect("it answers").to_string();
    assert!(status.contains("exit status: 1") && status.contains("is not shown"), "{status}");
    // The watcher and the probe read it too, after the change that brought it.
    let withheld = |one: &serde_json::Value| one["error"].to_string().contains("is not shown");
    let status = site.host().wait_status("have been told and asked", |status| {
        let probes = status["probes"].as_array().cloned().unwrap_or_default();
        let asked = probes.iter().any(withheld) && probes.iter().any(|one| one["target"] == "http://…@127.0.0.1:1/");
        asked && withheld(&status["watchers"][0])
    });
    let shown = format!("{status}{}{}", tests::program::text(&site.host().run(&["status"])), site.host().daemon.log());
    for secret in [canary.as_str(), "of-the-probe"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(place.join("told").exists());
}

#[test]
fn the_owner_of_a_place_gets_nothing_of_others_by_moving_it_there() {
    let (site, place) =
        site_with("export:\n  - {component: services/web, path: PLACE/web, mode: copy, owner: nobody}\n");
    site.push_and_wait("services/web", "sites/a.conf", "a\n");
    let web = place.join("web");
    // Whoever owns the folder may move what is in it, whosever it is.
    let of_root = |name: &str| {
        let folder = web.join(name);
        fs::create_dir(&folder).expect("it can be made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
        fs::write(folder.join("key"), "secret\n").expect("it can be written");
    };
    let is_of_root = |name: &str| {
        let about = fs::metadata(web.join(name)).expect("it is there");
        assert_eq!((about.uid(), about.permissions().mode() & 0o777), (0, 0o700), "{name}");
        assert_eq!(read(&web.join(name).join("key")), "secret\n");
    };
    fs::rename(web.join("sites"), web.join("old")).expect("it is there");
    of_root("sites");
    site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(read(&web.join("round")), "1\n");
    is_of_root("sites");
    of_root(".conf-local");
    site.push("services/web", "round", "2\n");
    site.host().wait_status("say what is in the way", |status| status["faults"].to_string().contains(".conf-local"));
    is_of_root(".conf-local");
    fs::remove_dir_all(web.join(".conf-local")).expect("it is ours");
    site.host().wait_status("place it", |status| status["faults"] == serde_json::json!({}));
    assert_eq!(read(&web.join("round")), "2\n");
    is_of_root("sites");
}
