//! Disks that are full, for a while.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tests::{
    Plan, Site, eventually,
    program::{command, run, text},
};

use crate::readiness::{expect_ready, expect_unready};

/// A small file system of a test's own, which only root can make.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(at).expect("the folder can be made");
        let mut mount = command("mount", Path::new("/"));
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(at);
        let output = run(mount);
        assert!(
            output.status.success(),
            "this story fills a disk of its own and needs root to mount one:\n{}",
            text(&output)
        );
        Small(at.to_owned())
    }

    /// Takes all the room there is.
    fn fill(&self) -> PathBuf {
        let file = self.0.join("filler");
        let mut written = fs::File::create(&file).expect("one more file");
        let chunk = vec![0; 4096];
        while std::io::Write::write(&mut written, &chunk).is_ok_and(|length| length > 0) {}
        file
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = command("umount", Path::new("/"));
        // Whoever still has files there is on their way out.
        unmount.arg("-l").arg(&self.0);
        run(unmount);
    }
}

#[test]
fn a_host_whose_disk_is_full_keeps_its_files_says_so_and_recovers_by_itself() {
    let mut site = Plan { hosts: 2, ..Plan::default() }.start_empty();
    let small = Small::mount(&site.folder.path().join("web-1"), 24);
    site.populate();
    site.add_slave();
    site.add_host();
    site.add_host();
    site.wait_applied(site.master.sequence());
    let filler = small.fill();
    let noise: Vec<u8> = (0..200_000).map(|_| rand::random()).collect();
    site.work.change().file("services/web/master", "noise", &noise).file("services/web/master", "round", "1\n").land();
    let sequence = site.master.sequence();
    site.hosts[1].wait_applied(sequence);
    let status = site.hosts[0].wait_status("say that its disk is full", |status| status["error"].is_string());
    let said = status["error"].as_str().unwrap_or_default().to_lowercase();
    assert!(said.contains("space") || said.contains("full"), "{status}");
    assert_eq!(site.hosts[0].file("services/web/latest/round"), "0\n");
    eventually("the slave to show who failed", || {
        let hosts = site.slave().http().get_json("/api/v1/hosts")?;
        if hosts.to_string().contains("failed") { Ok(()) } else { Err(hosts.to_string()) }
    });
    // It can also be started again on a full disk.
    site.hosts[0].daemon.kill9_and_restart();
    assert_eq!(site.hosts[0].file("services/web/latest/round"), "0\n");
    let readyz = |status: u16, words: &str| {
        eventually(&format!("/readyz to be {status}"), || {
            let answer = site.hosts[0].http().get("/readyz")?;
            if answer.status == status && answer.text().contains(words) { Ok(()) } else { Err(answer.text()) }
        });
    };
    readyz(503, "is full: less than");
    fs::remove_file(filler).expect("it is ours");
    readyz(200, "ready");
    site.hosts[0].wait_applied(sequence);
    assert_eq!(site.hosts[0].file("services/web/latest/round"), "1\n");
    tests::site::fsck(&site.hosts[0].repository());
    site.hosts[0].daemon.stop();
    site.hosts.clear();
    drop(small);
}

#[test]
fn a_host_whose_disk_is_too_small_for_a_change_takes_the_next_one_without_it() {
    let mut site = Plan { hosts: 1, ..Plan::default() }.start_empty();
    let small = Small::mount(&site.folder.path().join("web-1"), 16);
    site.populate();
    site.add_slave();
    site.add_host();
    site.wait_applied(site.master.sequence());
    let pid = site.host().daemon.pid();
    let mut noise = vec![0; 30 << 20];
    let mut random = fs::File::open("/dev/urandom").expect("it is there");
    std::io::Read::read_exact(&mut random, &mut noise).expect("it has no end");
    site.work.change().file("services/web/master", "noise", &noise).file("services/web/master", "round", "1\n").land();
    let status = site.host().wait_status("say that its disk is full", |status| status["error"].is_string());
    assert!(status["error"].to_string().contains("o space left"), "{status}");
    assert_eq!(site.host().file("services/web/latest/round"), "0\n");
    // The change is taken back. A step from what the host has would bring its objects all the same.
    site.work.change().without("services/web/master", "noise").file("services/web/master", "round", "2\n").land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    site.push_and_wait("services/web", "round", "3\n");
    assert_eq!(site.host().daemon.pid(), pid, "no full disk ends the agent");
    tests::site::fsck(&site.host().repository());
    site.hosts[0].daemon.stop();
    site.hosts.clear();
    drop(small);
}

