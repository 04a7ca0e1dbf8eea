//! Settings in layers: what each host gets, who is told, and who set what.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tests::{
    Host, Plan, Reader, Site,
    git::Change,
    program::text,
    site::{CLASS, DATACENTER, instance},
};

const OVERRIDE: &str = "overrides/services/web.yaml";
const OWN: &str = "datacenters/us-west/v1";

fn two_hosts() -> Site {
    assert_eq!(OWN, format!("datacenters/{DATACENTER}"));
    let site = Plan { hosts: 2, ..Plan::default() }.start();
    site.push_and_wait("services/web", "config.yaml", "port: 80\npool: 1\nlog: {level: info, file: /var/log/web}\n");
    site
}

fn settings(host: &Host) -> Value {
    serde_json::from_str(&host.file("services/web/latest.json")).expect("JSON")
}

/// The instance's text with an inventory that lets unlisted hosts in.
fn inventory<'a>(site: &'a Site, text: &str) -> Change<'a> {
    site.work.change().file(OWN, "datacenter.yaml", format!("{}inventories:\n{text}  closed: false\n", instance()))
}

/// Lands a change and waits until both hosts have it.
fn land(site: &Site, change: Change<'_>) -> u64 {
    change.land();
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    sequence
}

/// Asks conf-local, and expects an answer.
#[track_caller]
fn ask(host: &Host, arguments: &[&str]) -> String {
    let output = host.run(arguments);
    assert!(output.status.success(), "conf-local {arguments:?} failed:\n{}", text(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_layer_wakes_only_those_hosts_whose_result_it_changes() {
    let site = two_hosts();
    let readers: Vec<Reader> = site.hosts.iter().map(|host| Reader::start(&host.export())).collect();
    for (host, reader) in site.hosts.iter().zip(&readers) {
        host.watch(&["services/web"], reader.pid());
    }
    let pools = || -> Vec<Value> { site.hosts.iter().map(|host| settings(host)["pool"].clone()).collect() };
    let step = |what: &'static str, change: Change<'_>, pool: [u64; 2], woken: [bool; 2]| {
        let sequence = land(&site, change);
        assert_eq!(pools(), pool.map(Value::from), "{what}");
        for reader in readers.iter().zip(woken).filter_map(|(reader, woken)| woken.then_some(reader)) {
            // One that was told of an earlier change, which did not concern it, says so here.
            assert!(reader.told().sequence >= sequence, "{what}");
        }
    };
    let class = |text: &str| site.work.change().file(CLASS, OVERRIDE, text);
    let own = |text: &str| site.work.change().file(OWN, OVERRIDE, text);
    step("the class's", class("pool: 2\nlog: {file: ~}\n"), [2, 2], [true, true]);
    let roles = "  roles:\n    big: {components: ['*/*'], settings: {services/web: {pool: 8}}}\n  hosts:\n    web-2: {roles: [big]}\n";
    step("a role's", inventory(&site, roles), [2, 8], [false, true]);
    step("the class's, under the role's", class("pool: 3\nlog: {file: ~}\n"), [3, 8], [true, false]);
    step("the datacenter's", own("pool: 4\n"), [4, 8], [true, false]);
    step("the same in other words", own("# as many as there are cores\n\"pool\": 0x4\n"), [4, 8], [false, false]);
    step("the class's, under the datacenter's", class("pool: 5\nlog:\n  file: ~\n"), [4, 8], [false, false]);
    let own_settings = format!("{roles}    web-1: {{settings: {{services/web: {{pool: 9}}}}}}\n");
    step("a host's own", inventory(&site, &own_settings), [9, 8], [true, false]);
    step(
        "a label",
        inventory(&site, &format!("{own_settings}    web-3: {{labels: {{zone: b}}}}\n")),
        [9, 8],
        [false, false],
    );
    assert_eq!(settings(&site.hosts[0]), json!({"port": 80, "pool": 9, "log": {"level": "info"}}));
    assert_eq!(
        site.hosts[0].file("services/web/latest/config.yaml").lines().nth(1),
        Some("pool: 1"),
        "files are as written"
    );

    // A change that wakes everybody comes last: what was told of an earlier one is there by then.
    let last = land(&site, site.work.change().file("services/web/master", "last", "1\n"));
    for reader in &readers {
        assert_eq!(reader.told_of(last), 1);
    }
}

#[test]
fn a_host_says_who_set_each_key() {
    let site = two_hosts();
    land(&site, site.work.change().file(CLASS, OVERRIDE, "pool: 2\nlog: {file: ~}\n").file(OWN, OVERRIDE, "pool: 4\n"));
    let roles = "  roles:\n    big: {components: ['*/*'], settings: {services/web: {pool: 8}}}\n  hosts:\n    web-2:\n      roles: [big]\n      \
                 settings:\n        services/web:\n          pool: 9\n          extra: {a/b: [1]}\n";
    let sequence = land(&site, inventory(&site, roles));
    let host = &site.hosts[1];

    let answer: Value = serde_json::from_str(&ask(host, &["explain", "services/web", "pool", "--json"])).expect("JSON");
    let own = site.work.id(OWN);
    let by = |layer: &str, name: Option<&str>, place: (&str, &str, &str), line: u64, value: u64, winner: bool| {
        let (reference, commit, file) = place;
        let mut by = json!({"layer": layer, "reference": reference, "commit": commit, "file": file, "line": line, "value": value, "winner": winner});
        if let Some(name) = name {
            by["name"] = json!(name);
        }
        by
    };
    let web = site.work.id("services/web/master");
    let class = site.work.id(CLASS);
    assert_eq!(
        answer,
        json!({
            "component": "services/web/latest",
            "sequence": sequence,
            "commit": site.master.snapshot(),
            "keys": [{"pointer": "/pool", "value": 9, "set_by": [
                by("component", None, ("services/web/master", &web, "config.yaml"), 2, 1, false),
                by("class", None, (CLASS, &class, OVERRIDE), 1, 2, false),
                by("datacenter", None, (OWN, &own, OVERRIDE), 1, 4, false),
                by("role", Some("big"), (OWN, &own, "datacenter.yaml"), 4, 8, false),
                by("host", Some("web-2"), (OWN, &own, "datacenter.yaml"), 10, 9, true),
            ]}],
        })
    );
    // Each line is what it says.
    let line = site.work.git(&["show", &format!("{own}:datacenter.yaml")]);
    assert_eq!(line.lines().nth(9), Some("          pool: 9"));

    // What it explains is what the host has, key by key.
    let all: Value = serde_json::from_str(&ask(host, &["explain", "services/web", "--json"])).expect("JSON");
    let keys = all["keys"].as_array().expect("a list");
    let pointers: Vec<&str> = keys.iter().filter_map(|key| key["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/extra/a~1b", "/log/file", "/log/level", "/pool", "/port"]);
    for key in keys {
        let pointer = key["pointer"].as_str().expect("text");
        assert_eq!(settings(host).pointer(pointer), key.get("value"), "{pointer}");
    }

    let shown = ask(host, &["explain", "services/web", "log"]);
    let commit = &class[..class.len().min(12)];
    assert!(shown.contains("/log/file = (removed)") && shown.contains("/log/level = \"info\""), "{shown}");
    let removed = shown.lines().find(|line| line.contains("(removes it)")).unwrap_or_default();
    assert!(removed.contains('*') && removed.contains("class"), "{shown}");
    assert!(removed.contains(&commit[..7]) && removed.contains(&format!("{OVERRIDE}:2")), "{shown}");
    assert!(!shown.contains("/pool"), "{shown}");
    let pointer = ask(host, &["explain", "services/web", "/extra/a~1b"]);
    assert!(pointer.contains("host web-2"), "{pointer}");

    for (arguments, code, word) in [
        (&["explain", "services/web", "nothing"][..], 1, "no layer of services/web/latest sets /nothing"),
        (&["explain", "services/nobody"][..], 1, "services/nobody"),
        (&["explain", "web"][..], 2, "a component"),
    ] {
        let output = host.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output).contains(word), "{arguments:?}: {}", text(&output));
    }
    land(
        &site,
        site.work.change().without("devices/router/master", "config.yaml").file("devices/router/master", "a", "1\n"),
    );
    assert!(ask(host, &["explain", "devices/router"]).contains("it has no settings"));
}

#[test]
fn settings_are_shown_with_what_their_schema_says() {
    let site = Site::start();
    let schema = r#"{"required": ["name"], "properties": {
        "port": {"type": "integer", "minimum": 1, "default": 80, "description": "Where it listens."},
        "log": {"properties": {"level": {"enum": ["info", "warn"], "description": "How much is said."}}},
        "name": {"type": "string"}}}"#;
    let change =
        site.work.change().file("services/web/master", "config.yaml", "port: 8080\nlog: {level: warn}\nname: web\n");
    change.file("services/web/master", "config.schema.json", schema).land();
    site.wait_applied(site.master.sequence());
    let host = site.host();
    assert_eq!(
        ask(host, &["get", "services/web", "--commented"]),
        "log:\n  # How much is said.\n  # one of \"info\", \"warn\"\n  level: warn\n# string\nname: web\n\
         # Where it listens.\n# integer; at least 1; default 80\nport: 8080\n"
    );
    assert_eq!(
        ask(host, &["get", "services/web", "log.level", "--commented"]),
        "# How much is said.\n# one of \"info\", \"warn\"\n\nwarn\n"
    );
    let output = host.run(&["get", "services/api", "--commented"]);
    assert!(output.status.success());
    assert!(text(&output).contains("services/api has no config.schema.json"), "{}", text(&output));
}

