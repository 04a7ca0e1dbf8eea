//! Pushes that must not land: what each is told, and that nothing of it stays.

use std::fmt::Write as _;

use tests::{
    Outcome, Plan, Site, Work,
    git::{Change, executables},
    site::{CLASS, DATACENTER, class, instance},
    wire::{self, Claim, ZERO},
};

/// Component, branch and tag of each entry of a class.
type Pins<'a> = Vec<(&'a str, &'a str, &'a str)>;

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// All refs of the central server, those that only it writes included.
fn refs(site: &Site) -> String {
    site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
}

/// Expects a push to be refused with all of these words, and to leave nothing behind.
#[track_caller]
fn refused(site: &Site, what: &str, push: impl FnOnce() -> Outcome, words: &[&str]) {
    let before = refs(site);
    let outcome = push();
    assert!(!outcome.ok, "{what} should have been refused:\n{}", outcome.text);
    outcome.refused(words);
    assert_eq!(refs(site), before, "{what} left something behind");
}

/// A change of the class's text.
fn class_text<'a>(site: &'a Site, text: &str) -> Change<'a> {
    site.work.change().file(CLASS, "datacenter.yaml", text)
}

/// A change of the instance's text.
fn instance_text<'a>(site: &'a Site, text: &str) -> Change<'a> {
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", text)
}

#[test]
fn a_class_that_names_what_is_not_there_is_refused_with_file_and_line() {
    let site = central();
    let table: [(&str, Pins<'_>, Vec<&str>); 4] = [
        (
            "a missing component",
            vec![("services/web", "master", "latest"), ("services/nobody", "master", "latest")],
            vec!["services/nobody", "datacenter.yaml", ".yaml:3"],
        ),
        ("a missing branch", vec![("services/web", "feature", "latest")], vec!["services/web/feature", ".yaml:2"]),
        ("a missing tag", vec![("services/web", "master", "v9")], vec!["v9", "services/web", ".yaml:2"]),
        ("a missing device", vec![("devices/nobody", "master", "latest")], vec!["devices/nobody"]),
    ];
    for (what, pins, words) in table {
        refused(&site, what, || class_text(&site, &class(&pins)).push(), &words);
    }
}

#[test]
fn a_datacenter_yaml_with_a_fault_is_refused_with_its_line_and_what_to_write() {
    let site = central();
    let lines = "services:\n  - {name: web, branch: master, tag: latest}\n";
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let one = format!("*a{}", level - 1);
            let _ = writeln!(text, "a{level}: &a{level} [{}]", vec![one; 10].join(", "));
        }
        format!("{text}{lines}")
    };
    let table: [(&str, String, Vec<&str>); 13] = [
        ("an unknown key", format!("{lines}servces: []\n"), vec!["servces", ".yaml:3"]),
        ("a list given twice", format!("{lines}applications: []\nservices: []\n"), vec!["services", ".yaml:4"]),
        (
            "a key twice in an entry",
            "services:\n  - {name: web, name: web, branch: master, tag: latest}\n".into(),
            vec!["name", ".yaml:2"],
        ),
        (
            "one component and version twice",
            format!("{lines}  - {{name: web, branch: master, tag: latest}}\n"),
            vec!["services/web", "line 2", ".yaml:3"],
        ),
        ("a wrong type", "services: web\n".into(), vec!["services", "list"]),
        (
            "a number for a name",
            "services:\n  - {name: [1], branch: master, tag: latest}\n".into(),
            vec!["name", ".yaml:2"],
        ),
        ("tabs", "services:\n\t- {name: web, branch: master, tag: latest}\n".into(), vec!["tab", ".yaml:2"]),
        ("an alias bomb", bomb, vec!["datacenter.yaml"]),
        ("nothing but words", "hello\n".into(), vec!["datacenter.yaml"]),
        ("an unclosed brace", "services:\n  - {name: web\n".into(), vec!["datacenter.yaml:"]),
        (
            "a branch outside the grammar",
            "services:\n  - {name: web, branch: 'a b', tag: latest}\n".into(),
            vec!["a b", ".yaml:2"],
        ),
        (
            "a name outside the grammar",
            "services:\n  - {name: '../web', branch: master, tag: latest}\n".into(),
            vec!["../web"],
        ),
        ("no branch", "services:\n  - {name: web, tag: latest}\n".into(), vec!["branch", ".yaml:2"]),
    ];
    for (what, text, words) in &table {
        refused(&site, what, || class_text(&site, text).push(), words);
    }
    let table: [(&str, String, Vec<&str>); 9] = [
        ("no class", "platform: {}\n".into(), vec!["conf"]),
        ("a class that is not there", "conf: datacenter-configuration/small/latest\n".into(), vec!["small"]),
        ("a class's tag that is not there", format!("conf: {CLASS}/v9\n"), vec!["v9"]),
        ("an unknown key", format!("{}hosts: {{}}\n", instance()), vec!["hosts", ".yaml:2"]),
        ("a key of a later version", format!("{}rollout: {{}}\n", instance()), vec!["rollout", ".yaml:2"]),
        (
            "a role that is not there",
            format!("{}inventories:\n  hosts:\n    web-1: {{roles: [core]}}\n", instance()),
            vec!["core", ".yaml:4"],
        ),
        (
            "an unknown key of a host",
            format!("{}inventories:\n  hosts:\n    web-1: {{role: [core]}}\n", instance()),
            vec!["role", ".yaml:4"],
        ),
        (
            "an instance's missing component",
            format!("{}services:\n  - {{name: x, branch: b, tag: latest}}\n", instance()),
            vec!["services/x"],
        ),
        ("nothing at all", String::new(), vec!["conf"]),
    ];
    for (what, text, words) in &table {
        refused(&site, what, || instance_text(&site, text).push(), words);
    }
    refused(
        &site,
        "no datacenter.yaml",
        || {
            let branch = format!("datacenters/{DATACENTER}");
            site.work.change().without(&branch, "datacenter.yaml").file(&branch, "readme", "x").push()
        },
        &["datacenter.yaml"],
    );
}

