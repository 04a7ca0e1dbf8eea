//! Who reads a part of the repository gets that part by Git, and nothing else.

use std::fs;
use std::path::Path;

use hyper::Method;
use tests::site::{class, in_repository, token_in};
use tests::{Plan, Site, Work, eventually, wire};

const POLICY: &str = r#"
groups: {some: [ann], web: [ben, dan], pushers: [dan], all: [cat]}
rights:
  - {group: administrators, may: [administer]}
  - {group: some, may: [read], datacenters: ["us-west/*"]}
  - {group: web, may: [read], refs: ["services/web/m*"]}
  - {group: pushers, may: [push], refs: ["services/web/m*", "services/api/*"], datacenters: ["us-west/*"]}
  - {group: all, may: [read]}
"#;

/// A site with a second datacenter, which runs what the first one does not.
fn two_datacenters() -> Site {
    let site = Plan { tokens: true, ..Plan::default() }.start();
    let other = "datacenter-configuration/other";
    let change = site.work.change().file("services/web/hidden", "config.yaml", "a: 1\n");
    // Nearly the same file at the same path: one would be packed as its difference from the other.
    let change = change.file("services/web/hidden", "list", list("theirs"));
    let change = change.file(other, "datacenter.yaml", class(&[("services/web", "hidden", "latest")]));
    let text = format!("conf: {other}/latest\n");
    change.file("datacenters/eu-north/v1", "datacenter.yaml", text).file("policy", "policy.yaml", POLICY).land();
    // Git does not compare what came together.
    site.work.change().file("services/web/master", "list", list("ours")).land();
    site
}

