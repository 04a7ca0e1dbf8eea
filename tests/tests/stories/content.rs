//! What a component may hold: every question that a host asks later is asked before anything lands.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use hyper::{Method, body::Bytes};
use tests::{
    Plan, Site,
    git::Change,
    site::{CLASS, DATACENTER, Pointers, class, in_repository, instance},
};

const WEB: &str = "services/web/master";
/// The services of every site.
const COMPONENTS: [&str; 2] = ["services/web", "services/api"];

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// Expects a push to be refused with all of these words, and to leave nothing behind.
#[track_caller]
fn refused(site: &Site, what: &str, change: Change<'_>, words: &[&str]) {
    let refs = || site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    let before = refs();
    let outcome = change.push();
    assert!(!outcome.ok, "{what} should have been refused:\n{}", outcome.text);
    outcome.refused(words);
    assert_eq!(refs(), before, "{what} left something behind");
}

/// A class with one component more, whose entry says this besides.
fn with(component: &str, besides: &str) -> String {
    let pins = COMPONENTS.map(|name| (name, "master", "latest"));
    let (kind, name) = component.split_once('/').expect("a kind and a name");
    let entry = format!("  - {{name: {name}, branch: master, tag: latest{besides}}}\n");
    let empty = format!("{kind}: []\n");
    let text = class(&pins);
    assert!(text.contains(&empty), "{text}");
    text.replace(&empty, &format!("{kind}:\n{entry}"))
}

#[test]
fn what_a_host_could_not_export_does_not_land() {
    let site = central();
    let web = || site.work.change();
    let long = vec!["f".repeat(200); 25].join("/");
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
                   oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    let template = || web().file(WEB, "f.txt.j2", "{{ 1 + 1 }}");
    for (what, change, words) in [
        ("a path that is too long", web().file(WEB, &long, "x"), vec!["1004 bytes", "at most 1000 may be"]),
        ("a link to such a path", web().link(WEB, "l", &long), vec!["l: the link's target", "too long"]),
        ("a template that is a link", web().link(WEB, "l.txt.j2", "round"), vec!["l.txt.j2", "call the link l.txt"]),
        (
            "a link to a template",
            template().link(WEB, "d/l.txt", "../f.txt.j2"),
            vec!["d/l.txt: it leads to the template ../f.txt.j2", "let it lead to ../f.txt"],
        ),
        ("twins", template().file(WEB, "f.txt", "x"), vec!["f.txt.j2", "rename one of the two"]),
        ("twins but for their case", template().file(WEB, "F.TXT", "x"), vec!["f.txt.j2", "rename one of the two"]),
        ("a template without a name", web().file(WEB, "d/..j2", "x"), vec!["d/..j2", "it would be made into `.`"]),
        ("a name that placing needs", web().file(WEB, ".conf-local/x", "x"), vec![".conf-local", "rename it"]),
        ("a pointer of Git LFS", web().file(WEB, "model.bin", pointer), vec!["model.bin", "git lfs pull"]),
        ("a schema in YAML", web().file(WEB, "config.schema.yaml", "{}"), vec!["config.schema.yaml", "as JSON into"]),
        ("settings in capitals", web().file(WEB, "Config.toml", ""), vec!["Config.toml", "rename it to config.toml"]),
    ] {
        refused(&site, what, change, &words);
    }
    let mut others = site.work.change();
    for component in COMPONENTS {
        others = others.file(&format!("{component}/master"), "round", "1\n");
    }
    others.land();
}

#[test]
fn a_link_to_what_a_template_makes_works_and_a_raw_component_has_no_templates() {
    let site = Site::start();
    let raw = "applications/raw/master";
    site.work
        .change()
        .file(WEB, "f.txt.j2", "{{ 1 + 1 }}\n")
        .link(WEB, "d/l.txt", "../f.txt")
        .file(raw, "f.txt.j2", "{{ theirs }}\n")
        .link(raw, "l.j2", "f.txt.j2")
        .file(raw, "config.yaml", "password: !vault abc\nserial: 18446744073709551616\n")
        .file(raw, "config.schema.yaml", "{}")
        .file(CLASS, "datacenter.yaml", with("applications/raw", ", raw: true"))
        .land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/web/latest/d/l.txt"), "2\n");
    assert_eq!(site.host().file("applications/raw/latest/l.j2"), "{{ theirs }}\n");
    // The same content is refused as soon as the entry says that it has settings.
    let change = site.work.change().file(CLASS, "datacenter.yaml", with("applications/raw", ""));
    refused(
        &site,
        "templates",
        change,
        &["l.j2: a template may not be a link", "config.yaml:1: the tag", "config.yaml:2"],
    );
}

