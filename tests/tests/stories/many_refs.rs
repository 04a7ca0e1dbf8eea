//! A central repository of many branches, which Git must not list one file after the other.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rand::Rng as _;
use tests::{
    DEADLINE, Plan, Site, eventually, eventually_within,
    site::{Pointers, fsck},
};

use crate::readiness::{expect_ready, expect_unready};

/// More branches than conf-master leaves in files of their own.
const MANY: usize = 120;

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

fn branch(of: &str, number: usize) -> String {
    format!("services/{of}-{number}/master")
}

/// Commits to many branches, and returns their names.
fn commit(site: &Site, of: &str, content: &str) -> Vec<String> {
    let branches: Vec<String> = (0..MANY).map(|number| branch(of, number)).collect();
    let change = site.work.change();
    branches.iter().fold(change, |change, branch| change.file(branch, "round", content)).commit();
    branches.iter().map(|branch| format!("refs/heads/{branch}")).collect()
}

fn push(site: &Site, branches: &[String]) -> tests::git::Outcome {
    site.work.push(&branches.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The files of refs that are not packed, and the folders that hold none.
fn files_of_refs(folder: &Path) -> (Vec<PathBuf>, usize) {
    let (mut files, mut empty) = (Vec::new(), 0);
    // A folder may go meanwhile.
    let entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    for entry in &entries {
        if entry.path().is_dir() {
            let (inner, without) = files_of_refs(&entry.path());
            empty += without + usize::from(inner.is_empty() && without == 0);
            files.extend(inner);
        } else {
            files.push(entry.path());
        }
    }
    (files, empty)
}

/// Every branch of the clone that pushes is where it is there.
fn expect_all(site: &Site, branches: &[String]) {
    let listed = site.master.git(&["for-each-ref", "--format=%(objectname) %(refname)"]);
    for branch in branches {
        let line = format!("{} {branch}", site.work.id(branch));
        assert!(listed.lines().any(|one| one == line), "{line} is not among\n{listed}");
    }
}

#[test]
fn a_push_of_many_branches_leaves_them_packed_and_single_ones_follow() {
    let mut site = central();
    let branches = commit(&site, "many", "0\n");
    push(&site, &branches).accepted();
    let refs = site.master.repo.join("refs");
    let loose = |site: &Site| files_of_refs(&site.master.repo.join("refs")).0.len();
    assert!(loose(&site) < 10, "{:?}", files_of_refs(&refs));
    expect_all(&site, &branches);
    // Single changes gather, and are packed in their turn.
    for some in (0..MANY).collect::<Vec<_>>().chunks(40) {
        let change = some
            .iter()
            .fold(site.work.change(), |change, number| change.file(&branch("many", *number), "round", "1\n"));
        change.land();
    }
    eventually("the refs to be packed again", || {
        let (files, empty) = files_of_refs(&refs);
        // A folder that a program of Git opens just then stays until the next start.
        if files.len() < 100 && empty < 10 {
            Ok(())
        } else {
            Err(format!("{} files, {empty} empty folders", files.len()))
        }
    });
    expect_all(&site, &branches);
    // Deleted branches stay deleted, also after a restart.
    let gone = branch("many", 7);
    site.work
        .change()
        .option(&format!("--push-option=delete={gone}"))
        .also(&format!(":refs/heads/{gone}"))
        .push()
        .accepted();
    site.master.daemon.restart();
    assert!(!site.master.git(&["for-each-ref"]).contains(&format!("refs/heads/{gone}\n")));
    site.push("services/web", "round", "last\n");
    fsck(&site.master.repo);
    site.master.expect_unbroken_ledger();
}

#[test]
fn a_lost_or_damaged_file_of_packed_refs_is_said_and_written_anew() {
    let mut site = central();
    let branches = commit(&site, "many", "0\n");
    push(&site, &branches).accepted();
    let packed = site.master.repo.join("packed-refs");
    let good = fs::read_to_string(&packed).expect("the refs are packed");
    for damage in [Some("\0garbage\n"), Some(""), None] {
        match damage {
            Some(content) => fs::write(&packed, content).expect("it can be written"),
            None => fs::remove_file(&packed).expect("it is there"),
        }
        expect_unready(&site.master, "refs/heads/main cannot be read");
        expect_ready(&site.master);
        expect_all(&site, &branches);
        site.push("services/web", "round", &format!("after {damage:?}\n"));
    }
    // At a start, too.
    site.master.daemon.stop();
    fs::write(&packed, &good[..good.len() / 2]).expect("it can be written");
    site.master.daemon.start();
    expect_all(&site, &branches);
    site.master.expect_unbroken_ledger();
}

#[test]
fn refs_that_fell_back_to_their_packed_values_are_put_right() {
    let mut site = central();
    let branches = commit(&site, "many", "0\n");
    push(&site, &branches).accepted();
    let sequence = site.push("services/web", "round", "1\n");
    let right = site.master.git(&["for-each-ref"]);
    site.master.daemon.stop();
    // Among them the ledger's, a branch's and a snapshot's.
    let (files, _) = files_of_refs(&site.master.repo.join("refs"));
    assert!(files.len() >= 3, "{files:?}");
    files.iter().for_each(|file| fs::remove_file(file).expect("it is there"));
    assert_ne!(site.master.git(&["for-each-ref"]), right);
    site.master.daemon.start();
    assert_eq!(site.master.git(&["for-each-ref"]), right);
    assert_eq!(site.master.sequence(), sequence);
    site.push("services/web", "round", "2\n");
    site.master.expect_unbroken_ledger();
}

#[test]
fn conf_master_killed_while_it_packs_refs_loses_none() {
    let mut site = central();
    let mut rounds = 0;
    let branches = commit(&site, "many", "0\n");
    push(&site, &branches).accepted();
    let over = AtomicBool::new(false);
    let Site { master, work, .. } = &mut site;
    let kills = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills = 0_u64;
            while !over.load(Ordering::Relaxed) {
                // Less and less often, so that pushes get through on a slow machine too.
                let most = 300 + 20 * kills + kills * kills * kills / 4;
                thread::sleep(Duration::from_millis(rand::rng().random_range(5..most.min(30_000))));
                master.daemon.kill9_and_restart();
                kills += 1;
            }
            kills
        });
        let pushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=12 {
                rounds = round;
                let change = work.change();
                let content = format!("{round}\n");
                let change =
                    (0..MANY).fold(change, |change, number| change.file(&branch("many", number), "round", &content));
                change.commit();
                eventually_within(3 * DEADLINE, &format!("round {round} to be accepted"), || {
                    let refs: Vec<&str> = branches.iter().map(String::as_str).collect();
                    let outcome = work.push(&refs);
                    if outcome.ok { Ok(()) } else { Err(outcome.text) }
                });
            }
        }));
        over.store(true, Ordering::Relaxed);
        let kills = killer.join();
        pushed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        kills.expect("the daemon starts again")
    });
    assert!(kills >= 3, "only {kills} kills in {rounds} rounds");
    expect_all(&site, &branches);
    fsck(&site.master.repo);
    site.master.expect_unbroken_ledger();
    assert!(files_of_refs(&site.master.repo.join("refs")).0.len() < MANY);
}
