//! The central repository used otherwise than over HTTP: by path, by hand, by Git's own upkeep.

use tests::{
    Plan, Reader, Site, Work,
    git::executables,
    site::{CLASS, DATACENTER, Pointers, class, fsck, in_repository, instance},
    wire,
};

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

#[test]
fn a_push_over_a_path_lands_as_one_over_http_does() {
    let site = Site::start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    for (number, program) in executables().iter().enumerate() {
        let folder = site.folder.path().join(format!("by-path-{number}"));
        let work = Work::with_program(&folder, site.master.repo.to_str().expect("text"), program);
        work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
        let before = site.master.sequence();
        let said = work.change().file("services/web/master", "round", format!("path {number}\n")).land();
        let sequence = site.master.sequence();
        assert_eq!(sequence, before + 1);
        assert!(said.contains(&format!("{DATACENTER} #{sequence}")), "{said}");
        assert!(reader.told().sequence >= sequence);
        let wrong =
            work.change().file(CLASS, "datacenter.yaml", class(&[("services/nobody", "master", "latest")])).push();
        wrong.refused(&["services/nobody", "datacenter.yaml:2"]);
        work.try_git(&["push", "-q", "origin", "+services/web/master~1:refs/heads/services/web/master"])
            .refused(&["services/web/master", "rewind"]);
        assert_eq!(site.master.sequence(), sequence);
    }
}

#[test]
fn a_push_over_a_path_while_the_server_is_stopped_is_refused_and_says_so() {
    let mut site = central();
    for stopped_by in ["SIGTERM", "SIGKILL"] {
        if stopped_by == "SIGTERM" {
            site.master.daemon.stop();
        } else {
            site.master.daemon.kill9();
        }
        for (number, program) in executables().iter().enumerate() {
            let folder = site.folder.path().join(format!("by-path-{stopped_by}-{number}"));
            let work = Work::with_program(&folder, site.master.repo.to_str().expect("text"), program);
            work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
            let before = site.master.git(&["for-each-ref"]);
            let push = work.change().file("services/web/master", "round", "1\n").push();
            push.refused(&["conf-master", "does not run"]);
            assert_eq!(site.master.git(&["for-each-ref"]), before);
        }
        site.master.daemon.start();
        let before = site.master.sequence();
        assert_eq!(site.push("services/web", "round", &format!("{stopped_by}\n")), before + 1);
    }
}

#[test]
fn refs_moved_behind_its_back_are_landed_or_put_back_and_the_ledger_never_lies() {
    let mut site = central();
    let first = site.work.id("services/web/master");
    site.push("services/web", "round", "1\n");
    let tip = site.work.id("services/web/master");
    let snapshot = site.master.snapshot();
    site.master.daemon.stop();
    let git = |arguments: &[&str]| site.master.git(arguments);
    git(&["update-ref", "refs/heads/services/web/master", &first]);
    git(&["update-ref", "-d", "refs/heads/services/api/master"]);
    git(&["update-ref", "refs/snapshots/us-west/v1", &first]);
    git(&["update-ref", "refs/heads/nonsense", &first]);
    site.master.daemon.start();
    assert_eq!(site.master.git(&["rev-parse", "refs/heads/services/web/master"]), tip);
    assert_eq!(site.master.git(&["rev-parse", "refs/snapshots/us-west/v1"]), snapshot);
    assert!(site.master.git(&["for-each-ref"]).contains("refs/heads/services/api/master"));
    let before = site.master.sequence();
    assert_eq!(site.push("services/web", "round", "2\n"), before + 1);
    site.master.expect_unbroken_ledger();
}