#[test]
fn names_and_refs_outside_the_layout_are_refused() {
    let site = central();
    let long = format!("services/{}/master", "x".repeat(101));
    let table = [
        ("a branch beside the layout", "main", "main"),
        ("a kind that is none", "servers/web/master", "servers"),
        ("too few segments", "services/new", "services/new"),
        ("too many segments", "services/web/a/b", "services/web/a/b"),
        ("a name that begins with a dot's neighbour", "services/_web/master", "_web"),
        ("a name ending in .json", "services/web.json/master", ".json"),
        ("a branch called HEAD", "services/web/HEAD", "HEAD"),
        ("a character outside the grammar", "services/w+b/master", "w+b"),
        ("a name that is too long", long.as_str(), "100"),
        ("a datacenter with three segments", "datacenters/a/b/c", "datacenters/a/b/c"),
        ("the secrets", "secrets/us-west", "secrets/us-west"),
    ];
    for (what, branch, word) in table {
        refused(&site, what, || site.work.change().file(branch, "a", "1").push(), &[word]);
    }
    let tip = "refs/heads/services/web/master";
    for (what, name) in [
        ("a snapshot", "refs/snapshots/us-west/v1"),
        ("another snapshot", "refs/snapshots/new/v1"),
        ("the ledger", "refs/conf/ledger"),
        ("notes", "refs/notes/commits"),
        ("a stray tag", "refs/tags/v1"),
        ("a branch called latest where a tag is meant", "refs/tags/services/web/latest"),
        ("a pull request", "refs/pull/1/head"),
        ("a ref at the root", "refs/x"),
        ("a replacement", &format!("refs/replace/{}", site.work.id(tip))),
    ] {
        refused(&site, what, || site.work.push(&[&format!("+{tip}:{name}")]), &[name]);
    }
    // And still everything works: no replacement came in under what follows.
    let before = site.master.sequence();
    assert_eq!(site.push("services/web", "round", "1\n"), before + 1);
}

