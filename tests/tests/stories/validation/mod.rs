//! What is looked at before anything lands, and what can be asked before it does.

mod asking;
mod hosts;
mod waiting;

use std::process::Output;

use serde_json::Value;
use tests::{
    Plan, Site,
    git::Change,
    program::text,
    site::{CLASS, DATACENTER, class, instance},
};

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

#[test]
fn a_dry_run_is_judged_like_any_push_and_lands_nothing() {
    let site = central();
    let before = refs(&site);
    let web = "services/web/master";
    let good = site.work.change().file(web, "round", "1\n").option("--push-option=dry-run").push();
    let said = good.refused(&["dry run: nothing landed"]);
    assert!(!said.contains("refused refs/"), "nothing is wrong with it:\n{said}");
    for words in ["us-west/v1 would change in 1 component:", "services/web/latest ", "-0", "+1", "(every host)"] {
        assert!(said.contains(words), "it does not say {words:?}:\n{said}");
    }
    let missing = "services:\n  - {name: nobody, branch: master, tag: latest}\n";
    let bad = site.work.change().file(CLASS, "datacenter.yaml", missing).option("--push-option=dry-run").push();
    let said = bad.refused(&["services/nobody", "datacenter.yaml:2"]);
    assert!(!said.contains("dry run: nothing landed"), "it is refused for what it is:\n{said}");
    assert_eq!(refs(&site), before, "nothing is left behind");
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{}", text(output)))
}

#[test]
fn what_was_refused_is_on_record_whatever_happens_to_the_server() {
    let mut site = central();
    let refused = |site: &Site, arguments: &[&str]| {
        let output = site.master.run(&[&["log", "--refused", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        json(&output)
    };
    assert_eq!(refused(&site, &[]), serde_json::json!([]));
    let missing = class(&[("services/nobody", "master", "latest")]);
    let push = |site: &Site| site.work.change().file(CLASS, "datacenter.yaml", &missing).push();
    push(&site).refused(&["services/nobody"]);
    site.master.daemon.kill9_and_restart();
    site.work.push(&[":refs/heads/services/web/master"]).refused(&["still needed"]);
    // Half of this one lands; the other half is on record all the same.
    site.work.change().file("services/web/master", "round", "1\n").commit();
    let both = ["refs/heads/services/web/master", "refs/heads/services/web/master:refs/heads/elsewhere"];
    site.work.try_git(&[&["push", "origin"][..], &both].concat()).refused(&["elsewhere"]);
    // A request to the API like any other.
    let update = r#"{"request": {"section": "services/web", "config": {}, "schemaVersion": 1, "version": 7}}"#;
    let headers = [("content-type", "application/json")];
    let path = "/api/v1/config/update";
    let answer = site
        .master
        .http()
        .request(hyper::Method::POST, path, &headers, hyper::body::Bytes::from(update))
        .expect("an answer");
    assert_eq!(answer.status, 409, "{}", answer.text());
    // What was only tried is nobody's failure.
    site.work.change().file("elsewhere", "a", "1").option("--push-option=dry-run").push().refused(&["elsewhere"]);

    let records = refused(&site, &[]);
    let names: Vec<&str> =
        records.as_array().expect("a list").iter().filter_map(|one| one["refused"][0]["ref"].as_str()).collect();
    let class_ref = format!("refs/heads/{CLASS}");
    let web = "refs/heads/services/web/master";
    assert_eq!(names, [web, "refs/heads/elsewhere", web, &class_ref], "newest first");
    let first = &records[3];
    assert!(first["through"].as_str().is_some_and(|through| through.starts_with("http 127.")), "{first}");
    assert!(first["when"].as_str().is_some() && first["request"].as_str().is_some(), "{first}");
    let fault = &first["refused"][0]["faults"][0];
    assert_eq!(fault["datacenter"], DATACENTER, "{first}");
    assert_eq!((&fault["reference"], &fault["file"]), (&CLASS.into(), &"datacenter.yaml".into()), "{first}");
    assert_eq!(fault["line"], 2, "{first}");
    assert!(fault["reason"].as_str().is_some_and(|reason| reason.contains("services/nobody")), "{first}");
    let here = refused(&site, &[DATACENTER]);
    assert_eq!(here.as_array().map(Vec::len), Some(2), "{here}");
    assert_eq!(refused(&site, &["other/v1"]), serde_json::json!([]));
    assert_eq!(refused(&site, &["--limit", "1"]).as_array().map(Vec::len), Some(1));
    let table = site.master.run(&["log", "--refused"]);
    assert!(table.status.success() && text(&table).contains("services/nobody"), "{}", text(&table));
    assert_eq!(site.master.run(&["log"]).status.code(), Some(2), "a datacenter, or --refused");
}

/// A change of the instance's text, after its first line.
fn inventory<'a>(site: &'a Site, text: &str) -> Change<'a> {
    site.work.change().file(INSTANCE, "datacenter.yaml", format!("{}{text}", instance()))
}

/// Expects a push to be refused with all of these words, and to leave nothing behind.
#[track_caller]
fn refused(site: &Site, what: &str, change: Change<'_>, words: &[&str]) -> String {
    let before = refs(site);
    let outcome = change.push();
    assert!(!outcome.ok, "{what} should have been refused:\n{}", outcome.text);
    let said = outcome.refused(words);
    assert_eq!(refs(site), before, "{what} left something behind");
    said
}

const WEB: &str = "services/web/master";
const INSTANCE: &str = "datacenters/us-west/v1";
const SCHEMA: &str = r#"{"type": "object", "properties": {"port": {"type": "integer", "maximum": 65535},
    "pool": {"type": "object", "properties": {"size": {"type": "integer"}}, "additionalProperties": false}},
    "required": ["port"]}"#;

