//! Clocks that are set forward and back. The programs run with a clock of their own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Daemon, Plan, Site, eventually,
    program::{command, run, text},
    remove_folder,
    site::{DATACENTER, Pointers},
};

use crate::freshness::{self, LATER, wait_stale};

/// Builds the library that gives a process another time.
pub(crate) fn library(folder: &Path) -> PathBuf {
    let (source, built) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clock.c"), folder.join("clock.so"));
    let mut compiler = command("cc", folder);
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&built).arg(source).arg("-ldl");
    let output = run(compiler);
    assert!(output.status.success(), "{}", text(&output));
    built
}

/// Gives a daemon a clock of its own from its next start on, and returns the file that moves it.
pub(crate) fn own_clock(library: &Path, daemon: &mut Daemon, file: PathBuf) -> PathBuf {
    fs::write(&file, "0").expect("it can be written");
    daemon.environment("LD_PRELOAD", library);
    daemon.environment("CLOCK_SHIFT", &file);
    file
}

/// Pushes a change and expects that conf-master counts the host soon.
#[track_caller]
fn counts(site: &Site, when: &str) {
    let sequence = site.push("services/web", "round", &format!("{when}\n"));
    let path = format!("/api/v1/delivery?datacenter={DATACENTER}&sequence={sequence}");
    eventually(&format!("the report to count {when}"), || {
        let delivery = site.master.http().get_json(&path)?;
        if delivery["datacenters"][0]["delivered"] == 1 { Ok(()) } else { Err(delivery.to_string()) }
    });
}

#[test]
fn reports_count_whatever_the_clocks_of_host_and_centre_say() {
    let site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let mut site = site;
    let library = library(site.folder.path());
    let mut host = site.make_host(1);
    let of_host = own_clock(&library, &mut host.daemon, site.folder.path().join("clock-host"));
    let of_master = own_clock(&library, &mut site.master.daemon, site.folder.path().join("clock-master"));
    site.master.daemon.restart();
    host.daemon.start();
    site.hosts.push(host);
    // A host with a key signs its reports.
    let identity = site.hosts[0].run(&["identity", "--state", site.hosts[0].state.to_str().expect("text")]);
    let key = text(&identity);
    let key = key.lines().find(|line| line.starts_with("ssh-ed25519 ")).expect("a key");
    let inventory = format!("{}inventories:\n  hosts:\n    web-1: {{key: {key}}}\n", tests::site::instance());
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", inventory).land();
    counts(&site, "at first");
    for (who, seconds) in
        [("host", 3600), ("host", -3600), ("host", 0), ("master", 3600), ("master", -3600), ("master", 0)]
    {
        fs::write(if who == "host" { &of_host } else { &of_master }, seconds.to_string()).expect("it can be written");
        counts(&site, &format!("with the clock of the {who} at {seconds}"));
        if who == "host" {
            site.hosts[0].daemon.restart();
            counts(&site, &format!("after a restart with the clock of the {who} at {seconds}"));
        }
    }
    // The host's state is lost while its clock is right.
    site.hosts[0].daemon.stop();
    let identity = fs::read(site.hosts[0].state.join("identity")).expect("its key");
    fs::remove_dir_all(&site.hosts[0].state).expect("it can be removed");
    fs::create_dir_all(&site.hosts[0].state).expect("it can be made");
    fs::write(site.hosts[0].state.join("identity"), identity).expect("it can be written");
    let mut private = command("chmod", site.folder.path());
    private.arg("600").arg(site.hosts[0].state.join("identity"));
    assert!(run(private).status.success());
    site.hosts[0].daemon.start();
    counts(&site, "after the state was lost");
    let hosts: Value = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts")).expect("hosts");
    assert_eq!(hosts["hosts"][0]["proof"], "signed", "{hosts}");
}

#[test]
fn a_clock_an_hour_off_makes_no_host_stale_for_good() {
    let site = freshness::site(Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() });
    let library = library(site.folder.path());
    for (seconds, side) in [(3600, "min behind this"), (-3600, "min ahead of this")] {
        let mut host = site.make_host(1);
        let clock = own_clock(&library, &mut host.daemon, site.folder.path().join("clock-host"));
        fs::write(&clock, seconds.to_string()).expect("it can be written");
        host.daemon.start();
        // Nothing tells an old statement from a wrong clock yet.
        wait_stale("the host", LATER, true, || host.status());
        let is_said = |status: &Value| status["problems"].to_string().contains(side);
        wait_stale("the host", LATER * 3, false, || host.status());
        host.wait_status("say that the clocks differ", is_said);
        // A clock that is set in the run changes nothing but that.
        for now in [-2 * seconds, 0] {
            fs::write(&clock, now.to_string()).expect("it can be written");
            let status = host.wait_status("see the clock", |status| {
                let skew = status["freshness"]["skew_seconds"].as_i64();
                skew.is_some_and(|skew| (skew + now).abs() < 5)
            });
            assert_eq!(status["freshness"]["stale"], false, "{status}");
        }
        host.wait_status("be well", |status| status["problems"] == serde_json::json!([]));
        // Where nothing comes any more, a clock that is set back to then helps nobody.
        site.slave().daemon.signal(Signal::STOP);
        wait_stale("the host", LATER * 3, true, || host.status());
        fs::write(&clock, "-20").expect("it can be written");
        let status =
            host.wait_status("see the clock", |status| status["freshness"]["skew_seconds"].as_i64() > Some(15));
        assert_eq!(status["freshness"]["stale"], true, "{status}");
        site.slave().daemon.signal(Signal::CONT);
        wait_stale("the host", LATER * 2, false, || host.status());
        drop(host);
        remove_folder(&site.folder.path().join("web-1"));
    }
}
