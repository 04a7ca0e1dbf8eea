//! Hosts that run and that nobody lists.

use tests::{
    Plan,
    program::text,
    site::{DATACENTER, instance},
    wait::eventually,
};

const OWN: &str = "datacenters/us-west/v1";

#[test]
fn a_host_that_an_inventory_shuts_out_keeps_its_files_says_so_and_is_named_to_the_pusher() {
    let site = Plan { hosts: 2, ..Plan::default() }.start();
    eventually("both hosts to report", || {
        let hosts = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts"))?;
        if hosts["hosts"].as_array().is_some_and(|hosts| hosts.len() == 2) { Ok(()) } else { Err(hosts.to_string()) }
    });
    let listing = |inventories: &str| {
        site.work.change().file(OWN, "datacenter.yaml", format!("{}inventories: {inventories}\n", instance()))
    };
    let told = "us-west/v1 shuts out web-2: it reports and is not listed";
    listing("{hosts: {web-1: {}}}").option("--push-option=dry-run").push().refused(&[told, "nothing landed"]);
    let landed = listing("{hosts: {web-1: {}}}").land();
    assert!(landed.replace("remote: ", "").contains(told), "{landed}");
    let sequence = site.push("services/web", "round", "1\n");
    site.hosts[0].wait_applied(sequence);
    assert_eq!(site.hosts[0].file("services/web/latest/round"), "1\n");
    let words = "`web-2` is none of them (did you mean `web-1`?)";
    site.hosts[1].wait_status("say that it is shut out", |status| {
        status["pointer"]["sequence"] == sequence && status["error"].as_str().is_some_and(|error| error.contains(words))
    });
    assert_eq!(site.hosts[1].file("services/web/latest/round"), "0\n", "it keeps its files");
    let status = text(&site.hosts[1].run(&["status"]));
    assert!(status.contains("problems:") && status.contains(words) && status.contains("closed: false"), "{status}");
    // The next change says nothing new, and a change that lets it in brings it up to date.
    let landed = site.work.change().file("services/web/master", "round", "2\n").land();
    assert!(!landed.contains("shuts out"), "{landed}");
    listing("{hosts: {web-1: {}}, closed: false}").land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.hosts[1].file("services/web/latest/round"), "2\n");
    site.hosts[1].wait_status("have no problem", |status| status["problems"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn a_component_that_the_file_names_and_the_datacenter_lacks_is_a_problem_with_its_line() {
    let mut site = tests::Site::start();
    let file = site.folder.path().join("conf-local.yaml");
    let content = "watch:\n- components:\n  - services/web\n  - services/wbe\n  command: [/bin/true]\n";
    std::fs::write(&file, content).expect("it can be written");
    let host = &mut site.hosts[0];
    host.daemon.argument("--config");
    host.daemon.argument(&file);
    host.daemon.restart();
    let words = format!(
        "{}, line 4: `watch:` names services/wbe, which us-west/v1 does not have (did you mean `services/web`?)",
        file.display()
    );
    host.wait_status("name the component", |status| {
        status["problems"][0].as_str().is_some_and(|problem| problem.starts_with(&words))
    });
    assert!(host.daemon.log().contains(&words), "{}", host.daemon.log());
    assert_eq!(host.status().expect("a status")["state"], "current", "it goes on");
}
