//! Unmodified git clients against the central server and the caches.

use std::fs;

use hyper::Method;
use tests::{
    Plan, Site, Work,
    git::{executables, git},
    program::{run, text},
    site::{CLASS, DATACENTER, Pointers, fsck},
};

#[test]
fn clone_fetch_log_and_verify_commit_work_with_every_git_against_master_and_slave() {
    let site = Site::start();
    site.push_and_wait("services/web", "round", "1\n");
    let signers = site.folder.path().join("allowed_signers");
    let key = fs::read_to_string(site.master.trusted_key()).expect("init writes the key");
    let mut words = key.split_whitespace();
    let key = match words.next() {
        Some(first) if first.starts_with("ssh-") => key.trim().to_owned(),
        _ => words.collect::<Vec<_>>().join(" "),
    };
    fs::write(&signers, format!("* namespaces=\"git\" {key}\n")).expect("the folder can be written");
    for program in executables() {
        for (name, url) in [("master", site.master.git_url()), ("slave", format!("{}/conf.git", site.slave().url))] {
            let number = rand::random::<u32>();
            let folder = site.folder.path().join(format!("clone-{number}"));
            for version in ["0", "2"] {
                let _ = fs::remove_dir_all(&folder);
                let mut clone = git(&program, site.folder.path());
                clone.args(["-c", &format!("protocol.version={version}"), "clone", &url]).arg(&folder);
                let output = run(clone);
                let said = text(&output);
                assert!(output.status.success(), "clone from {name} by version {version}:\n{said}");
                assert!(
                    !said.to_lowercase().contains("warning"),
                    "clone from {name} by version {version} warns:\n{said}"
                );
            }
            let here = |arguments: &[&str]| {
                let mut command = git(&program, &folder);
                command.args(arguments);
                let output = run(command);
                assert!(output.status.success(), "git {arguments:?} from {name}:\n{}", text(&output));
                text(&output)
            };
            assert!(here(&["branch", "-r"]).contains("origin/services/web/master"), "{}", here(&["branch", "-r"]));
            site.push_and_wait("services/web", "round", &format!("{number}\n"));
            tests::eventually("the branch to arrive", || {
                here(&["fetch", "-q", "origin"]);
                let tip = here(&["rev-parse", "origin/services/web/master"]);
                if tip.trim() == site.work.id("services/web/master") { Ok(()) } else { Err(tip) }
            });
            assert!(here(&["log", "--oneline", "origin/services/web/master"]).lines().count() >= 2);
            here(&["fetch", "-q", "origin", "refs/snapshots/us-west/v1:refs/heads/deployed"]);
            let log = here(&["log", "--format=%s%n%b", "deployed"]);
            assert!(log.contains(DATACENTER) && log.contains("Conf-Sequence: "), "{log}");
            let signers = format!("gpg.ssh.allowedSignersFile={}", signers.display());
            here(&["-c", &signers, "verify-commit", "deployed"]);
            here(&["-c", &signers, "verify-commit", "deployed~1"]);
            here(&["fsck", "--full"]);
        }
    }
}

#[test]
fn a_clone_of_a_slave_leaves_the_composed_datacenter_in_the_working_tree() {
    let site = Site::start();
    let folder = site.folder.path().join("clone");
    let mut clone = git("git".as_ref(), site.folder.path());
    clone.args(["clone", "-q", &format!("{}/conf.git", site.slave().url)]).arg(&folder);
    let output = run(clone);
    assert!(output.status.success(), "{}", text(&output));
    let found = fs::read_dir(folder.join("services"))
        .expect("the kind's folder")
        .flatten()
        .any(|fan| fs::read_to_string(fan.path().join("web/latest/round")).is_ok_and(|content| content == "0\n"));
    assert!(found, "services/<hh>/web/latest/round is in the working tree");
    assert!(folder.join("datacenter/datacenter.yaml").exists());
    assert!(folder.join("datacenter-configuration/datacenter.yaml").exists());
}

#[test]
fn a_slave_takes_no_push() {
    let site = Site::start();
    let work = Work::new(&site.folder.path().join("wrong"), &format!("{}/conf.git", site.slave().url));
    site.wait_branches();
    let before = site
        .slave()
        .repositories()
        .iter()
        .map(|repo| tests::site::in_repository(repo, &["for-each-ref"]))
        .collect::<Vec<_>>();
    work.change().file("services/web/other", "a", "1").push().refused(&[]);
    let after = site
        .slave()
        .repositories()
        .iter()
        .map(|repo| tests::site::in_repository(repo, &["for-each-ref"]))
        .collect::<Vec<_>>();
    assert_eq!(before, after);
}

