//! conf-slave's repository: lost, damaged, and asked to go back.

#![expect(clippy::unwrap_used, reason = "a test may end in a panic, in its helpers too")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use tests::{
    Site, eventually,
    http::Address,
    remove_folder,
    site::{DATACENTER, Plan, Pointers},
};

/// What is done to a repository, and its name.
type Damage<'d> = (&'d str, &'d dyn Fn(&Site));

fn site() -> Site {
    Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start()
}

fn repository(site: &Site) -> PathBuf {
    site.slave().state.join("repo.git")
}

/// Every object of the repository, in loose files and packs.
fn object_files(repo: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(repo.join("objects")).expect("it has objects").map(|entry| entry.unwrap().path());
    let files = folders.filter(|path| path.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    assert!(!files.is_empty(), "{} has no objects", repo.display());
    files
}

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    // A Git program that outlives its daemon may have renamed it.
    let Ok(mut content) = fs::read(path) else { return };
    change(&mut content);
    // Git's files are read-only.
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
}

/// A plain clone shows the datacenter, its branches, and nothing wrong.
#[track_caller]
fn expect_whole(site: &Site, name: &str) {
    let folder = site.folder.path().join(name);
    let url = format!("{}/conf.git", site.slave().url);
    site.work.git(&["clone", "--quiet", &url, folder.to_str().unwrap()]);
    assert!(folder.join("datacenter/datacenter.yaml").exists());
    tests::site::fsck(&repository(site));
}

