//! Components placed where programs look for them, and checks that look at them first.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
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
    let status = site.host().status().expect("it answers");
    assert_eq!((status["placements"][0]["files"].as_u64(), &status["problems"]), (Some(2), &serde_json::json!([])));
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
    assert_eq!(site.host().status().expect("it answers")["problems"], serde_json::json!([]));
}