#[test]
fn values_that_would_be_read_as_something_else_are_refused_everywhere() {
    let site = central();
    let own = format!("datacenters/{DATACENTER}");
    let json = || site.work.change().without(WEB, "config.yaml");
    let own_file = |text: &str| site.work.change().file(&own, "datacenter.yaml", format!("{}{text}", instance()));
    for (what, change, words) in [
        (
            "tags in settings",
            site.work.change().file(WEB, "config.yaml", "a: 1\nb: !vault x\nc: [!Ref y]\n"),
            vec!["services/web/master: config.yaml:2: the tag before", "config.yaml:3: the tag before"],
        ),
        (
            "a number in settings",
            site.work.change().file(WEB, "config.yaml", "a:\n  b: -9223372036854775809\n"),
            vec!["config.yaml:2: the number has more than 64 bits; write it in quotes"],
        ),
        (
            "a number in JSON",
            json().file(WEB, "config.json", "{\n\"a\": 18446744073709551616}"),
            vec!["config.json:2: the number has more than 64 bits; write it in quotes"],
        ),
        (
            "a number in TOML",
            json().file(WEB, "config.toml", "a = 9223372036854775808"),
            vec!["config.toml:1", "write it in quotes"],
        ),
        (
            "a number in HOCON",
            json().file(WEB, "config.conf", "a = 18446744073709551616"),
            vec!["config.conf:1", "write it in quotes"],
        ),
        (
            "a tag in a layer of the class",
            site.work.change().file(CLASS, "overrides/services/web.yaml", "a: !include other.yaml\n"),
            vec!["datacenter-configuration/big: overrides/services/web.yaml:1: the tag before"],
        ),
        (
            "a number in a layer of the datacenter",
            site.work.change().file(&own, "overrides/services/web.yaml", "a: 18446744073709551616\n"),
            vec!["overrides/services/web.yaml:1", "write it in quotes"],
        ),
        (
            "a tag in datacenter.yaml",
            own_file("platform: {home: !env HOME}\n"),
            vec!["datacenter.yaml:2: the tag before"],
        ),
        (
            "a number in a role",
            own_file("inventories:\n  roles:\n    core: {variables: {serial: 99999999999999999999}}\n"),
            vec!["datacenter.yaml:4", "the number has more than 64 bits"],
        ),
        (
            "no number",
            site.work.change().file(WEB, "config.yaml", "a: .inf\n"),
            vec!["config.yaml:1: the number is not finite", "in quotes"],
        ),
    ] {
        refused(&site, what, change, &words);
    }
    let good = "a: '18446744073709551616'\nb: 18446744073709551615\nc: !!str 1\nd: 1.8446744073709551616e19\n";
    site.work.change().file(WEB, "config.yaml", good).land();
    // A program's update would have written the rounded number into Git.
    let before = site.master.sequence();
    for config in
        [r#"{"a": [18446744073709551616]}"#, r#""{\"a\": -9223372036854775809}""#, r#""a = 18446744073709551616""#]
    {
        let body = format!(
            r#"{{"request": {{"section": "services/web", "config": {config}, "schemaVersion": 1, "version": 1}}}}"#
        );
        let headers = [("content-type", "application/json")];
        let answer = site.master.http().request(Method::POST, "/api/v1/config/update", &headers, Bytes::from(body));
        let answer = answer.expect("an answer");
        assert!(
            answer.status == 422 && answer.text().contains("has more than 64 bits; write it in quotes"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(site.master.sequence(), before);
}

#[test]
fn what_nothing_reads_beside_a_datacenter_yaml_is_refused() {
    let site = central();
    let own = format!("datacenters/{DATACENTER}");
    for (path, words) in [
        ("override/services/web.yaml", vec!["override: nothing reads this", "overrides/<kind>/<name>.yaml"]),
        ("Overrides/services/web.yaml", vec!["Overrides: nothing reads this"]),
        ("overrides.yaml", vec!["overrides.yaml: nothing reads this"]),
        ("services/web.yaml", vec!["services: nothing reads this", "overrides/services"]),
        ("datacenter.yml", vec!["datacenter.yml: nothing reads this", "did you mean datacenter.yaml?"]),
        ("overrides/service/web.yaml", vec!["overrides/service: this is not a layer"]),
        ("overrides/services/web.yml", vec!["overrides/services/web.yml: this is not a layer"]),
    ] {
        for branch in [&own, CLASS] {
            refused(&site, path, site.work.change().file(branch, path, "a: 1\n"), &words);
        }
        // Before any datacenter takes the class too.
        let new = "datacenter-configuration/new";
        let change = site.work.change().file(new, "datacenter.yaml", "services: []\n").file(new, path, "a: 1\n");
        refused(&site, path, change, &words);
    }
    site.work.change().file(&own, "README.md", "x").file(&own, "docs/why.md", "x").land();
}

#[test]
fn links_that_lead_out_need_a_word_in_the_entry_and_one_on_the_host() {
    let mut site = Site::start();
    let wiki = "applications/wiki/master";
    let outside = site.folder.path().join("srv");
    fs::create_dir(&outside).expect("the folder can be made");
    fs::write(outside.join("ontology.owl"), "theirs").expect("it can be written");
    let target = outside.join("ontology.owl");
    // A branch may hold such a link; a datacenter runs it only if its entry says so.
    let linked = site.work.change().link(wiki, "ontology.owl", target.to_str().expect("text"));
    let theirs = outside.join("schema.json");
    fs::write(&theirs, r#"{"title": "for root's eyes"}"#).expect("it can be written");
    let linked = linked.link(wiki, "config.schema.json", theirs.to_str().expect("text"));
    linked.file(wiki, "round", "1\n").land();
    let entry = |besides| site.work.change().file(CLASS, "datacenter.yaml", with("applications/wiki", besides));
    refused(
        &site,
        "an absolute link",
        entry(", raw: true"),
        &[
            "applications/wiki/master: ontology.owl: a link must be relative",
            "`links: any` in the entry of applications/wiki in datacenter.yaml",
            "`links: [applications/wiki]` in conf-local.yaml",
        ],
    );
    refused(
        &site,
        "another word",
        entry(", links: all"),
        &["datacenter.yaml:", "`links` is \"all\"", "write `links: any`"],
    );
    entry(", raw: true, links: any").land();
    // Other components go on meanwhile.
    let sequence = site.push_and_wait("services/web", "round", "2\n");
    let status = site.host().status().expect("it answers");
    let reason = "this host allows it only by `links: [applications/wiki]` in conf-local.yaml";
    assert!(status.to_string().contains(reason), "{status:#}");
    assert!(site.host().read("applications/wiki/latest/round").is_err());

    let file = site.hosts[0].home.join("conf-local.yaml");
    fs::write(&file, "links: [applications/wiki]\n").expect("it can be written");
    let daemon = &mut site.hosts[0].daemon;
    daemon.argument("--config");
    daemon.argument(file);
    daemon.restart();
    site.wait_applied(sequence);
    site.host().wait_status("export the links", |status| status["faults"] == serde_json::json!({}));
    assert_eq!(site.host().file("applications/wiki/latest/ontology.owl"), "theirs");
    let link = site.host().export().join("current/applications/wiki/latest/ontology.owl");
    assert_eq!(fs::read_link(link).expect("it is a link"), target);
    // The agent, which may read more than its callers, follows no such link for them.
    let schema = site.host().http().get_json("/v1/schema/applications/wiki").expect("an answer");
    assert_eq!(schema, serde_json::Value::Null);
    // What the link leads to stays when the link goes.
    let plain = site.work.change().file(wiki, "ontology.owl", "ours\n");
    plain.land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("applications/wiki/latest/ontology.owl"), "ours\n");
    assert_eq!(fs::read_to_string(&target).expect("it is there"), "theirs");
    site.expect_whole();
}

/// Damages the content of one file in a repository, in whichever pack it is.
fn damage(repository: &Path, blob: &str) {
    let packs = repository.join("objects/pack");
    let mut found = 0;
    for index in fs::read_dir(&packs).expect("it is there").map(|entry| entry.expect("one").path()) {
        if index.extension().is_none_or(|ending| ending != "idx") {
            continue;
        }
        let listed = in_repository(repository, &["verify-pack", "-v", index.to_str().expect("text")]);
        let Some(line) = listed.lines().find(|line| line.starts_with(blob)) else { continue };
        let number = |column| line.split_whitespace().nth(column).and_then(|word| word.parse::<usize>().ok());
        let (bytes, offset) = (number(3).expect("a size"), number(4).expect("an offset"));
        let pack = index.with_extension("pack");
        let mut content = fs::read(&pack).expect("it is there");
        content[offset + 1..offset + bytes].fill(0xff);
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).expect("it is ours");
        fs::write(&pack, content).expect("it can be written");
        found += 1;
    }
    assert!(found > 0, "{blob} is in no pack of {}", repository.display());
}

#[test]
fn damage_to_one_component_on_a_host_is_mended_and_holds_up_no_other() {
    let mut site = Site::start();
    let sequence = site.push_and_wait("services/web", "round", "to be damaged\n");
    let blob = site.work.id("services/web/master:round");
    let state = site.host().export().parent().expect("the state").to_owned();
    let repository = site.host().repository();
    site.hosts[0].daemon.stop();
    damage(&repository, &blob);
    fs::remove_dir_all(state.join("export/store")).expect("it is there");
    // Nobody to fetch from yet.
    site.slaves[0].daemon.stop();
    site.master.daemon.stop();
    let mark = site.hosts[0].daemon.log_mark();
    site.hosts[0].daemon.start();
    site.host().wait_status("hold one component back", |status| {
        let faults = status["faults"].as_object().cloned().unwrap_or_default();
        faults.keys().eq(["services/web/latest"])
    });
    assert_eq!(site.host().file("services/api/latest/round"), "0\n");
    site.master.daemon.start();
    site.slaves[0].daemon.start();
    site.host().wait_status("mend it", |status| status["faults"] == serde_json::json!({}));
    assert_eq!(site.host().file("services/web/latest/round"), "to be damaged\n");
    assert_eq!(site.host().sequence(), sequence);
    let log = site.hosts[0].daemon.log_since(mark);
    assert!(log.contains("the repository on this host lacks its content"), "{log}");
    site.expect_whole();
}
