//! Who was told of a change, and who could not be: a host says so, and tries again.

use std::{fs, path::Path, process::Stdio};

use tests::{
    Plan, Site, eventually,
    program::{command, spawn, text},
    site::{DATACENTER, Pointers, instance},
};

/// One host with this configuration, which the inventory lists.
fn site_with(config: impl FnOnce(&Path) -> String) -> Site {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let file = site.folder.path().join("conf-local.yaml");
    fs::write(&file, config(site.folder.path())).expect("it can be written");
    let mut host = site.make_host(1);
    host.daemon.argument("--config");
    host.daemon.argument(&file);
    host.daemon.start();
    site.hosts.push(host);
    let text = format!("{}inventories:\n  hosts: {{web-1: {{}}}}\n  closed: true\n", instance());
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", text).land();
    site.wait_applied(site.master.sequence());
    site
}

/// `conf-master wait` with its exit code and all that it said.
fn wait(site: &Site, sequence: u64, timeout: &str) -> (Option<i32>, String) {
    let output = site.master.run(&["wait", DATACENTER, "--sequence", &sequence.to_string(), "--timeout", timeout]);
    (output.status.code(), text(&output))
}

#[test]
fn a_watcher_that_fails_is_tried_again_and_a_wait_does_not_end_before() {
    // It takes a while to fail: a wait must not count the host before.
    let site = site_with(|folder| {
        let folder = folder.display();
        format!(
            "watch: [{{components: [services/web], command: [sh, -c, 'sleep 0.3; echo run >>{folder}/runs; test ! -e {folder}/ill || {{ echo no such port; exit 1; }}']}}]\n"
        )
    });
    let (ill, runs) = (site.folder.path().join("ill"), site.folder.path().join("runs"));
    let (code, said) = wait(&site, site.master.sequence(), "60");
    assert_eq!(code, Some(0), "{said}");

    fs::write(&ill, "").expect("it can be written");
    let sequence = site.push("services/web", "round", "1\n");
    eventually("its report to say so", || {
        let (code, said) = wait(&site, sequence, "1");
        assert_eq!(code, Some(1), "{said}");
        if said.contains("could not be told") && said.contains("no such port") { Ok(()) } else { Err(said) }
    });
    let problem =
        |status: &serde_json::Value| status["problems"].to_string().contains("is not told: the command ended");
    site.host().wait_status("say so", problem);
    let before = fs::read_to_string(&runs).expect("it ran").lines().count();
    eventually("it to run again", || {
        let now = fs::read_to_string(&runs).expect("it ran").lines().count();
        if now >= before + 2 { Ok(()) } else { Err(now.to_string()) }
    });
    // Another change arrives and is counted; this one is not.
    let later = site.push("services/api", "round", "1\n");
    let (code, said) = wait(&site, later, "60");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = wait(&site, sequence, "1");
    assert_eq!(code, Some(1), "{said}");
    // No restart forgets it.
    let mut site = site;
    site.hosts[0].daemon.kill9_and_restart();
    site.host().wait_status("say so after a restart", problem);
    let (code, said) = wait(&site, sequence, "1");
    assert!(code == Some(1) && said.contains("could not be told"), "{said}");

    // It is mended without another change.
    let mut client = site.master.client(&["wait", DATACENTER, "--sequence", &sequence.to_string()]);
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = spawn(client).expect("the client starts");
    fs::remove_file(&ill).expect("it is there");
    let output = client.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output));
    let status = site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    assert_eq!(status["watchers"][0]["state"], "told", "{status}");
}

#[test]
fn a_job_that_ignores_its_signal_is_named_where_the_change_is_waited_for() {
    let site =
        site_with(|folder| format!("watch: [{{components: [services/web], pidfile: {}/job.pid}}]\n", folder.display()));
    let mut job = command("sh", site.folder.path());
    job.args(["-c", "trap '' HUP; echo $$ >job.pid; exec sleep 1000"]).current_dir(site.folder.path());
    let mut job = spawn(job).expect("it starts");
    eventually("the job to run", || {
        fs::read_to_string(site.folder.path().join("job.pid"))
            .map_err(|error| error.to_string())
            .and_then(|text| if text.trim().is_empty() { Err("no number yet".to_owned()) } else { Ok(()) })
    });
    let sequence = site.push("services/web", "round", "1\n");
    let status = site.host().wait_status("say so", |status| status["problems"].to_string().contains("ignores SIGHUP"));
    assert_eq!(status["watchers"][0]["state"], "waiting", "{status}");
    eventually("the report to say so", || {
        let (code, said) = wait(&site, sequence, "1");
        if code == Some(1) && said.contains("ignores SIGHUP") { Ok(()) } else { Err(said) }
    });
    job.kill().expect("it is ours");
    job.wait().expect("it is ours");
    // Another one that starts reads the new files.
    let (code, said) = wait(&site, sequence, "60");
    assert_eq!(code, Some(0), "{said}");
}