#[test]
fn hocon_is_read_on_the_host_as_it_was_when_it_landed() {
    let site = Site::start();
    let web = "services/web/master";
    let hocon = |text: &str| site.work.change().without(web, "config.yaml").file(web, "config.conf", text);
    hocon("# the pool\nbase { pool = 2, name = web one }\nmain = ${base} { pool : 3 }\nmain.name += x\n")
        .push()
        .refused(&["config.conf"]);
    hocon("# the pool\nbase { pool = 2, name = web one }\nmain = ${base} { pool : 3 }\nhome = ${?HOME}\n").land();
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    assert_eq!(
        settings(site.host()),
        json!({"base": {"name": "web one", "pool": 2}, "main": {"name": "web one", "pool": 3}})
    );
    let refs = || site.master.git(&["for-each-ref"]);
    let before = refs();
    let mut bomb = "x0 = [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
    for at in 1..40 {
        let one = format!("${{x{}}}", at - 1);
        let _ = writeln!(bomb, "x{at} = [{}]", vec![one; 4].join(", "));
    }
    for (text, words) in [
        ("a = [1, 2\nb = 3\n", &["config.conf:1", "never closed"][..]),
        ("a = 1\nb = ${nobody}\n", &["config.conf:2", "${nobody}"]),
        ("include \"/etc/hostname\"\n", &["config.conf:1", "include"]),
        (&bomb, &["config.conf", "too much memory or time"]),
    ] {
        hocon(text).push().refused(words);
        assert_eq!(refs(), before, "{words:?}");
    }
    assert_eq!(site.host().sequence(), sequence);
}
