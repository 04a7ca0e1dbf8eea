//! What did not land is nobody's to read, though it is in the central repository.

use std::path::Path;

use hyper::Method;
use serde_json::json;
use tests::{
    Plan, Site, eventually,
    git::{Work, git},
    program::{run, run_reading, text},
    site::DATACENTER,
    wire::{self, Claim, ZERO},
};

const WEB: &str = "refs/heads/services/web/master";

/// Leaves a commit in the central repository that never landed: its id, its tree and its file.
pub(crate) fn left_behind(site: &Site) -> [String; 3] {
    let work = Work::new(&site.folder.path().join("left"), site.work.remote());
    work.change().file("services/left/master", "config.yaml", "password: Tr0ub4dor\n").commit();
    let commit = work.id("services/left/master");
    let from = work.folder().display().to_string();
    site.master.git(&["fetch", "-q", "--no-write-fetch-head", &from, "services/left/master"]);
    assert!(site.master.git(&["cat-file", "-t", &commit]).contains("commit"));
    [commit.clone(), work.id(&format!("{commit}^{{tree}}")), work.id(&format!("{commit}:config.yaml"))]
}

/// Asks for objects in one of the versions of the protocol, with the ids as they are given.
fn fetched(site: &Site, version: u8, wants: &[&str]) -> String {
    let mut body = Vec::new();
    if version == 2 {
        body.extend([wire::line("command=fetch\n"), b"0001".to_vec()].concat());
        wants.iter().for_each(|want| body.extend(wire::line(&format!("want {want}\n"))));
        body.extend(wire::line("done\n"));
        body.extend(b"0000");
    } else {
        wants.iter().for_each(|want| body.extend(wire::line(&format!("want {want} ofs-delta\n"))));
        body.extend(b"0000");
        body.extend(wire::line("done\n"));
    }
    let version = format!("version={version}");
    let mut headers = vec![("content-type", "application/x-git-upload-pack-request")];
    if version != "version=0" {
        headers.push(("git-protocol", &version));
    }
    let answer =
        site.master.http().request(Method::POST, "/conf.git/git-upload-pack", &headers, body).expect("it answers");
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[test]
fn only_what_landed_can_be_fetched() {
    let site = Plan { hosts: 0, ..Plan::default() }.start();
    let earlier = site.work.id(WEB);
    site.work
        .change()
        .file("services/web/master", "config.yaml", "round: 2\n")
        .file("services/web/master", "b", "x")
        .land();
    let tip = site.work.id(WEB);
    site.work.git(&["tag", "-a", "-m", "one", "services/web/v1", &earlier]);
    site.work.push(&["refs/tags/services/web/v1"]).accepted();
    let tag = site.work.id("refs/tags/services/web/v1");
    let snapshot = site.master.git(&["rev-parse", &format!("refs/snapshots/{DATACENTER}")]);
    let before = site.master.git(&["rev-parse", &format!("refs/snapshots/{DATACENTER}^")]);
    let ledger = site.master.git(&["rev-parse", "refs/conf/ledger"]);
    let left = left_behind(&site);
    let file = site.work.id(&format!("{tip}:config.yaml"));
    for version in 0..=2 {
        for landed in [&tip, &earlier, &tag, snapshot.trim(), before.trim(), ledger.trim()] {
            let answer = fetched(&site, version, &[landed]);
            assert!(answer.contains("PACK"), "version {version}, {landed}: {answer}");
        }
        for id in left.iter().chain([&file, &"7".repeat(40)]) {
            for wants in [&[id.as_str()][..], &[&tip, id], &[&id.to_uppercase()]] {
                let answer = fetched(&site, version, wants);
                let refused = answer.contains(&format!("not our ref {id}")) && !answer.contains("PACK");
                assert!(refused, "version {version}, {wants:?}: {answer}");
            }
        }
    }
    // Plain Git, which compresses what it asks when that is much.
    let clone = Work::new(&site.folder.path().join("clone"), site.work.remote());
    clone.git(&["fetch", "-q", "origin", "+refs/*:refs/*"]);
    let [commit, tree, file] = &left;
    for id in [commit, tree, file] {
        clone.try_git(&["fetch", "-q", "origin", id]).refused(&["not our ref"]);
    }
    clone.git(&["fetch", "-q", "origin", &earlier]);
}

#[test]
fn nobody_shows_or_publishes_what_did_not_land() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let [commit, ..] = left_behind(&site);
    let body = json!({"refs": {"services/web/master": commit}}).to_string();
    let path = format!("/api/v1/datacenters/{DATACENTER}/plan");
    let headers = [("content-type", "application/json")];
    let answer = site.master.http().request(Method::POST, &path, &headers, body).expect("it answers");
    assert_eq!(answer.status.as_u16(), 422, "{}", answer.text());
    assert!(answer.text().contains(&format!("the server has no \\\"{commit}\\\"")), "{}", answer.text());
    // Pushes that send none of it: the commit itself, and a new one that follows it.
    let work = Work::new(&site.folder.path().join("thief"), site.work.remote());
    work.change().file("services/left/master", "config.yaml", "password: Tr0ub4dor\n").commit();
    let next = work.git(&["commit-tree", "-p", &commit, "-m", "next", &format!("{commit}^{{tree}}")]);
    for (new, pack) in
        [(commit.clone(), work.git_pack(&[])), (next.clone(), work.git_pack(&[&next, &format!("^{commit}")]))]
    {
        let claim = Claim { old: ZERO, new: &new, name: "refs/heads/services/stolen/master" };
        let answer = wire::push(&site.master.http(), &[claim], "report-status", Some(&pack)).expect("it answers");
        let told = wire::report(&answer);
        assert!(told.contains("ng refs/heads/services/stolen/master"), "{told}");
        let refs = site.master.git(&["for-each-ref", "refs/heads/services/stolen"]);
        assert_eq!(refs.trim(), "", "{told}");
    }
}