#[test]
fn a_place_whose_disk_fills_keeps_its_files_says_so_and_gets_the_new_ones_when_there_is_room() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let place = site.folder.path().join("etc");
    let small = Small::mount(&place, 4);
    let mut host = site.make_host(1);
    let file = host.home.join("conf-local.yaml");
    let web = place.join("web");
    fs::write(&file, format!("export: [{{component: services/web, path: {}, mode: copy}}]\n", web.display()))
        .expect("the file can be written");
    host.daemon.argument("--config");
    host.daemon.argument(file);
    host.daemon.start();
    site.hosts.push(host);
    site.wait_applied(site.master.sequence());
    // Room for one of the two: it fills in the middle.
    let noise: Vec<u8> = (0..3_000_000).map(|_| rand::random()).collect();
    let change = site.work.change().file("services/web/master", "a", &noise).file("services/web/master", "b", &noise);
    change.file("services/web/master", "round", "1\n").file("services/api/master", "round", "1\n").land();
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    let status = site.host().status().expect("it answers");
    let fault = status["faults"]["services/web/latest"].as_str().expect("a fault");
    assert!(fault.contains("No space left"), "{fault}");
    assert_eq!(site.host().file("services/api/latest/round"), "1\n");
    assert_eq!(site.host().file("services/web/latest/round"), "0\n");
    assert_eq!(fs::read_to_string(web.join("round")).expect("it is there"), "0\n");
    // It tries again meanwhile.
    eventually("nothing half written to stay", || {
        let mut left: Vec<_> =
            fs::read_dir(&web).expect("it is there").map(|one| one.expect("one").file_name()).collect();
        left.sort();
        if left == ["config.yaml", "round"] { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let mut grow = command("mount", Path::new("/"));
    grow.args(["-o", "remount,size=32m"]).arg(&place);
    assert!(run(grow).status.success());
    site.host().wait_status("place it", |status| status["faults"] == serde_json::json!({}));
    assert_eq!(fs::read_to_string(web.join("round")).expect("it is there"), "1\n");
    assert_eq!(fs::read(web.join("b")).expect("it is there"), noise);
    site.hosts[0].daemon.stop();
    site.hosts.clear();
    drop(small);
}

#[test]
fn a_centre_whose_disk_is_full_refuses_pushes_in_words_and_serves_what_it_has() {
    let mut site = Plan { pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start_empty();
    site.master.daemon.stop();
    let folder = site.folder.path().join("small");
    let small = Small::mount(&folder, 24);
    site.master = tests::Master::start(&folder);
    site.work = tests::Work::new(&site.folder.path().join("work-2"), &site.master.git_url());
    site.populate();
    let before = site.master.sequence();
    let filler = small.fill();
    let noise: Vec<u8> = (0..200_000).map(|_| rand::random()).collect();
    let refused = site.work.change().file("services/web/master", "noise", &noise).push();
    // It is not even taken in.
    refused.refused(&["could not be kept", "o space left"]);
    site.work.change().file("services/web/master", "round", "1\n").push().refused(&["o space left"]);
    assert_eq!(site.master.sequence(), before);
    expect_unready(&site.master, "is full");
    assert!(site.work.git(&["ls-remote", "origin"]).contains("services/web/master"));
    fs::remove_file(filler).expect("it is ours");
    expect_ready(&site.master);
    assert_eq!(site.push("services/web", "round", "2\n"), before + 1);
    site.master.expect_unbroken_ledger();
    site.master.daemon.stop();
}

#[test]
fn a_slave_whose_disk_is_full_says_so_serves_what_it_has_and_catches_up() {
    let mut site = Plan::default().start_empty();
    let small = Small::mount(&site.folder.path().join("slave-1"), 24);
    site.populate();
    site.add_slave();
    site.add_host();
    site.wait_applied(site.master.sequence());
    let filler = small.fill();
    let noise: Vec<u8> = (0..200_000).map(|_| rand::random()).collect();
    let before = site.master.snapshot();
    site.work.change().file("services/web/master", "noise", &noise).land();
    let sequence = site.master.sequence();
    eventually("the slave to say that its disk is full", || {
        let status = site.slave().status()?;
        let said = status["problems"].to_string().to_lowercase();
        if said.contains("space") || said.contains("full") { Ok(()) } else { Err(status.to_string()) }
    });
    let served = site.work.git(&["ls-remote", &format!("{}/conf.git", site.slave().public_url()), "refs/snapshots/*"]);
    assert!(served.contains(&before), "{before} is not in {served}");
    let readyz = |status: u16, words: &str| {
        eventually(&format!("/readyz to be {status}"), || {
            let answer = site.slave().http().get("/readyz")?;
            if answer.status == status && answer.text().contains(words) { Ok(()) } else { Err(answer.text()) }
        });
    };
    readyz(503, "is full: less than");
    fs::remove_file(filler).expect("it is ours");
    readyz(200, "ready");
    site.wait_applied(sequence);
    site.slaves[0].daemon.stop();
    let Site { slaves, hosts, .. } = &mut site;
    hosts.clear();
    slaves.clear();
    drop(small);
}