#[test]
fn pushes_of_every_form_land_with_every_git() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    let mut expected = site.master.sequence();
    for (number, program) in executables().iter().enumerate() {
        for version in ["0", "1", "2"] {
            let folder = site.folder.path().join(format!("work-{number}-{version}"));
            let work = Work::with_program(&folder, &site.master.git_url(), program);
            work.git(&["config", "protocol.version", version]);
            work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
            // A new branch, a change, a tag, a deletion, in one.
            let spare = format!("services/web/spare-{number}-{version}");
            work.change().file(&spare, "a", "1").land();
            work.change().file("services/web/master", "round", format!("{spare}\n")).commit();
            work.git(&["tag", &format!("services/web/t{number}{version}"), "services/web/master"]);
            let tag = format!("refs/tags/services/web/t{number}{version}");
            work.push(&["refs/heads/services/web/master", &tag, &format!(":refs/heads/{spare}")]).accepted();
            expected += 2;
            assert_eq!(site.master.sequence(), expected);
            // Chunked, as large packs are sent, and compressed.
            work.git(&["config", "http.postBuffer", "65536"]);
            let noise: Vec<u8> = (0..300_000).map(|_| rand::random()).collect();
            work.change().file("services/web/master", "noise", &noise).land();
            expected += 1;
            assert_eq!(site.master.sequence(), expected);
            // Out of a shallow clone.
            let shallow = site.folder.path().join(format!("shallow-{number}-{version}"));
            let shallow = Work::with_program(&shallow, &site.master.git_url(), program);
            shallow.git(&[
                "fetch",
                "-q",
                "--depth=1",
                "origin",
                "+refs/heads/services/web/master:refs/heads/services/web/master",
            ]);
            shallow.change().file("services/web/master", "round", format!("shallow {spare}\n")).land();
            expected += 1;
            assert_eq!(site.master.sequence(), expected);
        }
    }
    site.master.expect_unbroken_ledger();
    fsck(&site.master.repo);
}

#[test]
fn a_large_push_and_clone_pass_in_constant_memory() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    // Many files, since none may be larger than a limit.
    let (files, each) = (24, 8 << 20);
    let mut noise = vec![0; each];
    rand::Rng::fill(&mut rand::rng(), &mut noise[..]);
    site.work.git(&["config", "core.bigFileThreshold", "1m"]);
    site.work.git(&["config", "core.compression", "0"]);
    let mut change = site.work.change();
    for file in 0..files {
        noise[0] = file;
        change = change.file("services/large/master", &format!("noise-{file}"), &noise);
    }
    change.land();
    let size = usize::from(files) * each;
    let folder = site.folder.path().join("large");
    let mut clone = git("git".as_ref(), site.folder.path());
    clone
        .args(["clone", "-q", "--bare", "--single-branch", "-b", "services/large/master", &site.master.git_url()])
        .arg(&folder);
    let output = run(clone);
    assert!(output.status.success(), "{}", text(&output));
    let status = fs::read_to_string(format!("/proc/{}/status", site.master.daemon.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says");
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    assert!(peak < 150 << 10, "conf-master took {peak} kB for a pack of {} kB", size >> 10);
}

#[test]
fn the_first_clone_of_a_new_centre_explains_the_layout_and_warns_of_nothing() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    for program in executables() {
        let folder = site.folder.path().join(format!("first-{}", rand::random::<u32>()));
        let mut clone = git(&program, site.folder.path());
        clone.args(["clone", &site.master.git_url()]).arg(&folder);
        let output = run(clone);
        let said = text(&output);
        assert!(output.status.success() && !said.to_lowercase().contains("warning"), "{said}");
        let readme = fs::read_dir(&folder).expect("a working tree").flatten();
        let readme = readme.filter(|entry| entry.file_name().to_string_lossy().starts_with("README")).count();
        assert_eq!(readme, 1);
    }
    assert!(CLASS.starts_with("datacenter-configuration/"));
}

/// Asks for the list of refs that a push begins with.
fn listed(site: &Site, version: Option<&str>) -> String {
    let headers: Vec<_> = version.iter().map(|version| ("git-protocol", *version)).collect();
    let path = "/conf.git/info/refs?service=git-receive-pack";
    let answer = site.master.http().request(Method::GET, path, &headers, Vec::<u8>::new()).expect("it answers");
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.text()
}

#[test]
fn pushers_are_shown_the_refs_that_git_would_list() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    site.work.git(&["tag", "-a", "-m", "one", "services/web/v1", "services/web/master"]);
    site.work.git(&["tag", "services/web/v2", "services/web/master"]);
    site.work.push(&["refs/tags/services/web/v1", "refs/tags/services/web/v2"]).accepted();
    site.work.change().file("services/gone/master", "a", "b\n").land();
    let gone = "services/gone/master";
    site.work.git(&["push", "-q", "-o", &format!("delete={gone}"), "origin", &format!(":refs/heads/{gone}")]);
    for round in 0..2 {
        site.push("services/web", "round", &format!("{round}\n"));
        let repo = site.master.repo.display().to_string();
        let of_git = site.master.git(&["receive-pack", "--http-backend-info-refs", &repo]);
        let of_http = format!("001f# service=git-receive-pack\n0000{of_git}");
        for version in [None, Some("version=0"), Some("version=2")] {
            assert_eq!(listed(&site, version), of_http, "{version:?}");
        }
        assert!(listed(&site, Some("version=1")).contains("000eversion 1\n"));
    }
}