/// Whether an object is in the central repository.
fn is_here(site: &Site, id: &str) -> bool {
    let mut git = git(Path::new("git"), &site.master.repo);
    git.args(["cat-file", "-e", id]);
    run(git).status.success()
}

/// Pushes two branches in one step, of which one is refused: the id of its file.
fn refused_in_part(site: &Site, secret: &str) -> String {
    let mut change = site.work.change().file("services/web/master", "config.yaml", format!("note: {secret}\n"));
    change = change.file("services/api/master", "config.yaml", format!("password: {secret}\nbroken: [\n"));
    change.commit();
    let branches = ["services/web/master", "services/api/master"];
    let told = site.work.try_git(&[&["push", "origin"][..], &branches].concat()).refused(&["services/api/master"]);
    assert_eq!(site.master.git(&["rev-parse", WEB]).trim(), site.work.id(WEB), "{told}");
    site.work.id("services/api/master:config.yaml")
}

/// Pushes a new branch with one file, of which only the folder and the commit are sent.
fn push_without_file(site: &Site, name: &str, content: &str) -> String {
    let thief = Work::new(&site.folder.path().join(name), site.work.remote());
    thief.change().file(&format!("services/{name}/master"), "config.yaml", content).commit();
    let commit = thief.id(&format!("services/{name}/master"));
    let sent = format!("{commit}\n{}\n", thief.id(&format!("{commit}^{{tree}}")));
    let base = site.folder.path().join(format!("{name}-pack"));
    let hash = thief.git_reading(&["pack-objects", "-q", &base.display().to_string()], sent.as_bytes());
    let pack = std::fs::read(format!("{}-{}.pack", base.display(), hash.trim())).expect("git has written it");
    let claim = Claim { old: ZERO, new: &commit, name: &format!("refs/heads/services/{name}/master") };
    wire::report(
        &wire::push(&site.master.http(), &[claim], "report-status side-band-64k", Some(&pack)).expect("it answers"),
    )
}

#[test]
fn a_push_brings_nothing_that_none_of_its_refs_leads_to() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let work = Work::new(&site.folder.path().join("stranger"), site.work.remote());
    work.change().file("services/new/master", "config.yaml", "a: 1\n").commit();
    let commit = work.id("services/new/master");
    let stray = work.git_reading(&["hash-object", "-w", "--stdin"], b"nobody's");
    let objects = work.git(&["rev-list", "--objects", "--no-object-names", &commit]);
    let push = |objects: &str| {
        let base = site.folder.path().join("pack");
        let hash = work.git_reading(&["pack-objects", "-q", &base.display().to_string()], objects.as_bytes());
        let pack = std::fs::read(format!("{}-{}.pack", base.display(), hash.trim())).expect("git has written it");
        let claim = Claim { old: ZERO, new: &commit, name: "refs/heads/services/new/master" };
        let answer = wire::push(&site.master.http(), &[claim], "report-status side-band-64k", Some(&pack));
        wire::report(&answer.expect("it answers"))
    };
    let told = push(&format!("{}\n{}\n", objects.trim(), stray.trim()));
    assert!(told.contains("came with this push") && !is_here(&site, stray.trim()), "{told}");
    let told = push(&format!("{}\n", objects.trim()));
    assert!(told.contains("ok refs/heads/services/new/master"), "{told}");
}