#[test]
fn an_annotated_tag_deleted_and_the_repository_pruned_loses_nothing_that_was_accepted() {
    let mut site = Site::start();
    let work = &site.work;
    work.git(&["tag", "-a", "-m", "the first", "services/web/v1.0", "services/web/master"]);
    let tag = work.id("refs/tags/services/web/v1.0");
    work.push(&["refs/tags/services/web/v1.0"]).accepted();
    let pins = [("services/web", "master", "v1.0"), ("services/api", "master", "latest")];
    work.change().file(CLASS, "datacenter.yaml", class(&pins)).land();
    site.push("services/web", "round", "1\n");
    work.change().file(CLASS, "datacenter.yaml", class(&[("services/web", "master", "latest")])).land();
    work.push(&[":refs/tags/services/web/v1.0"]).accepted();
    work.change().file("services/web/spare", "a", "1").land();
    let spare = work.id("services/web/spare");
    work.push(&[":refs/heads/services/web/spare"]).accepted();
    site.wait_applied(site.master.sequence());

    site.master.daemon.stop();
    // Whoever insists takes the guard off; the next start sets it again.
    site.master.git(&["config", "extensions.preciousObjects", "false"]);
    site.master.git(&["reflog", "expire", "--expire=now", "--all"]);
    site.master.git(&["repack", "-a", "-d", "-q"]);
    site.master.git(&["prune", "--expire=now"]);
    site.master.git(&["gc", "--quiet", "--prune=now"]);
    fsck(&site.master.repo);
    // The bytes of the tag and the commit of the branch are still there: the ledger keeps what it
    // tells of.
    assert_eq!(site.master.git(&["cat-file", "-t", &spare]), "commit");
    let ledger = site.master.git(&["log", "--format=%H", "refs/conf/ledger"]);
    let kept = ledger.lines().any(|entry| {
        site.master.git(&["ls-tree", "-r", "--name-only", entry]).lines().any(|name| name.ends_with(&tag))
    });
    assert!(kept, "no ledger entry keeps the tag's bytes");
    site.master.daemon.start();
    assert_eq!(site.master.git(&["config", "extensions.preciousObjects"]), "true");
    site.push_and_wait("services/web", "round", "2\n");
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
    site.expect_whole();
}

/// With a bitmap, Git leaves out whatever any ancestor of what the host has once held.
#[test]
fn a_server_repacked_with_bitmaps_still_gives_a_late_host_all_of_a_rollback() {
    let mut site = Site::start();
    let old: Vec<u8> = (0..10_000).map(|_| rand::random()).collect();
    site.work.change().file("services/web/master", "noise", &old).land();
    site.work.git(&["tag", "services/web/old", "services/web/master"]);
    site.work.push(&["refs/tags/services/web/old"]).accepted();
    site.work.change().without("services/web/master", "noise").file("services/web/master", "round", "new\n").land();
    site.wait_applied(site.master.sequence());
    // This one starts with the newest snapshot alone and never had the old file.
    site.add_host().wait_applied(1);
    site.wait_applied(site.master.sequence());
    let have = site.master.snapshot();
    site.master.git(&["config", "extensions.preciousObjects", "false"]);
    for repo in std::iter::once(site.master.repo.clone()).chain(site.slaves[0].repositories()) {
        in_repository(&repo, &["-c", "repack.writeBitmaps=true", "repack", "-a", "-d", "-q", "-b"]);
    }
    site.master.git(&["config", "extensions.preciousObjects", "true"]);
    site.work
        .change()
        .file(CLASS, "datacenter.yaml", class(&[("services/web", "master", "old")]))
        .option("--push-option=allow-shrink")
        .land();
    site.wait_applied(site.master.sequence());
    for host in &site.hosts {
        let file = host.export().join("current/services/web/old/noise");
        assert_eq!(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())), old);
    }
    // A host that gets too little asks again for all, so the files alone do not show what was
    // answered at first. This step is one that nobody has made yet: what it needs is in no cache.
    let branch = format!("datacenters/{DATACENTER}");
    site.work.change().file(&branch, "datacenter.yaml", instance() + "platform: {region: x}\n").land();
    site.wait_applied(site.master.sequence());
    for server in [site.master.http(), site.slave().http()] {
        let answer = wire::fetch(&server, &wire::step(&site.master.snapshot(), &have)).expect("an answer");
        assert!(answer.body.len() > old.len(), "{} bytes without the old file: {server:?}", answer.body.len());
    }
    site.expect_whole();
}

#[test]
fn gits_own_upkeep_on_the_central_server_stands_in_nobodys_way() {
    let site = Site::start();
    for round in 1..=5 {
        site.push("services/web", "round", &format!("{round}\n"));
        site.master.git(&["maintenance", "run", "--task=gc", "--quiet"]);
    }
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/web/latest/round"), "5\n");
    site.expect_whole();
}