#[track_caller]
fn wait_ready(address: &Address) {
    eventually("the slave to be ready", || {
        let answer = address.get("/readyz")?;
        if answer.status.is_success() { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn a_damaged_repository_is_cloned_anew_at_start() {
    let mut site = site();
    let sequence = site.master.sequence();
    site.slave().wait_at(sequence);
    let reference = format!("refs/snapshots/{DATACENTER}");
    let all = |site: &Site, change: &dyn Fn(&mut Vec<u8>)| {
        object_files(&repository(site)).iter().for_each(|file| overwrite(file, change));
    };
    let damages: [Damage<'_>; 9] = [
        ("objects-truncated", &|site| all(site, &|bytes| bytes.truncate(bytes.len() / 2))),
        ("objects-zeroed", &|site| all(site, &|bytes| bytes.fill(0))),
        ("objects-gone", &|site| {
            object_files(&repository(site)).iter().for_each(|file| drop(fs::remove_file(file)));
        }),
        ("head", &|site| overwrite(&repository(site).join("HEAD"), Vec::clear)),
        ("config", &|site| overwrite(&repository(site).join("config"), |bytes| bytes.fill(b'['))),
        ("ref-emptied", &|site| overwrite(&repository(site).join(&reference), Vec::clear)),
        ("ref-gone", &|site| fs::remove_file(repository(site).join(&reference)).unwrap()),
        ("stale-lock", &|site| fs::write(repository(site).join(format!("{reference}.lock")), "").unwrap()),
        ("everything-gone", &|site| remove_folder(&repository(site))),
    ];
    for (name, damage) in damages {
        site.slaves[0].daemon.kill9();
        damage(&site);
        site.slaves[0].daemon.start();
        wait_ready(&site.slave().http());
        site.slave().wait_at(sequence);
        expect_whole(&site, name);
    }
    let sequence = site.push("services/web", "round", "after it all\n");
    site.slave().wait_at(sequence);
}

#[test]
fn damage_under_a_running_slave_is_found_when_it_matters() {
    let mut site = site();
    site.slave().wait_at(site.master.sequence());
    site.wait_branches();
    for file in object_files(&repository(&site)) {
        overwrite(&file, |bytes| bytes.fill(0));
    }
    let url = format!("{}/conf.git", site.slave().url);
    // The first clone fails; what it meets is looked into.
    eventually("a clone to work again", || {
        let folder = tempfile::tempdir().unwrap();
        let tried = site.work.try_git(&["clone", "--quiet", &url, folder.path().join("it").to_str().unwrap()]);
        if tried.ok { Ok(()) } else { Err(tried.text) }
    });
    expect_whole(&site, "later");
    let sequence = site.push("services/web", "round", "after it\n");
    site.slave().wait_at(sequence);
    // What is written down is as good as what is known.
    site.slaves[0].daemon.stop();
    site.slaves[0].daemon.start();
    site.slave().wait_at(sequence);
}

#[test]
fn damage_under_a_running_slave_is_shown_and_heals_though_nobody_asks_and_nothing_changes() {
    let mut site = site();
    site.slave().wait_at(site.master.sequence());
    let branch = "refs/heads/services/web/master";
    let has_branches = |site: &Site| {
        let listed = site.work.git(&["ls-remote", &format!("{}/conf.git", site.slave().url)]);
        if listed.contains(branch) { Ok(()) } else { Err(listed) }
    };
    eventually("its branches", || has_branches(&site));
    let tip = fs::read(repository(&site).join(branch)).unwrap();
    let reference = format!("refs/snapshots/{DATACENTER}");
    let zero = |site: &Site, name: &str| overwrite(&repository(site).join(name), |bytes| bytes.fill(0));
    let damages: [Damage<'_>; 7] = [
        ("a branch zeroed", &|site| zero(site, branch)),
        ("a branch removed", &|site| fs::remove_file(repository(site).join(branch)).unwrap()),
        ("the ref zeroed", &|site| zero(site, &reference)),
        ("packed-refs damaged", &|site| fs::write(repository(site).join("packed-refs"), "no refs\n").unwrap()),
        ("the objects removed", &|site| remove_folder(&repository(site).join("objects"))),
        ("the repository removed", &|site| remove_folder(&repository(site))),
        ("the whole state removed", &|site| remove_folder(&site.slave().state)),
    ];
    for (name, damage) in damages {
        // It cannot be mended at once.
        site.master.daemon.stop();
        damage(&site);
        eventually(&format!("the slave to show: {name}"), || {
            let status = site.slave().status()?;
            let problems = status["problems"].to_string();
            let is_shown = problems.contains("damaged") || problems.contains("branches and tags are not up to date");
            if is_shown { Ok(()) } else { Err(status.to_string()) }
        });
        site.master.daemon.start();
        eventually(&format!("the slave to heal: {name}"), || {
            let status = site.slave().status()?;
            let is_well = status["problems"] == serde_json::json!([]);
            if is_well && fs::read(repository(&site).join(branch)).ok() == Some(tip.clone()) {
                has_branches(&site)
            } else {
                Err(status.to_string())
            }
        });
        expect_whole(&site, &name.replace(' ', "-"));
    }
    let sequence = site.push("services/web", "round", "after it all\n");
    site.slave().wait_at(sequence);
    site.slaves[0].daemon.restart();
    site.slave().wait_at(sequence);
}

#[test]
fn a_central_repository_that_was_put_back_is_not_followed_back() {
    let mut site = site();
    let before = site.master.sequence();
    site.slave().wait_at(before);
    site.master.daemon.stop();
    let backup = site.folder.path().join("backup.git");
    let copied = std::process::Command::new("cp").arg("-a").arg(&site.master.repo).arg(&backup).status().unwrap();
    assert!(copied.success());
    site.master.daemon.start();
    let after = site.push("services/web", "round", "lost\n");
    site.slave().wait_at(after);

    site.master.daemon.stop();
    remove_folder(&site.master.repo);
    fs::rename(&backup, &site.master.repo).unwrap();
    site.master.daemon.start();
    let keeps = |site: &Site| {
        eventually("the slave to say what it sees", || {
            let status = site.slave().status()?;
            if status["problems"].to_string().contains("older state") { Ok(()) } else { Err(status.to_string()) }
        });
        assert_eq!(site.slave().status().unwrap()["sequence"], after);
    };
    keeps(&site);
    site.slaves[0].daemon.kill9();
    site.slaves[0].daemon.start();
    keeps(&site);
    // Without its repository it knows the sequence still, and serves nothing rather than something older.
    site.slaves[0].daemon.kill9();
    remove_folder(&repository(&site));
    site.slaves[0].daemon.start();
    eventually("the slave to say what it sees", || {
        let status = site.slave().status()?;
        if status["problems"].to_string().contains("older state") { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(site.slave().http().get("/readyz").unwrap().status, 503);
}

#[test]
fn an_empty_slave_waits_for_the_central_server() {
    let mut site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site.master.daemon.stop();
    site.add_slave();
    let answer = site.slave().http().get("/readyz").unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    site.master.daemon.start();
    wait_ready(&site.slave().http());
    let status = site.slave().status().unwrap();
    assert_eq!(status["sequence"], site.master.sequence());
    // With what it has it serves without anyone.
    site.master.daemon.stop();
    site.slaves[0].daemon.kill9();
    site.slaves[0].daemon.start();
    wait_ready(&site.slave().http());
    let folder = site.folder.path().join("alone");
    site.work.git(&["clone", "--quiet", &format!("{}/conf.git", site.slave().url), folder.to_str().unwrap()]);
    assert!(folder.join("datacenter/datacenter.yaml").exists());
}