#[test]
fn a_tag_must_be_on_its_branch_never_moves_and_stays_while_it_is_pinned() {
    let site = central();
    let work = &site.work;
    work.git(&["tag", "services/web/v1", "services/web/master"]);
    work.push(&["refs/tags/services/web/v1"]).accepted();
    site.push("services/web", "round", "1\n");
    refused(
        &site,
        "a tag that moves",
        || work.push(&["+refs/heads/services/web/master:refs/tags/services/web/v1"]),
        &["services/web/v1"],
    );
    // A commit that lies on another branch alone.
    work.change().file("services/web/side", "round", "side\n").land();
    work.git(&["tag", "services/web/side1", "services/web/side"]);
    work.push(&["refs/tags/services/web/side1"]).accepted();
    let pins = [("services/web", "master", "side1")];
    refused(
        &site,
        "a tag that its branch does not reach",
        || class_text(&site, &class(&pins)).push(),
        &["side1", "services/web/master", ".yaml:2"],
    );
    class_text(&site, &class(&[("services/web", "side", "side1"), ("services/api", "master", "latest")])).land();
    refused(&site, "a pinned tag deleted", || work.push(&[":refs/tags/services/web/side1"]), &["side1", DATACENTER]);
    work.push(&[":refs/tags/services/web/v1"]).accepted();

    let blob = work.git_reading(&["hash-object", "-w", "--stdin"], b"not a commit");
    refused(&site, "a tag of a file", || work.push(&[&format!("{blob}:refs/tags/services/web/v3")]), &["commit"]);
    let tree = work.id("services/web/master^{tree}");
    refused(
        &site,
        "a branch of a tree",
        || {
            let body = [Claim { old: ZERO, new: &tree, name: "refs/heads/services/web/tree" }];
            let pack = work.git_pack(&["services/web/master"]);
            let answer =
                wire::push(&site.master.http(), &body, "report-status atomic", Some(&pack)).expect("an answer");
            Outcome { ok: wire::report(&answer).contains("ok refs/"), text: wire::report(&answer) }
        },
        &[],
    );
    work.git(&["tag", "-a", "-m", "inner", "services/web/inner", "services/web/master"]);
    work.git(&["tag", "-a", "-m", "outer", "services/web/outer", "services/web/inner"]);
    refused(&site, "a tag of a tag", || work.push(&["refs/tags/services/web/outer"]), &["services/web/outer"]);
}

#[test]
fn a_branch_that_is_used_is_not_deleted_and_one_that_is_not_is() {
    let site = central();
    let work = &site.work;
    refused(
        &site,
        "a component's branch",
        || work.push(&[":refs/heads/services/web/master"]),
        &["services/web/master", DATACENTER],
    );
    refused(&site, "a class", || work.push(&[&format!(":refs/heads/{CLASS}")]), &[CLASS, DATACENTER]);
    work.change().file("services/web/spare", "a", "1").land();
    work.push(&[":refs/heads/services/web/spare"]).accepted();
    assert!(!refs(&site).contains("services/web/spare"));
    // The same in one step with the change that stops using it.
    let pins = [("services/web", "master", "latest")];
    let less = class_text(&site, &class(&pins)).option("--push-option=allow-shrink");
    let less = less.option("--push-option=delete=services/api/master");
    less.also(":refs/heads/services/api/master").land();
    assert!(!refs(&site).contains("services/api"));
}

#[test]
fn a_push_that_would_rewind_a_branch_is_refused_and_says_so() {
    for program in executables() {
        let site = central();
        let work = Work::with_program(&site.folder.path().join("other"), &site.master.git_url(), &program);
        work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
        site.push("services/web", "round", "1\n");
        refused(
            &site,
            "an older tip by force",
            || work.push(&["+refs/heads/services/web/master:refs/heads/services/web/master"]),
            &["services/web/master", "rewind"],
        );
        refused(
            &site,
            "another history by force",
            || {
                work.git(&["branch", "-D", "services/web/master"]);
                work.change().file("services/web/master", "a", "1").option("--force").push()
            },
            &["services/web/master", "rewind"],
        );
        refused(
            &site,
            "without force, on an older tip",
            || {
                work.git(&["fetch", "-q", "origin", "services/web/master"]);
                work.git(&["update-ref", "refs/heads/x", "FETCH_HEAD~1"]);
                work.push(&["refs/heads/x:refs/heads/services/web/master"])
            },
            &["services/web/master"],
        );
    }
}