#[test]
fn what_came_with_a_refused_ref_lands_for_nobody_else_and_goes() {
    let mut site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let secret = "Tr0ub4dor&3";
    let file = refused_in_part(&site, secret);
    let content = format!("password: {secret}\nbroken: [\n");
    assert!(is_here(&site, &file));
    let told = push_without_file(&site, "stolen", &content);
    assert!(told.contains("did not come with this push"), "{told}");
    // A server that has just started knows it, too.
    site.master.daemon.restart();
    let told = push_without_file(&site, "soon", &content);
    assert!(told.contains("did not come with this push"), "{told}");
    // What landed need not be sent again.
    let told = push_without_file(&site, "honest", &format!("note: {secret}\n"));
    assert!(told.contains("ok refs/heads/services/honest/master"), "{told}");
    site.master.daemon.arguments().extend(["--prune-every".into(), "1".into()]);
    site.master.daemon.restart();
    eventually("the refused file to be removed", || {
        if is_here(&site, &file) { Err("it is here".to_owned()) } else { Ok(()) }
    });
    let told = push_without_file(&site, "late", &content);
    assert!(!told.contains("ok refs/heads/services/late/master"), "{told}");
    tests::site::fsck(&site.master.repo);
    site.work.change().file("services/api/master", "config.yaml", format!("note: {secret}\n")).land();
    site.master.expect_unbroken_ledger();
}

#[test]
fn where_names_everybody_who_holds_what_leaked() {
    let site = Plan { pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start();
    site.work.change().file("services/web/master", "db.ini", "password = Tr0ub4dor&3\n").land();
    let (file, commit) = (site.work.id("services/web/master:db.ini"), site.work.id(WEB));
    let leaked = site.master.sequence();
    let clean = site.work.change().file("services/web/master", "round", "2\n");
    clean.land();
    let last = site.master.sequence();
    let mended = site.work.change().without("services/web/master", "db.ini");
    mended.option("--push-option=allow-shrink").land();
    let now = site.master.sequence();
    let ask = |object: &str| site.master.http().get_json(&format!("/api/v1/where?object={object}"));
    for object in [&file, &commit] {
        let told = eventually("the host and the conf-slave to have reported", || {
            let told = ask(object)?;
            let is_there = told["hosts"][0]["sequence"] == now && told["slaves"][0]["sequence"] == now;
            if is_there { Ok(told) } else { Err(told.to_string()) }
        });
        let datacenter = &told["datacenters"][0];
        assert_eq!((&datacenter["first"], &datacenter["last"]), (&leaked.into(), &last.into()), "{told}");
        assert_eq!((&datacenter["snapshots"], &datacenter["now"]), (&2.into(), &false.into()), "{told}");
        assert_eq!((&told["hosts"][0]["now"], &told["complete"]), (&false.into(), &true.into()), "{told}");
        let refs: Vec<_> = told["refs"].as_array().unwrap().iter().map(|one| (&one["name"], &one["now"])).collect();
        assert_eq!(refs, [(&"services/web/master".into(), &false.into())], "{told}");
    }
    let told = text(&site.master.run(&["where", &file]));
    for words in ["services/web/master", "2 snapshots from #", "conf-slave", "may keep it"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let [left, ..] = left_behind(&site);
    assert!(text(&site.master.run(&["where", &left])).contains("nothing that landed holds"));
    // Of a commit that may be of any size nothing is read.
    let told = ask(&left).unwrap_err();
    assert!(told.contains("404") && told.contains("it never landed"), "{told}");
    assert!(ask(&"7".repeat(40)).unwrap_err().contains("404"));
}

#[test]
fn a_history_that_is_damaged_keeps_nobody_from_landing_a_change() {
    let mut site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    for round in 1..=2 {
        let change = site.work.change().file("services/web/master", "round", format!("{round}\n"));
        change.file("services/web/master", "same", "as ever\n").land();
    }
    site.master.daemon.stop();
    // Nothing that is newest needs it.
    let lost = site.master.git(&["rev-parse", &format!("{WEB}~1^{{tree}}")]);
    let (packs, away) = (site.master.repo.join("objects/pack"), site.folder.path().join("away"));
    std::fs::rename(&packs, &away).expect("it is there");
    std::fs::create_dir(&packs).expect("it can be made");
    for file in std::fs::read_dir(&away).expect("it is there").map(|entry| entry.expect("an entry").path()) {
        if file.extension().is_some_and(|ending| ending == "pack") {
            let mut unpack = git(Path::new("git"), &site.master.repo);
            unpack.args(["unpack-objects", "-q"]);
            let output = run_reading(unpack, std::fs::File::open(&file).expect("it is there"));
            assert!(output.status.success(), "{}", text(&output));
        }
    }
    let (start, rest) = lost.trim().split_at(2);
    std::fs::remove_file(site.master.repo.join("objects").join(start).join(rest)).expect("it is a file of its own");
    site.master.daemon.start();
    site.work.change().file("services/web/master", "round", "3\n").land();
}
