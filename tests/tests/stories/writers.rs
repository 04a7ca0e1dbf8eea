//! Many writers of one branch at once, some through the API and some with git, while the central server is killed.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use hyper::Method;
use serde_json::json;
use tests::{DEADLINE, Plan, Work, eventually_within, http::Address, site::Pointers};

const WEB: &str = "services/web";
const BRANCH: &str = "services/web/master";
const EACH: usize = 25;
/// How often each writer through the API succeeds.
const ROUNDS: usize = 2;

/// What writers were told.
#[derive(Default)]
struct Told {
    /// The commit and the version of each accepted update through the API.
    accepted: Mutex<Vec<(String, u64)>>,
    /// The marks of updates that were refused.
    refused: Mutex<Vec<String>>,
    /// The commits of accepted pushes.
    pushed: Mutex<Vec<String>>,
    /// How many changes were accepted.
    landed: AtomicUsize,
}

/// Writes until it has succeeded so often; what was not answered is sent again under the same key.
fn write_through_api(master: &Address, writer: usize, told: &Told) {
    let mut attempts = 0;
    let mut succeeded = 0;
    while succeeded < ROUNDS {
        attempts += 1;
        let mark = format!("writer-{writer}-{attempts}");
        let current = eventually_within(3 * DEADLINE, "the section to be read", || {
            master.get_json(&format!("/api/v1/config/{WEB}"))
        });
        let request = json!({"section": WEB, "config": {"mark": mark}, "version": current["version"]});
        let body = json!({"request": request}).to_string();
        let answer = eventually_within(3 * DEADLINE, "an update to be answered", || {
            let headers = [("idempotency-key", mark.as_str())];
            let answer = master.request(Method::POST, "/api/v1/config/update", &headers, body.clone())?;
            if answer.status.is_server_error() { Err(answer.text()) } else { Ok(answer) }
        });
        let body = answer.json();
        match answer.status.as_u16() {
            200 => {
                let commit = body["commit"].as_str().expect("a commit").to_owned();
                told.accepted.lock().expect("not poisoned").push((commit, body["version"].as_u64().expect("a number")));
                told.landed.fetch_add(1, Ordering::Relaxed);
                succeeded += 1;
            }
            409 => told.refused.lock().expect("not poisoned").push(mark),
            other => panic!("{other}: {body}"),
        }
    }
}

/// Pushes one change, made anew on what is newest until it is accepted.
fn write_with_git(url: &str, folder: &Path, writer: usize, told: &Told) {
    let work = Work::new(&folder.join(format!("git-{writer}")), url);
    let reference = format!("refs/heads/{BRANCH}");
    let fetch = format!("+{reference}:{reference}");
    let mut made: Option<String> = None;
    eventually_within(5 * DEADLINE, "a push to be accepted", || {
        let fetched = work.try_git(&["fetch", "-q", "origin", &fetch]);
        if !fetched.ok {
            return Err(fetched.text);
        }
        // A push whose end nobody saw may have landed.
        if let Some(made) = &made
            && work.try_git(&["merge-base", "--is-ancestor", made, &reference]).ok
        {
            return Ok(());
        }
        work.change().file(BRANCH, &format!("writers/{writer}"), "1\n").commit();
        made = Some(work.id(&reference));
        let outcome = work.push(&[&reference]);
        if outcome.ok { Ok(()) } else { Err(outcome.text) }
    });
    told.pushed.lock().expect("not poisoned").push(made.expect("a commit was made"));
    told.landed.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn fifty_writers_of_one_branch_make_one_line_whatever_is_killed() {
    let mut site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    let before = site.master.sequence();
    let told = Told::default();
    let (master, url, folder) = (site.master.http(), site.master.git_url(), site.folder.path().to_owned());
    thread::scope(|scope| {
        for writer in 0..EACH {
            let (master, url, folder, told) = (&master, &url, &folder, &told);
            scope.spawn(move || write_through_api(master, writer, told));
            scope.spawn(move || write_with_git(url, folder, writer, told));
        }
        for kill_after in [EACH / 2, 2 * EACH] {
            eventually_within(5 * DEADLINE, "enough changes to land", || {
                let landed = told.landed.load(Ordering::Relaxed);
                if landed >= kill_after { Ok(()) } else { Err(format!("{landed} have landed")) }
            });
            site.master.daemon.kill9_and_restart();
        }
    });

    let accepted = told.accepted.into_inner().expect("not poisoned");
    let pushed = told.pushed.into_inner().expect("not poisoned");
    let refused = told.refused.into_inner().expect("not poisoned");
    assert_eq!((accepted.len(), pushed.len()), (EACH * ROUNDS, EACH));
    assert!(!refused.is_empty(), "nobody was in another's way, so nothing was tried");
    // One line: each commit has one parent, and all of them are those that somebody was told of, each once.
    let parents = site.master.git(&["log", "--format=%P", BRANCH]);
    assert!(parents.lines().all(|parents| parents.split(' ').count() == 1), "{parents}");
    let history = site.master.git(&["rev-list", "--reverse", BRANCH]);
    let history: Vec<&str> = history.lines().collect();
    let known: BTreeSet<&str> = accepted.iter().map(|(commit, _)| commit).chain(&pushed).map(String::as_str).collect();
    assert_eq!(known.len(), EACH * ROUNDS + EACH, "each answer speaks of a change of its own");
    assert_eq!(history[1..].iter().copied().collect::<BTreeSet<_>>(), known);
    for (commit, version) in &accepted {
        assert_eq!(history[usize::try_from(*version).expect("small")], commit, "a version is the place in the line");
    }
    let patches = site.master.git(&["log", "-p", "--format=", BRANCH, "--", "config.yaml"]);
    for mark in &refused {
        let mark = format!("+mark: {mark}");
        assert!(patches.lines().all(|line| line != mark), "{mark} was refused, and landed");
    }
    assert_eq!(site.master.sequence(), before + known.len() as u64);
    site.master.expect_unbroken_ledger();
    tests::site::fsck(&site.master.repo);
}