/// Three hosts; `core` is a role of two of them.
const HOSTS: &str = "\
inventories:
  roles:
    core: {components: [services/*], settings: {services/web: {pool: {size: 8}}}}
  hosts:
    a-1: {roles: [core]}
    b-1: {roles: [core], settings: {services/web: {port: 9000}}}
    c-1: {}
";

/// The central server with a schema for `services/web` and three hosts.
fn with_schema() -> Site {
    let site = central();
    let change = site.work.change().file(WEB, "config.yaml", "port: 80\n").file(WEB, "config.schema.json", SCHEMA);
    change.file(INSTANCE, "datacenter.yaml", format!("{}{HOSTS}", instance())).land();
    site
}

#[test]
fn a_schema_that_fails_on_one_host_of_many_refuses_what_made_it_fail() {
    let site = with_schema();
    let change = || site.work.change();
    let in_hosts = |from: &str, to: &str| {
        assert!(HOSTS.contains(from), "{from}");
        inventory(&site, &HOSTS.replace(from, to))
    };
    let own = "datacenters/us-west/v1: datacenter.yaml:";
    let table: [(&str, Change<'_>, Vec<&str>); 9] = [
        (
            "the component's own settings",
            change().file(WEB, "config.yaml", "# web\nport: eighty\n"),
            vec!["services/web/master: config.yaml:2: /port: \"eighty\" is not of type \"integer\""],
        ),
        (
            "a key that is missing",
            change().file(WEB, "config.yaml", "ports: 80\n"),
            vec!["services/web/master: config.yaml", "\"port\" is a required property"],
        ),
        (
            "a schema that asks for more",
            change().file(WEB, "config.schema.json", SCHEMA.replace("65535", "8999")),
            vec![own, "/port: 9000", "8999", "host b-1 of us-west/v1"],
        ),
        (
            "the class's layer",
            change().file(CLASS, "overrides/services/web.yaml", "a: 1\nport: 70000\n"),
            vec!["datacenter-configuration/big: overrides/services/web.yaml:2: /port: 70000"],
        ),
        (
            "the datacenter's layer",
            change().file(INSTANCE, "overrides/services/web.yaml", "pool:\n  sice: 1\n"),
            vec!["datacenters/us-west/v1: overrides/services/web.yaml:2: /pool/sice: the schema knows no such key"],
        ),
        ("a role", in_hosts("size: 8", "size: big"), vec![&own, ":4: /pool/size: \"big\"", "host a-1"]),
        ("a host", in_hosts("9000", "90000"), vec![own, ":7: /port: 90000", "host b-1 of us-west/v1"]),
        ("a host that removes", in_hosts("9000", "~"), vec![own, ":7:", "\"port\" is a required property", "host b-1"]),
        (
            "a host that takes on another role",
            in_hosts("c-1: {}", "c-1: {settings: {services/web: {pool: 7}}}"),
            vec![own, ":8: /pool: 7 is not of type \"object\"", "host c-1"],
        ),
    ];
    for (what, change, words) in table {
        let said = refused(&site, what, change, &words);
        assert_eq!(said.matches("refused refs/").count(), 1, "{what} is one fault:\n{said}");
    }
    // Everything that it might have been, made good, lands.
    in_hosts("size: 8", "size: 9").file(WEB, "config.yaml", "port: 81\n").land();
    change().file(CLASS, "overrides/services/web.yaml", "port: 82\n").land();
}

#[test]
fn all_faults_come_in_one_answer() {
    let site = with_schema();
    let change = site.work.change().file(WEB, "config.yaml", "port: 1.5\npool: {sice: 1}\n");
    let change = change.file("services/api/master", "config.yaml", "a: [1\n");
    let change = change.file(CLASS, "overrides/services/web.yaml", "a: 1\na: 2\n");
    let change = change.file(CLASS, "overrides/devices/nobody.yaml", "a: 1\n");
    let pins = [("services/web", "master", "latest"), ("services/api", "master", "latest")];
    let more = [("applications/shop", "master", "latest"), ("services/nobody", "master", "latest")];
    let change = change.file(CLASS, "datacenter.yaml", class(&[&pins[..], &more].concat()));
    let said = refused(
        &site,
        "much at once",
        change,
        &[
            "services/api/master: config.yaml:",
            "overrides/services/web.yaml:2: `a` already stands in line 1",
            "overrides/devices/nobody.yaml: devices/nobody is run neither by the class nor by us-west/v1",
            "there is no branch services/nobody/master",
        ],
    );
    assert_eq!(said.matches("refused refs/").count(), 6, "each fault once:\n{said}");
}

#[test]
fn a_schema_that_is_none_or_never_ends_is_refused_and_the_next_push_lands() {
    let site = central();
    let doubling = {
        let step = |number: usize| {
            let next = format!(r##"{{"$ref": "#/$defs/s{}"}}"##, number + 1);
            format!(r#""s{number}": {{"allOf": [{next}, {next}]}}"#)
        };
        let steps: Vec<String> = (0..60).map(step).collect();
        format!(r##"{{"$ref": "#/$defs/s0", "$defs": {{{}, "s60": {{"minProperties": 0}}}}}}"##, steps.join(", "))
    };
    for (what, schema, word) in [
        ("no JSON", "{\"type\": \"object\",}".to_owned(), "config.schema.json:1: trailing comma"),
        ("a list", "[]".to_owned(), "config.schema.json:1: the top level must be an object"),
        ("nothing", String::new(), "config.schema.json: the file is empty"),
        ("no type", "{\"type\": \"objekt\"}".to_owned(), "config.schema.json: it is not a usable JSON Schema: /type"),
        ("another's schema", "{\"$ref\": \"https://example.com/s.json\"}".to_owned(), "example.com"),
        ("a file's schema", "{\"$ref\": \"file:///etc/passwd\"}".to_owned(), "etc/passwd"),
        ("doubling", doubling, "took more time or memory than there is"),
        ("a pattern too large", "{\"propertyNames\": {\"pattern\": \"((a{99}){99}){99}\"}}".to_owned(), "pattern"),
        ("10,000 levels", format!("{}{}", "{\"not\":".repeat(10_000), "}".repeat(10_000)), "nested deeper"),
    ] {
        let change = site.work.change().file(WEB, "config.schema.json", schema);
        refused(&site, what, change, &["services/web/master: config.schema.json", word]);
    }
    site.work.change().file(WEB, "config.schema.json", "{\"required\": [\"round\"]}").land();
}

#[test]
fn layers_without_effect_are_refused() {
    let site = with_schema();
    let change = || site.work.change();
    let nobody = "services/nobody is run neither by the class nor by us-west/v1";
    let raw = class(&[("services/web", "master", "latest")]).replace("tag: latest", "tag: latest, raw: true");
    let table: [(&str, Change<'_>, Vec<&str>); 8] = [
        ("of the class", change().file(CLASS, "overrides/services/nobody.yaml", "a: 1"), vec!["nobody.yaml: ", nobody]),
        ("of the datacenter", change().file(INSTANCE, "overrides/services/nobody.yaml", "a: 1"), vec![nobody]),
        ("of a role", inventory(&site, &HOSTS.replace("services/web:", "services/nobody:")), vec![":4: ", nobody]),
        (
            "no YAML",
            change().file(CLASS, "overrides/services/web.json", "{}"),
            vec!["services/web.json", "not a layer"],
        ),
        (
            "no kind",
            change().file(CLASS, "overrides/servers/web.yaml", "a: 1"),
            vec!["overrides/servers", "not a layer"],
        ),
        (
            "too deep",
            change().file(INSTANCE, "overrides/services/web/a.yaml", "a: 1"),
            vec!["services/web", "not a layer"],
        ),
        ("a file", change().file(INSTANCE, "overrides", "a: 1"), vec!["overrides: ", "not a layer"]),
        (
            "over what is raw",
            change().file(CLASS, "datacenter.yaml", raw).option("--push-option=allow-shrink"),
            vec![":4: services/web is pinned with `raw: true`"],
        ),
    ];
    for (what, change, words) in table {
        refused(&site, what, change, &words);
    }
    // A component that goes takes its layers along.
    change().file(INSTANCE, "overrides/services/api.yaml", "a: 1\n").land();
    let pins = [("services/web", "master", "latest"), ("applications/shop", "master", "latest")];
    let without = || change().file(CLASS, "datacenter.yaml", class(&pins));
    refused(&site, "its layer stays", without(), &["overrides/services/api.yaml", "services/api is run neither"]);
    without().without(INSTANCE, "overrides/services/api.yaml").land();
}

#[test]
fn layers_that_cannot_be_read_are_refused_with_file_and_line() {
    let site = central();
    let layer = "overrides/services/web.yaml";
    let bomb = {
        let step =
            |level: usize| format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
        format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}", (1..12).map(step).collect::<Vec<_>>().concat())
    };
    for (what, text, words) in [
        ("a list", "- 1\n".to_owned(), vec![":1: the top level must be an object"]),
        ("a key twice", "a: 1\nb: 1\na: 2\n".to_owned(), vec![":3: `a` already stands in line 1"]),
        ("an unclosed bracket", "a: [1\nb: 2\n".to_owned(), vec![":"]),
        ("an alias bomb", bomb, vec![layer]),
        ("10,000 levels", format!("a: {}{}\n", "[".repeat(10_000), "]".repeat(10_000)), vec!["nested deeper"]),
        ("nothing", String::new(), vec!["the file is empty"]),
    ] {
        for branch in [CLASS, INSTANCE] {
            let words: Vec<&str> = [&[branch, layer][..], &words].concat();
            refused(&site, what, site.work.change().file(branch, layer, &text), &words);
        }
    }
    for (what, settings, words) in [
        ("a list", "[1]", vec![":4:", "services/web"]),
        ("a key twice", "{a: 1, a: 2}", vec![":4:", "already stands"]),
        ("text", "text", vec![":4:"]),
    ] {
        let text = format!("inventories:\n  hosts:\n    a-1: {{settings: {{services/web: {settings}}}}}\n");
        refused(&site, what, inventory(&site, &text), &words);
    }
}

#[test]
fn what_removes_most_at_once_needs_to_say_that_it_means_it() {
    let site = central();
    let change = || site.work.change();
    let one = class(&[("services/web", "master", "latest")]);
    let less = || change().file(CLASS, "datacenter.yaml", &one);
    refused(&site, "three of four", less(), &["would remove 3 of its 4 components (services/api,", "allow-shrink"]);
    less().option("--push-option=allow-shrink").land();
    // Half may go, and a component that changes its version does not go.
    let pins = |tag| [("services/web", "master", tag), ("services/api", "master", "latest")];
    change().file(CLASS, "datacenter.yaml", class(&pins("latest"))).land();
    site.work.git(&["tag", "services/web/v1", WEB]);
    change().file(CLASS, "datacenter.yaml", class(&pins("v1"))).also("refs/tags/services/web/v1").land();
    change().file(CLASS, "datacenter.yaml", class(&pins("latest"))).land();
    change().file(CLASS, "datacenter.yaml", &one).land();
    // The only component of a datacenter may go, where no listed host loses it.
    change().file(CLASS, "datacenter.yaml", "services: []\n").land();
    change().file(CLASS, "datacenter.yaml", &one).land();

    let keys = |count: usize| (0..count).map(|number| format!("  k{number}: 1")).collect::<Vec<_>>().join("\n") + "\n";
    change().file(WEB, "config.yaml", format!("pool:\n{}", keys(10))).land();
    let few = || change().file(WEB, "config.yaml", format!("pool:\n{}", keys(4)));
    refused(&site, "six of ten keys", few(), &["services/web/master: config.yaml: ", "remove 6 of the 10 keys"]);
    change().file(WEB, "config.yaml", format!("pool:\n{}", keys(5))).land();
    change().file(WEB, "config.yaml", format!("pool:\n{}", keys(10))).land();
    few().option("--push-option=allow-shrink").land();
    // Few keys may go without a word.
    change().file(WEB, "config.yaml", "pool: {}\n").land();
    // A layer removes as well.
    change().file(WEB, "config.yaml", format!("pool:\n{}", keys(10))).land();
    let layer = change().file(CLASS, "overrides/services/web.yaml", "pool: ~\n");
    refused(&site, "a layer", layer, &["big: overrides/services/web.yaml: ", "remove 10 of the 10 keys"]);
}

#[test]
fn caps_can_be_lowered_by_flag_and_variable_and_not_raised() {
    let mut site = central();
    let flags = ["--max-file-bytes=100", "--max-files=5", "--max-total-bytes=300", "--max-folder-levels=1"];
    for flag in flags.into_iter().chain(["--max-shrink=100"]) {
        site.master.daemon.argument(flag);
    }
    site.master.daemon.environment("CONF_MASTER_MAX_SETTINGS_LEVELS", "2");
    site.master.daemon.restart();
    let change = || site.work.change();
    let many = |count: usize| (0..count).fold(change(), |change, number| change.file(WEB, &format!("f{number}"), "1"));
    refused(&site, "a long file", change().file(WEB, "a", "x".repeat(101)), &["101 bytes, at most 100"]);
    refused(&site, "many files", many(5), &["more than 5 files and folders"]);
    let three = change().file(WEB, "a", "x".repeat(100)).file(WEB, "b", "x".repeat(100)).file(WEB, "c", "y".repeat(90));
    refused(&site, "much in all", three, &["bytes in all, at most 300"]);
    refused(&site, "deep folders", change().file(WEB, "a/b/c", "1"), &["more than 1 folders within folders"]);
    let deep = change().file(WEB, "config.yaml", "round: 1\na:\n  b: {}\n");
    refused(&site, "deep settings", deep, &["config.yaml:3: /a/b: nested deeper than 2 levels"]);
    many(3).land();
    change().file(CLASS, "datacenter.yaml", class(&[("services/web", "master", "latest")])).land();
    let too_much = site.master.run(&["serve", "--repo", "x", "--max-settings-levels", "65"]);
    assert_eq!(too_much.status.code(), Some(2), "{}", text(&too_much));
    assert!(text(&too_much).contains("1..=64"), "{}", text(&too_much));
}

#[test]
fn a_new_rule_judges_what_a_change_brings_and_warns_of_the_rest() {
    let mut site = central();
    let long = "x".repeat(501);
    site.work.change().file(WEB, "long", &long).file(WEB, "config.yaml", "round: 1\na: {b: {}}\n").land();
    site.master.daemon.argument("--max-file-bytes=500");
    site.master.daemon.argument("--max-settings-levels=2");
    site.master.daemon.restart();
    let change = || site.work.change();
    let check = || {
        let repo = site.work.folder().to_str().expect("text");
        site.master.run(&["check", "--repo", repo, "--max-file-bytes=500", "--max-settings-levels=2"])
    };
    let listed = check();
    assert_eq!(listed.status.code(), Some(1), "{}", text(&listed));
    for fault in ["services/web/master: long: 501 bytes", "config.yaml:2: /a/b: nested deeper than 2 levels"] {
        assert!(text(&listed).contains(fault), "`{fault}` is not in {}", text(&listed));
    }
    let warnings = [
        "warning: services/web/master: long: 501 bytes, at most 500 may be in one file; it was so before",
        "warning: services/web/master: config.yaml:3: /a/b: nested deeper than 2 levels; it was so before",
    ];
    let said = change().file(WEB, "config.yaml", "# two\nround: 2\na: {b: {}}\n").land();
    for warning in warnings {
        assert!(said.contains(warning), "`{warning}` is not in {said}");
    }
    let said = refused(&site, "another long file", change().file(WEB, "longer", &long), &["longer: 501 bytes"]);
    assert!(!said.contains("long: 501"), "{said}");
    let deep = change().file(WEB, "config.yaml", "round: 2\na: {b: {}}\nc: {d: {}}\n");
    let said = refused(&site, "another deep key", deep, &["config.yaml:3: /c/d: nested deeper than 2 levels"]);
    assert!(!said.contains("/a/b"), "{said}");
    // A datacenter that begins to run it takes nothing that is wrong.
    let other = "conf: datacenter-configuration/big/latest\n";
    let new = change().file("datacenters/us-east/v1", "datacenter.yaml", other);
    refused(&site, "a new datacenter", new, &["/a/b: nested deeper than 2 levels"]);
    // What was mended may not come back.
    change().file(WEB, "config.yaml", "round: 3\n").without(WEB, "long").land();
    refused(&site, "the deep key", change().file(WEB, "config.yaml", "a: {b: {}}\n"), &["/a/b"]);
    refused(&site, "the long file", change().file(WEB, "long", &long), &["long: 501 bytes"]);
    assert_eq!(check().status.code(), Some(0), "{}", text(&check()));
}

#[test]
fn check_finds_what_a_push_would_be_told() {
    let site = with_schema();
    let check = |arguments: &[&str]| {
        let repo = site.work.folder().to_str().expect("text");
        site.master.run(&[&["check", "--repo", repo], arguments].concat())
    };
    let good = check(&[]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    site.work.change().file(WEB, "config.yaml", "port: eighty\n").commit();
    let bad = check(&["--json"]);
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    let fault = &json(&bad)[DATACENTER][0];
    assert_eq!((&fault["file"], &fault["line"]), (&"config.yaml".into(), &1.into()), "{fault}");
    assert_eq!((&fault["pointer"], &fault["datacenter"]), (&"/port".into(), &DATACENTER.into()), "{fault}");
    assert!(fault["reason"].as_str().is_some_and(|reason| reason.contains("eighty")), "{fault}");
    assert_eq!(check(&["--max-settings-levels", "0"]).status.code(), Some(2));
}