/// A file that is large enough to be packed as a difference.
fn list(last: &str) -> String {
    let lines: Vec<String> =
        (0..1000_u64).map(|line| format!("{:x}\n", line.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    lines.concat() + last
}

/// Asks for the newest of one commit with another in common, and tells whether the answer is a
/// pack that is whole by itself, without the other one's objects.
fn is_whole_by_itself(site: &Site, token: &Path, want: &str, have: &str) -> bool {
    let mut body = Vec::new();
    let lines = [
        "command=fetch\n".to_owned(),
        "0001".to_owned(),
        "thin-pack".to_owned(),
        "ofs-delta".to_owned(),
        format!("want {want}\n"),
        format!("have {have}\n"),
        "deepen 1\n".to_owned(),
        "done\n".to_owned(),
    ];
    for line in lines {
        match line.as_str() {
            "0001" => body.extend_from_slice(line.as_bytes()),
            line => body.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes()),
        }
    }
    body.extend_from_slice(b"0000");
    let headers = [("git-protocol", "version=2"), ("content-type", "application/x-git-upload-pack-request")];
    let reader = site.master.unproven().with(&token_in(token));
    let answer = reader.request(Method::POST, "/conf.git/git-upload-pack", &headers, body).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let pack = wire::pack_in(&answer.body).expect("a pack");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.pack"), pack).expect("it can be written");
    let mut index = tests::program::command("git", folder.path());
    index.args(["index-pack", "--object-format=sha1", "a.pack"]).current_dir(folder.path());
    tests::program::run(index).status.success()
}

/// A clone of nothing yet, with this token.
fn reader(site: &Site, name: &str, token: &Path) -> Work {
    let work = Work::new(&site.folder.path().join(format!("{name}-work")), &site.master.git_url());
    site.master.show_token(&work, token);
    work
}

/// The names that `ls-remote` shows.
fn shown(work: &Work) -> Vec<String> {
    let listed = work.git(&["ls-remote", "origin"]);
    listed.lines().filter_map(|line| Some(line.split_once('\t')?.1.to_owned())).collect()
}

fn fetches(work: &Work, what: &str) -> Result<(), String> {
    let fetched = work.try_git(&["fetch", "-q", "origin", what]);
    if fetched.ok { Ok(()) } else { Err(fetched.text) }
}

#[test]
fn git_shows_each_reader_its_part_and_gives_out_nothing_else() {
    let site = two_datacenters();
    let of = |name: &str| site.master.git(&["rev-parse", name]).trim().to_owned();
    let (web, hidden) = (of("refs/heads/services/web/master"), of("refs/heads/services/web/hidden"));
    let (own, other) = (of("refs/snapshots/us-west/v1"), of("refs/snapshots/eu-north/v1"));
    let (ledger, access) = (of("refs/conf/ledger"), of("refs/conf/access"));
    let token = |name: &str| site.master.token(name, &[]);
    let existing = |name: &str| site.folder.path().join(format!("{name}.token"));

    let ann = reader(&site, "ann", &token("ann"));
    let names = shown(&ann);
    for name in ["refs/heads/services/web/master", "refs/heads/datacenters/us-west/v1", "refs/snapshots/us-west/v1"] {
        assert!(names.iter().any(|one| one == name), "{name}: {names:?}");
    }
    assert!(names.iter().all(|one| one.contains("us-west") || !one.starts_with("refs/snapshots")), "{names:?}");
    for word in ["hidden", "eu-north", "refs/conf", "policy", "other"] {
        assert!(names.iter().all(|one| !one.contains(word)), "{word}: {names:?}");
    }
    for good in ["refs/heads/services/web/master", &web, &own] {
        fetches(&ann, good).unwrap_or_else(|said| panic!("{good}: {said}"));
    }
    let ben = reader(&site, "ben", &token("ben"));
    assert_eq!(shown(&ben), ["refs/heads/services/web/master"]);
    let cache = reader(&site, "cache", &existing("conf-slave-1"));
    let host = reader(&site, "host", &existing("web-1"));
    assert_eq!(shown(&host), ["refs/snapshots/us-west/v1"]);
    fetches(&host, &own).expect("its snapshot");
    fetches(&cache, &own).expect("the snapshot of its datacenter");
    fetches(&cache, &web).expect("a branch that it runs");
    assert!(shown(&cache).iter().all(|one| !one.contains("hidden") && !one.starts_with("refs/conf")));
    for (work, denied) in [
        (&ann, vec![&hidden, &other, &ledger, &access]),
        (&ben, vec![&hidden, &other, &own, &ledger]),
        (&cache, vec![&hidden, &other, &ledger, &access]),
        (&host, vec![&web, &hidden, &other, &ledger, &access]),
    ] {
        for id in denied {
            let said = fetches(work, id).expect_err("it is another's");
            assert!(said.contains("not our ref"), "{said}");
        }
        // Older versions of the protocol list every ref unasked.
        let old = work.try_git(&["-c", "protocol.version=0", "ls-remote", "origin"]);
        assert!(!old.ok && !old.text.contains("hidden"), "{}", old.text);
    }
    // What somebody asked for who may have it is not kept for others.
    let cat = reader(&site, "cat", &token("cat"));
    for id in [&hidden, &other, &ledger] {
        fetches(&cat, id).expect("she reads everything");
        fetches(&ann, id).expect_err("it is another's");
    }
    assert!(shown(&cat).iter().any(|one| one == "refs/conf/ledger"));
    // What Git has in common with somebody is the base of differences: it may not be another's.
    let host_token = existing("web-1");
    assert!(is_whole_by_itself(&site, &host_token, &own, &other), "a difference from another's file");
    assert!(!is_whole_by_itself(&site, &existing("cat"), &own, &other), "this test would not see it");
    // Pushers are shown what they may read or change.
    let dan = site.master.unproven().with(&token_in(&site.master.token("dan", &[])));
    let listed = dan.get("/conf.git/info/refs?service=git-receive-pack").expect("an answer").text();
    assert!(listed.contains(" refs/heads/services/web/master") && listed.contains(" refs/heads/services/api/master"));
    for word in ["hidden", "eu-north", "refs/conf", "policy", "refs/snapshots", "datacenters"] {
        assert!(!listed.contains(word), "{word}: {listed}");
    }
    // A step is answered from memory to those who may have it.
    let sequence = site.push("services/web", "round", "1\n");
    site.wait_applied(sequence);
    let branch = ["rev-parse", "refs/heads/services/web/master"];
    // What a branch was is in the history of what it is.
    fetches(&ann, &web).expect("an older commit of a branch that she reads");
    eventually("the cache to have the branch", || {
        let (here, there) = (in_repository(&site.slave().state.join("repo.git"), &branch), site.master.git(&branch));
        if here == there { Ok(()) } else { Err(here) }
    });
    site.expect_whole();
}