#[test]
fn what_a_client_claims_over_the_raw_protocol_is_checked() {
    let site = central();
    let work = &site.work;
    let first = work.id("services/web/master");
    site.push("services/web", "round", "1\n");
    let tip = work.id("services/web/master");
    let name = "refs/heads/services/web/master";
    let server = site.master.http();
    let unknown = "1234567890123456789012345678901234567890";
    let replace = format!("refs/replace/{tip}");
    let table: [(&str, Claim<'_>); 14] = [
        ("an older tip, truly said", Claim { old: &tip, new: &first, name }),
        ("an older tip, with a wrong old", Claim { old: &first, new: &first, name }),
        ("an older tip, as if it were new", Claim { old: ZERO, new: &first, name }),
        ("a deletion in use, truly said", Claim { old: &tip, new: ZERO, name }),
        ("a deletion in use, with a wrong old", Claim { old: &first, new: ZERO, name }),
        ("a deletion in use, as if it were not there", Claim { old: ZERO, new: ZERO, name }),
        ("an object that is not there", Claim { old: &tip, new: unknown, name }),
        ("a replacement", Claim { old: ZERO, new: &first, name: &replace }),
        ("the ledger", Claim { old: ZERO, new: &first, name: "refs/conf/ledger" }),
        ("a snapshot deleted", Claim { old: &site.master.snapshot(), new: ZERO, name: "refs/snapshots/us-west/v1" }),
        ("HEAD", Claim { old: ZERO, new: &first, name: "HEAD" }),
        ("a path upwards", Claim { old: ZERO, new: &first, name: "refs/heads/../../config" }),
        ("an option for a name", Claim { old: ZERO, new: &first, name: "--upload-pack=x" }),
        ("a name with a newline", Claim { old: ZERO, new: &first, name: "refs/heads/services/web/a\nb" }),
    ];
    let empty = work.git_pack(&[]);
    let before = refs(&site);
    for capabilities in ["report-status", "report-status atomic delete-refs", "report-status-v2 side-band-64k"] {
        for (what, claim) in &table {
            let pack = (claim.new != ZERO).then_some(empty.as_slice());
            if let Ok(answer) = wire::push(&server, &[*claim], capabilities, pack) {
                let report = wire::report(&answer);
                assert!(!report.contains("ok refs/"), "{what} was accepted with {capabilities}: {report}");
            }
            assert_eq!(refs(&site), before, "{what} with {capabilities} left something behind");
        }
    }
    // The same raw way with the truth is accepted: the refusals above are for what they say, not
    // for how they came.
    work.change().file("services/web/raw", "a", "1").commit();
    let new = work.id("services/web/raw");
    let claim = Claim { old: ZERO, new: &new, name: "refs/heads/services/web/raw" };
    let pack = work.git_pack(&["services/web/raw"]);
    let answer = wire::push(&server, &[claim], "report-status", Some(&pack)).expect("an answer");
    assert!(wire::report(&answer).contains("ok refs/heads/services/web/raw"), "{}", wire::report(&answer));
    site.master.git(&["fsck", "--full"]);
}

#[test]
fn trees_that_are_not_safe_are_refused() {
    let site = central();
    let web = "services/web/master";
    let table: [(&str, Change<'_>, &str); 8] = [
        ("a link that leads out", site.work.change().link(web, "out", "../../other"), "out"),
        ("an absolute link", site.work.change().link(web, "abs", "/etc/passwd"), "abs"),
        ("a link out of a folder", site.work.change().link(web, "d/out", "../../x"), "d/out"),
        ("a submodule", site.work.change().submodule(web, "sub", &site.work.id(web)), "sub"),
        ("two names that differ in case", site.work.change().file(web, "Name", "1").file(web, "name", "2"), "ame"),
        ("a control character", site.work.change().file(web, "a\u{7}b", "1"), "a"),
        ("a bidirectional character", site.work.change().file(web, "a\u{202e}b", "1"), "a"),
        ("a name of 256 bytes", site.work.change().file(web, &"x".repeat(256), "1"), "255"),
    ];
    for (what, change, word) in table {
        refused(&site, what, || change.push(), &[word]);
    }
    for name in [".git", ".GIT", "git~1", ".git\u{200c}", ".."] {
        // Git itself would not make such a tree, so it is written by hand.
        let blob = site.work.git_reading(&["hash-object", "-w", "--stdin"], b"x");
        let mut tree = format!("100644 {name}\0").into_bytes();
        tree.extend((0..20).map(|index| u8::from_str_radix(&blob[2 * index..2 * index + 2], 16).expect("hex")));
        let tree = site.work.git_reading(&["hash-object", "-t", "tree", "-w", "--stdin", "--literally"], &tree);
        let commit = site.work.git(&["commit-tree", &tree, "-p", web, "-m", "x"]);
        refused(&site, name, || site.work.push(&[&format!("{commit}:refs/heads/{web}")]), &[]);
    }
}

#[test]
fn a_tree_of_ten_thousand_million_files_is_refused_at_once_in_a_dry_run_too() {
    let site = central();
    let entries = |kind: &str, id: &str| {
        let lines: Vec<String> = (0..10).map(|number| format!("{kind} {id}\t{number}\n")).collect();
        lines.concat()
    };
    let tree = |entries: String| site.work.git_reading(&["mktree"], entries.as_bytes());
    let blob = site.work.git_reading(&["hash-object", "-w", "--stdin"], b"x");
    let files = tree(entries("100644 blob", &blob));
    let bomb = (0..9).fold(files, |below, _| tree(entries("040000 tree", &below)));
    let commit = site.work.git(&["commit-tree", &bomb, "-m", "x"]);
    let refspec = format!("{commit}:refs/heads/services/new/master");
    for options in [&[][..], &["-o", "dry-run"]] {
        let push = || site.work.try_git(&[&["push", "-q"], options, &["origin", &refspec]].concat());
        refused(&site, &format!("{options:?}"), push, &["more than 20000 files and folders"]);
    }
    site.push("services/web", "round", "others land\n");
}

#[test]
fn settings_that_cannot_be_read_are_refused_with_file_and_line() {
    let site = central();
    let web = "services/web/master";
    let change = || site.work.change();
    let table: [(&str, Change<'_>, Vec<&str>); 6] = [
        ("YAML that does not parse", change().file(web, "config.yaml", "a: [1\nb: 2\n"), vec!["config.yaml:"]),
        ("a duplicate key", change().file(web, "config.yaml", "a: 1\nb: 1\na: 2\n"), vec!["config.yaml", ".yaml:3"]),
        ("a list for settings", change().file(web, "config.yaml", "- 1\n"), vec!["config.yaml"]),
        ("two settings files", change().file(web, "config.json", "{}"), vec!["config.json", "config.yaml"]),
        (
            "JSON that does not parse",
            change().without(web, "config.yaml").file(web, "config.json", "{\"a\": 1,}"),
            vec!["config.json:1"],
        ),
        ("a template for settings", change().file(web, "config.json.j2", "{}"), vec!["config.json.j2", "folder"]),
    ];
    for (what, change, words) in table {
        refused(&site, what, || change.push(), &words);
    }
}

#[test]
fn without_atomic_each_ref_is_answered_for_itself() {
    let site = central();
    let work = &site.work;
    work.change().file("services/web/master", "round", "1\n").commit();
    work.change().file(CLASS, "datacenter.yaml", class(&[("services/nobody", "master", "latest")])).commit();
    let web = "refs/heads/services/web/master";
    let outcome = work.try_git(&["push", "origin", web, &format!("refs/heads/{CLASS}")]);
    let said = outcome.refused(&["services/nobody"]);
    assert!(said.contains("services/web/master -> services/web/master"), "the good ref landed:\n{said}");
    assert_eq!(site.master.git(&["rev-parse", web]), work.id(web));

    // With --atomic nothing of it lands.
    work.change().file("services/api/master", "round", "1\n").commit();
    let before = refs(&site);
    work.push(&["refs/heads/services/api/master", &format!("refs/heads/{CLASS}")]).refused(&["services/nobody"]);
    assert_eq!(refs(&site), before);
}

#[test]
fn a_refused_push_changes_nothing_on_hosts_and_the_next_good_one_lands() {
    let site = Site::start();
    let reader = tests::Reader::start(&site.host().export());
    site.host().watch(&["services/web", "services/api"], reader.pid());
    let pointer = site.consul().get(&format!("configurations/snapshots/{DATACENTER}"));
    refused(
        &site,
        "a missing service",
        || {
            let change = class_text(&site, &class(&[("services/nobody", "master", "latest")]));
            change.file("services/web/master", "round", "1\n").push()
        },
        &["services/nobody"],
    );
    assert_eq!(site.consul().get(&format!("configurations/snapshots/{DATACENTER}")), pointer);
    let sequence = site.push("services/api", "round", "1\n");
    assert!(reader.told().sequence >= sequence);
    assert!(reader.all_told().is_empty());
    assert_eq!(site.host().file("services/web/latest/round"), "0\n");
}

#[test]
fn a_refusal_quotes_no_value_that_looks_like_a_secret() {
    let site = central();
    let schema = serde_json::json!({"properties": {
        "db_password": {"type": "integer"}, "url": {"maxLength": 3}, "port": {"maximum": 1},
    }});
    let settings = "db_password: canary\nurl: postgres://jo:canary@db/x\nport: 7\n";
    let web = "services/web/master";
    let change = site.work.change().file(web, "config.schema.json", schema.to_string());
    let words = ["/db_password: this value is not of type", "/url: this value", "7 is greater than the maximum of 1"];
    let said = change.file(web, "config.yaml", settings).push().refused(&words);
    let recorded = site.master.run(&["log", "--refused", "--json"]);
    let recorded = String::from_utf8_lossy(&recorded.stdout).into_owned();
    assert!(recorded.contains("this value"), "{recorded}");
    for shown in [said, recorded, site.master.daemon.log()] {
        assert!(!shown.contains("canary"), "{shown}");
    }
}
